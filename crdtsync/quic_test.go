package crdtsync

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// serveQUIC runs the engine of s on a socket of its own, and returns its
// address.
func serveQUIC(t *testing.T, s *store) (*Engine, string) {
	t.Helper()
	q, err := ListenQUIC(s.Replica, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine(s.Replica, q, Options{Addrs: []string{q.Addr().String()}, MinBackoff: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, q.Addr().String()
}

func (s *store) bucketID(b [16]byte) (id int64) {
	s.t.Helper()
	err := s.db.Read(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		id = sh.bucket.ID
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// invite returns the text of a ticket of s.
func (s *store) invite(b [16]byte, role identity.Role, expires time.Time, uses int, addr string) identity.Ticket {
	s.t.Helper()
	t, err := s.Invite(s.bucketID(b), role, expires, uses, []string{addr})
	if err != nil {
		s.t.Fatal(err)
	}
	if t, err = identity.ParseTicket(t.String()); err != nil {
		s.t.Fatal(err)
	}
	return t
}

// join has s use a ticket.
func (s *store) join(tk identity.Ticket) error {
	s.t.Helper()
	q, err := DialQUIC(s.private, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer q.Close()
	_, err = s.Join(s.t.Context(), q, tk, "", s.name, nil)
	return err
}

func TestJoinOverQUIC(t *testing.T) {
	a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
	b := a.makeBucket("team")
	a.write(b, "x/one", "1")
	_, addr := serveQUIC(t, a)
	tk := a.invite(b, identity.ReadWrite, time.Now().Add(time.Hour), 1, addr)
	if err := c.join(tk); err != nil {
		t.Fatal(err)
	}
	serveQUIC(t, c)
	same(t, b, a, c)
	c.write(b, "x/two", "2")
	same(t, b, a, c)

	if err := d.join(tk); err == nil || !strings.Contains(err.Error(), "ticket") {
		t.Errorf("a ticket was used twice: %v", err)
	}
	if err := c.join(tk); err != nil {
		t.Errorf("the node that used it uses it again: %v", err)
	}
	expired := a.invite(b, identity.ReadWrite, time.Now().Add(-time.Second), 1, addr)
	if err := d.join(expired); err == nil {
		t.Error("an expired ticket was taken")
	}
	expired.Expires = time.Now().Add(time.Hour).Unix() // as somebody would who changes it
	if err := d.join(expired); err == nil {
		t.Error("a ticket whose expiry was changed was taken")
	}
	forged := a.invite(b, identity.ReadOnly, time.Now().Add(time.Hour), 1, addr)
	forged.Role = identity.Admin
	if err := d.join(forged); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Membership(b); err != nil || m.Role(d.Key()) != identity.ReadOnly {
		t.Errorf("a ticket whose role was changed gave %v, %v", m.Role(d.Key()), err)
	}
}

// TestRevokedNodeIsDropped revokes a node while it is connected.
func TestRevokedNodeIsDropped(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	_, addr := serveQUIC(t, a)
	tk := a.invite(b, identity.ReadWrite, time.Now().Add(time.Hour), 5, addr)
	if err := c.join(tk); err != nil {
		t.Fatal(err)
	}
	e, _ := serveQUIC(t, c)
	same(t, b, a, c)
	c.write(b, "before", "1")
	same(t, b, a, c)
	if err := a.Grant(b, c.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	for a.Admits(c.Key()) {
		t.Fatal("a revoked node is admitted")
	}
	c.write(b, "after", "2")
	a.write(b, "secret", "3")
	if err := c.join(tk); err == nil {
		t.Error("a revoked node came in by an old ticket")
	}
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(a.listing(b), "after") {
		t.Error("a change of a revoked node was taken")
	}
	if strings.Contains(c.listing(b), "secret") {
		t.Error("a revoked node was told of a change")
	}
	if !strings.Contains(a.listing(b), "before") {
		t.Error("what it wrote before is gone")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for why := ""; why != errShutOut.Error(); {
		all, err := e.Reach(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("Reach: %v, %v", all, err)
		}
		if why = all[0].Err; ctx.Err() != nil {
			t.Fatalf("why a is not reached: %s", why)
		}
	}
}
