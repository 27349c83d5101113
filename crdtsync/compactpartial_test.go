package crdtsync

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// foreign returns how many versions of branches that are not kept s has.
func (s *store) foreign() (n int64) {
	s.t.Helper()
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		n, err = count(tx, `SELECT count(*) FROM (SELECT branch FROM dentry UNION ALL SELECT branch FROM inode)
			WHERE branch IN (SELECT id FROM branch WHERE keep = 1)`)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *store) stubs(b [16]byte) int64 {
	s.t.Helper()
	st := s.status(b)
	return st.Stubs + st.Lacks
}

var allBranches = []string{"main", "agent-1", "agent-2", "agent-3", "other"}

// TestCompactionAtPartialNode has a node that keeps some branches follow a compaction of
// all: of the others it deletes the stubs, and takes them up from the pack.
func TestCompactionAtPartialNode(t *testing.T) {
	n, a, p, b := partial(t, "agent-1")
	a.pieceVersions = 3
	ra, rp := start(t, n, a, Options{}), start(t, n, p, Options{})
	settle(t, b, a, p)
	if p.stubs(b) == 0 {
		t.Fatal("no stubs")
	}
	a.compact(b)
	folded(t, b, 0, a, p)
	until(t, "no stubs stay", func() bool { return p.stubs(b) == 0 })
	alike(t, b, []string{"main", "agent-1"}, a, p)
	if got := p.keeping(b, notKept); !slices.Equal(got, []string{"agent-2", "agent-3", "other"}) || p.foreign() != 0 {
		t.Errorf("not kept: %q, %d versions of them", got, p.foreign())
	}
	a.put(b, "agent-1", "later", "1")
	a.put(b, "agent-2", "later", "2")
	p.put(b, "agent-1", "by p", "3")
	settle(t, b, a, p)
	alike(t, b, []string{"main", "agent-1"}, a, p)

	p.keep(b, "agent-[12]*") // nobody has the changes any more
	alike(t, b, []string{"main", "agent-1", "agent-2"}, a, p)
	p.put(b, "agent-2", "by p", "4")
	settle(t, b, a, p)
	alike(t, b, []string{"agent-2"}, a, p)

	p.keep(b, "agent-2")
	until(t, "agent-1 has left", func() bool { return slices.Contains(p.keeping(b, notKept), "agent-1") })
	if p.foreign() != 0 {
		t.Errorf("%d versions of branches that are not kept", p.foreign())
	}
	a.compact(b)
	folded(t, b, 0, a, p)
	p.keep(b)
	alike(t, b, allBranches, a, p)
	if p.stubs(b) != 0 {
		t.Errorf("%d stubs", p.stubs(b))
	}
	ra.stop()
	rp.stop()
	for _, s := range []*store{a, p} {
		s.fsck()
		s.again()
		s.fsck()
	}
	alike(t, b, allBranches, a, p)
}

// TestPartialNodeJoinsACompactedBucket, takes only what it keeps from the pack, and hands
// all of that on: a node that keeps all joins through it.
func TestPartialNodeJoinsACompactedBucket(t *testing.T) {
	n, a, p, b := partial(t, "agent-1")
	a.pieceVersions = 3
	c := newStore(t, "c")
	c.admit(a, b, identity.ReadWrite)
	if _, err := a.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	a.compact(b)
	a.put(b, "agent-2", "after", "1")
	ra := start(t, n, a, Options{})
	start(t, n, p, Options{})
	settle(t, b, a, p)
	alike(t, b, []string{"main", "agent-1"}, a, p)
	if p.foreign() != 0 || p.stubs(b) == 0 {
		t.Errorf("%d versions of branches that are not kept, %d stubs", p.foreign(), p.stubs(b))
	}
	ra.stop()
	p.setPlaces(c.Key(), []string{"c"})
	rc := start(t, n, c, Options{MarksEvery: 200 * time.Millisecond})
	settle(t, b, p, c)
	alike(t, b, []string{"main", "agent-1", "agent-3", "other"}, a, c)
	if c.changes(b) > 4 {
		t.Errorf("%d changes came", c.changes(b))
	}
	rc.stop()
	for _, s := range []*store{p, c} {
		s.fsck()
	}
}

// TestComingFromAPack has a node that has stubs of branches that it keeps, and meets
// nobody who has their changes, get them by a pack.
func TestComingFromAPack(t *testing.T) {
	n, a, p, b := partial(t, "agent-1")
	c := newStore(t, "c")
	c.admit(a, b, identity.Admin)
	p.setPlaces(c.Key(), []string{"c"})
	n.setCut("a", "c", true)
	ra := start(t, n, a, Options{MarksEvery: 200 * time.Millisecond})
	start(t, n, p, Options{MarksEvery: 200 * time.Millisecond})
	start(t, n, c, Options{MarksEvery: 200 * time.Millisecond})
	settle(t, b, a, p, c)
	alike(t, b, []string{"main", "agent-1"}, a, c)
	if got := c.keeping(b, coming); !slices.Equal(got, []string{"agent-2", "agent-3", "other"}) {
		t.Fatalf("coming: %q", got)
	}
	if _, err := c.Compact(t.Context(), b, nil); !errors.Is(err, errPartial) {
		t.Errorf("a node that has stubs compacts: %v", err)
	}
	a.compact(b)
	folded(t, b, 0, a, p, c)
	ra.stop()
	alike(t, b, allBranches, a, c)
	if c.stubs(b) != 0 {
		t.Errorf("%d stubs", c.stubs(b))
	}
	c.fsck()
	if _, err := c.Compact(t.Context(), b, nil); err != nil {
		t.Errorf("one that has all by a pack does not: %v", err)
	}
}

// TestPartialNodeDoesNotCompact, whatever its role.
func TestPartialNodeDoesNotCompact(t *testing.T) {
	n, a, p, b := partial(t)
	start(t, n, a, Options{})
	start(t, n, p, Options{})
	settle(t, b, a, p)
	p.fork(b, "of p")
	settle(t, b, a, p)
	alike(t, b, []string{"of p"}, p, a)
	a.keep(b, "agent-1")
	until(t, "a branch has left the owner", func() bool { return slices.Equal(a.keeping(b, notKept), []string{"of p"}) })
	if _, err := a.Compact(t.Context(), b, nil); !errors.Is(err, errPartial) {
		t.Errorf("a node that keeps some branches compacts: %v", err)
	}
}

// TestPartialOwnerSigns what an admin compacted, of which it can prove what it keeps.
func TestPartialOwnerSigns(t *testing.T) {
	n, a, p, b := partial(t)
	if err := a.Grant(b, p.Key(), identity.Admin, "p"); err != nil {
		t.Fatal(err)
	}
	start(t, n, a, Options{})
	start(t, n, p, Options{})
	settle(t, b, a, p)
	p.fork(b, "of p")
	settle(t, b, a, p)
	alike(t, b, []string{"of p"}, p, a)
	a.keep(b, "agent-1")
	until(t, "a branch has left the owner", func() bool { return slices.Equal(a.keeping(b, notKept), []string{"of p"}) })
	if res := p.compact(b); !res.Proposed {
		t.Errorf("%+v", res)
	}
	folded(t, b, 0, a, p)
	alike(t, b, allBranches, p, a)
	a.keep(b)
	alike(t, b, []string{"of p"}, p, a)
}
