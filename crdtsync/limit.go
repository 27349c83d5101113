package crdtsync

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Limits bound what a node exchanges with all others together, metadata and
// content, in bytes a second; 0: no bound.
type Limits struct{ Up, Down int64 }

// minLimit is the lowest limit, in bytes a second: below it the pieces of what is
// fetched at one time would each take so long that others give up on them.
const minLimit = 128 << 10

// Check returns an error if a limit is too low.
func (l Limits) Check() error {
	for _, n := range [...]int64{l.Up, l.Down} {
		if n < 0 || n > 0 && n < minLimit {
			return fmt.Errorf("a limit of %d bytes a second: at least %d, or 0 for none", n, minLimit)
		}
	}
	return nil
}

// Stall returns how long a piece of content may take on its way to another node
// when all that can be asked for at one time share the limit.
func (l Limits) Stall() time.Duration {
	const patience, pieces, piece = 30 * time.Second, 64, 160 << 10
	if l.Up == 0 {
		return patience
	}
	return patience + pieces*piece*time.Second/time.Duration(l.Up)
}

// limitPiece is what passes at one time, in bytes.
const limitPiece = 16 << 10

// Limit returns net with limits. Metadata waits for one piece of content at most.
func Limit(net Network, l Limits) Network {
	if l == (Limits{}) {
		return net
	}
	n := limits{newBucket(l.Up), newBucket(l.Down)}
	return wrapped{net, func(_ identity.Key, s io.ReadWriteCloser) io.ReadWriteCloser { return n.limit(s) }}
}

// bucket is a token bucket whose tokens are bytes. One piece of content at a time
// has its turn, so that metadata never stands behind more.
type bucket struct {
	*rate.Limiter
	content chan struct{} // has room for one
}

func newBucket(limit int64) *bucket {
	if limit == 0 {
		return nil
	}
	burst := max(limitPiece, limit/50) // 20 ms: timers are late
	return &bucket{rate.NewLimiter(rate.Limit(limit), int(burst)), make(chan struct{}, 1)}
}

// wait returns when n bytes may pass.
func (b *bucket) wait(ctx context.Context, n int, content bool) error {
	if b == nil || n == 0 {
		return nil
	}
	if content {
		select {
		case b.content <- struct{}{}:
			defer func() { <-b.content }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return b.WaitN(ctx, n)
}

// limits are what all streams share.
type limits struct{ up, down *bucket } // nil: no bound

func (n limits) limit(s io.ReadWriteCloser) io.ReadWriteCloser {
	ctx, cancel := context.WithCancel(context.Background())
	return &limitedStream{ReadWriteCloser: s, ctx: ctx, cancel: cancel, n: n}
}

// limitedStream is a stream with limits. Close ends what waits for its turn.
type limitedStream struct {
	io.ReadWriteCloser
	ctx    context.Context
	cancel context.CancelFunc
	n      limits

	// What it is for, by its first byte, which passes before anybody else has
	// the stream.
	known, content bool
}

func (s *limitedStream) know(p []byte) {
	if !s.known && len(p) > 0 {
		s.known, s.content = true, p[0] != streamSync
	}
}

func (s *limitedStream) Read(p []byte) (int, error) {
	if s.n.down != nil {
		p = p[:min(len(p), limitPiece)]
	}
	n, err := s.ReadWriteCloser.Read(p)
	s.know(p[:n])
	if e := s.n.down.wait(s.ctx, n, s.content); e != nil && err == nil {
		err = e
	}
	return n, err
}

func (s *limitedStream) Write(p []byte) (n int, err error) {
	s.know(p)
	if s.n.up == nil {
		return s.ReadWriteCloser.Write(p)
	}
	for len(p) > 0 && err == nil {
		piece := p[:min(len(p), limitPiece)]
		if err = s.n.up.wait(s.ctx, len(piece), s.content); err != nil {
			break
		}
		var m int
		m, err = s.ReadWriteCloser.Write(piece)
		n, p = n+m, p[m:]
	}
	return n, err
}

func (s *limitedStream) Close() error {
	s.cancel()
	return s.ReadWriteCloser.Close()
}
