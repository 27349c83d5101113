package crdtsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/crdtsync/transport"
)

// simNet is a network on the virtual clock of a synctest bubble. What it
// carries are reliable streams, as over QUIC: loss shows as delay and as
// connections that break at any byte. Every delay is drawn from the seed and from
// who talks to whom for the how-manieth time, not from the order of calls.
type simNet struct {
	seed  uint64
	trace *simTrace

	mu      sync.Mutex // guards what follows
	places  map[string]*simPlace
	conns   []*simConn
	group   map[string]int  // nodes of different groups do not reach each other
	stalled map[string]bool // nodes that nothing leaves or reaches for a while
	dials   map[string]uint64
}

const (
	simIdle   = 30 * time.Second // after which a silent connection ends
	simWindow = 64 << 10         // bytes on their way or not read yet, for each direction of a stream
)

func newSimNet(seed uint64, trace *simTrace) *simNet {
	return &simNet{
		seed: seed, trace: trace, places: map[string]*simPlace{}, group: map[string]int{}, stalled: map[string]bool{}, dials: map[string]uint64{},
	}
}

// rand returns the random numbers for a purpose.
func (n *simNet) rand(about string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, about)
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}

// latency is how long a packet takes: mostly some milliseconds, now and then as
// long as it takes to send it again.
func latency(r *rand.Rand) time.Duration {
	d := time.Duration(100e3 + r.Int64N(20e6))
	if r.IntN(20) == 0 {
		d += time.Duration(r.Int64N(2e9))
	}
	return d
}

// simPlace is where a node is. It implements Network for one run of its engine.
type simPlace struct {
	n    *simNet
	name string
	r    *Replica
	in   simQueue[*simLink]
	ends sync.WaitGroup // of what is done about a connection that was refused
}

// join has a node listen at its name, in the place of an earlier run.
func (n *simNet) join(name string, r *Replica) *simPlace {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &simPlace{n: n, name: name, r: r}
	n.places[name] = p
	return p
}

// reaches reports whether packets get from a to b. mu must be held.
func (n *simNet) reaches(a, b string) bool {
	return n.group[a] == n.group[b] && !n.stalled[a] && !n.stalled[b]
}

// change alters who reaches whom.
func (n *simNet) change(f func()) {
	n.mu.Lock()
	f()
	conns := slices.Clone(n.conns)
	n.mu.Unlock()
	for _, c := range conns {
		c.topologyChanged()
	}
}

// vanish takes a node off the network as kill -9 does: nobody is told.
func (n *simNet) vanish(name string) {
	n.mu.Lock()
	delete(n.places, name)
	conns := slices.Clone(n.conns)
	n.mu.Unlock()
	for _, c := range conns {
		for i, e := range c.ends {
			if e.name == name {
				e.end(errors.New("the process was killed"))
				c.ends[1-i].endLater(c.rng, errors.New("the other side is gone"))
			}
		}
	}
}

// breakOne breaks a connection, at whatever byte it is.
func (n *simNet) breakOne(r *rand.Rand) {
	n.mu.Lock()
	conns := slices.Clone(n.conns)
	n.mu.Unlock()
	if len(conns) > 0 {
		c := conns[r.IntN(len(conns))]
		c.ends[r.IntN(2)].end(errors.New("the connection broke"))
		c.ends[0].endLater(c.rng, errors.New("the connection broke"))
		c.ends[1].endLater(c.rng, errors.New("the connection broke"))
	}
}

