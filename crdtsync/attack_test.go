package crdtsync

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// forger makes envelopes of a member by hand, well signed and well numbered,
// that say whatever a test wants.
type forger struct {
	s      *store
	bucket [16]byte
	stream identity.Stream
	seq    uint64
	last   [32]byte
	docs   map[identity.Document]*gate.Change // newest change of each
	hashes map[identity.Document]gate.Hash
}

func forge(s *store, b [16]byte) *forger {
	f := &forger{s: s, bucket: b, docs: map[identity.Document]*gate.Change{}, hashes: map[identity.Document]gate.Hash{}}
	copy(f.stream[:], "forged by "+s.name)
	return f
}

// entries makes an envelope of entries in a document that has no other changes
// than the forger's.
func (f *forger) entries(d identity.Document, es []gate.Entry, spoil ...func(*gate.Change, *identity.Envelope)) []byte {
	f.s.t.Helper()
	d.Bucket = f.bucket
	c := &gate.Change{Actor: f.stream, Seq: 1, StartOp: 1, Entries: es}
	if prev := f.docs[d]; prev != nil {
		c.Deps, c.Seq, c.StartOp = []gate.Hash{f.hashes[d]}, prev.Seq+1, prev.MaxOp()+1
	}
	e := identity.Envelope{Document: d, Stream: f.stream, Seq: f.seq + 1, Prev: f.last}
	for _, s := range spoil {
		s(c, &e)
	}
	raw, h, err := gate.Encode(c)
	if err != nil {
		f.s.t.Fatal(err)
	}
	e.Raw = raw
	b, err := e.Seal(f.s.private)
	if err != nil {
		f.s.t.Fatal(err)
	}
	f.seq, f.last = e.Seq, e.Hash()
	f.docs[d], f.hashes[d] = c, h
	return b
}

// version makes an envelope of one version, in the document where it belongs.
func (f *forger) version(v pathtree.Version) []byte {
	f.s.t.Helper()
	e, err := encodeVersion(&v, pathtree.NodeKey(f.s.Key()))
	if err != nil {
		f.s.t.Fatal(err)
	}
	return f.entries(identity.Document{Branch: v.Branch, Dir: uint64(v.Dir())}, []gate.Entry{e})
}

// dentry is a version that names ino in the root directory.
func (f *forger) dentry(name string, ino pathtree.Ino, kind uint32, at schema.Stamp) pathtree.Version {
	f.s.t.Helper()
	v := pathtree.Version{
		Kind: pathtree.DentryVersion, Name: name, Ino: ino, FileType: kind,
		ID: pathtree.VersionID{Stamp: at, Node: pathtree.NodeKey(f.s.Key())},
	}
	f.s.on(f.bucket, func(_ *schema.Tx, view *pathtree.View) error {
		v.Branch, v.Parent = view.Branch().UUID, view.Root()
		return nil
	})
	return v
}

func stampNow() schema.Stamp { return schema.StampAt(time.Now()) }

// victim has an owner and a member m in one bucket, with a file.
func victim(t *testing.T, role identity.Role) (owner, m *store, b [16]byte) {
	t.Helper()
	owner, m = newStore(t, "owner"), newStore(t, "member")
	b = owner.makeBucket("team")
	m.admit(owner, b, role)
	owner.write(b, "file", "1")
	send(t, owner, m, b)
	return owner, m, b
}

