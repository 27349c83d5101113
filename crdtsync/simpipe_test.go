package crdtsync

import (
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// simPipe is one direction of a stream.
type simPipe struct {
	c        *simConn
	id       string
	from, to *simLink
	rng      *rand.Rand // guarded by mu

	mu     sync.Mutex // guards what follows
	first  func()     // called when the first byte arrives
	flying []simPacket
	timer  *time.Timer // for the first that flies
	ready  []byte
	used   int   // bytes that fly or are ready
	werr   error // of further writes
	rerr   error // of reads, once ready is read
	closed bool  // by its reader
	moved  signal
}

type simPacket struct {
	b    []byte
	at   time.Time // when it arrives
	last bool      // the writer closed the stream
}

func newSimPipe(c *simConn, from, to *simLink, n int) *simPipe {
	id := fmt.Sprint(c.id, " pipe ", n)
	return &simPipe{c: c, id: id, from: from, to: to, rng: c.n.rand(id)}
}

func (p *simPipe) write(b []byte) (n int, err error) {
	for {
		wait := p.moved.wait()
		p.mu.Lock()
		if p.werr != nil {
			defer p.mu.Unlock()
			return n, p.werr
		}
		k := min(len(b), simWindow-p.used, 1+p.rng.IntN(16<<10))
		if k > 0 {
			p.send(simPacket{b: append([]byte(nil), b[:k]...)})
			n, b = n+k, b[k:]
		}
		p.mu.Unlock()
		if len(b) == 0 {
			return n, nil
		}
		if k <= 0 {
			<-wait
		}
	}
}

// send puts a packet on its way. mu must be held.
func (p *simPipe) send(k simPacket) {
	k.at = time.Now().Add(latency(p.rng))
	if n := len(p.flying); n > 0 && !k.at.After(p.flying[n-1].at) {
		k.at = p.flying[n-1].at.Add(time.Duration(1 + p.rng.Int64N(1e6)))
	}
	p.used += len(k.b)
	p.flying = append(p.flying, k)
	if len(p.flying) == 1 {
		p.timer = time.AfterFunc(time.Until(k.at), p.arrive)
	}
}

// arrive hands over what has arrived, unless nothing gets through.
func (p *simPipe) arrive() {
	open := p.c.open()
	p.mu.Lock()
	var first func()
	for open && len(p.flying) > 0 && !p.flying[0].at.After(time.Now()) {
		k := p.flying[0]
		p.flying = p.flying[1:]
		p.c.n.trace.saw("%s brings %d bytes, %08x, last %v", p.id, len(k.b), crc32.ChecksumIEEE(k.b), k.last)
		if first == nil {
			first, p.first = p.first, nil
		}
		switch {
		case k.last:
			p.rerr = io.EOF
		case p.closed:
			p.used -= len(k.b)
		default:
			p.ready = append(p.ready, k.b...)
		}
	}
	if open && len(p.flying) > 0 {
		p.timer = time.AfterFunc(time.Until(p.flying[0].at), p.arrive)
	}
	p.mu.Unlock()
	if first != nil {
		first()
	}
	p.moved.wake()
}

// resume sends again what did not get through.
func (p *simPipe) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now()
	for i := range p.flying {
		at = at.Add(time.Duration(1 + p.rng.Int64N(300e6)))
		if p.flying[i].at.Before(at) {
			p.flying[i].at = at
		}
	}
	if len(p.flying) > 0 {
		p.timer.Stop()
		p.timer = time.AfterFunc(time.Until(p.flying[0].at), p.arrive)
	}
}

func (p *simPipe) read(b []byte) (int, error) {
	for {
		wait := p.moved.wait()
		p.mu.Lock()
		if len(p.ready) > 0 {
			n := copy(b, p.ready)
			p.ready = p.ready[n:]
			p.used -= n
			p.mu.Unlock()
			p.moved.wake()
			return n, nil
		}
		err := p.rerr
		p.mu.Unlock()
		if err != nil {
			return 0, err
		}
		<-wait
	}
}

// linkEnded ends the pipe for one end of its connection. Of what still flies
// from there some arrives, up to any byte.
func (p *simPipe) linkEnded(l *simLink, err error) {
	p.mu.Lock()
	if l == p.to {
		p.rerr, p.ready, p.closed = err, nil, true
	} else {
		p.werr = err
		if n := len(p.flying); n > 0 {
			keep := p.rng.IntN(n + 1)
			p.flying = p.flying[:keep]
			if keep > 0 {
				last := &p.flying[keep-1]
				last.b = last.b[:p.rng.IntN(len(last.b)+1)]
			}
		}
	}
	p.mu.Unlock()
	p.moved.wake()
}

// simStream is one end of a stream.
type simStream struct{ in, out *simPipe }

func (s *simStream) Read(b []byte) (int, error)  { return s.in.read(b) }
func (s *simStream) Write(b []byte) (int, error) { return s.out.write(b) }

// Close ends both directions; what was written before still arrives.
func (s *simStream) Close() error {
	s.in.mu.Lock()
	if s.in.rerr == nil {
		s.in.rerr = io.ErrClosedPipe
	}
	s.in.closed, s.in.ready = true, nil
	if s.in.werr == nil {
		s.in.werr = io.ErrClosedPipe // as if the other side had heard at once
	}
	s.in.mu.Unlock()
	s.in.moved.wake()
	s.out.mu.Lock()
	if s.out.werr == nil {
		s.out.werr = io.ErrClosedPipe
		s.out.send(simPacket{last: true})
	}
	s.out.mu.Unlock()
	s.out.moved.wake()
	return nil
}

var _ io.ReadWriteCloser = (*simStream)(nil)