func sleepCtx(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reach finds who is at addr. A node that was killed, or whose packets do not get
// through, is not.
func (p *simPlace) reach(ctx context.Context, addr string) (to *simPlace, id string, r *rand.Rand, err error) {
	n := p.n
	n.mu.Lock()
	way := p.name + ">" + addr
	n.dials[way]++
	id = fmt.Sprint(way, n.dials[way])
	n.mu.Unlock()
	r = n.rand(id)
	if err := sleepCtx(ctx, latency(r)); err != nil {
		return nil, id, r, err
	}
	n.mu.Lock()
	to = n.places[addr]
	alive := n.places[p.name] == p
	silent := !n.reaches(p.name, addr)
	n.mu.Unlock()
	switch {
	case !alive:
		return nil, id, r, errors.New("this process was killed")
	case silent || to == nil && r.IntN(2) == 0:
		<-ctx.Done()
		return nil, id, r, ctx.Err()
	case to == nil || r.IntN(12) == 0:
		return nil, id, r, errors.New("connection refused")
	}
	return to, id, r, nil
}

// Dial implements Network, as QUIC does.
func (p *simPlace) Dial(ctx context.Context, addr string, k identity.Key) (Link, error) {
	n := p.n
	to, id, r, err := p.reach(ctx, addr)
	switch {
	case err != nil:
		return nil, err
	case to.r.key != k:
		wrong := &transport.WrongKeyError{Want: k, Got: to.r.key}
		err := p.r.dialHeir(ctx, p, addr, wrong)
		n.trace.saw("%s finds another key, which proves what it is: %v", id, err)
		return nil, cmp.Or(err, error(wrong))
	case !to.r.Admits(p.r.key):
		p.ends.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), dialTime)
			defer cancel()
			n.trace.saw("%s is refused, and proves what it is: %v", id, p.r.prove(ctx, p, addr, k))
		})
		return nil, errors.New("refused in the handshake")
	}
	n.trace.saw("%s connects", id)
	c := newSimConn(n, id, p, to)
	if err := sleepCtx(ctx, latency(r)); err != nil {
		c.ends[0].Close("not wanted any more")
		return nil, err
	}
	to.in.put(c.ends[1])
	return c.ends[0], nil
}

// AskToJoin implements asker. An answer may be lost.
func (p *simPlace) AskToJoin(ctx context.Context, addr string, k identity.Key, request []byte) ([]byte, error) {
	to, id, r, err := p.reach(ctx, addr)
	if err != nil {
		return nil, err
	}
	if to.r.key != k {
		return nil, errors.New("refused in the handshake")
	}
	p.n.trace.saw("%s asks to join", id)
	answer := to.r.answerJoin(ctx, p.r.key, request)
	if r.IntN(12) == 0 {
		return nil, errors.New("the connection broke")
	}
	return answer, sleepCtx(ctx, latency(r))
}

// Accept implements Network.
func (p *simPlace) Accept(ctx context.Context) (Link, error) {
	l, err := p.in.take(ctx, nil)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// simConn is a connection.
type simConn struct {
	n    *simNet
	id   string
	rng  *rand.Rand // guarded by mu
	ends [2]*simLink

	mu    sync.Mutex // guards what follows
	pipes []*simPipe
	idle  *time.Timer // runs while no packet gets through
}

func newSimConn(n *simNet, id string, from, to *simPlace) *simConn {
	c := &simConn{n: n, id: id, rng: n.rand(id + " conn")}
	for i, p := range []*simPlace{from, to} {
		c.ends[i] = &simLink{c: c, name: p.name, done: make(chan struct{})}
	}
	c.ends[0].peer, c.ends[1].peer = to.r.key, from.r.key
	c.ends[0].other, c.ends[1].other = c.ends[1], c.ends[0]
	n.mu.Lock()
	n.conns = append(n.conns, c)
	n.mu.Unlock()
	c.topologyChanged()
	return c
}

// open reports whether packets get through.
func (c *simConn) open() bool {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return c.n.reaches(c.ends[0].name, c.ends[1].name)
}

func (c *simConn) topologyChanged() {
	open := c.open()
	c.mu.Lock()
	pipes := slices.Clone(c.pipes)
	if open && c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	} else if !open && c.idle == nil {
		c.idle = time.AfterFunc(simIdle+time.Duration(c.rng.Int64N(1e9)), func() {
			for _, e := range c.ends {
				e.end(errors.New("timeout: no recent network activity"))
			}
		})
	}
	c.mu.Unlock()
	if open {
		for _, p := range pipes {
			p.resume()
		}
	}
}