func TestAttacks(t *testing.T) {
	hash := blobstore.Sum([]byte("x"))
	file := func(home pathtree.Ino) *pathtree.InodeState {
		return &pathtree.InodeState{Groups: 15, Mode: unix.S_IFREG | 0o644, Size: 1, Hash: hash, Ctime: 1, Btime: 1}
	}
	for _, c := range []struct {
		name string
		role identity.Role
		make func(f *forger) []byte
	}{
		{"read-only member", identity.ReadOnly, func(f *forger) []byte {
			return f.version(f.dentry("new", 5000, unix.S_IFREG, stampNow()))
		}},
		{"name with a slash", identity.ReadWrite, func(f *forger) []byte {
			return f.version(f.dentry("a/b", 5000, unix.S_IFREG, stampNow()))
		}},
		{"name with a NUL", identity.ReadWrite, func(f *forger) []byte {
			return f.version(f.dentry("a\x00b", 5000, unix.S_IFREG, stampNow()))
		}},
		{"name ..", identity.ReadWrite, func(f *forger) []byte { return f.version(f.dentry("..", 5000, unix.S_IFREG, stampNow())) }},
		{"name .", identity.ReadWrite, func(f *forger) []byte { return f.version(f.dentry(".", 5000, unix.S_IFREG, stampNow())) }},
		{"empty name", identity.ReadWrite, func(f *forger) []byte { return f.version(f.dentry("", 5000, unix.S_IFREG, stampNow())) }},
		{"long name", identity.ReadWrite, func(f *forger) []byte {
			return f.version(f.dentry(strings.Repeat("x", 256), 5000, unix.S_IFREG, stampNow()))
		}},
		{"inode number 1", identity.ReadWrite, func(f *forger) []byte { return f.version(f.dentry("new", 1, unix.S_IFREG, stampNow())) }},
		{"directory in itself", identity.ReadWrite, func(f *forger) []byte {
			v := f.dentry("loop", 0, unix.S_IFDIR, stampNow())
			v.Ino = v.Parent
			return f.version(v)
		}},
		{"version of another node", identity.ReadWrite, func(f *forger) []byte {
			v := f.dentry("new", 5000, unix.S_IFREG, stampNow())
			v.ID.Node[0]++
			return f.version(v)
		}},
		{"size without a hash", identity.ReadWrite, func(f *forger) []byte {
			v := f.dentry("", 0, 0, stampNow())
			v = pathtree.Version{Kind: pathtree.InodeVersion, Branch: v.Branch, ID: v.ID, Ino: 5000, Home: v.Parent, Inode: file(v.Parent)}
			v.Inode.Hash = blobstore.Hash{}
			return f.version(v)
		}},
		{"version in another directory's document", identity.ReadWrite, func(f *forger) []byte {
			v := f.dentry("new", 5000, unix.S_IFREG, stampNow())
			e, err := encodeVersion(&v, pathtree.NodeKey(f.s.Key()))
			if err != nil {
				f.s.t.Fatal(err)
			}
			return f.entries(identity.Document{}, []gate.Entry{e})
		}},
		{"version under another key", identity.ReadWrite, func(f *forger) []byte {
			v := f.dentry("new", 5000, unix.S_IFREG, stampNow())
			e, err := encodeVersion(&v, pathtree.NodeKey(f.s.Key()))
			if err != nil {
				f.s.t.Fatal(err)
			}
			e.Key += "A"
			return f.entries(identity.Document{Branch: v.Branch, Dir: uint64(v.Parent)}, []gate.Entry{e})
		}},
		{"not CBOR", identity.ReadWrite, func(f *forger) []byte {
			return f.entries(identity.Document{Branch: [16]byte{1}, Dir: 7}, []gate.Entry{{Key: "dAAAA", Value: []byte{0xff}}})
		}},
		{"another bucket's change", identity.ReadWrite, func(f *forger) []byte {
			f.bucket[0]++
			return f.entries(identity.Document{Branch: [16]byte{1}, Dir: 7}, []gate.Entry{{Key: "zunknown", Value: nil}})
		}},
		{"operation counter in the future", identity.ReadWrite, func(f *forger) []byte {
			return f.entries(identity.Document{Branch: [16]byte{1}, Dir: 7}, []gate.Entry{{Key: "zunknown"}},
				func(c *gate.Change, _ *identity.Envelope) { c.StartOp = 1 << 39 })
		}},
		{"actor that is not the stream", identity.ReadWrite, func(f *forger) []byte {
			return f.entries(identity.Document{Branch: [16]byte{1}, Dir: 7}, []gate.Entry{{Key: "zunknown"}},
				func(c *gate.Change, _ *identity.Envelope) { c.Actor[0]++ })
		}},
		{"flipped bit", identity.ReadWrite, func(f *forger) []byte {
			b := f.version(f.dentry("new", 5000, unix.S_IFREG, stampNow()))
			b[len(b)/2] ^= 1
			return b
		}},
		{"replayed into another document", identity.ReadWrite, func(f *forger) []byte {
			b := f.version(f.dentry("new", 5000, unix.S_IFREG, stampNow()))
			var e identity.Envelope
			if err := decMode.Unmarshal(b, &e); err != nil {
				f.s.t.Fatal(err)
			}
			e.Dir++
			b, err := encMode.Marshal(&e)
			if err != nil {
				f.s.t.Fatal(err)
			}
			return b
		}},
		{"garbage", identity.ReadWrite, func(*forger) []byte { return []byte("garbage") }},
		{"nothing", identity.ReadWrite, func(*forger) []byte { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			owner, m, b := victim(t, c.role)
			relay := newStore(t, "relay")
			relay.admit(owner, b, identity.ReadWrite)
			want := owner.listing(b)
			marks, err := owner.Marks(b)
			if err != nil {
				t.Fatal(err)
			}
			bad := c.make(forge(m, b))
			res, err := owner.Receive(b, m.Key(), [][]byte{bad})
			if !errors.Is(err, ErrRefused) || res.New != 0 {
				t.Errorf("from its author: %+v, %v", res, err)
			}
			if again, err := owner.Marks(b); err != nil || len(again) != len(marks) {
				t.Errorf("something was kept: %v, %v", again, err)
			}
			res, err = owner.Receive(b, relay.Key(), [][]byte{bad})
			if !errors.Is(err, ErrRefused) && (err != nil || res.Void != 1 || res.Versions != 0) {
				t.Errorf("passed on by another: %+v, %v", res, err)
			}
			if got := owner.listing(b); got != want {
				t.Errorf("the tree changed:\n%s\nwas\n%s", got, want)
			}
			m.write(b, "honest", "2")
			if c.role >= identity.ReadWrite {
				if res := send(t, m, owner, b); res.New == 0 {
					t.Error("an honest change afterwards was not taken")
				}
			}
		})
	}
}

