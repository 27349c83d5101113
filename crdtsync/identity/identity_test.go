package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// node returns a key pair that depends on name alone.
func node(name string) (ed25519.PrivateKey, Key) {
	var seed [ed25519.SeedSize]byte
	copy(seed[:], name)
	p := ed25519.NewKeyFromSeed(seed[:])
	return p, KeyOf(p)
}

var bucket = [16]byte{1}

// grant signs what by says about subject, as bytes that went over a wire.
func grant(t *testing.T, by, subject string, role Role, serial uint64, more ...func(*Grant)) Grant {
	t.Helper()
	private, _ := node(by)
	_, k := node(subject)
	g := Grant{Bucket: bucket, Subject: k, Role: role, Serial: serial, Name: subject}
	for _, f := range more {
		f(&g)
	}
	b, err := g.Seal(private)
	if err != nil {
		t.Fatal(err)
	}
	g, err = OpenGrant(b)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func handOver(t *testing.T, old, successor string, more ...func(*Grant)) Grant {
	_, k := node(successor)
	return grant(t, old, old, None, 2, append(more, func(g *Grant) { g.Successor = &k })...)
}

// keeping has a succession name grants of the old key that go on counting.
func keeping(gs ...Grant) func(*Grant) {
	return func(g *Grant) {
		for _, o := range gs {
			g.Kept = append(g.Kept, o.Hash())
		}
	}
}

func everywhere(g *Grant) { g.Bucket = [16]byte{} }

func heard(s Stream, seq uint64) func(*Grant) {
	return func(g *Grant) { g.Heard = append(g.Heard, Mark{s, seq}) }
}

func TestMembers(t *testing.T) {
	for _, c := range []struct {
		name   string
		grants []Grant
		want   map[string]Role
	}{
		{"owner alone", nil, map[string]Role{"o": Owner}},
		{"owner grants", []Grant{grant(t, "o", "a", Admin, 1), grant(t, "o", "w", ReadWrite, 1)}, map[string]Role{"a": Admin, "w": ReadWrite}},
		{"admin grants", []Grant{grant(t, "o", "a", Admin, 1), grant(t, "a", "w", ReadWrite, 1)}, map[string]Role{"w": ReadWrite}},
		{"admin makes no admin", []Grant{grant(t, "o", "a", Admin, 1), grant(t, "a", "b", Admin, 1)}, map[string]Role{"b": None}},
		{"admin unmakes no admin", []Grant{grant(t, "o", "a", Admin, 1), grant(t, "o", "b", Admin, 1), grant(t, "a", "b", None, 9)}, map[string]Role{"b": Admin}},
		{"nobody unmakes the owner", []Grant{grant(t, "o", "a", Admin, 1), grant(t, "a", "o", None, 9), grant(t, "o", "o", None, 9)}, map[string]Role{"o": Owner}},
		{"writer grants nothing", []Grant{grant(t, "o", "w", ReadWrite, 1), grant(t, "w", "x", ReadWrite, 1)}, map[string]Role{"x": None}},
		{"member raises itself not", []Grant{grant(t, "o", "w", ReadOnly, 1), grant(t, "w", "w", ReadWrite, 2)}, map[string]Role{"w": ReadOnly}},
		{"member leaves", []Grant{grant(t, "o", "w", ReadWrite, 1), grant(t, "w", "w", None, 2)}, map[string]Role{"w": None}},
		{"greater serial wins", []Grant{grant(t, "o", "w", None, 2), grant(t, "o", "w", ReadWrite, 3), grant(t, "o", "w", ReadOnly, 1)}, map[string]Role{"w": ReadWrite}},
		{"of equal serials the lesser role", []Grant{grant(t, "o", "w", ReadWrite, 2), grant(t, "o", "w", None, 2)}, map[string]Role{"w": None}},
		{"revoked admin's grants do not count", []Grant{grant(t, "o", "a", Admin, 1), grant(t, "a", "w", ReadWrite, 1), grant(t, "o", "a", None, 2)}, map[string]Role{"a": None, "w": None}},
		{"stranger", []Grant{grant(t, "x", "x", ReadWrite, 5), grant(t, "x", "w", ReadWrite, 5)}, map[string]Role{"x": None, "w": None}},
		{"other bucket", []Grant{grant(t, "o", "w", ReadWrite, 1, func(g *Grant) { g.Bucket[0]++ })}, map[string]Role{"w": None}},
		{"new key", []Grant{grant(t, "o", "w", ReadWrite, 1), handOver(t, "w", "w2"), handOver(t, "w2", "w3")}, map[string]Role{"w": None, "w2": None, "w3": ReadWrite}},
		{"new owner", []Grant{handOver(t, "o", "p", keeping(grant(t, "o", "v", ReadWrite, 1))), grant(t, "p", "w", ReadWrite, 1), grant(t, "o", "v", ReadWrite, 1)}, map[string]Role{"o": None, "p": Owner, "w": ReadWrite, "v": ReadWrite}},
		{"old key of the owner grants no more", []Grant{handOver(t, "o", "p"), grant(t, "o", "v", ReadWrite, 1)}, map[string]Role{"p": Owner, "v": None}},
		{"new admin", []Grant{grant(t, "o", "a", Admin, 1), handOver(t, "a", "b", keeping(grant(t, "a", "v", ReadWrite, 1))), grant(t, "a", "v", ReadWrite, 1), grant(t, "a", "w", ReadWrite, 1), grant(t, "b", "x", ReadWrite, 1)},
			map[string]Role{"a": None, "b": Admin, "v": ReadWrite, "w": None, "x": ReadWrite}},
		{"new admin is unmade", []Grant{grant(t, "o", "a", Admin, 1), handOver(t, "a", "b", keeping(grant(t, "a", "v", ReadWrite, 1))), grant(t, "a", "v", ReadWrite, 1), grant(t, "o", "b", ReadOnly, 3)},
			map[string]Role{"a": None, "b": ReadOnly, "v": None}},
		{"another role for the new key", []Grant{grant(t, "o", "w", ReadWrite, 1), handOver(t, "w", "w2"), grant(t, "o", "w2", ReadOnly, 3)}, map[string]Role{"w": None, "w2": ReadOnly}},
		{"the new key is revoked", []Grant{grant(t, "o", "w", ReadWrite, 1), handOver(t, "w", "w2"), grant(t, "o", "w2", None, 3)}, map[string]Role{"w": None, "w2": None}},
		{"a thief's successor is revoked", []Grant{grant(t, "o", "w", ReadWrite, 1), handOver(t, "w", "thief"), handOver(t, "w", "w2"), grant(t, "o", "thief", None, 3)},
			map[string]Role{"w": None, "w2": ReadWrite, "thief": None}},
		{"a succession for every bucket hands over no role", []Grant{grant(t, "o", "w", ReadWrite, 1), handOver(t, "w", "w2", everywhere)}, map[string]Role{"w": ReadWrite, "w2": None}},
		{"revoked key hands over nothing", []Grant{grant(t, "o", "w", None, 2), handOver(t, "w", "w2")}, map[string]Role{"w": None, "w2": None}},
		{"circle of successions", []Grant{grant(t, "o", "w", ReadWrite, 1), handOver(t, "w", "w2"), handOver(t, "w2", "w")}, map[string]Role{"w": None, "w2": ReadWrite}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, owner := node("o")
			first := Members(bucket, owner, c.grants)
			for name, want := range c.want {
				if _, k := node(name); first.Role(k) != want {
					t.Errorf("%s is %s, want %s", name, first.Role(k), want)
				}
			}
			for range 10 {
				rand.Shuffle(len(c.grants), func(i, j int) { c.grants[i], c.grants[j] = c.grants[j], c.grants[i] })
				if m := Members(bucket, owner, append(c.grants, c.grants...)); !reflect.DeepEqual(m, first) {
					t.Errorf("in another order: %v, want %v", m.All(), first.All())
				}
			}
		})
	}
}

