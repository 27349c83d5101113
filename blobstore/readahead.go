package blobstore

import (
	"context"
	"errors"
	"os"
	"sync"
)

// A sequential reader of content that is elsewhere gets read-ahead: from
// aheadLeast on, doubling with every stretch that was used, up to aheadMost. In
// bytes.
const (
	aheadLeast = 256 << 10
	aheadMost  = 32 << 20
)

// partialBlob is what a handle on partial content has of its own.
type partialBlob struct {
	p    *Partial
	ctx  context.Context // of read-ahead; ends with the handle
	stop context.CancelFunc

	// mu guards the place of a sequential reader.
	mu struct {
		sync.Mutex
		next   int64 // where it goes on
		end    int64 // up to where bytes were asked for
		window int64 // how far to be ahead; 0: it is not sequential
		busy   bool
	}
}

func newPartialBlob(p *Partial) *Blob {
	b := &partialBlob{p: p}
	b.ctx, b.stop = context.WithCancel(p.s.background)
	return &Blob{hash: p.hash, size: p.size, part: b}
}

func (b *partialBlob) close() {
	b.stop()
	b.p.Release()
}

// file returns the file once all of it is here.
func (b *partialBlob) file() *os.File {
	if f := b.p.whole.Load(); f != nil {
		return f.f
	}
	return nil
}

// readAt fills q, which lies within the content, and brings what is missing,
// if it may wait.
func (b *partialBlob) readAt(ctx context.Context, q []byte, off int64, wait bool) error {
	if len(q) == 0 {
		return nil
	}
	for {
		err := b.p.readHere(q, off)
		if err == nil {
			b.ahead(off, int64(len(q)))
			return nil
		}
		if !errors.Is(err, errAbsent) {
			return err
		}
		if !wait {
			return &NotHereError{Hash: b.p.hash, Size: b.p.size}
		}
		if err := b.p.fetch(ctx, GroupsOf(off, int64(len(q))), Reading); err != nil {
			return err
		}
	}
}

// ahead notes a read and starts bringing what a sequential reader wants next.
func (b *partialBlob) ahead(off, n int64) {
	if b.p.size <= spanSize || b.p.complete() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// The kernel sends the pieces of a large read at once, so their order varies.
	if near := off+n > b.mu.next-spanSize; near && off+n <= b.mu.next {
		return // nothing new
	}
	sequential := off <= max(b.mu.next, b.mu.end) && off+n > b.mu.next
	b.mu.next = off + n
	switch {
	case !sequential:
		b.mu.window, b.mu.end = 0, b.mu.next
		return
	case b.mu.busy || b.mu.next+b.mu.window/2 < b.mu.end || b.mu.next >= b.p.size:
		return
	}
	b.mu.window = min(max(2*b.mu.window, aheadLeast), aheadMost)
	from := max(b.mu.end, b.mu.next)
	b.mu.end = min(b.mu.next+b.mu.window, b.p.size)
	if b.mu.end <= from {
		return
	}
	r := GroupsOf(from, b.mu.end-from)
	b.mu.busy = true
	b.p.Hold()
	b.p.s.wg.Go(func() {
		defer b.p.Release()
		_ = b.p.fetch(b.ctx, r, Ahead) // the reader will meet the error
		b.mu.Lock()
		defer b.mu.Unlock()
		b.mu.busy = false
	})
}

// verifyAll brings and checks all of the content.
func (b *partialBlob) verifyAll(ctx context.Context) error {
	p := b.p
	for first := int64(0); first < p.groups; first += spanGroups {
		r := Range{first, min(spanGroups, p.groups-first)}
		for {
			if err := p.fetch(ctx, r, Reading); err != nil {
				return err
			}
			if p.inMemory() || p.whole.Load() != nil {
				break
			}
			if err := p.verify(r); err != nil {
				return err
			}
			if miss, err := p.Missing(r); err != nil {
				return err
			} else if len(miss) == 0 {
				break
			}
		}
	}
	return p.finish()
}
