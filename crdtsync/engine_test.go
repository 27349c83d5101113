package crdtsync

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

func same(t *testing.T, b [16]byte, all ...*store) {
	t.Helper()
	settle(t, b, all...)
	want := all[0].listing(b)
	for _, s := range all[1:] {
		if got := s.listing(b); got != want {
			t.Errorf("%s has\n%s\n%s has\n%s", s.name, got, all[0].name, want)
		}
	}
}

func TestTwoEngines(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(c.Key(), []string{"c"})
	a.write(b, "before", "1")
	start(t, n, a, Options{})
	start(t, n, c, Options{})
	same(t, b, a, c)
	for i := range 20 {
		a.write(b, fmt.Sprintf("d%d/a", i%5), fmt.Sprint(i))
		c.write(b, fmt.Sprintf("d%d/c", i%5), fmt.Sprint(i))
	}
	same(t, b, a, c)
}

// sizeOfChanges returns how many bytes all changes of b are.
func (s *store) sizeOfChanges(b [16]byte) (n int64) {
	s.t.Helper()
	if _, err := s.Drain(s.t.Context(), b); err != nil {
		s.t.Fatal(err)
	}
	arrived, _, err := s.Missing(b, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	envelopes, err := s.Envelopes(arrived, 1<<30)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range envelopes {
		n += int64(len(e))
	}
	return n
}

// What is on its way is not sent again for marks that were made before it came, and
// nothing is sent to one that has another send it.
func TestSentOnce(t *testing.T) {
	n := newMemNet()
	a, m := newStore(t, "a"), newStore(t, "m")
	b := a.makeBucket("team")
	m.admit(a, b, identity.ReadWrite)
	for i := range 2 * manyChanges {
		name := fmt.Sprint(i, strings.Repeat("x", 200))
		a.write(b, name+"/"+name, "1")
	}
	size := a.sizeOfChanges(b)
	var sent bytes.Buffer
	f := newFeed()
	f.marks <- &marks{}
	held := newSession(NewEngine(a.Replica, nil, Options{}), m.Key(), &sent)
	if news, err := held.catchUp(t.Context(), b, f, &marks{Hold: true}); news == nil || err != nil || sent.Len() != 0 {
		t.Errorf("%d bytes went to one that said to hold back: %v, %v", sent.Len(), news, err)
	}
	a.setPlaces(m.Key(), []string{"m"})
	start(t, n, a, Options{})
	rm := start(t, n, m, Options{})
	same(t, b, a, m)
	if _, err := rm.Reach(t.Context()); err != nil { // until a has sent what it would
		t.Fatal(err)
	}
	if in := rm.traffic.with(a.Key()).In; in > size*3/2 {
		t.Errorf("%d bytes of changes came in %d", size, in)
	}
}

// TestThroughAThird has two nodes that only ever talk to a third.
func TestThroughAThird(t *testing.T) {
	n := newMemNet()
	a, m, c := newStore(t, "a"), newStore(t, "m"), newStore(t, "c")
	b := a.makeBucket("team")
	m.admit(a, b, identity.ReadWrite)
	c.admit(a, b, identity.ReadWrite)
	n.setCut("a", "c", true)
	m.setPlaces(a.Key(), []string{"a"})
	m.setPlaces(c.Key(), []string{"c"})
	for _, s := range []*store{a, m, c} {
		start(t, n, s, Options{})
	}
	same(t, b, a, m, c)
	a.write(b, "from a", "1")
	c.write(b, "from c", "2")
	m.write(b, "from m", "3")
	same(t, b, a, m, c)
}

func TestPartitionHeals(t *testing.T) {
	n := newMemNet()
	all := []*store{newStore(t, "a"), newStore(t, "m"), newStore(t, "c")}
	b := all[0].makeBucket("team")
	for _, s := range all[1:] {
		s.admit(all[0], b, identity.ReadWrite)
		all[0].setPlaces(s.Key(), []string{s.name})
	}
	for _, s := range all {
		start(t, n, s, Options{})
	}
	same(t, b, all...)
	for round := range 3 {
		n.setCut("a", "c", true)
		n.setCut("m", "c", true)
		for i := range 10 {
			for _, s := range all {
				s.write(b, fmt.Sprintf("shared/%d", i), fmt.Sprint(s.name, round, i))
				s.write(b, fmt.Sprintf("own/%s/%d", s.name, i), fmt.Sprint(round, i))
			}
		}
		n.setCut("a", "c", false)
		n.setCut("m", "c", false)
		same(t, b, all...)
	}
}

// A Drain that finds nothing commits nothing, which would wake whoever drains.
func TestNothingToDrain(t *testing.T) {
	a := newStore(t, "a")
	b := a.makeBucket("work")
	a.write(b, "one", "1")
	for _, want := range []bool{true, false} {
		if err := a.db.Commit(); err != nil {
			t.Fatal(err)
		}
		before := a.db.Generation()
		n, err := a.Drain(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.db.Commit(); err != nil {
			t.Fatal(err)
		}
		if committed := a.db.Generation() != before; n > 0 != want || committed != want {
			t.Errorf("%d changes made, committed: %v; want %v", n, committed, want)
		}
	}
}

// A change may be here before the grant of its author, and an author may be made
// a writer again: then what it wrote counts.
func TestChangesBeforeTheirGrant(t *testing.T) {
	a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	d.admit(a, b, identity.ReadWrite)
	a.write(b, "x/of a", "1")
	send(t, a, d, b)
	d.write(b, "x/of d", "2")
	send(t, d, a, b)
	send(t, a, c, b)
	tell := func() {
		grants, _, err := a.Grants(b, 0)
		if err == nil {
			_, err = c.AddGrants(b, grants)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := c.listing(b); strings.Contains(got, "of d") {
		t.Fatalf("c shows what a stranger wrote:\n%s", got)
	}
	tell()
	if got, want := c.listing(b), a.listing(b); got != want || !strings.Contains(got, "of d") {
		t.Fatalf("c has\n%s\na has\n%s", got, want)
	}
}

// TestReaderWithChangesNobodyHeard makes a node a reader while it is away with changes
// that nobody has heard: it keeps them, stays connected, and sends them when it may
// write again. What it writes as a reader it keeps too.
func TestReaderWithChangesNobodyHeard(t *testing.T) {
	n := newMemNet()
	a, m := newStore(t, "a"), newStore(t, "m")
	b := a.makeBucket("team")
	m.admit(a, b, identity.ReadWrite)
	a.setPlaces(m.Key(), []string{"m"})
	a.write(b, "before", "1")
	send(t, a, m, b)
	m.write(b, "unheard", "1")
	if _, err := m.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := a.Grant(b, m.Key(), identity.ReadOnly, ""); err != nil {
		t.Fatal(err)
	}
	ra, rm := start(t, n, a, Options{}), start(t, n, m, Options{})
	shows := func(s *store, name string) func() bool {
		return func() bool { return strings.Contains(s.listing(b), "/"+name) }
	}
	a.write(b, "news", "1")
	waitUntil(t, "the reader hears of news", shows(m, "news"))
	status := func(r *running) BucketStatus {
		all, err := r.Engine.Status()
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0]
	}
	since := status(rm).Members[0].Since
	m.write(b, "as a reader", "1")
	waitUntil(t, "the reader knows what it does not send", func() bool { st := status(rm); return st.Waiting > 0 && st.Void > 0 })
	a.write(b, "more", "1")
	waitUntil(t, "the reader hears of more", shows(m, "more"))
	if st := status(rm).Members[0]; !st.Connected || !st.Since.Equal(since) || st.Err != "" {
		t.Errorf("the reader did not stay connected: %+v", st)
	}
	if p := ra.problem(m.Key()); p.err != nil {
		t.Errorf("a has a problem with the reader: %v", p.err)
	}
	if st := status(ra).Members[0]; st.Void != 0 || shows(a, "unheard")() || shows(m, "unheard")() {
		t.Errorf("a was sent %d changes that do not count", st.Void)
	}
	if err := a.Grant(b, m.Key(), identity.ReadWrite, ""); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the writer's changes come", func() bool { return shows(a, "unheard")() && shows(a, "as a reader")() })
	waitUntil(t, "nothing is left", func() bool { st := status(rm); return st.Waiting == 0 && st.Void == 0 })
	same(t, b, a, m)
}

// TestLateChangesOfARevokedNode: what a revoked node wrote that the one who
// revoked it had not heard counts nowhere, also where it came before the
// revocation, with what others made of it; until somebody who may takes it in.
func TestLateChangesOfARevokedNode(t *testing.T) {
	a, c, m := newStore(t, "a"), newStore(t, "c"), newStore(t, "m")
	b := a.makeBucket("team")
	for _, s := range []*store{c, m} {
		s.admit(a, b, identity.ReadWrite)
		send(t, a, s, b)
	}
	tell(t, a, c, b)
	m.write(b, "heard", "1")
	send(t, m, a, b)
	send(t, m, c, b)
	m.write(b, "late/file", "2")
	m.write(b, "heard", "3")
	send(t, m, c, b)
	c.write(b, "late/of c", "4")
	c.write(b, "own", "5")
	if err := a.Grant(b, m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	alike := func(late bool) {
		t.Helper()
		tell(t, a, c, b)
		send(t, c, a, b)
		send(t, a, c, b)
		got, want := c.listing(b), a.listing(b)
		if got != want || !strings.Contains(got, "own") || strings.Contains(got, "late/of c") != late || strings.Contains(got, "late/file") != late {
			t.Fatalf("c has\n%s\na has\n%s", got, want)
		}
		for _, s := range []*store{a, c} {
			st, err := s.Status()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(st[0].Members, func(o MemberStatus) bool { return o.Key == m.Key() })
			if void := st[0].Members[i].Void; void > 0 == late {
				t.Errorf("%s lists %d changes that do not count", s.name, void)
			}
		}
	}
	alike(false)
	if err := a.Grant(b, m.Key(), identity.None, "renamed"); err != nil {
		t.Fatal(err)
	}
	alike(false)
	if err := a.Accept(b, m.Key()); err != nil {
		t.Fatal(err)
	}
	alike(true)
}

// TestRevokedNodeIsSentNothing has a session look for what there is to send while no
// one else has noticed that its peer was shut out.
func TestRevokedNodeIsSentNothing(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	has, err := c.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	var sent bytes.Buffer
	s := newSession(NewEngine(a.Replica, nil, Options{}), c.Key(), &sent)
	write := func(name string) *feed {
		a.write(b, name, "1")
		if n, err := a.Drain(t.Context(), b); err != nil || n == 0 {
			t.Fatalf("%d changes made, %v", n, err)
		}
		f := &feed{marks: make(chan *marks, 1)}
		f.marks <- &marks{} // follow returns when it has sent all
		return f
	}
	f := write("open")
	if _, err := s.follow(t.Context(), b, f, false); err != nil || sent.Len() == 0 || f.sent == 0 {
		t.Fatalf("%d bytes went to a member, up to change %d, %v", sent.Len(), f.sent, err)
	}
	if err := a.Grant(b, c.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	sent.Reset()
	f = write("secret")
	if _, err := s.follow(t.Context(), b, f, false); !errors.Is(err, errRevoked) || sent.Len() != 0 {
		t.Errorf("%d bytes went to a revoked node, %v", sent.Len(), err)
	}
	if _, err := s.catchUp(t.Context(), b, newFeed(), &marks{Marks: has}); !errors.Is(err, errRevoked) || sent.Len() != 0 {
		t.Errorf("it compared what it had: %d bytes, %v", sent.Len(), err)
	}
}

// A node that was shut out here while it was dialled, and has not heard of it, does not
// hang up: this side does.
func TestShutOutWhileDialled(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	start(t, n, c, Options{MarksEvery: time.Hour})
	e := NewEngine(a.Replica, n.node("a", a.Key()), Options{})
	l, err := e.net.Dial(t.Context(), "c", c.Key())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Grant(b, c.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	e.talk(t.Context(), l, "c")
	select {
	case <-l.Done():
	default:
		t.Error("the link is still there")
	}
}

// A peer says where a member is before it says that that is one.
func TestPlaceOfAMemberThatIsNew(t *testing.T) {
	n := newMemNet()
	a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
	b := a.makeBucket("team")
	c.admit(a, b, identity.Admin)
	if err := c.Grant(b, d.Key(), identity.ReadWrite, "d"); err != nil {
		t.Fatal(err)
	}
	c.setPlaces(d.Key(), []string{"d"})
	a.setPlaces(c.Key(), []string{"c"})
	start(t, n, c, Options{})
	start(t, n, a, Options{})
	until(t, "a knows where d is", func() bool {
		addrs, _, err := a.placesOf(d.Key())
		return err == nil && slices.Equal(addrs, []string{"d"})
	})
}

// What a node had when it was asked includes what it has yet to make ready for others.
func TestAskedWhileDraining(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(c.Key(), []string{"c"})
	start(t, n, a, Options{})
	rc := start(t, n, c, Options{})
	same(t, b, a, c)
	a.drain <- struct{}{}
	a.write(b, "late", "1")
	time.AfterFunc(200*time.Millisecond, func() { <-a.drain })
	reached, err := rc.Reach(t.Context())
	if err != nil || len(reached) != 1 || reached[0].Err != "" {
		t.Fatal(reached, err)
	}
	if got := c.listing(b); !strings.Contains(got, "late") {
		t.Errorf("when a had sent all c had\n%s", got)
	}
}

func TestFlying(t *testing.T) {
	var f flying
	f.landed(0) // an alkfs that does not count
	f.add([]int64{1})
	if got := f.without([]int64{1, 2}); len(got) != 2 {
		t.Errorf("to one that does not count only %d are sent", got)
	}
	f.landed(1)
	f.add([]int64{1, 2})
	f.add([]int64{3})
	for _, c := range []struct {
		got         uint64
		lacks, want []int64
	}{
		{got: 1, lacks: []int64{1, 2, 3, 4}, want: []int64{4}},
		{got: 1, lacks: []int64{1, 2, 3}},
		{got: 2, lacks: []int64{3, 4}, want: []int64{4}},
		{got: 2, lacks: []int64{2, 3, 4}, want: []int64{2, 3, 4}}, // 2 was held back, and 3 will be
		{got: 1, lacks: []int64{3}},                               // older marks
		{got: 3, lacks: []int64{3}, want: []int64{3}},
		{got: 99, lacks: []int64{3}, want: []int64{3}},
	} {
		f.landed(c.got)
		if got := f.without(slices.Clone(c.lacks)); !slices.Equal(got, c.want) {
			t.Errorf("marks after %d messages lack %d: %d are sent, want %d", c.got-1, c.lacks, got, c.want)
		}
	}
}
