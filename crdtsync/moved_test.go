package crdtsync

import (
	"slices"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// waitSession returns the session with another node once keep accepts it.
func (e *running) waitSession(k identity.Key, keep func(*live) bool) *live {
	e.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		l := e.sessions[k]
		e.mu.Unlock()
		if l != nil && keep(l) {
			return l
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("%s has no such session", e.name)
		}
	}
}

// A node whose addresses change tells the others over the connections that it has,
// drops one that does not answer any more and dials, without waiting for the next try.
func TestNodeMoves(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(c.Key(), []string{"c"})
	rarely := Options{MarksEvery: time.Hour, MinBackoff: time.Hour, MaxBackoff: time.Hour}
	start(t, n, c, rarely)
	n.setCut("a", "c", true)
	ea := start(t, n, a, rarely)
	for p := ea.Progress(); ; p = ea.Progress() { // until a has tried once
		ea.mu.Lock()
		tried := ea.problems[c.Key()].err != nil
		ea.mu.Unlock()
		if tried {
			break
		}
		<-p
	}
	n.setCut("a", "c", false)
	ea.SetAddrs([]string{"a", "at home"})
	first := ea.waitSession(c.Key(), func(*live) bool { return true })

	ea.SetAddrs([]string{"a", "away"})
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if addrs, _, err := c.placesOf(a.Key()); err == nil && slices.Equal(addrs, []string{"a", "away"}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("c was not told where a is")
		}
	}
	if err := answers(t.Context(), first.link); err != nil {
		t.Errorf("over the first connection: %v", err)
	}

	n.mute()
	ea.SetAddrs([]string{"a", "away again"})
	select {
	case <-first.link.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("a connection that does not answer was kept")
	}
	ea.SetAddrs([]string{"a"})
	ea.waitSession(c.Key(), func(l *live) bool { return l != first })
	a.write(b, "x", "1")
	same(t, b, a, c)
}
