package crdtsync

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// inBranch runs f on the head of a branch.
func (s *store) inBranch(b [16]byte, branch string, f func(tx *schema.Tx, v *pathtree.View) error) error {
	return s.db.Write(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		if err != nil {
			return err
		}
		br, err := s.tree.Branch(tx, sh.bucket.ID, branch)
		if err != nil {
			return err
		}
		v, err := s.tree.View(tx, br.ID, 0)
		if err != nil {
			return err
		}
		return f(tx, v)
	})
}

// put makes a file in the root of a branch.
func (s *store) put(b [16]byte, branch, name, text string) {
	s.t.Helper()
	err := s.inBranch(b, branch, func(tx *schema.Tx, v *pathtree.View) error {
		e, err := v.Lookup(tx, v.Root(), name)
		if err != nil {
			in, err := v.Create(tx, v.Root(), name, pathtree.NewInode{Mode: unix.S_IFREG | 0o644})
			if err != nil {
				return err
			}
			e.Ino = in.Ino
		}
		_, err = v.SetContent(tx, e.Ino, pathtree.Content{Hash: blobstore.Sum([]byte(text)), Size: int64(len(text))})
		return err
	})
	if err != nil {
		s.t.Fatalf("%s: %s: %v", s.name, branch, err)
	}
}