// An owner is called what it says itself, and its heir likewise; it stays the owner.
func TestNameOfTheOwner(t *testing.T) {
	named := func(name string) func(*Grant) { return func(g *Grant) { g.Name = name } }
	first, second := grant(t, "o", "o", Admin, 1, named("desk")), grant(t, "o", "o", Admin, 2, named("ann's desk"))
	foreign := grant(t, "a", "o", Admin, 9, named("fool"))
	over := handOver(t, "o", "p", named("ann's desk"), keeping(first, second))
	for _, c := range []struct {
		what, owner, want string
		grants            []Grant
	}{
		{"nobody named it", "o", "", nil},
		{"it named itself", "o", "desk", []Grant{first}},
		{"twice", "o", "ann's desk", []Grant{second, first}},
		{"an admin cannot", "o", "desk", []Grant{grant(t, "o", "a", Admin, 1), first, foreign}},
		{"a grant of no role is no name", "o", "", []Grant{grant(t, "o", "o", None, 3)}},
		{"its heir", "p", "ann's desk", []Grant{second, over, first}},
		{"its heir, whom the old key names no more", "p", "ann's desk", []Grant{second, over, first, grant(t, "o", "o", Admin, 3, named("thief"))}},
		{"the heir names itself", "p", "new desk", []Grant{second, over, first, grant(t, "p", "p", Admin, 1, named("new desk"))}},
	} {
		_, o := node("o")
		_, k := node(c.owner)
		m := Members(bucket, o, c.grants)
		if got, _ := m.Member(k); got.Name != c.want || got.Role != Owner || got.Serial > 2 || m.Owner() != k {
			t.Errorf("%s: %+v, want the owner %q", c.what, got, c.want)
		}
		slices.Reverse(c.grants)
		if other := Members(bucket, o, c.grants); !reflect.DeepEqual(other, m) {
			t.Errorf("%s, in another order: %v, want %v", c.what, other.All(), m.All())
		}
	}
}