// TestFutureIsHeldBack: not refused, as the sender's clock may be right.
func TestFutureIsHeldBack(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	want := owner.listing(b)
	far := schema.StampAt(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	f := forge(m, b)
	res, err := owner.Receive(b, m.Key(), [][]byte{f.version(f.dentry("new", 5000, unix.S_IFREG, far))})
	if err != nil || res.Later != 1 || res.New != 0 {
		t.Errorf("received %+v, %v", res, err)
	}
	if got := owner.listing(b); got != want {
		t.Errorf("the tree changed:\n%s", got)
	}
	owner.write(b, "after", "x")
	owner.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		if s := tx.NextStamp(); s > schema.StampAt(time.Now().Add(time.Minute)) {
			t.Errorf("the clock jumped to %v", s.Time())
		}
		return nil
	})
}

// TestFutureCountsAgain: what a node wrote while its clock was ahead, and took back
// when it was made a reader, counts for it again when it is made a writer. Nobody
// else has it before its time, also as what does not count.
func TestFutureCountsAgain(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	third := newStore(t, "third")
	third.admit(owner, b, identity.ReadWrite)
	send(t, owner, third, b)
	m.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		tx.ObserveStamp(schema.StampAt(time.Now().Add(time.Hour)))
		return nil
	})
	m.write(b, "ahead", "1")
	if _, err := m.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, role := range []identity.Role{identity.ReadOnly, identity.ReadWrite} {
		if err := owner.Grant(b, m.Key(), role, ""); err != nil {
			t.Fatal(err)
		}
		tell(t, owner, third, b)
		tell(t, owner, m, b)
		if got, want := strings.Contains(m.listing(b), "ahead"), role == identity.ReadWrite; got != want {
			t.Errorf("as %v it shows: %v", role, got)
		}
		all, err := m.Since(b, 0, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Author == m.Key() {
				if res, err := third.Receive(b, owner.Key(), [][]byte{c.Envelope}); err != nil || res.Later != 1 || res.New != 0 {
					t.Errorf("of %v: received %+v, %v", role, res, err)
				}
			}
		}
	}
}