// ended forgets a connection whose two ends have ended.
func (c *simConn) ended() {
	for _, e := range c.ends {
		select {
		case <-e.done:
		default:
			return
		}
	}
	c.mu.Lock()
	if c.idle != nil {
		c.idle.Stop()
	}
	c.mu.Unlock()
	c.n.mu.Lock()
	c.n.conns = slices.DeleteFunc(c.n.conns, func(o *simConn) bool { return o == c })
	c.n.mu.Unlock()
}

// simLink is one end of a connection.
type simLink struct {
	c       *simConn
	name    string
	peer    identity.Key
	other   *simLink
	streams simQueue[*simStream]
	once    sync.Once
	done    chan struct{}
}

func (l *simLink) Peer() identity.Key    { return l.peer }
func (l *simLink) Done() <-chan struct{} { return l.done }

func (l *simLink) Refused() bool { return false }

// Close implements Link. The other side hears of it, or times out.
func (l *simLink) Close(reason string) error {
	l.end(errors.New("closed"))
	if l.c.open() {
		l.other.endLater(l.c.rng, errors.New("closed by the other side: "+reason))
	}
	return nil
}

// end ends this end at once.
func (l *simLink) end(err error) {
	l.once.Do(func() {
		close(l.done)
		l.c.n.trace.saw("%s ends at %s: %v", l.c.id, l.name, err)
		l.c.mu.Lock()
		pipes := slices.Clone(l.c.pipes)
		l.c.mu.Unlock()
		for _, p := range pipes {
			p.linkEnded(l, err)
		}
		l.c.ended()
	})
}

// endLater ends this end within the next moments, or when it times out.
func (l *simLink) endLater(r *rand.Rand, err error) {
	l.c.mu.Lock()
	d := latency(r)
	if r.IntN(3) == 0 {
		d = simIdle + time.Duration(r.Int64N(1e9))
	}
	l.c.mu.Unlock()
	time.AfterFunc(d, func() { l.end(err) })
}

// OpenStream implements Link.
func (l *simLink) OpenStream(context.Context) (io.ReadWriteCloser, error) {
	select {
	case <-l.done:
		return nil, io.ErrClosedPipe
	default:
	}
	c := l.c
	c.mu.Lock()
	out, back := newSimPipe(c, l, l.other, len(c.pipes)), newSimPipe(c, l.other, l, len(c.pipes)+1)
	c.pipes = append(c.pipes, out, back)
	c.mu.Unlock()
	out.first = func() { l.other.streams.put(&simStream{in: out, out: back}) }
	return &simStream{in: back, out: out}, nil
}

// AcceptStream implements Link.
func (l *simLink) AcceptStream(ctx context.Context) (io.ReadWriteCloser, error) {
	s, err := l.streams.take(ctx, l.done)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// simQueue hands on what arrives. The zero value is ready for use.
type simQueue[T any] struct {
	mu   sync.Mutex // guards all
	all  []T
	news signal
}

func (q *simQueue[T]) put(x T) {
	q.mu.Lock()
	q.all = append(q.all, x)
	q.mu.Unlock()
	q.news.wake()
}

func (q *simQueue[T]) take(ctx context.Context, done <-chan struct{}) (x T, err error) {
	for {
		wait := q.news.wait()
		q.mu.Lock()
		if len(q.all) > 0 {
			x, q.all = q.all[0], q.all[1:]
			q.mu.Unlock()
			return x, nil
		}
		q.mu.Unlock()
		select {
		case <-wait:
		case <-done:
			return x, io.EOF
		case <-ctx.Done():
			return x, ctx.Err()
		}
	}
}