func TestAccepts(t *testing.T) {
	_, owner := node("o")
	_, w := node("w")
	_, r := node("r")
	s, s2 := Stream{1}, Stream{2}
	grants := []Grant{grant(t, "o", "w", ReadWrite, 1), grant(t, "o", "r", ReadOnly, 1)}
	m := Members(bucket, owner, grants)
	if !m.Accepts(w, s, 1<<40) || m.Accepts(r, s, 1) || !m.Accepts(owner, s, 1) {
		t.Error("a writer may write, a reader may not")
	}
	left := grant(t, "w", "w", None, 9, heard(s, 1000))
	for _, role := range []Role{None, ReadOnly} {
		shut := append(grants[:2:2], grant(t, "o", "w", role, 2, heard(s, 5)))
		for what, m := range map[string]*Membership{
			"writer made " + role.String():                         Members(bucket, owner, shut),
			"writer made " + role.String() + ", which leaves then": Members(bucket, owner, append(shut, left)),
		} {
			for _, c := range []struct {
				stream Stream
				seq    uint64
				want   bool
			}{{s, 1, true}, {s, 5, true}, {s, 6, false}, {s2, 1, false}} {
				if got := m.Accepts(w, c.stream, c.seq); got != c.want {
					t.Errorf("%s, stream %x number %d: %v, want %v", what, c.stream[0], c.seq, got, c.want)
				}
			}
		}
	}
	m = Members(bucket, owner, append(grants, left))
	if m.Role(w) != None || !m.Accepts(w, s, 1000) || m.Accepts(w, s, 1001) {
		t.Error("of a writer that left counts what it says")
	}
}

// TestReplacedKey: what a key may still do that was replaced, and its heir.
func TestReplacedKey(t *testing.T) {
	_, owner := node("o")
	_, w := node("w")
	_, w2 := node("w2")
	_, w3 := node("w3")
	s := Stream{1}
	kept := grant(t, "w", "w", None, 9) // it once left; of no consequence
	grants := []Grant{
		grant(t, "o", "w", ReadWrite, 10), kept,
		handOver(t, "w", "w2", heard(s, 5), keeping(kept)), handOver(t, "w2", "w3", everywhere),
	}
	m := Members(bucket, owner, grants)
	for _, c := range []struct {
		key  Key
		seq  uint64
		want bool
	}{{w, 5, true}, {w, 6, false}, {w2, 6, true}} {
		if got := m.Accepts(c.key, s, c.seq); got != c.want {
			t.Errorf("number %d of %s: %v", c.seq, c.key.Short(), got)
		}
	}
	for _, c := range []struct {
		key, of Key
		want    bool
	}{{w, w, true}, {w2, w, true}, {w3, w2, true}, {w3, w, true}, {w, w2, false}, {owner, w, false}} {
		if got := m.Speaks(c.key, c.of); got != c.want {
			t.Errorf("%s in the name of %s: %v", c.key.Short(), c.of.Short(), got)
		}
	}
	if m.Heir(w) != w2 || m.Heir(w2) != w2 || !m.Replaced(w) || m.Replaced(w2) {
		t.Error("heirs")
	}
	for _, c := range []struct {
		name string
		g    Grant
		want bool
	}{
		{"a grant that was kept", kept, false},
		{"another grant of the old key", grant(t, "w", "w", None, 11), true},
		{"another succession of the old key", handOver(t, "w", "thief"), true},
		{"the succession", grants[2], false},
		{"a grant of the new key", grant(t, "w2", "w2", None, 11), false},
		{"that the heir is so everywhere", handOver(t, "w", "w2", everywhere), false},
		{"that another is the heir everywhere", handOver(t, "w", "thief", everywhere), true},
	} {
		if got := m.Refuses(&c.g); got != c.want {
			t.Errorf("%s is refused: %v", c.name, got)
		}
	}
	m = Members(bucket, owner, append(grants, grant(t, "o", "w2", None, 11)))
	if g := handOver(t, "w", "w4"); m.Refuses(&g) {
		t.Error("another heir is refused although the first was revoked")
	}
}