// TestChangesOnTopOfAVoidOne: a writer that has not heard of a revocation builds
// on a change that others do not let count, and they take its own.
func TestChangesOnTopOfAVoidOne(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	unaware := newStore(t, "unaware")
	unaware.admit(owner, b, identity.ReadWrite)
	send(t, owner, unaware, b)
	send(t, owner, m, b)
	if err := owner.Grant(b, m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	m.write(b, "late", "written after the revocation")
	send(t, m, unaware, b)
	unaware.write(b, "on top", "in the same directory")
	if res := send(t, unaware, owner, b); res.Void == 0 || res.Later != 0 {
		t.Errorf("received %+v", res)
	}
	if l := owner.listing(b); strings.Contains(l, "late") || !strings.Contains(l, "on top") {
		t.Errorf("the owner has\n%s", l)
	}
}

// TestTwoTales has a member tell two nodes different things under one number.
func TestTwoTales(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	other := newStore(t, "other")
	other.admit(owner, b, identity.ReadWrite)
	send(t, owner, other, b)
	one, two := forge(m, b), forge(m, b)
	first := one.version(one.dentry("one", 0, 0, stampNow()))
	second := two.version(two.dentry("two", 0, 0, stampNow()))
	if _, err := owner.Receive(b, m.Key(), [][]byte{first}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Receive(b, m.Key(), [][]byte{second}); err != nil {
		t.Fatal(err)
	}
	next := one.version(one.dentry("next", 0, 0, stampNow()))
	if _, err := owner.Receive(b, m.Key(), [][]byte{next}); err != nil {
		t.Errorf("the node that was told the first: %v", err)
	}
	if _, err := other.Receive(b, m.Key(), [][]byte{next}); !errors.Is(err, ErrRefused) {
		t.Errorf("the node that was told otherwise: %v", err)
	}
}

// TestUnknownKindsTravelOn relays what only a newer alkfs understands.
func TestUnknownKindsTravelOn(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	third := newStore(t, "third")
	third.admit(owner, b, identity.ReadOnly)
	f := forge(m, b)
	in := f.entries(identity.Document{Branch: [16]byte{1}, Dir: 7}, []gate.Entry{{Key: "znew", Value: []byte("new")}})
	if res, err := owner.Receive(b, m.Key(), [][]byte{in}); err != nil || res.New != 1 {
		t.Fatalf("received %+v, %v", res, err)
	}
	send(t, owner, third, b)
	marks, err := third.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range marks {
		if k.Stream == f.stream && k.Seq == 1 {
			return
		}
	}
	t.Errorf("the change did not travel on: %v", marks)
}

// TestMayRead: a hash known is no right to its bytes.
func TestMayRead(t *testing.T) {
	owner, m, b := victim(t, identity.ReadOnly)
	secret := owner.makeBucket("secret")
	owner.write(secret, "s", "secret")
	here, there := blobstore.Sum([]byte("1")), blobstore.Sum([]byte("secret"))
	stranger := newStore(t, "stranger")
	for _, c := range []struct {
		name   string
		k      identity.Key
		bucket [16]byte
		h      blobstore.Hash
		want   bool
	}{
		{"member", m.Key(), b, here, true},
		{"content of another bucket", m.Key(), b, there, false},
		{"another bucket", m.Key(), secret, there, false},
		{"stranger", stranger.Key(), b, here, false},
		{"no such bucket", m.Key(), [16]byte{}, here, false},
	} {
		if got := owner.MayRead(t.Context(), c.k, c.bucket, c.h); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if err := owner.Grant(b, m.Key(), identity.None, ""); err != nil {
		t.Fatal(err)
	}
	if owner.MayRead(t.Context(), m.Key(), b, here) {
		t.Error("a revoked member may read")
	}
}

func FuzzMessage(f *testing.F) {
	b, err := encMode.Marshal(&message{Marks: &marks{Marks: []Mark{{Seq: 1}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { decodeMessage(b) })
}

func FuzzEntry(f *testing.F) {
	v := pathtree.Version{Kind: pathtree.DentryVersion, Name: "n", Ino: 5}
	e, err := encodeVersion(&v, pathtree.NodeKey{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Key, e.Value)
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if key == "" {
			return
		}
		var b pathtree.Batch
		if decodeEntry(gate.Entry{Key: key, Value: value}, identity.Document{Dir: 2}, pathtree.NodeKey{}, &b) == nil && len(b.Versions)+len(b.Records) != 1 {
			t.Error("an entry that says nothing, or two things")
		}
	})
}
