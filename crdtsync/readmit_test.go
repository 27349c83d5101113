package crdtsync

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// bucketState returns what there is of a bucket besides the files of main: its
// branches with what they show, snapshots, merges and its policy, a line each.
func (s *store) bucketState(b [16]byte) string {
	s.t.Helper()
	var lines []string
	err := s.db.Read(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		if err != nil {
			return err
		}
		branches, err := s.tree.Branches(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		show := func(what string, branch int64, at schema.Stamp) error {
			v, err := s.tree.View(tx, branch, at)
			if err != nil {
				return err
			}
			es, err := v.ReadDir(tx, v.Root(), "", 0)
			if err != nil {
				return err
			}
			var names []string
			for _, e := range es {
				names = append(names, e.Name)
			}
			lines = append(lines, fmt.Sprintf("%s: %v", what, names))
			return nil
		}
		for _, br := range branches {
			if br.Keep != kept {
				continue
			}
			if err := show("branch "+br.Name, br.ID, 0); err != nil {
				return err
			}
		}
		snaps, err := s.tree.Snapshots(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		for _, sn := range snaps {
			if err := show("snapshot "+sn.Name, sn.Branch, sn.Stamp); err != nil {
				return err
			}
		}
		q := tx.Stmt(`SELECT count(*) FROM merge`)
		if _, err := q.Step(); err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%d merges, %d inodes at most", q.ColumnInt64(0), sh.bucket.Policy.QuotaInodes))
		return nil
	})
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
	return strings.Join(lines, "\n")
}

// ofBucket does something with a bucket.
func (s *store) ofBucket(b [16]byte, f func(tx *schema.Tx, bucket int64) error) {
	s.t.Helper()
	err := s.db.Write(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		if err != nil {
			return err
		}
		return f(tx, sh.bucket.ID)
	})
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
}

func (s *store) removeBranch(b [16]byte, name string) {
	s.t.Helper()
	s.ofBucket(b, func(tx *schema.Tx, bucket int64) error {
		br, err := s.tree.Branch(tx, bucket, name)
		if err != nil {
			return err
		}
		return s.tree.RemoveBranch(tx, br.ID)
	})
}

func (s *store) renameBranch(b [16]byte, from, to string) {
	s.t.Helper()
	s.ofBucket(b, func(tx *schema.Tx, bucket int64) error {
		br, err := s.tree.Branch(tx, bucket, from)
		if err != nil {
			return err
		}
		return s.tree.RenameBranch(tx, br.ID, to)
	})
}

func (s *store) snapshot(b [16]byte, branch, name string) {
	s.t.Helper()
	s.ofBucket(b, func(tx *schema.Tx, bucket int64) error {
		br, err := s.tree.Branch(tx, bucket, branch)
		if err == nil {
			_, err = s.tree.CreateSnapshot(tx, br.ID, name, "")
		}
		return err
	})
}

func (s *store) removeSnapshot(b [16]byte, name string) {
	s.t.Helper()
	s.ofBucket(b, func(tx *schema.Tx, bucket int64) error {
		sn, err := s.tree.Snapshot(tx, bucket, name)
		if err != nil {
			return err
		}
		return s.tree.RemoveSnapshot(tx, sn.ID)
	})
}

func (s *store) mergeBranch(b [16]byte, from, to string) {
	s.t.Helper()
	s.ofBucket(b, func(tx *schema.Tx, bucket int64) error {
		var vs [2]*pathtree.View
		for i, name := range []string{from, to} {
			br, err := s.tree.Branch(tx, bucket, name)
			if err == nil {
				vs[i], err = s.tree.View(tx, br.ID, 0)
			}
			if err != nil {
				return err
			}
		}
		_, err := s.tree.Merge(tx, vs[0], vs[1], pathtree.MergeOptions{})
		return err
	})
}