// TestHeirOfARevokedKey: who heard of the heir first, what the old key says of it
// everywhere next, and then that the old key had been revoked before, lets the heir speak
// for it once an admin lets that in, as those do who heard it the other way round.
func TestHeirOfARevokedKey(t *testing.T) {
	_, owner := node("o")
	_, w := node("w")
	_, w2 := node("w2")
	member, heir, ever := grant(t, "o", "w", ReadWrite, 10), handOver(t, "w", "w2"), handOver(t, "w", "w2", everywhere)
	revoked, letIn := grant(t, "o", "w", None, 11), grant(t, "o", "w2", ReadWrite, 10)
	for _, order := range [][]Grant{{member, heir, ever, revoked, letIn}, {member, revoked, letIn, ever, heir}} {
		var known []Grant
		for _, g := range order {
			if !Members(bucket, owner, known).Refuses(&g) {
				known = append(known, g)
			}
		}
		m := Members(bucket, owner, known)
		if !m.Speaks(w2, w) || m.Role(w2) != ReadWrite || m.Role(w) != None {
			t.Errorf("%d grants are known, w2 speaks for w: %v, roles %v and %v", len(known), m.Speaks(w2, w), m.Role(w2), m.Role(w))
		}
	}
}

func TestMay(t *testing.T) {
	_, owner := node("o")
	m := Members(bucket, owner, []Grant{grant(t, "o", "a", Admin, 1), grant(t, "o", "b", Admin, 1), grant(t, "o", "w", ReadWrite, 1)})
	for _, c := range []struct {
		issuer, subject string
		role            Role
		ok              bool
	}{
		{"o", "x", Admin, true}, {"o", "a", None, true}, {"o", "x", Owner, false}, {"a", "o", None, false}, {"o", "o", None, false},
		{"a", "x", ReadWrite, true}, {"a", "w", None, true}, {"a", "b", None, false}, {"a", "x", Admin, false},
		{"w", "x", ReadOnly, false}, {"w", "w", None, true}, {"x", "x", ReadOnly, false},
	} {
		_, i := node(c.issuer)
		_, s := node(c.subject)
		if err := m.May(i, s, c.role); (err == nil) != c.ok {
			t.Errorf("%s gives %s %s: %v", c.issuer, c.subject, c.role, err)
		}
	}
}

func TestFreeName(t *testing.T) {
	_, owner := node("o")
	_, a := node("a")
	_, c := node("c")
	named := func(name string) func(*Grant) { return func(g *Grant) { g.Name = name } }
	long := strings.Repeat("x", maxName)
	old := grant(t, "o", "old", ReadWrite, 1, named("kept"))
	m := Members(bucket, owner, []Grant{
		grant(t, "o", "a", ReadWrite, 1, named("vm")), grant(t, "o", "b", ReadOnly, 1, named("vm-2")),
		grant(t, "o", "gone", None, 2, named("was")), grant(t, "o", "d", ReadWrite, 1, named(long)),
		old, handOver(t, "old", "new", keeping(old)),
	})
	for _, x := range []struct {
		key        Key
		wish, want string
	}{
		{c, "laptop", "laptop"}, {c, "vm", "vm-3"}, {a, "vm", "vm"}, {c, "was", "was-2"}, {c, "kept", "kept"}, {c, "old", "old-2"},
		{c, long, c.Short()}, {c, "", c.Short()}, {c, "a\nb", c.Short()},
	} {
		if got := m.FreeName(x.key, x.wish); got != x.want {
			t.Errorf("%q comes to %q, not %q", x.wish, got, x.want)
		}
	}
}

