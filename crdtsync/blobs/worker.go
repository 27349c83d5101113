package blobs

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/alkdev/alkfs/blobstore"
)

// Rests of a peer after an error, doubled for each in a row.
const (
	restLeast = 50 * time.Millisecond
	restMost  = 5 * time.Second
)

// idleStream is how long a worker keeps a stream that it has no use for.
const idleStream = 15 * time.Second

// worker has a stream to p and makes one request after another: for what somebody
// waits for or, with bulk, for anything.
func (f *Fetcher) worker(ctx context.Context, p *peer, bulk bool) {
	var c *conn
	drop := func() {
		if c != nil {
			c.stream.Close()
			c = nil
		}
	}
	defer drop()
	for {
		idle, cancel := ctx, context.CancelFunc(func() {})
		if c != nil {
			idle, cancel = context.WithTimeout(ctx, idleStream)
		}
		t, ok := f.next(idle, p, bulk)
		cancel()
		if !ok {
			if ctx.Err() != nil {
				return
			}
			drop()
			continue
		}
		var err error
		if c, err = f.run(ctx, p, c, t, bulk); err != nil {
			drop()
		}
	}
}

// run makes the request of t, on c if that is a stream, and returns the stream.
func (f *Fetcher) run(ctx context.Context, p *peer, c *conn, t *task, bulk bool) (*conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	for _, ch := range t.chunks {
		ch.cancel = cancel
	}
	f.mu.Unlock()
	open := make([]*chunk, len(t.chunks)) // not answered yet
	copy(open, t.chunks)
	err := ctx.Err()
	if err == nil && c == nil {
		var s io.ReadWriteCloser
		if s, err = p.Open(ctx, bulk); err == nil {
			c = newConn(s)
		}
	}
	if err == nil {
		orders := make([]order, len(t.chunks))
		for i, ch := range t.chunks {
			orders[i] = order{ch.w.p, []blobstore.Range{ch.r}}
		}
		f.counts.requests.Add(1)
		q := request{Bucket: t.bucket[:], Priority: uint8(t.prio), Hops: t.hops}
		err = c.get(ctx, q, orders, func(i, n int) {
			f.counts.bytes.Add(int64(n))
			f.arrived(t.chunks[i])
		}, func(i int, why error) {
			f.finish(p, t.chunks[i], why)
			open[i] = nil
		})
	}
	f.finishAll(ctx, p, open, err)
	return c, err
}

// arrived ends the demands that groups of c complete, and whoever else was
// bringing the same.
func (f *Fetcher) arrived(c *chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.peer.fails = 0
	f.settleLocked(c.w)
}

// finish ends a chunk: it came, or why is what p said of it.
func (f *Fetcher) finish(p *peer, c *chunk, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked(c)
	w := c.w
	switch {
	case why == nil:
		p.fails = 0
		for _, o := range w.chunks { // a slow peer that was overtaken
			if o.peer != nil && o.peer != p && o.cancel != nil && c.overlaps(o) && len(w.p.Lacks(o.r)) == 0 {
				o.peer.rest = time.Now().Add(f.o.Slow)
				o.cancel()
			}
		}
	case errors.Is(why, errBusy):
		f.restLocked(p)
	default:
		w.refused[p.Key()] = append(w.refused[p.Key()], why)
	}
	f.settleLocked(w)
	f.wakeLocked()
}

// finishAll ends the chunks that were not answered, because of err.
func (f *Fetcher) finishAll(ctx context.Context, p *peer, open []*chunk, err error) {
	var bad error
	f.mu.Lock()
	var local *localError
	for _, c := range open {
		if c == nil {
			continue
		}
		f.endLocked(c)
		if errors.As(err, &local) && !errors.Is(err, blobstore.ErrClaimed) {
			f.failLocked(c.w, local.err)
		}
		f.settleLocked(c.w)
	}
	switch {
	case err == nil || ctx.Err() != nil || errors.As(err, &local):
	case errors.Is(err, blobstore.ErrProof) || errors.Is(err, ErrProtocol):
		if f.mu.peers[p.Key()] == p {
			bad = err
			f.counts.bad.Add(1)
		}
		f.removeLocked(p)
	default:
		f.log.Info("request for content failed", "peer", p.Key().Short(), "error", err)
		f.restLocked(p)
	}
	f.wakeLocked()
	f.mu.Unlock()
	if bad == nil {
		return
	}
	f.log.Error("member dropped for what it sent", "peer", p.Key().String(), "error", bad)
	if f.o.Bad != nil {
		f.o.Bad(p.Key(), bad)
	}
}

// endLocked takes c out of its work. mu must be held.
func (f *Fetcher) endLocked(c *chunk) {
	c.w.chunks = slices.DeleteFunc(c.w.chunks, func(o *chunk) bool { return o == c })
	for _, o := range c.w.chunks {
		if c.overlaps(o) {
			o.again = false // it may be asked of others once more
		}
	}
	if c.release != nil {
		c.release()
	}
}

func (c *chunk) overlaps(o *chunk) bool { return o.r.First < c.r.End() && c.r.First < o.r.End() }

// restLocked lets p alone for a while. mu must be held.
func (f *Fetcher) restLocked(p *peer) {
	wait := min(restLeast<<min(p.fails, 10), restMost)
	p.fails++
	p.rest = time.Now().Add(wait/2 + rand.N(wait/2))
}
