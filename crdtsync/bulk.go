package crdtsync

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

const (
	bulkIdle  = time.Minute // after which a connection that nothing uses is closed
	bulkRetry = time.Minute // after a node could not be dialled once more
	maxBulk   = 16          // with one node
)

// Node is another node that is connected: by the link of its session and, while
// there is much to move, by more, which carry content alone. One connection is the
// work of one core and has one congestion window; and what somebody waits for
// does not queue behind what is large.
type Node struct {
	e    *Engine
	main Link
	addr string        // at which it was dialled; "": it dialled
	turn chan struct{} // has room for one: who chooses a link, or dials one

	mu     sync.Mutex // guards what follows
	bulk   []*bulkLink
	failed time.Time // when it last could not be dialled
	closed bool
	wg     sync.WaitGroup
}

// bulkLink is a link for content, whichever side dialled it.
type bulkLink struct {
	Link
	dialed  bool
	streams int // Node.mu; of both sides
	uses    int // Node.mu; that have ended
}

func newNode(e *Engine, main Link, addr string) *Node {
	return &Node{e: e, main: main, addr: addr, turn: make(chan struct{}, 1)}
}

// addrs returns where it may be dialled once more.
func (n *Node) addrs() []string {
	if n.addr != "" {
		return []string{n.addr}
	}
	addrs, _, err := n.e.placesOf(n.Key())
	if err != nil {
		n.e.log.Error("an address could not be read", "err", err)
	}
	return addrs
}

// Key returns its key.
func (n *Node) Key() identity.Key { return n.main.Peer() }

// Open opens a stream for content. With bulk it is on a further link, dialled if
// need be, unless the node cannot be dialled.
func (n *Node) Open(ctx context.Context, bulk bool) (io.ReadWriteCloser, error) {
	if !bulk {
		return openContent(ctx, n.main)
	}
	l, err := n.choose(ctx)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return openContent(ctx, n.main)
	}
	s, err := openContent(ctx, l)
	if err != nil {
		n.unuse(l)
		return nil, err
	}
	return &bulkStream{s, sync.OnceFunc(func() { n.unuse(l) })}, nil
}

func openContent(ctx context.Context, l Link) (io.ReadWriteCloser, error) {
	s, err := l.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.Write([]byte{streamBlobs}); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// bulkStream tells when it is closed.
type bulkStream struct {
	io.ReadWriteCloser
	done func()
}

func (s *bulkStream) Close() error {
	defer s.done()
	return s.ReadWriteCloser.Close()
}

// choose counts a stream on the further link with the fewest, which may be a new
// one; nil when there is none.
func (n *Node) choose(ctx context.Context) (*bulkLink, error) {
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	best := n.leastLocked()
	more := len(n.bulk) < n.e.o.BulkLinks && (best == nil || best.streams > 0) && time.Since(n.failed) > bulkRetry
	n.mu.Unlock()
	if more {
		n.dial(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("the connection has ended")
	}
	if best = n.leastLocked(); best != nil {
		best.streams++
	}
	return best, nil
}

func (n *Node) leastLocked() (best *bulkLink) {
	for _, l := range n.bulk {
		if best == nil || l.streams < best.streams {
			best = l
		}
	}
	return best
}

// dial adds a link.
func (n *Node) dial(ctx context.Context) {
	for _, a := range n.addrs() {
		l, err := n.e.net.Dial(ctx, a, n.Key())
		if err == nil {
			if b := n.add(l, true); b != nil {
				n.wg.Go(func() { n.serve(b, nil) })
			}
			return
		}
		n.e.log.Debug("a node was not reached for content", "peer", n.Key().Short(), "addr", a, "err", err)
	}
	if ctx.Err() == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.failed = time.Now()
	}
}

// add takes in a link for content; nil when the session has ended.
func (n *Node) add(l Link, dialed bool) *bulkLink {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || len(n.bulk) >= maxBulk {
		l.Close("no session, or too many connections")
		return nil
	}
	b := &bulkLink{Link: l, dialed: dialed}
	n.bulk = append(n.bulk, b)
	return b
}

// serve answers the streams that the peer opens on b, of which first may be one,
// until b ends.
func (n *Node) serve(b *bulkLink, first io.ReadWriteCloser) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-b.Done()
		cancel()
	}()
	var wg sync.WaitGroup
	wg.Go(func() { n.e.probe(ctx, b) })
	n.e.serveStreams(ctx, b, first, func() func() { n.use(b); return func() { n.unuse(b) } })
	cancel()
	wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bulk = slices.DeleteFunc(n.bulk, func(o *bulkLink) bool { return o == b })
}

func (n *Node) use(b *bulkLink) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b.streams++
}

// unuse ends a use of b. Who dialled it closes it when it has been idle for a
// while.
func (n *Node) unuse(b *bulkLink) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b.uses++
	if b.streams--; b.streams > 0 || !b.dialed {
		return
	}
	uses := b.uses
	time.AfterFunc(bulkIdle, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if b.streams == 0 && b.uses == uses {
			b.Close("idle")
		}
	})
}

// close ends the further links.
func (n *Node) close() {
	n.mu.Lock()
	n.closed = true
	for _, b := range n.bulk {
		b.Close("the session has ended")
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// talkBulk serves a link that a node opened besides that of its session.
func (e *Engine) talkBulk(l Link, first io.ReadWriteCloser) {
	e.mu.Lock()
	session := e.sessions[l.Peer()]
	e.mu.Unlock()
	if session == nil {
		return
	}
	if b := session.node.add(l, false); b != nil {
		session.node.serve(b, first)
	}
}

// serveStreams hands on the streams that the peer opens, and first, the beginning
// of which was read, unless it is nil. use may be nil; it is called for each, and
// what it returns afterwards.
func (e *Engine) serveStreams(ctx context.Context, l Link, first io.ReadWriteCloser, use func() func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for s := first; ; s = nil {
		if s == nil {
			var err error
			if s, err = l.AcceptStream(ctx); err != nil {
				return
			}
		}
		begun := s == first
		wg.Go(func() {
			defer s.Close()
			if use != nil {
				defer use()()
			}
			if !begun {
				if kind, err := streamKind(s); err != nil || kind != streamBlobs {
					return
				}
			}
			if e.o.Blobs != nil {
				e.o.Blobs(ctx, l.Peer(), s)
			}
		})
	}
}
