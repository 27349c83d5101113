package crdtsync

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// compact compacts b on s.
func (s *store) compact(b [16]byte) Compacted {
	s.t.Helper()
	res, err := s.Compact(s.t.Context(), b, nil)
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
	return res
}

// remove removes a file at the root.
func (s *store) remove(b [16]byte, name string) {
	s.t.Helper()
	s.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		_, err := v.Unlink(tx, v.Root(), name)
		return err
	})
}

// prune removes all history that nothing shows.
func (s *store) prune() {
	s.t.Helper()
	cut := pathtree.Cut{}
	for more := true; more; {
		err := s.db.Write(func(tx *schema.Tx) (err error) {
			if cut.Before == 0 {
				cut.Before = tx.NextStamp()
			}
			_, more, err = s.tree.Prune(tx, cut, 0)
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *store) fsck() {
	s.t.Helper()
	for _, problem := range s.check() {
		s.t.Errorf("%s: %s", s.name, problem)
	}
	err := s.db.Read(func(tx *schema.Tx) error {
		return s.tree.Check(tx, func(problem string) {
			if !strings.Contains(problem, "not in the blob store") { // there is none
				s.t.Errorf("%s: %s", s.name, problem)
			}
		})
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// changes returns how many changes of b are kept.
func (s *store) changes(b [16]byte) int64 {
	s.t.Helper()
	n, _, err := s.history(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// folded waits until no store keeps more than so many changes of b.
func folded(t *testing.T, b [16]byte, most int64, all ...*store) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		ok := true
		for _, s := range all {
			ok = ok && s.changes(b) <= most
		}
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("changes stay")
		}
	}
}

func sameTrees(t *testing.T, b [16]byte, all ...*store) {
	t.Helper()
	want := all[0].listing(b)
	for _, s := range all {
		if got := s.listing(b); got != want {
			t.Errorf("%s shows\n%s\n%s shows\n%s", s.name, got, all[0].name, want)
		}
		s.fsck()
	}
}

// TestCompaction has two nodes fold what they have, and a third join through the one
// that did not compact.
func TestCompaction(t *testing.T) {
	n := newMemNet()
	a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	ra, rc := start(t, n, a, Options{}), start(t, n, c, Options{})
	meet(t, ra, rc)
	a.write(b, "first", "1")
	settle(t, b, a, c)
	for i := range 40 {
		for _, s := range []*store{a, c} {
			s.write(b, fmt.Sprint("dir/file ", s.name, i%4), fmt.Sprint("text ", i))
			if _, err := s.Drain(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	settle(t, b, a, c)
	res := a.compact(b)
	if res.Changes < 40 || res.NowChanges != 0 || a.changes(b) != 0 {
		t.Errorf("compacted %+v, %d changes are left", res, a.changes(b))
	}
	folded(t, b, 0, c)
	sameTrees(t, b, a, c)
	a.write(b, "dir/later", "of a")
	c.write(b, "dir/late", "of c")
	settle(t, b, a, c)
	ra.stop()
	d.admit(a, b, identity.ReadWrite)
	grants, _, err := a.Grants(b, 0)
	if err == nil {
		_, err = c.AddGrants(b, grants)
	}
	if err != nil {
		t.Fatal(err)
	}
	rd := start(t, n, d, Options{})
	meet(t, rd, rc)
	settle(t, b, c, d)
	start(t, n, a, Options{})
	settle(t, b, a, c, d)
	sameTrees(t, b, a, c, d)
	if n := d.changes(b); n > 4 {
		t.Errorf("%d changes came to the one that joined", n)
	}
}

// meet has two nodes know each other's address.
func meet(t *testing.T, a, b *running) {
	t.Helper()
	if err := a.store.setPlaces(b.store.Key(), []string{b.store.name}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.setPlaces(a.store.Key(), []string{a.store.name}); err != nil {
		t.Fatal(err)
	}
	a.membersChanged()
	b.membersChanged()
}

// hear has s hear of the compactions of from, and fetch their packs.
func (s *store) hear(from *store, b [16]byte) error {
	err := s.receivePacks(from, b)
	if err == nil {
		_, err = s.Fold(s.t.Context(), b)
	}
	return err
}

func (s *store) receivePacks(from *store, b [16]byte) error {
	have, err := from.packsOf(b)
	if err != nil {
		return err
	}
	for _, h := range have {
		if _, err := s.AddCompactions(b, from.Key(), [][]byte{h.c.encoded}); err != nil {
			return err
		}
		if !h.whole() {
			continue
		}
		data, err := from.piecesOf(b, h.c.Pieces, 1<<30)
		if err != nil {
			return err
		}
		if _, err := s.addPieces(&pieces{want{b, h.body, 0}, data}); err != nil {
			return err
		}
	}
	return nil
}

// TestCompactionAbsent has one be away while another writes, deletes, prunes and
// compacts: with what it wrote meanwhile both come to show the same, and what was
// deleted does not come back.
func TestCompactionAbsent(t *testing.T) {
	a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	d.admit(a, b, identity.ReadWrite)
	for _, name := range []string{"stays", "goes", "changes", "both"} {
		a.write(b, name, "of a")
	}
	send(t, a, c, b)
	c.write(b, "both", "of c, away")
	c.write(b, "new", "of c, away")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	a.remove(b, "goes")
	for i := range 5 {
		a.write(b, "changes", fmt.Sprint("more than once ", i))
		a.write(b, "both", fmt.Sprint("of a, more than once ", i))
		if _, err := a.Drain(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	a.prune()
	a.compact(b)
	if n := a.changes(b); n != 0 {
		t.Fatalf("%d changes stay", n)
	}
	for _, s := range []*store{d, c} {
		if err := s.hear(a, b); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, from := range []*store{c, a, d} {
			for _, to := range []*store{a, c, d} {
				if to != from {
					send(t, from, to, b)
				}
			}
		}
	}
	sameTrees(t, b, a, c, d)
	if l := c.listing(b); strings.Contains(l, "goes") || !strings.Contains(l, "new") {
		t.Errorf("c shows\n%s", l)
	}
	for _, s := range []*store{a, c, d} {
		if got := s.conflicts(b); got != 1 {
			t.Errorf("%s has %d conflicts, not the one about what both wrote", s.name, got)
		}
	}
}

func (s *store) conflicts(b [16]byte) (n int) {
	s.t.Helper()
	err := s.db.Read(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		if err != nil {
			return err
		}
		all, err := s.tree.SyncConflicts(tx, sh.bucket.ID)
		n = len(all)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestCompactionAttacks has compactions come that no honest node makes.
func TestCompactionAttacks(t *testing.T) {
	for _, c := range []struct {
		name  string
		role  identity.Role
		spoil func(c *identity.Compaction)
		want  error // of AddCompactions
		later bool  // it is not refused, and not kept
	}{
		{name: "reader", role: identity.ReadOnly, later: true},
		{name: "writer", role: identity.ReadWrite, later: true},
		{name: "another bucket", role: identity.Admin, want: ErrRefused, spoil: func(c *identity.Compaction) { c.Bucket[0]++ }},
		{name: "generation far ahead", role: identity.Admin, later: true, spoil: func(c *identity.Compaction) { c.Gen = 1 << 20 }},
		{name: "other ends", role: identity.Admin, spoil: func(c *identity.Compaction) { c.Ends[0].Last[0]++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			owner, m, b := victim(t, c.role)
			made := identity.Compaction{Bucket: b, Gen: 1}
			err := owner.db.Write(func(tx *schema.Tx) error {
				sh, err := owner.lookup(tx, b)
				if err != nil {
					return err
				}
				h, err := putPiece(tx, sh.bucket.ID, []byte("no piece"))
				made.Pieces = [][32]byte{h}
				if err == nil {
					made.Ends, err = owner.ends(t.Context(), tx, sh)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(&made)
			}
			encoded, err := made.Seal(m.private)
			if err != nil {
				t.Fatal(err)
			}
			before := owner.changes(b)
			n, err := owner.AddCompactions(b, m.Key(), [][]byte{encoded})
			if !errors.Is(err, c.want) || c.want == nil && (err != nil || (n == 0) != c.later) {
				t.Errorf("%d taken in: %v", n, err)
			}
			if _, err := owner.Fold(t.Context(), b); err != nil {
				t.Error(err)
			}
			if got := owner.changes(b); got != before {
				t.Errorf("%d changes are left of %d", got, before)
			}
		})
	}
}

// TestCompactionByAdmin is a proposal that nobody follows until the owner has signed
// it, which it does if the issuer is an admin still: nobody is left who followed one
// that others do not.
func TestCompactionByAdmin(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		owner, m, b := victim(t, identity.Admin)
		c := newStore(t, "c")
		c.admit(owner, b, identity.ReadWrite)
		send(t, owner, c, b)
		if res := m.compact(b); !res.Proposed || res.NowChanges == 0 {
			t.Errorf("compacted by an admin: %+v", res)
		}
		if err := c.hear(m, b); err != nil {
			t.Fatal(err)
		}
		before := owner.changes(b)
		if got := c.changes(b); got != before || before == 0 {
			t.Errorf("a proposal left %d changes of %d", got, before)
		}
		if revoked {
			if err := owner.Grant(b, m.Key(), identity.None, "m"); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range []struct{ to, from *store }{{owner, m}, {c, owner}, {m, owner}} {
			if err := s.to.hear(s.from, b); err != nil {
				t.Fatal(err)
			}
		}
		want := int64(0)
		if revoked {
			want = before
		}
		for _, s := range []*store{owner, c, m} {
			if got := s.changes(b); got != want {
				t.Errorf("revoked: %v: %s keeps %d changes, not %d", revoked, s.name, got, want)
			}
		}
		owner.write(b, "later", "1")
		send(t, owner, c, b)
		sameTrees(t, b, owner, c)
	}
}

// TestFalseProposals are signed by an admin, and not by the owner: what no change said is
// in the pack, or what no node would make.
func TestFalseProposals(t *testing.T) {
	bomb := func() []byte {
		var buf bytes.Buffer
		w, err := flate.NewWriter(&buf, flate.BestCompression)
		if err == nil {
			_, err = io.CopyN(w, zeros{}, 1<<30)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	remake := func(p piece) []byte {
		var b []byte
		q := packer{piece: p, n: 1, most: pieceVersions, done: func(encoded []byte) error { b = encoded; return nil }}
		if err := q.cut(); err != nil {
			t.Fatal(err)
		}
		return b
	}
	spoil := func(f func(p *piece)) func([][]byte) [][]byte {
		return func(all [][]byte) [][]byte {
			raw, err := inflate(all[len(all)-1])
			if err != nil {
				t.Fatal(err)
			}
			var p piece
			if err := decMode.Unmarshal(raw, &p); err != nil {
				t.Fatal(err)
			}
			f(&p)
			return append(all[:len(all)-1:len(all)-1], remake(p))
		}
	}
	version := func(f func(w *wireVersion)) func([][]byte) [][]byte {
		return spoil(func(p *piece) {
			v := &p.Docs[len(p.Docs)-1].Values
			var w wireVersion
			if err := decMode.Unmarshal((*v)[len(*v)-1], &w); err != nil {
				t.Fatal(err)
			}
			f(&w)
			b, err := encMode.Marshal(&w)
			if err != nil {
				t.Fatal(err)
			}
			(*v)[len(*v)-1] = b
		})
	}
	for name, spoil := range map[string]func([][]byte) [][]byte{
		"":                     func(all [][]byte) [][]byte { return all },
		"another name":         version(func(w *wireVersion) { w.Name = []byte("of nobody") }),
		"another time":         version(func(w *wireVersion) { w.ID.Stamp++ }),
		"another inode":        version(func(w *wireVersion) { w.Ino++ }),
		"another directory":    spoil(func(p *piece) { p.Docs[len(p.Docs)-1].Dir++ }),
		"another branch":       spoil(func(p *piece) { p.Docs[len(p.Docs)-1].Branch[0]++ }),
		"more kinds":           spoil(func(p *piece) { d := &p.Docs[0]; d.Kinds = append(d.Kinds, kindInode) }),
		"no time":              version(func(w *wireVersion) { w.ID.Stamp = -1 }),
		"what is not deflated": func(all [][]byte) [][]byte { return append(all, []byte("no piece")) },
		"what inflates":        func(all [][]byte) [][]byte { return append(all, bomb()) },
		"nothing":              func(all [][]byte) [][]byte { return append(all, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			owner, m, b := victim(t, identity.Admin)
			made := identity.Compaction{Bucket: b, Gen: 1}
			m.compact(b)
			have, err := m.packsOf(b)
			if err != nil {
				t.Fatal(err)
			}
			data, err := m.piecesOf(b, have[0].c.Pieces, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			made.Ends = have[0].c.Ends
			data = spoil(data)
			for _, d := range data {
				made.Pieces = append(made.Pieces, sha256.Sum256(d))
			}
			encoded, err := made.Seal(m.private)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := owner.AddCompactions(b, m.Key(), [][]byte{encoded}); err != nil {
				t.Fatal(err)
			}
			if _, err := owner.addPieces(&pieces{want{b, made.Body(), 0}, data}); err != nil {
				t.Fatal(err)
			}
			before, shown := owner.changes(b), owner.listing(b)
			for range 2 {
				if _, err := owner.Fold(t.Context(), b); err != nil {
					t.Error(err)
				}
			}
			if got := owner.changes(b); (got == 0) != (name == "") || got != 0 && got != before {
				t.Errorf("%d changes are left of %d", got, before)
			}
			if got := owner.listing(b); got != shown {
				t.Errorf("shows\n%s\nand showed\n%s", got, shown)
			}
			owner.fsck()
		})
	}
}

// zeros is a reader without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFoldRests: with nothing to do it writes nothing, which would wake whoever waits for
// commits.
func TestFoldRests(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	owner.compact(b)
	if err := m.hear(owner, b); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*store{owner, m} {
		if err := s.db.Commit(); err != nil {
			t.Fatal(err)
		}
		before := s.db.Generation()
		if moved, err := s.Fold(t.Context(), b); moved || err != nil {
			t.Errorf("moved %v, %v", moved, err)
		}
		if err := s.db.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := s.db.Generation(); got != before {
			t.Errorf("%s: generation %d, was %d", s.name, got, before)
		}
	}
}

// TestGenerationsGoOn has a record come again, and one of a lesser generation, after
// what they say was followed and replaced.
func TestGenerationsGoOn(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	var told [][]byte
	for range 2 {
		owner.compact(b)
		have, err := owner.packsOf(b)
		if err != nil || len(have) != 1 {
			t.Fatalf("%d compactions: %v", len(have), err)
		}
		told = append(told, have[0].c.encoded)
		if err := m.hear(owner, b); err != nil {
			t.Fatal(err)
		}
		owner.write(b, "file", "again")
		send(t, owner, m, b)
	}
	older := identity.Compaction{Bucket: b, Gen: 1}
	have, err := owner.packsOf(b)
	if err != nil {
		t.Fatal(err)
	}
	older.Ends, older.Pieces = have[0].c.Ends, have[0].c.Pieces
	b1, err := older.Seal(owner.private)
	if err != nil {
		t.Fatal(err)
	}
	shown, kept := m.listing(b), m.changes(b)
	for _, c := range append(told, b1) {
		if n, err := m.AddCompactions(b, owner.Key(), [][]byte{c}); n != 0 || err != nil {
			t.Errorf("taken in again: %d, %v", n, err)
		}
	}
	if moved, err := m.Fold(t.Context(), b); moved || err != nil {
		t.Errorf("followed: %v, %v", moved, err)
	}
	if m.listing(b) != shown || m.changes(b) != kept {
		t.Errorf("%d changes of %d, shows\n%s", m.changes(b), kept, m.listing(b))
	}
}