func TestEnvelope(t *testing.T) {
	private, k := node("w")
	e := Envelope{Document: Document{Bucket: bucket, Branch: [16]byte{2}, Dir: 77, Gen: 1}, Stream: Stream{3}, Seq: 9, Raw: []byte("raw")}
	b, err := e.Seal(private)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenEnvelope(b)
	if err != nil || !reflect.DeepEqual(got, e) || got.Author != k {
		t.Fatalf("got %+v, %v; want %+v", got, err, e)
	}
	for i := range b {
		m := append([]byte(nil), b...)
		m[i] ^= 1
		if _, err := OpenEnvelope(m); err == nil {
			t.Errorf("byte %d changed: accepted", i)
		}
	}
	for name, change := range map[string]func(*Envelope){
		"document":   func(e *Envelope) { e.Dir++ },
		"branch":     func(e *Envelope) { e.Branch[0]++ },
		"bucket":     func(e *Envelope) { e.Bucket[0]++ },
		"generation": func(e *Envelope) { e.Gen++ },
		"author":     func(e *Envelope) { _, e.Author = node("x") },
		"number":     func(e *Envelope) { e.Seq++ },
	} {
		m := e
		change(&m)
		raw, err := encMode.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenEnvelope(raw); !errors.Is(err, ErrInvalid) {
			t.Errorf("replayed with another %s: %v", name, err)
		}
	}
}

// TestStub replaces a change by its hash: the signature and the chain hold, and
// nothing can be put in its place.
func TestStub(t *testing.T) {
	private, _ := node("w")
	e := Envelope{Document: Document{Bucket: bucket, Branch: [16]byte{2}, Dir: 77}, Stream: Stream{3}, Seq: 9, Raw: bytes.Repeat([]byte("raw"), 1000)}
	b, err := e.Seal(private)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := e.Stub()
	if !ok || s.Hash() != e.Hash() {
		t.Fatal("a stub has another hash than its envelope, or there is none")
	}
	short, err := s.Encode()
	if err != nil || len(short) > 300 {
		t.Fatalf("a stub of %d bytes, %v", len(short), err)
	}
	got, err := OpenEnvelope(short)
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("got %+v, %v; want %+v", got, err, s)
	}
	for i := range short {
		m := append([]byte(nil), short...)
		m[i] ^= 1
		if _, err := OpenEnvelope(m); err == nil {
			t.Errorf("byte %d of a stub changed: accepted", i)
		}
	}
	for name, change := range map[string]func(*Envelope){
		"a whole one that is a stub": func(e *Envelope) { e.Form = Stub },
		"a whole one of old":         func(e *Envelope) { e.Form = First },
		"an unknown form":            func(e *Envelope) { e.Form = Stub + 1 },
		"another change":             func(e *Envelope) { e.Raw = []byte("other") },
		"a stub that is whole":       func(e *Envelope) { *e = s; e.Form = Whole },
		"a long stub":                func(e *Envelope) { *e = s; e.Raw = bytes.Repeat(s.Raw, 100) },
		"a short stub":               func(e *Envelope) { *e = s; e.Raw = s.Raw[:31] },
	} {
		m := e
		change(&m)
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenEnvelope(raw); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := OpenEnvelope(b); err != nil || again.Hash() != got.Hash() {
		t.Errorf("after that: %v", err)
	}
	of := Envelope{Document: Document{Bucket: bucket}, Seq: 1, Raw: []byte("raw")}
	of.Seal(private)
	s, _ = of.Stub()
	if short, err = s.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEnvelope(short); !errors.Is(err, ErrInvalid) {
		t.Errorf("a stub of the bucket's document: %v", err)
	}
}