func (s *store) limit(b [16]byte, inodes int64) {
	s.t.Helper()
	s.ofBucket(b, func(tx *schema.Tx, bucket int64) error {
		return s.tree.SetPolicy(tx, bucket, pathtree.Policy{QuotaInodes: inodes})
	})
}

// late is a bucket of which m changes everything after a has heard of it last: c hears
// that, goes on from there, and then all hear that m was shut out. d hears of it
// before the changes.
type late struct {
	a, c, d, m *store
	b          [16]byte
	before     string // what a has besides what c made of it
}

func newLate(t *testing.T, patterns ...string) *late {
	l := &late{a: newStore(t, "a"), c: newStore(t, "c"), d: newStore(t, "d"), m: newStore(t, "m")}
	l.b = l.a.makeBucket("team")
	for _, s := range []*store{l.c, l.d, l.m} {
		s.admit(l.a, l.b, identity.ReadWrite)
	}
	for _, s := range []*store{l.c, l.d} {
		tell(t, l.a, s, l.b)
	}
	l.a.write(l.b, "first", "1")
	l.a.fork(l.b, "named", "gone", "into", "from")
	l.a.snapshot(l.b, pathtree.MainBranch, "old")
	l.a.limit(l.b, 1000)
	for _, s := range []*store{l.c, l.d, l.m} {
		send(t, l.a, s, l.b)
	}
	if len(patterns) > 0 {
		if err := l.d.SetPatterns(l.b, patterns, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.before = l.a.bucketState(l.b)

	l.m.fork(l.b, "late")
	l.m.renameBranch(l.b, "named", "renamed")
	l.m.removeBranch(l.b, "gone")
	l.m.snapshot(l.b, pathtree.MainBranch, "new")
	l.m.removeSnapshot(l.b, "old")
	l.m.mergeBranch(l.b, "from", "into")
	l.m.limit(l.b, 5000)
	return l
}

// round tells every grant and change to everybody but m.
func (l *late) round(t *testing.T) {
	t.Helper()
	all := []*store{l.a, l.c, l.d}
	for range 2 {
		for _, from := range all {
			for _, to := range all {
				if from != to {
					tell(t, from, to, l.b)
					if res := send(t, from, to, l.b); res.Later > 0 {
						t.Errorf("%s holds back %d changes of %s", to.name, res.Later, from.name)
					}
				}
			}
		}
	}
}

// alike holds a and c, and d unless it keeps some branches alone, to have a state.
func (l *late) alike(t *testing.T, want string, all ...*store) {
	t.Helper()
	for _, s := range all {
		if got := s.bucketState(l.b); got != want {
			t.Errorf("%s has\n%s\nand not\n%s", s.name, got, want)
		}
		s.fsck()
	}
}

// TestLateRecordsOfARevokedNode: what a revoked node said of branches, snapshots, merges
// and the policy, and the one who revoked it had not heard, counts nowhere, also where it
// came before the revocation; until it is accepted.
func TestLateRecordsOfARevokedNode(t *testing.T) {
	l := newLate(t)
	send(t, l.m, l.c, l.b)
	after := l.c.bucketState(l.b)
	for _, want := range []string{"branch late", "branch renamed", "snapshot new", "1 merges, 5000"} {
		if !strings.Contains(after, want) {
			t.Fatalf("c has no %s:\n%s", want, after)
		}
	}
	if after != l.m.bucketState(l.b) {
		t.Fatalf("c has\n%s\nm has\n%s", after, l.m.bucketState(l.b))
	}
	if err := l.a.Grant(l.b, l.m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	l.round(t)
	l.alike(t, l.before, l.a, l.c, l.d)

	l.a.fork(l.b, "late") // the name is free
	l.round(t)
	mine := l.a.bucketState(l.b)
	l.alike(t, mine, l.c, l.d)
	l.a.removeBranch(l.b, "late")

	if err := l.a.Accept(l.b, l.m.Key()); err != nil {
		t.Fatal(err)
	}
	l.round(t)
	l.alike(t, after, l.a, l.c, l.d)
	for _, s := range []*store{l.a, l.c, l.d} {
		s.again()
		if n, err := s.Drain(t.Context(), l.b); err != nil || n != 0 {
			t.Errorf("%s had %d changes to make, %v", s.name, n, err)
		}
		l.alike(t, after, s)
	}
}

// TestLateRecordsOnAPack: what a revoked node said in the place of records that are in a
// pack alone is taken back to these.
func TestLateRecordsOnAPack(t *testing.T) {
	l := newLate(t)
	l.a.compact(l.b)
	for _, s := range []*store{l.c, l.d} {
		if err := s.hear(l.a, l.b); err != nil || s.changes(l.b) != 0 {
			t.Fatalf("%s keeps %d changes: %v", s.name, s.changes(l.b), err)
		}
	}
	send(t, l.m, l.c, l.b)
	after := l.c.bucketState(l.b)
	if after != l.m.bucketState(l.b) || after == l.before {
		t.Fatalf("c has\n%s\nm has\n%s", after, l.m.bucketState(l.b))
	}
	if err := l.a.Grant(l.b, l.m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	l.round(t)
	l.alike(t, l.before, l.a, l.c, l.d)
	if err := l.a.Accept(l.b, l.m.Key()); err != nil {
		t.Fatal(err)
	}
	l.round(t)
	l.alike(t, after, l.a, l.c, l.d)
}

// TestJoinAPackWithALateBranch: one joins by a pack that has what others wrote to a
// branch of which no record counts, and a branch that was forked from it.
func TestJoinAPackWithALateBranch(t *testing.T) {
	for _, admin := range []bool{false, true} {
		t.Run(fmt.Sprint("by an admin: ", admin), func(t *testing.T) { joinWithALateBranch(t, admin) })
	}
}

func joinWithALateBranch(t *testing.T, admin bool) {
	l := newLate(t)
	send(t, l.m, l.c, l.b)
	l.c.put(l.b, "late", "of c", "c")
	err := l.c.inBranch(l.b, "late", func(tx *schema.Tx, v *pathtree.View) error {
		_, err := l.c.tree.CreateBranch(tx, v.Bucket().ID, "child", pathtree.Origin{Branch: v.Branch().ID})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.c.put(l.b, "child", "of child", "c")
	if err := l.a.Grant(l.b, l.m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	if admin {
		if err := l.a.Grant(l.b, l.c.Key(), identity.Admin, "c"); err != nil {
			t.Fatal(err)
		}
	}
	l.round(t)
	if admin {
		l.c.compact(l.b)
		if err := l.a.hear(l.c, l.b); err != nil {
			t.Fatal(err)
		}
	} else {
		l.a.compact(l.b)
	}
	for _, s := range []*store{l.c, l.d} {
		if err := s.hear(l.a, l.b); err != nil {
			t.Fatal(err)
		}
	}
	l.m = newStore(t, "joiner")
	l.m.admit(l.a, l.b, identity.ReadWrite)
	if err := l.m.hear(l.a, l.b); err != nil {
		t.Fatal(err)
	}
	send(t, l.a, l.m, l.b)
	l.round(t)
	want := l.a.bucketState(l.b)
	if !strings.Contains(want, "branch child: [first of c of child]") || strings.Contains(want, "branch late") {
		t.Errorf("a has\n%s", want)
	}
	l.alike(t, want, l.a, l.c, l.d, l.m)
}

// TestOthersOnALateBranch: what others wrote to a branch of which no record counts, and
// branches that they forked from it, come to all; the branch shows when it is accepted.
func TestOthersOnALateBranch(t *testing.T) {
	for _, patterns := range [][]string{nil, {"main"}, {"main", "late"}} {
		t.Run(fmt.Sprint(patterns), func(t *testing.T) {
			l := newLate(t, patterns...)
			send(t, l.m, l.c, l.b)
			l.c.put(l.b, "late", "of c", "c")
			err := l.c.inBranch(l.b, "late", func(tx *schema.Tx, v *pathtree.View) error {
				_, err := l.c.tree.CreateBranch(tx, v.Bucket().ID, "child", pathtree.Origin{Branch: v.Branch().ID})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			l.c.put(l.b, "child", "of child", "c")
			if err := l.a.Grant(l.b, l.m.Key(), identity.None, ""); err != nil {
				t.Fatal(err)
			}
			tell(t, l.a, l.d, l.b)
			l.round(t)
			all := []*store{l.a, l.c}
			if patterns == nil {
				all = append(all, l.d)
			}
			want := l.a.bucketState(l.b)
			if !strings.Contains(want, "branch child: [first of c of child]") || strings.Contains(want, "branch late") {
				t.Errorf("a has\n%s", want)
			}
			l.alike(t, want, all...)
			if s := l.d.bucketState(l.b); strings.Contains(s, "late") {
				t.Errorf("d has\n%s", s)
			}
			if err := l.a.Accept(l.b, l.m.Key()); err != nil {
				t.Fatal(err)
			}
			l.round(t)
			want = l.a.bucketState(l.b)
			if !strings.Contains(want, "branch late: [first of c of late]") || !strings.Contains(want, "branch child: [first of c of child of late]") {
				t.Errorf("a has\n%s", want)
			}
			l.alike(t, want, all...)
			branches, err := l.d.Branches(l.b)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(branches, func(br BranchStatus) bool { return br.Name == "late" })
			if i < 0 || branches[i].Keep.Wanted() == (len(patterns) == 1) {
				t.Errorf("d has %+v", branches)
			}
		})
	}
}

// readmitted is a node that was shut out, did not hear of it, wrote files and
// branches, replaced its key, and is let in again with that.
func readmitted(t *testing.T, role identity.Role) (a, c *store, b [16]byte, next identity.Key) {
	a, c = newStore(t, "a"), newStore(t, "c")
	b = a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.write(b, "first", "a")
	send(t, a, c, b)
	if err := a.Grant(b, c.Key(), identity.None, "c"); err != nil {
		t.Fatal(err)
	}
	c.write(b, "of c", "c")
	c.fork(b, "late")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.write(b, "last", "c") // not in a change yet
	c.rotate()
	c.letIn(a, b, role)
	return a, c, b, c.Key()
}

// letIn has a let s in with the key that it has.
func (s *store) letIn(a *store, b [16]byte, role identity.Role) {
	s.t.Helper()
	if err := a.Grant(b, s.Key(), role, "c"); err != nil {
		s.t.Fatal(err)
	}
	grants, _, err := a.Grants(b, 0)
	if err == nil {
		_, err = s.Adopt(b, "team", a.Key(), grants)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	tell(s.t, s, a, b)
}

// unsent returns how many changes a store says that it keeps for itself.
func (s *store) unsent(b [16]byte) int64 {
	s.t.Helper()
	all, err := s.Status()
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(st BucketStatus) bool { return st.UUID == b })
	return all[i].Void
}

// shows holds stores to show what c wrote, or not.
func shows(t *testing.T, b [16]byte, yes bool, all ...*store) {
	t.Helper()
	for _, s := range all {
		l, st := s.listing(b), s.bucketState(b)
		if strings.Contains(l, "/of c ") != yes || strings.Contains(st, "branch late: [first of c of late]") != yes || !strings.Contains(l, "/last ") {
			t.Errorf("%s shows\n%s\n%s", s.name, l, st)
		}
		s.fsck()
	}
}

// A node that was shut out, did not hear of it, wrote, replaced its key and is let in
// again with the new one keeps what it wrote, and the others get it, with nothing of
// the old key believed.
func TestLetInAgainWithAnotherKey(t *testing.T) {
	a, c, b, _ := readmitted(t, identity.ReadWrite)
	shows(t, b, true, c)
	send(t, c, a, b)
	shows(t, b, true, a, c)
	if n := c.unsent(b); n != 0 {
		t.Errorf("%d changes are unsent", n)
	}
	d := newStore(t, "d")
	d.admit(a, b, identity.ReadWrite)
	if res := send(t, a, d, b); res.Later > 0 {
		t.Errorf("%+v", res)
	}
	shows(t, b, true, d)

	// It is said once, also after a restart.
	c.Replica = c.withKey(c.private, c.past...)
	if n, err := c.Drain(t.Context(), b); err != nil || n != 0 {
		t.Errorf("%d changes made again, %v", n, err)
	}
	// Twice in a row.
	if err := a.Grant(b, c.Key(), identity.None, "c"); err != nil {
		t.Fatal(err)
	}
	c.write(b, "more", "c")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.rotate()
	c.letIn(a, b, identity.ReadWrite)
	send(t, c, a, b)
	send(t, a, d, b)
	shows(t, b, true, a, c, d)
	if l := a.listing(b); !strings.Contains(l, "/more ") || l != c.listing(b) || l != d.listing(b) {
		t.Errorf("a shows\n%s", l)
	}
}

// What the old key has said to others besides does not count, and goes where it did
// not come from the node itself.
func TestWhatTheOldKeySaysElsewhere(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	thief := newStore(t, "c") // has a copy of its key
	d := newStore(t, "d")
	d.admit(a, b, identity.ReadWrite)
	tell(t, a, d, b)
	tell(t, a, c, b)
	grants, _, err := a.Grants(b, 0)
	if err == nil {
		_, err = thief.Adopt(b, "team", a.Key(), grants)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*store{c, thief, d} {
		send(t, a, s, b)
	}
	if err := a.Grant(b, c.Key(), identity.None, "c"); err != nil {
		t.Fatal(err)
	}
	thief.write(b, "of the thief", "x")
	send(t, thief, d, b) // which has not heard
	send(t, d, c, b)
	c.write(b, "of c", "c")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.rotate()
	c.letIn(a, b, identity.ReadWrite)
	for _, from := range []*store{a, c, d, a, c, d} {
		for _, to := range []*store{a, c, d} {
			if from != to {
				tell(t, from, to, b)
				send(t, from, to, b)
			}
		}
	}
	for _, s := range []*store{a, c, d} {
		if l := s.listing(b); strings.Contains(l, "thief") || !strings.Contains(l, "/of c ") {
			t.Errorf("%s shows\n%s", s.name, l)
		}
	}
}

// What was said again, and then replaced and pruned everywhere before a compaction, is not
// said once more.
func TestSaidAgainAndCompacted(t *testing.T) {
	a, c, b, _ := readmitted(t, identity.ReadWrite)
	if err := a.Grant(b, c.Key(), identity.None, "c"); err != nil {
		t.Fatal(err)
	}
	c.write(b, "more", "c")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.rotate()
	c.letIn(a, b, identity.ReadWrite)
	for i := range 3 {
		c.write(b, "more", fmt.Sprint("again ", i))
		send(t, c, a, b)
	}
	for _, s := range []*store{a, c} {
		s.prune()
	}
	a.compact(b)
	if err := c.hear(a, b); err != nil {
		t.Fatal(err)
	}
	kept := len(c.versions(b))
	c.Replica = c.withKey(c.private, c.past...)
	if n, err := c.Drain(t.Context(), b); err != nil || n != 0 {
		t.Errorf("%d changes made again, %v", n, err)
	}
	if got := c.versions(b); len(got) != kept {
		t.Errorf("%d versions, and %d before", len(got), kept)
	}
	sameTrees(t, b, a, c)
}

// Let in as a reader it keeps what it wrote, and says how much, until it may write.
func TestLetInAgainAsAReader(t *testing.T) {
	a, c, b, k := readmitted(t, identity.ReadOnly)
	send(t, c, a, b)
	if n := c.unsent(b); n == 0 || strings.Contains(a.listing(b), "/of c ") {
		t.Errorf("%d changes are unsent, a shows\n%s", n, a.listing(b))
	}
	if err := a.Grant(b, k, identity.ReadWrite, "c"); err != nil {
		t.Fatal(err)
	}
	tell(t, a, c, b)
	send(t, c, a, b)
	shows(t, b, true, a, c)
	if n := c.unsent(b); n != 0 {
		t.Errorf("%d changes are unsent", n)
	}
}

// The grant comes to the old key, which is about to be replaced, and the node dies.
func TestLetInAgainBeforeTheKeyIsReplaced(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.write(b, "first", "a")
	send(t, a, c, b)
	if err := a.Grant(b, c.Key(), identity.None, "c"); err != nil {
		t.Fatal(err)
	}
	c.write(b, "of c", "c")
	c.fork(b, "late")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.write(b, "last", "c")
	old := c.private
	c.rotate()
	next, past := c.private, c.past
	if err := a.Grant(b, c.Key(), identity.ReadWrite, "c"); err != nil {
		t.Fatal(err)
	}
	c.Replica = c.withKey(old)
	tell(t, a, c, b)
	c.Replica = c.withKey(next, past...)
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	tell(t, c, a, b)
	send(t, c, a, b)
	shows(t, b, true, a, c)
}

// A reader that has changes nobody heard, and replaces its key, sends them when it may
// write again.
func TestReaderReplacesItsKey(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.write(b, "first", "a")
	send(t, a, c, b)
	c.write(b, "of c", "c")
	c.fork(b, "late")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := a.Grant(b, c.Key(), identity.ReadOnly, "c"); err != nil {
		t.Fatal(err)
	}
	tell(t, a, c, b)
	c.write(b, "last", "c")
	c.rotate()
	tell(t, c, a, b)
	if n := c.unsent(b); n == 0 {
		t.Error("nothing is unsent")
	}
	if err := a.Grant(b, c.Key(), identity.ReadWrite, "c"); err != nil {
		t.Fatal(err)
	}
	tell(t, a, c, b)
	send(t, c, a, b)
	shows(t, b, true, a, c)
}

// What is said again stays when the old key's word comes to count, and no longer does.
func TestSaidAgainAndAccepted(t *testing.T) {
	a, c, b, _ := readmitted(t, identity.ReadWrite)
	send(t, c, a, b)
	send(t, a, c, b)
	old := identity.Key{}
	m, err := a.Membership(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range m.All() {
		if o.Role == identity.None {
			old = o.Key
		}
	}
	was, _ := m.Member(old)
	if err := a.Accept(b, old); err != nil {
		t.Fatal(err)
	}
	tell(t, a, c, b)
	shows(t, b, true, a, c)
	err = a.withGrants(b, func(tx *schema.Tx, sh shared) error {
		g := identity.Grant{Bucket: b, Subject: old, Serial: was.Serial + 2, Heard: was.Heard()}
		e, err := g.Seal(a.private)
		if err == nil {
			_, err = a.addGrants(tx, sh, [][]byte{e})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, a, c, b)
	shows(t, b, true, a, c)
}

// Who lays its role down and says that more counts of it than it had told is revoked
// all the same: what counts then is what was heard.
func TestRevokedAfterItLeft(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	never := identity.Stream{9}
	left := identity.Grant{Bucket: b, Subject: c.Key(), Serial: 9, Heard: []identity.Mark{{Stream: never, Seq: 1 << 40}}}
	g, err := left.Seal(c.private)
	if err == nil {
		_, err = a.AddGrants(b, [][]byte{g})
	}
	if err == nil {
		err = a.Grant(b, c.Key(), identity.None, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := a.Membership(b)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.Counts(c.Key(), never); n != 0 || m.Role(c.Key()) != identity.None {
		t.Errorf("%d changes count that nobody has", n)
	}
}
