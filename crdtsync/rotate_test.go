package crdtsync

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// withKey returns a replica of the store with another key, as after a restart.
func (s *store) withKey(private ed25519.PrivateKey, past ...[]byte) *Replica {
	return NewReplica(Config{DB: s.db, Tree: s.tree, Private: private, Past: past, Logger: s.log})
}

// rotate gives the store another key, and returns the one that it had.
func (s *store) rotate() (old ed25519.PrivateKey) {
	s.t.Helper()
	_, next, err := ed25519.GenerateKey(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	past, err := SealHeir(s.private, identity.KeyOf(next), time.Now())
	if err == nil {
		err = s.HandOver(identity.KeyOf(next))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	old = s.private
	s.Replica = s.withKey(next, append(s.past, past)...)
	return old
}

// online is the engine of a store on a socket.
type online struct {
	*Engine
	addr   string
	done   chan error // what Run returned
	cancel func()
	quic   *QUIC
}

func (s *store) online(addr string) *online {
	s.t.Helper()
	q, err := ListenQUIC(s.Replica, addr)
	if err != nil {
		s.t.Fatal(err)
	}
	o := &online{addr: q.Addr().String(), done: make(chan error, 1), quic: q}
	o.Engine = NewEngine(s.Replica, q, Options{Addrs: []string{o.addr}, MarksEvery: 200 * time.Millisecond, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(s.t.Context())
	o.cancel = cancel
	go func() { o.done <- o.Run(ctx) }()
	s.t.Cleanup(func() {
		if o.quic != nil {
			o.stop(s.t, nil)
		}
	})
	return o
}

// stop ends the engine, or waits for it to end with want.
func (o *online) stop(t testing.TB, want error) {
	t.Helper()
	if want == nil {
		o.cancel()
	}
	if err := <-o.done; !errors.Is(err, want) {
		t.Errorf("the engine ended with %v, want %v", err, want)
	}
	o.cancel()
	if err := o.quic.Close(); err != nil {
		t.Error(err)
	}
	o.quic = nil
}

// forget has s not know where a key was found.
func (s *store) forget(k identity.Key) {
	s.t.Helper()
	err := s.db.Write(func(tx *schema.Tx) error {
		st := tx.Stmt(`DELETE FROM sync_peer WHERE key = ?`)
		st.BindBytes(1, k[:])
		_, err := st.Step()
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// waitUntil waits for what other goroutines do.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (s *store) roleOf(b [16]byte, k identity.Key) identity.Role {
	s.t.Helper()
	m, err := s.Membership(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return m.Role(k)
}

// TestRotate gives a node another key while one of the others is away, which
// then knows the old key alone.
func TestRotate(t *testing.T) {
	for _, c := range []struct {
		name  string
		owner bool // has the new key; else the writer
		dials bool // the one that was away dials; else it is dialled
	}{{"owner dials", true, false}, {"owner is dialled", true, true}, {"writer dials", false, false}, {"writer is dialled", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			owner, writer, admin := newStore(t, "owner"), newStore(t, "writer"), newStore(t, "admin")
			b := owner.makeBucket("team")
			writer.admit(owner, b, identity.ReadWrite)
			admin.admit(owner, b, identity.Admin)
			at := map[*store]*online{}
			for _, s := range []*store{owner, writer, admin} {
				at[s] = s.online("127.0.0.1:0")
				for _, o := range []*store{owner, admin} {
					if err := o.setPlaces(s.Key(), []string{at[s].addr}); err != nil {
						t.Fatal(err)
					}
				}
			}
			same(t, b, owner, writer, admin)
			for _, s := range []*store{owner, writer, admin} {
				s.write(b, "of/"+s.name, "1")
			}
			same(t, b, owner, writer, admin)
			s, away := owner, writer
			if !c.owner {
				s, away = writer, owner
			}
			at[away].stop(t, nil)
			role := s.roleOf(b, s.Key())
			old := identity.KeyOf(s.rotate())
			at[s].stop(t, ErrReplaced)
			s.write(b, "of/"+s.name, "2, with the new key")
			at[s] = s.online(at[s].addr)
			waitUntil(t, "the admin hears of it", func() bool { return admin.roleOf(b, s.Key()) == role })
			same(t, b, s, admin)
			if admin.Admits(old) {
				t.Error("the old key is let in")
			}

			at[admin].stop(t, nil)
			if !c.dials {
				away.forget(old)
			}
			at[away] = away.online("127.0.0.1:0") // where nobody looks for it
			if !c.dials {
				if err := s.setPlaces(away.Key(), []string{at[away].addr}); err != nil {
					t.Fatal(err)
				}
			}
			waitUntil(t, "the one that was away hears of it", func() bool { return away.roleOf(b, s.Key()) == role })
			away.write(b, "back", "1")
			same(t, b, s, away)
			if away.Admits(old) {
				t.Error("the one that was away admits the old key")
			}
			at[admin] = admin.online(at[admin].addr)
			same(t, b, owner, writer, admin)
			if l := admin.listing(b); !strings.Contains(l, "back") {
				t.Errorf("the admin has\n%s", l)
			}
		})
	}
}

// TestBothRotateApart gives two nodes new keys of which neither hears before they
// meet again, and nobody else is there.
func TestBothRotateApart(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.write(b, "before", "1")
	send(t, a, c, b)
	for range 2 {
		a.rotate()
	}
	c.rotate()
	a.write(b, "of/a", "1")
	c.write(b, "of/c", "1")
	at := a.online("127.0.0.1:0")
	if err := c.setPlaces(a.past0(), []string{at.addr}); err != nil {
		t.Fatal(err)
	}
	c.online("127.0.0.1:0")
	same(t, b, a, c)
	for _, s := range []*store{a, c} {
		if l := s.listing(b); !strings.Contains(l, "of/a") || !strings.Contains(l, "of/c") {
			t.Errorf("%s has\n%s", s.name, l)
		}
	}
	stranger := newStore(t, "stranger")
	if proofs, err := a.heirs(stranger.Key(), c.past); len(proofs) != 0 || err != nil {
		t.Errorf("a stranger that shows another's statements is told %d things, %v", len(proofs), err)
	}
}

// past0 returns the key that s began with.
func (s *store) past0() identity.Key {
	s.t.Helper()
	g, err := identity.OpenGrant(s.past[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return g.Subject
}

// TestOldKeyIsWorthNothing: what a thief of the old key signs after the change.
func TestOldKeyIsWorthNothing(t *testing.T) {
	owner, m, b := victim(t, identity.Admin)
	m.write(b, "before", "1")
	send(t, m, owner, b)
	thief := *m
	m.rotate()
	tell(t, m, owner, b)
	want := owner.listing(b)
	before, err := owner.Membership(b)
	if err != nil {
		t.Fatal(err)
	}

	f := forge(&thief, b)
	bad := [][]byte{f.version(f.dentry("stolen", 5000, unix.S_IFREG, stampNow()))}
	if res, err := owner.Receive(b, thief.Key(), bad); !errors.Is(err, ErrRefused) || res.New != 0 {
		t.Errorf("a new change of the old key: %+v, %v", res, err)
	}
	if res, err := owner.Receive(b, m.Key(), bad); err != nil || res.Void != 1 || res.Versions != 0 {
		t.Errorf("passed on by another: %+v, %v", res, err)
	}
	_, loot := newStore(t, "thief").Key(), newStore(t, "loot").Key()
	for name, g := range map[string]identity.Grant{
		"a grant":                       {Bucket: b, Subject: loot, Role: identity.ReadWrite, Serial: 1, Name: "loot"},
		"another succession":            {Bucket: b, Subject: thief.Key(), Serial: 1, Successor: &loot},
		"a succession for every bucket": {Subject: thief.Key(), Serial: 1, Successor: &loot},
		"a later revocation of the new": {Bucket: b, Subject: m.Key(), Serial: 99},
	} {
		encoded, err := g.Seal(thief.private)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := owner.AddGrants(b, [][]byte{encoded}); n != 0 || err != nil {
			t.Errorf("%s: %d taken in, %v", name, n, err)
		}
		if err := owner.believe(loot, [][]byte{encoded}); g.Successor != nil && !errors.Is(err, errNoHeir) {
			t.Errorf("%s as a proof: %v", name, err)
		}
	}
	after, err := owner.Membership(b)
	if err != nil || !slices.EqualFunc(before.All(), after.All(), func(a, b identity.Member) bool { return a.Key == b.Key && a.Role == b.Role }) {
		t.Errorf("members are %v, were %v; %v", after.All(), before.All(), err)
	}
	if got := owner.listing(b); got != want {
		t.Errorf("the tree is\n%s\nwas\n%s", got, want)
	}
	if err := owner.Grant(b, thief.Key(), identity.ReadWrite, ""); err == nil {
		t.Error("the old key was given a role")
	}

	// Neither do replays of what was true do anything.
	grants, _, err := m.Grants(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := owner.AddGrants(b, grants); n != 0 || err != nil {
		t.Errorf("%d grants were news when they came again, %v", n, err)
	}
	other := owner.makeBucket("other")
	if _, err := owner.AddGrants(other, grants); !errors.Is(err, ErrRefused) {
		t.Errorf("in another bucket: %v", err)
	}
	m.write(b, "after", "2")
	if res := send(t, m, owner, b); res.New == 0 {
		t.Error("the new key's change was not taken")
	}
}

// tell brings the grants that from has to another.
func tell(t testing.TB, from, to *store, b [16]byte) {
	t.Helper()
	grants, _, err := from.Grants(b, 0)
	if err == nil {
		_, err = to.AddGrants(b, grants)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRotateKeepsWhatWaits: changes made ready for sending by the old key, and the
// identity of versions, also in a bucket that is joined and one that is shared
// later.
func TestRotateKeepsWhatWaits(t *testing.T) {
	a, m, b := victim(t, identity.ReadWrite)
	m.write(b, "waiting", "1")
	err := m.db.Write(func(tx *schema.Tx) error {
		sh, err := m.lookup(tx, b)
		if err == nil {
			err = m.take(tx, sh)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stale := m.Replica
	m.rotate()
	m.write(b, "written", "2")
	if n, err := stale.Drain(t.Context(), b); n != 0 || err != nil {
		t.Errorf("the old key made %d changes, %v", n, err)
	}
	m.rotate()
	tell(t, m, a, b)
	send(t, m, a, b)
	if got, want := a.listing(b), m.listing(b); got != want || !strings.Contains(got, "waiting") || !strings.Contains(got, "written") {
		t.Errorf("a has\n%s\nm has\n%s", got, want)
	}
	a.write(b, "waiting", "3")
	send(t, a, m, b)
	m.write(b, "waiting", "4")
	send(t, m, a, b)
	if got, want := a.listing(b), m.listing(b); got != want {
		t.Errorf("a has\n%s\nm has\n%s", got, want)
	}

	joined := a.makeBucket("joined")
	m.admit(a, joined, identity.ReadWrite)
	send(t, a, m, joined)
	m.write(joined, "new", "1")
	tell(t, m, a, joined)
	send(t, m, a, joined)
	own := m.makeBucket("own")
	m.write(own, "new", "1")
	a.admit(m, own, identity.ReadOnly)
	send(t, m, a, own)
	for _, b := range [][16]byte{joined, own} {
		if got, want := a.listing(b), m.listing(b); got != want || !strings.Contains(got, "new") {
			t.Errorf("a has\n%s\nm has\n%s", got, want)
		}
	}
}

// TestNewKeyAfterRevocation: a node whose key was stolen and revoked comes in anew
// with another key, and what it has still counts as its own.
func TestNewKeyAfterRevocation(t *testing.T) {
	a, m, b := victim(t, identity.ReadWrite)
	m.write(b, "file", "2")
	send(t, m, a, b)
	if err := a.Grant(b, m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	tell(t, a, m, b)
	m.rotate()
	if a.Admits(m.Key()) {
		t.Error("a revoked key handed something over")
	}
	m.admit(a, b, identity.ReadWrite)
	m.write(b, "file", "3")
	tell(t, m, a, b)
	send(t, m, a, b)
	if got, want := a.listing(b), m.listing(b); got != want {
		t.Errorf("a has\n%s\nm has\n%s", got, want)
	}
}
