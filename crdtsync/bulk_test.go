package crdtsync

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// count returns how many links there are.
func (n *memNet) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.links)
}

// said opens a stream to n and returns what its other end sends.
func said(t *testing.T, n *Node, bulk bool) string {
	t.Helper()
	s, err := n.Open(t.Context(), bulk)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Content goes over further links while there is a session, and over that of the
// session where nothing can be dialled.
func TestLinksForContent(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(c.Key(), []string{"c"})
	hold := make(chan struct{})
	nodes := map[string]chan *Node{"a": make(chan *Node, 9), "c": make(chan *Node, 9)}
	for _, s := range []*store{a, c} {
		start(t, n, s, Options{
			BulkLinks: 2, Addrs: []string{s.name}, Joined: func(o *Node) { nodes[s.name] <- o },
			Blobs: func(ctx context.Context, k identity.Key, stream io.ReadWriteCloser) {
				stream.Write(k[:])
				select {
				case <-hold:
				case <-ctx.Done():
				}
				stream.Close()
			},
		})
	}
	same(t, b, a, c)
	toC, toA := <-nodes["a"], <-nodes["c"]
	var open []io.ReadWriteCloser
	for range 4 {
		s, err := toC.Open(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		k := make([]byte, len(identity.Key{}))
		if _, err := io.ReadFull(s, k); err != nil || identity.Key(k) != a.Key() {
			t.Fatalf("served as %x, %v", k, err)
		}
		open = append(open, s)
	}
	if got := n.count(); got != 3 {
		t.Errorf("%d links for a session and much content, want 3", got)
	}
	close(hold)
	for _, s := range open {
		s.Close()
	}
	k := c.Key()
	if got := said(t, toA, true); got != string(k[:]) { // by a link that a dialled
		t.Errorf("served as %x", got)
	}
	if got := said(t, toA, false); got != string(k[:]) || n.count() != 3 {
		t.Errorf("served as %x; %d links", got, n.count())
	}
	n.setCut("a", "c", true)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := toC.Open(t.Context(), true); err != nil && n.count() == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("links outlive the session")
		}
	}
}

// A node that cannot be dialled once more has all streams on the session's link.
func TestNoFurtherLinks(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(c.Key(), []string{"c"})
	nodes := make(chan *Node, 9)
	blobs := func(_ context.Context, k identity.Key, s io.ReadWriteCloser) { s.Write([]byte("content")); s.Close() }
	start(t, n, a, Options{Blobs: blobs})
	start(t, n, c, Options{Joined: func(o *Node) { nodes <- o }, Blobs: blobs})
	same(t, b, a, c)
	toA := <-nodes
	toA.addr = "nowhere"
	if got := said(t, toA, true); got != "content" || n.count() != 1 {
		t.Errorf("%q over %d links", got, n.count())
	}
}