// fork makes a branch of main with a file of its own.
func (s *store) fork(b [16]byte, names ...string) {
	s.t.Helper()
	for _, name := range names {
		err := s.inBranch(b, pathtree.MainBranch, func(tx *schema.Tx, v *pathtree.View) error {
			_, err := s.tree.CreateBranch(tx, v.Bucket().ID, name, pathtree.Origin{Branch: v.Branch().ID})
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
		s.put(b, name, "of "+name, name)
	}
}

// shows returns what a branch shows, a word for each file.
func (s *store) shows(b [16]byte, branch string) (string, error) {
	var names []string
	err := s.inBranch(b, branch, func(tx *schema.Tx, v *pathtree.View) error {
		es, ins, err := v.ReadDirPlus(tx, v.Root(), "", 0)
		for i, e := range es {
			names = append(names, fmt.Sprintf("%q %o %s", e.Name, ins[i].Mode, ins[i].Hash))
		}
		return err
	})
	slices.Sort(names)
	return strings.Join(names, "\n"), err
}

func (s *store) keep(b [16]byte, patterns ...string) {
	s.t.Helper()
	if err := s.SetPatterns(b, patterns, len(patterns) == 0, nil); err != nil {
		s.t.Fatal(err)
	}
	if err := s.db.Commit(); err != nil {
		s.t.Fatal(err)
	}
}

// keeping returns the names of the branches that are in a state.
func (s *store) keeping(b [16]byte, k pathtree.Keeping) (names []string) {
	s.t.Helper()
	all, err := s.Branches(b)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, st := range all {
		if st.Keep == k {
			names = append(names, st.Name)
		}
	}
	return names
}

// until waits for something to be so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to be: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// alike waits until stores show the same on branches.
func alike(t *testing.T, b [16]byte, branches []string, all ...*store) {
	t.Helper()
	for _, branch := range branches {
		want, err := all[0].shows(b, branch)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all[1:] {
			var got string
			until(t, fmt.Sprintf("%s shows %s as %s does", s.name, branch, all[0].name), func() bool {
				got, err = s.shows(b, branch)
				return err == nil && got == want
			})
		}
	}
}

func (s *store) status(b [16]byte) BucketStatus {
	s.t.Helper()
	all, err := s.Replica.Status()
	if err == nil {
		err = s.CountChanges(all)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return all[slices.IndexFunc(all, func(st BucketStatus) bool { return st.UUID == b })]
}

// partial has a full node a and one that keeps agent-1.
func partial(t *testing.T, patterns ...string) (n *memNet, a, p *store, b [16]byte) {
	n = newMemNet()
	a, p = newStore(t, "a"), newStore(t, "p")
	b = a.makeBucket("team")
	p.admit(a, b, identity.ReadWrite)
	p.keep(b, patterns...)
	a.setPlaces(p.Key(), []string{"p"})
	a.put(b, "main", "shared", "1")
	a.fork(b, "agent-1", "agent-2", "agent-3", "other")
	return n, a, p, b
}

func TestPartialNode(t *testing.T) {
	n, a, p, b := partial(t, "agent-1")
	start(t, n, a, Options{})
	start(t, n, p, Options{})
	settle(t, b, a, p)
	alike(t, b, []string{"main", "agent-1"}, a, p)
	if got := p.keeping(b, notKept); !slices.Equal(got, []string{"agent-2", "agent-3", "other"}) {
		t.Fatalf("not kept: %q", got)
	}
	_, err := p.shows(b, "agent-2")
	var nk *pathtree.NotKeptError
	if !errors.As(err, &nk) || nk.Branch != "agent-2" {
		t.Errorf("a branch that is not kept: %v", err)
	}
	err = p.inBranch(b, "main", func(tx *schema.Tx, v *pathtree.View) error {
		br, err := p.tree.Branch(tx, v.Bucket().ID, "agent-2")
		if err == nil {
			_, err = p.tree.CreateBranch(tx, v.Bucket().ID, "child", pathtree.Origin{Branch: br.ID})
		}
		return err
	})
	if !errors.Is(err, pathtree.ErrNotKept) {
		t.Errorf("a fork of it: %v", err)
	}
	if st := p.status(b); st.Stubs == 0 || st.Lacks != 0 {
		t.Errorf("%d stubs, %d changes lacking", st.Stubs, st.Lacks)
	}

	p.put(b, "agent-1", "by p", "2")
	p.put(b, "main", "by p", "3")
	a.put(b, "agent-1", "by a", "4")
	a.put(b, "agent-2", "later", "5")
	settle(t, b, a, p)
	alike(t, b, []string{"main", "agent-1"}, a, p)

	a.fork(b, "agent-11") // no pattern is for it
	p.fork(b, "own")
	settle(t, b, a, p)
	alike(t, b, []string{"own"}, p, a)
	if !slices.Contains(p.keeping(b, notKept), "agent-11") || !slices.Contains(p.keeping(b, kept), "own") {
		t.Errorf("kept: %q, not: %q", p.keeping(b, kept), p.keeping(b, notKept))
	}

	p.keep(b, "agent-[12]*")
	alike(t, b, []string{"main", "agent-1", "agent-2", "agent-11"}, a, p)
	if st := p.status(b); st.Lacks != 0 {
		t.Errorf("%d changes lacking", st.Lacks)
	}
	a.fork(b, "agent-12")
	settle(t, b, a, p)
	alike(t, b, []string{"agent-12"}, a, p)

	p.keep(b, "agent-2")
	until(t, "agent-1 and others have left", func() bool {
		return slices.Equal(p.keeping(b, kept), []string{"agent-2", "main", "own"}) && len(p.keeping(b, leaving)) == 0
	})
	left := int64(-1)
	err = p.db.Read(func(tx *schema.Tx) (err error) {
		left, err = count(tx, `SELECT count(*) FROM dentry WHERE branch IN (SELECT id FROM branch WHERE keep <> 0)`)
		return err
	})
	if err != nil || left != 0 {
		t.Errorf("%d names of branches that have left, %v", left, err)
	}
	a.put(b, "agent-1", "meanwhile", "6")
	settle(t, b, a, p)
	p.keep(b)
	alike(t, b, []string{"main", "agent-1", "agent-2", "agent-3", "agent-11", "agent-12", "other"}, a, p)
	if st := p.status(b); st.Stubs != 0 || st.Lacks != 0 {
		t.Errorf("%d stubs, %d changes lacking", st.Stubs, st.Lacks)
	}
	if got, want := p.heads(b), a.heads(b); got != want {
		t.Errorf("documents have the heads\n%s, elsewhere\n%s", got, want)
	}
}

// heads returns those of all documents.
func (s *store) heads(b [16]byte) string {
	s.t.Helper()
	var lines []string
	err := s.db.Read(func(tx *schema.Tx) error {
		q := tx.Stmt(`SELECT hex(branch), dir, gen, hex(heads) FROM sync_doc`)
		for err := range schema.Rows(q) {
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprint(q.ColumnText(0), q.ColumnInt64(1), q.ColumnInt64(2), q.ColumnText(3)))
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestThroughAPartialNode has a full node join that only meets a partial one: it
// shows what that one has, says that it lacks the rest, and gets it from another.
func TestThroughAPartialNode(t *testing.T) {
	n, a, p, b := partial(t, "agent-1")
	c := newStore(t, "c")
	c.admit(a, b, identity.ReadWrite)
	p.setPlaces(c.Key(), []string{"c"})
	c.setPlaces(a.Key(), []string{"a"})
	n.setCut("a", "c", true)
	start(t, n, a, Options{MarksEvery: 200 * time.Millisecond})
	start(t, n, p, Options{MarksEvery: 200 * time.Millisecond})
	start(t, n, c, Options{MarksEvery: 200 * time.Millisecond, MaxBackoff: 200 * time.Millisecond})
	settle(t, b, a, p, c)
	alike(t, b, []string{"main", "agent-1"}, a, c)
	if got := c.keeping(b, coming); !slices.Equal(got, []string{"agent-2", "agent-3", "other"}) {
		t.Fatalf("coming: %q", got)
	}
	if _, err := c.shows(b, "agent-2"); !errors.Is(err, pathtree.ErrNotKept) {
		t.Errorf("a branch of which only stubs are here: %v", err)
	}
	if st := c.status(b); st.Lacks == 0 {
		t.Error("a node believes that it has everything")
	}
	if _, err := c.Named(t.Context(), a.Key(), b, nil); err == nil {
		t.Error("it speaks for versions that it does not have")
	}
	p.keep(b, "agent-1", "agent-2") // what p gets, c gets from it
	alike(t, b, []string{"agent-2"}, a, p, c)
	n.setCut("a", "c", false)
	alike(t, b, []string{"main", "agent-1", "agent-2", "agent-3", "other"}, a, c)
	if st := c.status(b); st.Stubs != 0 || st.Lacks != 0 {
		t.Errorf("%d stubs, %d changes lacking", st.Stubs, st.Lacks)
	}
	if got, want := c.heads(b), a.heads(b); got != want {
		t.Errorf("documents have the heads\n%s, elsewhere\n%s", got, want)
	}
}

// TestOnlyOneLeaves has two nodes let the same branch go that nobody else has.
func TestOnlyOneLeaves(t *testing.T) {
	n, a, p, b := partial(t)
	start(t, n, a, Options{})
	start(t, n, p, Options{})
	settle(t, b, a, p)
	q := newStore(t, "q")
	q.admit(a, b, identity.ReadWrite)
	p.setPlaces(q.Key(), []string{"q"})
	start(t, n, q, Options{})
	settle(t, b, a, p, q)
	n.setCut("a", "p", true)
	n.setCut("a", "q", true)
	n.setCut("p", "q", true) // or the first lets go before the second does
	for _, s := range []*store{p, q} {
		s.keep(b, "main")
	}
	n.setCut("p", "q", false)
	for _, name := range []string{"more", "still more"} { // each hears the other's marks
		p.put(b, "main", name, "1")
		settle(t, b, p, q)
	}
	if len(p.keeping(b, leaving)) != 4 || len(q.keeping(b, leaving)) != 4 {
		t.Errorf("left: %q, %q", p.keeping(b, notKept), q.keeping(b, notKept))
	}
	n.setCut("a", "p", false)
	n.setCut("a", "q", false)
	for _, s := range []*store{p, q} {
		until(t, "branches have left "+s.name, func() bool { return len(s.keeping(b, notKept)) == 4 })
	}
}

// partialByHand has a full node a, a partial one p that has heard of a's branches
// and has a stub of agent-2, and the whole change that it is of.
func partialByHand(t *testing.T) (a, p *store, b [16]byte, whole []byte) {
	t.Helper()
	_, a, p, b = partial(t, "main")
	send(t, a, p, b)
	all, err := p.lacking(b, 0)
	if err != nil || len(all) != 0 {
		t.Fatalf("%d changes lacking, %v", len(all), err)
	}
	p.keep(b, "main", "agent-2")
	if all, err = p.lacking(b, 0); err != nil || len(all) == 0 {
		t.Fatalf("%d changes lacking, %v", len(all), err)
	}
	e := all[0]
	found, err := a.whole(&need{Bucket: b, Ask: 1, Changes: []changeRange{{e.Author, e.Stream, e.Seq, 1}}})
	if err != nil || len(found) != 1 {
		t.Fatalf("%d changes, %v", len(found), err)
	}
	return a, p, b, found[0]
}

func TestStubAttacks(t *testing.T) {
	a, p, b, whole := partialByHand(t)
	e, err := identity.DecodeEnvelope(whole)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
		if all, err := p.lacking(b, 0); err != nil || len(all) == 0 {
			t.Errorf("%s: %d changes lacking, %v", what, len(all), err)
		}
	}
	fill := func(e identity.Envelope) error {
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.fill(b, a.Key(), [][]byte{raw})
		return err
	}
	stub, _ := e.Stub()
	refused("a stub for an answer", fill(stub))
	twin := e // well signed, good, and not what the others were told
	c, _, err := gate.Decode(e.Raw)
	if err != nil || len(c.Entries) < 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	c.Entries = c.Entries[:1]
	if twin.Raw, _, err = gate.Encode(c); err != nil {
		t.Fatal(err)
	}
	if _, err := twin.Seal(a.private); err != nil {
		t.Fatal(err)
	}
	refused("another change of the same number", fill(twin))
	other := e
	other.Raw = append([]byte(nil), e.Raw...)
	other.Raw[len(other.Raw)-1] ^= 1
	refused("another content under the signature", fill(other))

	// Over the stream.
	s := &session{e: &Engine{Replica: p.Replica}, peer: a.Key(), buckets: map[[16]byte]*feed{b: {needs: make(chan *need, 1)}}}
	refused("an answer to no question", s.gotFound(&found{Bucket: b, Ask: 1, Envelopes: [][]byte{whole}}))
	s.buckets[b].asking = &asking{id: 1, left: map[changeID]bool{}, done: make(chan struct{})}
	refused("what was not asked for", s.gotFound(&found{Bucket: b, Ask: 1, Envelopes: [][]byte{whole}}))
	id := changeID{stream{e.Author, e.Stream}, e.Seq}
	s.buckets[b].asking.left[id] = true
	refused("an answer to another question", s.gotFound(&found{Bucket: b, Ask: 2, Envelopes: [][]byte{whole}}))
	refused("the same twice", s.gotFound(&found{Bucket: b, Ask: 1, Envelopes: [][]byte{whole, whole}}))
	q := &need{Bucket: b, Ask: 1, Changes: []changeRange{{e.Author, e.Stream, 1, maxAsked}}}
	if err := s.gotNeed(q); err != nil {
		t.Error(err)
	}
	refused("a second question before the answer", s.gotNeed(q))
	q.Ask = 0
	<-s.buckets[b].needs
	refused("a question without a number", s.gotNeed(q))
	q.Ask, q.Changes = 1, append(q.Changes, q.Changes[0])
	refused("a question for too much", s.gotNeed(q))
	refused("a filter of too much", (&filter{Branches: make([][16]byte, maxWanted+1)}).check())
	refused("a filter that is no pattern", (&filter{Patterns: []string{"["}}).check())

	if err := fill(e); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

// TestStubsAreChecked sends stubs that no honest node would.
func TestStubsAreChecked(t *testing.T) {
	_, a, p, b := partial(t, "main")
	send(t, a, p, b)
	a.put(b, "agent-1", "more", "1")
	a.put(b, "agent-1", "more", "2")
	if _, err := a.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	marks, err := p.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	arrived, _, err := a.Missing(b, marks)
	if err != nil || len(arrived) == 0 {
		t.Fatal(err)
	}
	all, err := a.Envelopes(arrived, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	e, err := identity.DecodeEnvelope(all[0])
	if err != nil {
		t.Fatal(err)
	}
	stub, _ := e.Stub()
	for what, spoil := range map[string]func(*identity.Envelope){
		"another hash":   func(e *identity.Envelope) { e.Raw = make([]byte, 32) },
		"another branch": func(e *identity.Envelope) { e.Branch[0]++ },
		"another number": func(e *identity.Envelope) { e.Seq++ },
		"another before": func(e *identity.Envelope) { e.Prev[0]++ },
		"no signature":   func(e *identity.Envelope) { e.Sig = nil },
		"of the bucket":  func(e *identity.Envelope) { e.Branch, e.Dir = [16]byte{}, 0 },
		"of another chain": func(e *identity.Envelope) {
			e.Prev[0]++
			e.Form, e.Raw = identity.Whole, []byte("x")
			e.Seal(a.private)
		},
	} {
		m := stub
		m.Sig = slices.Clone(stub.Sig)
		spoil(&m)
		if m.Form == identity.Whole {
			m, _ = m.Stub()
		}
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if res, err := p.Receive(b, a.Key(), [][]byte{raw}); !errors.Is(err, ErrRefused) || res.New != 0 {
			t.Errorf("%s: %+v, %v", what, res, err)
		}
	}
	raw, err := stub.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if res, err := p.Receive(b, a.Key(), [][]byte{raw}); err != nil || res.New != 1 {
		t.Errorf("the right one: %+v, %v", res, err)
	}
	if res, err := p.Receive(b, a.Key(), all); err != nil || res.Later != 0 {
		t.Errorf("whole ones where stubs would do: %+v, %v", res, err)
	}
	if n := len(p.keeping(b, notKept)); n != 4 {
		t.Errorf("%d branches are not kept", n)
	}
}

// TestHolds lets branches go: not those that are in use, and none that nobody else has.
func TestHolds(t *testing.T) {
	_, a, p, b := partial(t)
	send(t, a, p, b)
	err := p.SetPatterns(b, []string{"main"}, false, func(branch string) []string {
		if branch == "agent-2" {
			return []string{"it is mounted at /x"}
		}
		return nil
	})
	var held *KeptError
	if !errors.As(err, &held) || held.Branch != "agent-2" {
		t.Fatalf("a branch that is held: %v", err)
	}
	if got := p.keeping(b, kept); len(got) != 5 {
		t.Errorf("after the refusal %q are kept", got)
	}
	for _, bad := range [][]string{{"["}, {""}, {"a/b"}, make([]string, maxPatterns+1)} {
		if err := p.SetPatterns(b, bad, false, nil); err == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
	p.keep(b, "agent-1")
	if got := p.keeping(b, leaving); !slices.Equal(got, []string{"agent-2", "agent-3", "other"}) {
		t.Errorf("leaving: %q", got)
	}
	if err := p.drop(b, p.uuidOf(b, "agent-2"), nil, false); !errors.Is(err, errHeld) {
		t.Errorf("dropped though nobody has it: %v", err)
	}
	marks, err := a.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.drop(b, p.uuidOf(b, "agent-2"), marks, false); err != nil {
		t.Error(err)
	}
	if got := p.keeping(b, notKept); !slices.Equal(got, []string{"agent-2"}) {
		t.Errorf("not kept: %q", got)
	}
}

func (s *store) uuidOf(b [16]byte, branch string) [16]byte {
	s.t.Helper()
	all, err := s.Branches(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return all[slices.IndexFunc(all, func(st BranchStatus) bool { return st.Name == branch })].uuid
}

// merge merges a branch into another.
func (s *store) merge(b [16]byte, from, into string) error {
	return s.inBranch(b, into, func(tx *schema.Tx, dst *pathtree.View) error {
		br, err := s.tree.Branch(tx, dst.Bucket().ID, from)
		if err != nil {
			return err
		}
		src, err := s.tree.View(tx, br.ID, 0)
		if err != nil {
			return err
		}
		_, err = s.tree.Merge(tx, src, dst, pathtree.MergeOptions{Strategy: pathtree.Theirs, Message: from + " into " + into})
		return err
	})
}

// told returns what log, diff and conflicts say, about the branches that are named.
func (s *store) told(b [16]byte, branch, file, other string) (said string) {
	s.t.Helper()
	err := s.inBranch(b, branch, func(tx *schema.Tx, v *pathtree.View) error {
		entries, err := s.tree.Log(tx, v, file, 0)
		if err != nil {
			return err
		}
		for _, e := range entries {
			said += fmt.Sprintf("%s: %s by %s", e.Path, e.Inode.Hash, s.branchName(tx, e.Branch))
			if e.Merge != nil {
				said += fmt.Sprintf(", merge of %s: %s", s.branchName(tx, e.Merge.Src), e.Merge.Message)
			}
			said += "\n"
		}
		br, err := s.tree.Branch(tx, v.Bucket().ID, other)
		if err != nil {
			return err
		}
		w, err := s.tree.View(tx, br.ID, 0)
		if err != nil {
			return err
		}
		changes, err := s.tree.Diff(tx, v, w, 0)
		if err != nil {
			return err
		}
		for _, c := range changes {
			said += fmt.Sprintf("%+v\n", c.Path)
		}
		conflicts, err := s.tree.SyncConflicts(tx, v.Bucket().ID)
		for _, c := range conflicts {
			said += fmt.Sprintf("%v of %s: %v\n", c.Kind, c.Path, c.Shown.ID)
			for _, o := range c.Others {
				said += fmt.Sprintf("  %v %s\n", o.ID, o.Copy)
			}
		}
		return err
	})
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
	return said
}

func (s *store) branchName(tx *schema.Tx, id int64) string {
	br, err := s.tree.BranchByID(tx, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return br.Name
}

func (s *store) clean() {
	s.t.Helper()
	err := s.db.Read(func(tx *schema.Tx) error {
		return s.tree.Check(tx, func(problem string) {
			if !strings.Contains(problem, "not in the blob store") { // stores of these tests have none
				s.t.Errorf("%s: %s", s.name, problem)
			}
		})
	})
	if err != nil {
		s.t.Error(err)
	}
}

// TestMergeOfWhatIsNotKept has a full node merge branches that a partial one does not
// keep into one that it does: both show and tell the same of that. The partial one
// merges what it can know.
func TestMergeOfWhatIsNotKept(t *testing.T) {
	n, a, p, b := partial(t, "agent-1")
	start(t, n, a, Options{})
	start(t, n, p, Options{})
	settle(t, b, a, p)
	a.put(b, "agent-2", "shared", "changed by agent-2")
	a.put(b, "agent-3", "of agent-3", "changed by agent-3")
	p.put(b, "main", "shared", "changed by p, at the same time")
	if err := a.merge(b, "agent-3", "agent-2"); err != nil {
		t.Fatal(err)
	}
	if err := a.merge(b, "agent-2", "main"); err != nil {
		t.Fatal(err)
	}
	settle(t, b, a, p)
	same := func() {
		t.Helper()
		alike(t, b, []string{"main", "agent-1"}, a, p)
		for _, file := range []string{"shared", "of agent-3"} {
			if got, want := p.told(b, "main", file, "agent-1"), a.told(b, "main", file, "agent-1"); got != want || !strings.Contains(got, "merge of agent-2: agent-2 into main") {
				t.Errorf("of %s p says\n%sa says\n%s", file, got, want)
			}
		}
		p.clean()
	}
	same()
	if got := p.told(b, "main", "shared", "agent-1"); !strings.Contains(got, "content of") {
		t.Errorf("no conflict:\n%s", got)
	}

	// What of agent-2 is in main is in main.
	if err := p.merge(b, "agent-1", "main"); err != nil {
		t.Errorf("a merge into a branch into which another was merged: %v", err)
	}
	settle(t, b, a, p)
	same()

	var nk *pathtree.NotKeptError
	if err := p.merge(b, "agent-2", "main"); !errors.As(err, &nk) || nk.Branch != "agent-2" {
		t.Errorf("a merge of a branch that is not kept: %v", err)
	}
	// main has now what agent-2 had: agent-1 can only have it from there.
	err := p.merge(b, "main", "agent-1")
	if !errors.As(err, &nk) || nk.Branch != "agent-2" && nk.Branch != "agent-3" || !strings.Contains(err.Error(), "`alkfs sync branches") {
		t.Errorf("a merge whose history leads through a branch that is not kept: %v", err)
	}
	p.keep(b, "agent-[123]")
	alike(t, b, []string{"agent-2", "agent-3"}, a, p)
	if err := p.merge(b, "main", "agent-1"); err != nil {
		t.Errorf("the same with all that it needs: %v", err)
	}
	settle(t, b, a, p)
	same()
	a.clean()
}

// TestBranchIsNotShownInPart has a node begin anew after each change that comes to it
// of a branch that it begins to keep, and then of the one from which this descends:
// nothing is shown before both are whole. So too when they leave.
func TestBranchIsNotShownInPart(t *testing.T) {
	_, a, p, b := partial(t, "none")
	send(t, a, p, b)
	a.put(b, "agent-1", "more", "1")
	a.put(b, "main", "later", "2")
	send(t, a, p, b)
	hidden := func(when string, branches ...string) {
		t.Helper()
		p.again()
		p.clean()
		for _, branch := range branches {
			if got, err := p.shows(b, branch); !errors.Is(err, pathtree.ErrNotKept) {
				t.Errorf("%s: %s is shown: %s, %v", when, branch, got, err)
			}
		}
	}
	hidden("at first", "main", "agent-1")
	early := false
	come := func(last string) {
		t.Helper()
		for {
			all, err := p.lacking(b, 0)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 0 {
				break
			}
			k := max(slices.IndexFunc(all, func(r stubRow) bool { return r.Branch != p.uuidOf(b, last) }), 0)
			e := all[k]
			found, err := a.whole(&need{Bucket: b, Ask: 1, Changes: []changeRange{{e.Author, e.Stream, e.Seq, 1}}})
			if err != nil {
				t.Fatal(err)
			}
			hidden("while changes come", "agent-1")
			if res, err := p.fill(b, a.Key(), found); err != nil || res.New != 1 {
				t.Fatalf("%+v, %v", res, err)
			}
			early = early || slices.Contains(p.keeping(b, kept), "agent-1") && slices.Contains(p.keeping(b, coming), "main")
		}
		p.again()
		p.clean()
		alike(t, b, []string{"main", "agent-1"}, a, p)
	}
	p.keep(b, "agent-1")
	come("main")
	if !early {
		t.Error("no branch was here before the one from which it descends")
	}

	marks, err := a.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	leave := func(branch string) {
		t.Helper()
		if err := p.drop(b, p.uuidOf(b, branch), marks, false); err != nil {
			t.Fatal(err)
		}
	}
	p.keep(b, "none")
	hidden("leaving", "main", "agent-1")
	leave("agent-1")
	hidden("when one has left", "main", "agent-1")
	p.keep(b, "agent-1") // it is wanted again before the other has left
	alike(t, b, []string{"main"}, a, p)
	come("agent-1")
	p.keep(b, "none")
	leave("agent-1")
	p.again()
	leave("main")
	hidden("when both have left", "main", "agent-1")
	p.keep(b, "agent-1")
	come("agent-1")
}

// TestStubsOfWhatDoesNotCount has a node that keeps everything hear of late changes of a
// revoked one from one that only has stubs of them. Who has them whole keeps them, as
// they may come to count; then they are lacking, and shown when they have come.
func TestStubsOfWhatDoesNotCount(t *testing.T) {
	_, a, p, b := partial(t, "main", "agent-2")
	m, q := newStore(t, "m"), newStore(t, "q")
	for _, s := range []*store{m, q} {
		s.admit(a, b, identity.ReadWrite)
		tell(t, a, p, b)
	}
	tell(t, a, q, b)
	q.keep(b, "main")
	for _, s := range []*store{p, q} {
		send(t, a, s, b)
	}
	send(t, a, m, b)
	complete(t, a, p, b)
	m.put(b, "agent-2", "late", "1")
	send(t, m, p, b)
	send(t, p, q, b)
	if err := a.Grant(b, m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	tell(t, a, p, b)
	tell(t, a, q, b)
	send(t, q, a, b)
	counts := func(wantLacks, wantVoid bool) {
		t.Helper()
		if _, lacks, void, err := a.marksAndLacks(b); err != nil || lacks > 0 != wantLacks || void > 0 != wantVoid {
			t.Errorf("a lacks %d changes, and %d that do not count: %v", lacks, void, err)
		}
	}
	counts(false, true)

	p.keep(b, "main")
	e, f := NewEngine(p.Replica, nil, Options{}), &feed{}
	e.sessions[a.Key()] = &live{session: &session{peer: a.Key(), buckets: map[[16]byte]*feed{b: f}}}
	release := func() []string {
		t.Helper()
		own, err := p.filter(b)
		if err != nil {
			t.Fatal(err)
		}
		if f.filter, err = a.filter(b); err != nil {
			t.Fatal(err)
		}
		f.last = marks{Seen: own.id(), Filter: f.filter.id()}
		if f.theirs, f.last.Lacks, f.last.Void, err = a.marksAndLacks(b); err != nil {
			t.Fatal(err)
		}
		if err := e.releaseAll(); err != nil {
			t.Fatal(err)
		}
		return p.keeping(b, leaving)
	}
	if got := release(); !slices.Equal(got, []string{"agent-2"}) {
		t.Errorf("leaving: %q", got)
	}
	if err := a.Accept(b, m.Key()); err != nil {
		t.Fatal(err)
	}
	counts(true, false)
	if got := release(); !slices.Equal(got, []string{"agent-2"}) {
		t.Errorf("leaving: %q", got)
	}
	complete(t, p, a, b)
	counts(false, false)
	if got := release(); len(got) != 0 {
		t.Errorf("leaving: %q", got)
	}
	tell(t, a, p, b)
	p.keep(b, "main", "agent-2")
	complete(t, a, p, b)
	alike(t, b, []string{"main", "agent-2"}, a, p)
	if got, err := a.shows(b, "agent-2"); err != nil || !strings.Contains(got, `"late"`) {
		t.Errorf("%v, agent-2 is\n%s", err, got)
	}
	a.clean()
	p.clean()
}

// complete has to get from another what it lacks.
func complete(t *testing.T, from, to *store, b [16]byte) {
	t.Helper()
	all, err := to.lacking(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		found, err := from.whole(&need{Bucket: b, Ask: 1, Changes: []changeRange{{e.Author, e.Stream, e.Seq, 1}}})
		if err == nil {
			_, err = to.fill(b, from.Key(), found)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatALeavingBranchWaitsFor: who keeps it or not, and who has yet to say that it
// has it, is said of each branch that is not kept any more and still here.
func TestWhatALeavingBranchWaitsFor(t *testing.T) {
	n, a, p, b := partial(t)
	q := newStore(t, "q")
	q.admit(a, b, identity.ReadWrite)
	q.keep(b, "main")
	p.setPlaces(q.Key(), []string{"q"})
	a.setPlaces(q.Key(), []string{"q"})
	var mounted atomic.Bool
	start(t, n, a, Options{})
	start(t, n, q, Options{})
	rp := start(t, n, p, Options{Held: func(_, branch string) []string {
		if mounted.Load() && branch == "agent-1" {
			return []string{"it is mounted"}
		}
		return nil
	}})
	settle(t, b, a, p, q)
	waits := func() map[string]string {
		all, err := rp.Engine.Status()
		if err != nil {
			t.Fatal(err)
		}
		said := map[string]string{}
		for _, l := range all[0].Leaving {
			var text []string
			for _, w := range l.Waits {
				name := w.Member
				if name == a.Key().Short() { // the owner, whom nobody named
					name = "a"
				}
				text = append(text, name+" "+w.Why)
			}
			slices.Sort(text)
			said[l.Branch] = strings.Join(text, "; ")
		}
		return said
	}
	if got := waits(); len(got) != 0 {
		t.Errorf("nothing is to leave: %q", got)
	}
	n.setCut("a", "p", true)
	until(t, "p and a are apart", func() bool { return !rp.connectedTo(a.Key()) })
	p.keep(b, "main", "agent-[23]", "other")
	until(t, "agent-1 waits", func() bool { return waits()["agent-1"] == "a is not connected; q does not keep it" })
	mounted.Store(true)
	n.setCut("a", "p", false)
	until(t, "only p itself keeps it", func() bool { return waits()["agent-1"] == " it is mounted; q does not keep it" })
	mounted.Store(false)
	a.put(b, "main", "news", "1")
	until(t, "agent-1 has left", func() bool { return slices.Contains(p.keeping(b, notKept), "agent-1") })
	if got := waits(); len(got) != 0 {
		t.Errorf("all has left: %q", got)
	}
}

// connectedTo reports whether a node is connected.
func (r *running) connectedTo(k identity.Key) bool {
	return slices.ContainsFunc(r.Engine.connected(), func(l *live) bool { return l.peer == k })
}

// A branch with what was written while a clock was ahead is kept again, whatever the
// clock says now: it is here already.
func TestKeptAgainWhenTheClockIsBack(t *testing.T) {
	_, a, p, b := partial(t, "main")
	send(t, a, p, b)
	p.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		tx.ObserveStamp(schema.StampAt(time.Now().Add(time.Hour)))
		return nil
	})
	p.put(b, "main", "ahead", "1")
	want, err := p.shows(b, "main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	p.keep(b, "none")
	p.keep(b, "main")
	if got, err := p.shows(b, "main"); err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
	p.clean()
}
