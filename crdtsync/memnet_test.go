package crdtsync

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// memNet is a network in memory, on which links can be cut.
type memNet struct {
	mu    sync.Mutex // guards what follows
	nodes map[string]*memNode
	cut   map[[2]string]bool
	links map[*memLink]bool
}

func newMemNet() *memNet {
	return &memNet{nodes: map[string]*memNode{}, cut: map[[2]string]bool{}, links: map[*memLink]bool{}}
}

// memNode is a node's place in a memNet. It implements Network.
type memNode struct {
	n    *memNet
	addr string
	key  identity.Key
	in   chan *memLink
}

func (n *memNet) node(addr string, k identity.Key) *memNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := &memNode{n: n, addr: addr, key: k, in: make(chan *memLink)}
	n.nodes[addr] = m
	return m
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// setCut cuts, or mends, what is between two nodes.
func (n *memNet) setCut(a, b string, cut bool) {
	n.mu.Lock()
	n.cut[pair(a, b)] = cut
	var end []*memLink
	for l := range n.links {
		if cut && pair(l.from, l.to) == pair(a, b) {
			end = append(end, l)
		}
	}
	n.mu.Unlock()
	for _, l := range end {
		l.Close("cut")
	}
}

// mute has streams that are opened on the links that there are reach nobody.
func (n *memNet) mute() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		l.muted, l.other.muted = true, true
	}
}

func (m *memNode) Dial(ctx context.Context, addr string, k identity.Key) (Link, error) {
	m.n.mu.Lock()
	to, cut := m.n.nodes[addr], m.n.cut[pair(m.addr, addr)]
	m.n.mu.Unlock()
	if to == nil || cut || to.key != k {
		return nil, errors.New("nobody there")
	}
	ours, theirs := newMemLinks(m, to)
	select {
	case to.in <- theirs:
		return ours, nil
	case <-ctx.Done():
		ours.Close("not accepted")
		return nil, ctx.Err()
	}
}

func (m *memNode) Accept(ctx context.Context) (Link, error) {
	select {
	case l := <-m.in:
		return l, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// memLink is one end of a link.
type memLink struct {
	n        *memNet
	from, to string
	peer     identity.Key
	other    *memLink
	streams  chan net.Conn
	done     chan struct{}
	once     *sync.Once // of both ends
	muted    bool       // guarded by n.mu

	mu   sync.Mutex // guards open
	open []net.Conn
}

func newMemLinks(from, to *memNode) (*memLink, *memLink) {
	done, once := make(chan struct{}), new(sync.Once)
	a := &memLink{n: from.n, from: from.addr, to: to.addr, peer: to.key, streams: make(chan net.Conn), done: done, once: once}
	b := &memLink{n: from.n, from: to.addr, to: from.addr, peer: from.key, streams: make(chan net.Conn), done: done, once: once}
	a.other, b.other = b, a
	from.n.mu.Lock()
	from.n.links[a] = true
	from.n.mu.Unlock()
	return a, b
}

func (l *memLink) Peer() identity.Key    { return l.peer }
func (l *memLink) Done() <-chan struct{} { return l.done }

func (l *memLink) Refused() bool { return false }

func (l *memLink) OpenStream(ctx context.Context) (io.ReadWriteCloser, error) {
	select {
	case <-l.done:
		return nil, io.ErrClosedPipe
	default:
	}
	a, b := net.Pipe()
	l.keep(a)
	l.other.keep(b)
	l.n.mu.Lock()
	muted := l.muted
	l.n.mu.Unlock()
	if muted {
		return a, nil
	}
	go func() {
		select {
		case l.other.streams <- b:
		case <-l.done:
		}
	}()
	return a, nil
}

func (l *memLink) keep(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, c)
}

func (l *memLink) AcceptStream(ctx context.Context) (io.ReadWriteCloser, error) {
	select {
	case c := <-l.streams:
		return c, nil
	case <-l.done:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memLink) Close(string) error {
	l.once.Do(func() {
		close(l.done)
		l.n.mu.Lock()
		delete(l.n.links, l)
		delete(l.n.links, l.other)
		l.n.mu.Unlock()
		for _, e := range []*memLink{l, l.other} {
			e.mu.Lock()
			for _, c := range e.open {
				c.Close()
			}
			e.mu.Unlock()
		}
	})
	return nil
}
