package crdtsync

import (
	"strings"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

func TestMeter(t *testing.T) {
	const begin = 1_700_000_000
	var m meter
	for s := range int64(10) {
		m.add(begin+s, 500)
		m.add(begin+s, 500)
	}
	for _, c := range []struct{ second, want int64 }{
		{begin + 9, 1000}, {begin + 10, 1000}, {begin + 12, 600}, {begin + 15, 0}, {begin + 1000, 0}, {begin - 5, 0},
	} {
		n := m
		if got := n.rate(c.second); got != c.want || n.total != 10_000 {
			t.Errorf("rate of second %d is %d, want %d; total %d", c.second-begin, got, c.want, n.total)
		}
	}
}

func TestLead(t *testing.T) {
	k, other := identity.Key{1}, identity.Key{2}
	s := identity.Stream{1}
	a := []Mark{{k, s, 10}, {other, s, 3}, {k, identity.Stream{2}, 1}}
	c := []Mark{{k, s, 4}, {other, s, 5}}
	if n := lead(a, c); n != 7 {
		t.Errorf("a is ahead by %d, want 7", n)
	}
	if n := lead(c, a); n != 2 {
		t.Errorf("c is ahead by %d, want 2", n)
	}
}

func TestStatusOfAPeer(t *testing.T) {
	n := newMemNet()
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.setPlaces(c.Key(), []string{"c"})
	a.write(b, "f", "1")
	start(t, n, a, Options{MarksEvery: time.Hour})
	e := start(t, n, c, Options{MarksEvery: time.Hour})
	same(t, b, a, c)
	status := func() MemberStatus {
		all, err := e.Engine.Status()
		if err != nil || len(all) != 1 || len(all[0].Members) != 1 {
			t.Fatal(all, err)
		}
		return all[0].Members[0]
	}
	if m := status(); !m.Connected || m.Ahead != 0 || m.Traffic.In == 0 || m.Traffic.Out == 0 {
		t.Errorf("%+v", m)
	}
	more, err := a.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	more[0].Seq += 5
	e.mu.Lock()
	session := e.sessions[a.Key()].session
	e.mu.Unlock()
	if err := session.gotMarks(&marks{Bucket: b, Marks: more}); err != nil {
		t.Fatal(err)
	}
	if m := status(); m.Ahead != 5 {
		t.Errorf("ahead by %d, want 5", m.Ahead)
	}
}

// How far a node is behind is counted without looking through what it acknowledged.
func TestBehindLooksAtWhatIsNew(t *testing.T) {
	a, c, o := newStore(t, "a"), newStore(t, "c"), newStore(t, "o")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	for _, name := range []string{"1", "2", "3"} {
		a.write(b, name, "1")
		if _, err := a.Drain(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	id, other := a.bucketID(b), a.bucketID(a.makeBucket("other"))
	err := a.db.Read(func(tx *schema.Tx) error {
		newest, err := newestArrival(tx, id)
		if err != nil {
			return err
		}
		all, err := count(tx, `SELECT count(*) FROM sync_change`)
		if err != nil {
			return err
		}
		for _, w := range []struct {
			bucket, acked int64
			key           identity.Key
			want          int64
		}{{id, 0, c.Key(), all}, {id, newest - 1, c.Key(), 1}, {id, newest, c.Key(), 0}, {id, 0, a.Key(), 0}, {other, 0, o.Key(), 0}} {
			if n, err := behind(tx, w.bucket, w.acked, w.key); err != nil || n != w.want {
				t.Errorf("after %d in bucket %d: %d, want %d, %v", w.acked, w.bucket, n, w.want, err)
			}
		}
		s := tx.Stmt("EXPLAIN QUERY PLAN " + selectBehind)
		seeks := 0
		for err := range schema.Rows(s) {
			if err != nil {
				return err
			}
			if strings.Contains(s.ColumnText(3), "USING INTEGER PRIMARY KEY (rowid>?)") {
				seeks++
			} else if strings.Contains(s.ColumnText(3), "SCAN sync") || strings.Contains(s.ColumnText(3), "bucket=?") {
				t.Errorf("it looks through everything: %s", s.ColumnText(3))
			}
		}
		if seeks != 2 {
			t.Errorf("%d seeks by number", seeks)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