// TestFirstForm opens what an earlier alkfs signed, which can only be sent whole.
func TestFirstForm(t *testing.T) {
	private, k := node("w")
	e := Envelope{Document: Document{Bucket: bucket, Branch: [16]byte{2}, Dir: 77}, Author: k, Stream: Stream{3}, Seq: 9, Raw: []byte("raw")}
	var err error
	if e.Sig, err = sign(private, firstPurpose, &e); err != nil {
		t.Fatal(err)
	}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenEnvelope(b)
	if err != nil || !reflect.DeepEqual(got, e) || got.Hash() != sha256.Sum256(b) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if s, ok := got.Stub(); ok {
		t.Errorf("its stub: %+v", s)
	}
}

// TestPurposesDoNotMix uses one kind's signature for another.
func TestPurposesDoNotMix(t *testing.T) {
	private, k := node("w")
	sig, err := sign(private, "something else", "text")
	if err != nil {
		t.Fatal(err)
	}
	if verify(k, grantPurpose, "text", sig) == nil {
		t.Error("a signature is good for two purposes")
	}
}

func TestDocumentID(t *testing.T) {
	d := Document{Bucket: bucket, Branch: [16]byte{2}, Dir: 3, Gen: 4}
	ids := map[[16]byte]bool{d.ID(): true}
	for _, f := range []func(*Document){
		func(d *Document) { d.Bucket[15]++ }, func(d *Document) { d.Branch[0]++ }, func(d *Document) { d.Dir++ }, func(d *Document) { d.Gen++ },
	} {
		o := d
		f(&o)
		ids[o.ID()] = true
	}
	if len(ids) != 5 {
		t.Errorf("%d identifiers for 5 documents", len(ids))
	}
}

func TestTicket(t *testing.T) {
	_, owner := node("o")
	want := Ticket{Bucket: bucket, Name: "team", Owner: owner, Issuer: owner, Addrs: []string{"10.0.0.1:4433", "[::1]:4433"}, Role: ReadWrite, Expires: 1000}
	want.NewSecret()
	s := want.String()
	got, err := ParseTicket("  " + strings.ToUpper(s[:40]) + "\n" + s[40:] + "\r\n")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if !got.Expired(time.Unix(1000, 0)) || got.Expired(time.Unix(999, 0)) {
		t.Error("expiry")
	}
	for i := len(ticketPrefix); i < len(s); i++ {
		m := []byte(s)
		m[i] = 'a' + (m[i]-'a'+1)%26
		if string(m) == s {
			continue
		}
		if o, err := ParseTicket(string(m)); err == nil && !reflect.DeepEqual(o, want) {
			t.Errorf("character %d changed: %+v", i, o)
		}
	}
	for _, bad := range []string{"", "alkfs-", "alkfs-abc", s[:len(s)-3], "x" + s, strings.Repeat("a", 10000)} {
		if _, err := ParseTicket(bad); err == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
}

func TestKeyText(t *testing.T) {
	_, k := node("o")
	if got, err := ParseKey(" " + strings.ToUpper(k.String()) + "\n"); err != nil || got != k {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := ParseKey(k.Short()); err == nil {
		t.Error("a short key was taken for a key")
	}
}

func FuzzOpenEnvelope(f *testing.F) {
	private, _ := node("w")
	e := Envelope{Seq: 1, Raw: []byte("raw")}
	b, _ := e.Seal(private)
	f.Add(b)
	s, _ := e.Stub()
	b, _ = s.Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := OpenEnvelope(b); err == nil {
			if again, err := encMode.Marshal(&e); err != nil || !bytes.Equal(again, b) {
				t.Errorf("signed, but encoded otherwise")
			}
		}
	})
}

func FuzzOpenGrant(f *testing.F) {
	private, _ := node("o")
	g := Grant{Role: ReadOnly, Serial: 1, Name: "n"}
	b, _ := g.Seal(private)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { OpenGrant(b) })
}

func FuzzParseTicket(f *testing.F) {
	tk := Ticket{Role: ReadOnly, Addrs: []string{"a:1"}}
	f.Add(tk.String())
	f.Fuzz(func(t *testing.T, s string) {
		if tk, err := ParseTicket(s); err == nil {
			if o, err := ParseTicket(tk.String()); err != nil || !reflect.DeepEqual(o, tk) {
				t.Errorf("%q does not come back: %v", s, err)
			}
		}
	})
}
