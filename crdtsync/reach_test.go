package crdtsync

import (
	"context"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// TestReach asks for others that would be tried in an hour.
func TestReach(t *testing.T) {
	n := newMemNet()
	a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
	b := a.makeBucket("team")
	for _, s := range []*store{c, d} {
		s.admit(a, b, identity.ReadWrite)
	}
	a.write(b, "from a", "1")
	send(t, a, c, b)
	a.setPlaces(c.Key(), []string{"c"})
	rarely := Options{MarksEvery: time.Hour, MinBackoff: time.Hour, MaxBackoff: time.Hour}
	n.setCut("a", "c", true)
	e := start(t, n, a, rarely)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	reach := func() map[identity.Key]string {
		t.Helper()
		all, err := e.Reach(ctx)
		if err != nil || len(all) != 2 {
			t.Fatalf("Reach: %v, %v", all, err)
		}
		return map[identity.Key]string{all[0].Key: all[0].Err, all[1].Key: all[1].Err}
	}
	if got := reach(); got[c.Key()] == "" || got[d.Key()] != errNoPlace.Error() {
		t.Errorf("with nobody there: %v", got)
	}

	for i := range 50 {
		c.write(b, "from c", string(rune('A'+i)))
		if _, err := c.Drain(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	start(t, n, c, rarely)
	n.setCut("a", "c", false)
	if got := reach(); got[c.Key()] != "" {
		t.Errorf("c was not reached: %v", got)
	}
	if got, want := a.listing(b), c.listing(b); got != want {
		t.Errorf("when Reach returned a had\n%s\nc had\n%s", got, want)
	}
	if got := reach(); got[c.Key()] != "" { // it is connected now
		t.Errorf("c was not reached again: %v", got)
	}
	n.setCut("a", "c", true)
	if got := reach(); got[c.Key()] == "" {
		t.Errorf("c was reached over a link that is cut")
	}
}

// TestFoundThroughAThird has a node that nobody can dial learn from another where
// a third is now.
func TestFoundThroughAThird(t *testing.T) {
	n := newMemNet()
	a, m, c := newStore(t, "a"), newStore(t, "m"), newStore(t, "c")
	b := a.makeBucket("team")
	m.admit(a, b, identity.ReadWrite)
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(m.Key(), []string{"m"})
	a.setPlaces(c.Key(), []string{"c"})
	c.setPlaces(m.Key(), []string{"m"})
	rarely := Options{MarksEvery: time.Hour, MinBackoff: time.Hour, MaxBackoff: time.Hour}
	hidden := rarely
	hidden.Addrs = []string{}
	em := start(t, n, m, rarely)
	connected := func(e *running, s *store, want bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			e.mu.Lock()
			is := e.sessions[s.Key()] != nil
			e.mu.Unlock()
			if is == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s connected with %s: %v", e.name, s.name, is)
			}
		}
	}
	ec := start(t, n, c, rarely)
	ea := start(t, n, a, hidden)
	connected(ea, c, true)
	ec.stop()
	connected(ea, c, false)
	connected(ea, m, true)
	for deadline := time.Now().Add(2 * time.Minute); !em.Engine.Admits(c.Key()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("m has not heard that c is a member")
		}
	}
	c.name = "somewhere else"
	start(t, n, c, rarely)
	connected(ea, c, true)
	a.write(b, "x", "1")
	same(t, b, a, m, c)
}
