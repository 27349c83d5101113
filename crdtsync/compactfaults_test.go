package crdtsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// spoiltPieces has s be sent the pieces of from's first compaction, as spoil leaves them.
func (s *store) spoiltPieces(from *store, b [16]byte, spoil func(data [][]byte) [][]byte) error {
	have, err := from.packsOf(b)
	if err != nil || len(have) == 0 {
		return fmt.Errorf("%d compactions: %w", len(have), err)
	}
	data, err := from.piecesOf(b, have[0].c.Pieces, 1<<30)
	if err != nil {
		return err
	}
	_, err = s.addPieces(&pieces{want{b, have[0].body, 0}, spoil(data)})
	return err
}

// TestPiecesOfAnother has pieces come that are not those which a compaction names.
func TestPiecesOfAnother(t *testing.T) {
	for name, spoil := range map[string]func([][]byte) [][]byte{
		"a byte changed":  func(d [][]byte) [][]byte { d[0][len(d[0])/2]++; return d },
		"another order":   func(d [][]byte) [][]byte { d[0], d[1] = d[1], d[0]; return d },
		"one more":        func(d [][]byte) [][]byte { return append(d, d[0]) },
		"of other bucket": nil,
	} {
		t.Run(name, func(t *testing.T) {
			owner, m, b := victim(t, identity.ReadWrite)
			joiner := newStore(t, "joiner")
			joiner.admit(owner, b, identity.ReadWrite)
			owner.compact(b)
			have, err := owner.packsOf(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := joiner.AddCompactions(b, m.Key(), [][]byte{have[0].c.encoded}); err != nil {
				t.Fatal(err)
			}
			if spoil == nil {
				other := owner.makeBucket("other")
				owner.write(other, "secret", "of other")
				owner.compact(other)
				theirs, err := owner.packsOf(other)
				if err != nil {
					t.Fatal(err)
				}
				spoil = func([][]byte) [][]byte {
					data, err := owner.piecesOf(other, theirs[0].c.Pieces, 1<<30)
					if err != nil {
						t.Fatal(err)
					}
					return data
				}
				if _, err := joiner.AddCompactions(b, owner.Key(), [][]byte{theirs[0].c.encoded}); !errors.Is(err, ErrRefused) {
					t.Errorf("a compaction of another bucket: %v", err)
				}
			}
			if err := joiner.spoiltPieces(owner, b, spoil); !errors.Is(err, ErrRefused) {
				t.Errorf("taken in: %v", err)
			}
			if moved, err := joiner.Fold(t.Context(), b); moved || err != nil {
				t.Errorf("followed: %v, %v", moved, err)
			}
			if marks, err := joiner.Marks(b); err != nil || len(marks) != 0 {
				t.Errorf("marks %v, %v", marks, err)
			}
			if err := joiner.hear(owner, b); err != nil {
				t.Fatal(err)
			}
			sameTrees(t, b, owner, joiner)
		})
	}
}

// TestSilentPeer has a peer not answer for pieces of a pack: another is asked then, not
// before.
func TestSilentPeer(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	joiner := newStore(t, "joiner")
	joiner.admit(owner, b, identity.ReadWrite)
	owner.compact(b)
	told, err := owner.packsOf(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := joiner.AddCompactions(b, m.Key(), [][]byte{told[0].c.encoded}); err != nil {
		t.Fatal(err)
	}
	have, err := joiner.packsOf(b)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		e := NewEngine(joiner.Replica, newMemNet().node("joiner", joiner.Key()), Options{})
		asks := func(k identity.Key) bool {
			var sent bytes.Buffer
			f := newFeed()
			f.packs.theirs[told[0].body] = true
			if err := newSession(e, k, &sent).askPieces(b, f, have); err != nil {
				t.Fatal(err)
			}
			return sent.Len() > 0
		}
		if !asks(m.Key()) {
			t.Error("nobody is asked")
		}
		time.Sleep(askPatience - 1)
		e.releaseSilent()
		if asks(owner.Key()) {
			t.Error("two are asked at once")
		}
		time.Sleep(time.Nanosecond)
		wait := e.packs.wait()
		e.releaseSilent()
		select {
		case <-wait:
		default:
			t.Error("who waits is not told")
		}
		if !asks(owner.Key()) {
			t.Error("nobody else is asked")
		}
	})
}

// TestTellsWithoutEnd: what a peer tells of packs takes no memory without bound.
func TestTellsWithoutEnd(t *testing.T) {
	p := &newFeed().packs
	for i := range 3 * maxTold {
		hash := [32]byte{byte(i), byte(i >> 8)}
		p.heard(&compacted{New: [][]byte{hash[:]}, Whole: [][32]byte{hash}})
		p.heard(&compacted{New: [][]byte{hash[:]}})
		if !p.theirs[hash] {
			t.Fatal("what the peer has is forgotten")
		}
	}
	if len(p.told) > maxTold || len(p.theirs) != 1 {
		t.Errorf("%d compactions and %d packs are noted", len(p.told), len(p.theirs))
	}
}

// TestFullDiskWhileCompacting has the disk be full wherever a compaction is followed: once
// there is room it goes on.
func TestFullDiskWhileCompacting(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	for i := range 300 {
		a.write(b, fmt.Sprint("dir/", i), "of a")
	}
	a.compact(b)
	if err := c.receivePacks(a, b); err != nil {
		t.Fatal(err)
	}
	if err := c.db.Sync(); err != nil {
		t.Fatal(err)
	}
	packed := crashed(t, c.dir)
	if err := c.hear(a, b); err != nil {
		t.Fatal(err)
	}
	full := 0
	for free := 0; free < 2<<20; free += 64 << 10 {
		dir := t.TempDir()
		if err := syscall.Mount("alkfs-test", dir, "tmpfs", 0, "size=24m"); err != nil {
			t.Fatalf("mount a small file system (needs root): %v", err)
		}
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
		store := filepath.Join(dir, "store")
		copyStore(t, packed, store)
		s := openStore(t, "c", store)
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		filler := filepath.Join(dir, "filler")
		if err := os.WriteFile(filler, make([]byte, max(0, int64(st.Bavail)*st.Bsize-int64(free))), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Fold(t.Context(), b)
		if err == nil {
			err = s.db.Sync()
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			break
		}
		full++
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d KiB free: %v", free>>10, err)
		}
		s = openStore(t, "c", crashed(t, store))
		s.fsck()
		if _, err := s.Fold(t.Context(), b); err != nil {
			t.Fatalf("%d KiB were free: %v", free>>10, err)
		}
		sameTrees(t, b, c, s)
		if n := s.changes(b); n != 0 {
			t.Errorf("%d changes stay", n)
		}
	}
	if full == 0 {
		t.Error("the disk was never full")
	}
	t.Logf("%d times", full)
}

// TestTwoCompactors has two compact what each has, without hearing of the other, and then
// of both, in either order.
func TestTwoCompactors(t *testing.T) {
	for _, first := range []int{0, 1} {
		a, c, d := newStore(t, "a"), newStore(t, "c"), newStore(t, "d")
		b := a.makeBucket("team")
		c.admit(a, b, identity.Admin)
		d.admit(a, b, identity.ReadWrite)
		a.write(b, "both", "of a")
		send(t, a, c, b)
		a.write(b, "both", "of a, later")
		a.write(b, "of a", "a")
		c.write(b, "of c", "c")
		a.compact(b)
		c.compact(b)
		for _, s := range []*store{d, a, c} {
			from := []*store{a, c}
			for _, o := range []*store{from[first], from[1-first]} {
				if o != s {
					if err := s.hear(o, b); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		send(t, c, a, b)
		for _, s := range []*store{a, d, c} {
			if err := s.hear(a, b); err != nil {
				t.Fatal(err)
			}
		}
		sameTrees(t, b, a, c, d)
		a.write(b, "at last", "a")
		send(t, a, c, b)
		c.compact(b)
		for _, s := range []struct{ to, from *store }{{a, c}, {d, a}, {c, a}} {
			if err := s.to.hear(s.from, b); err != nil {
				t.Fatal(err)
			}
		}
		sameTrees(t, b, a, c, d)
		for _, s := range []*store{a, c, d} {
			if n := s.changes(b); n != 0 {
				t.Errorf("%s keeps %d changes", s.name, n)
			}
		}
	}
}

// own returns the versions that s wrote and has.
func (s *store) own(t *testing.T, b [16]byte) map[string]bool {
	t.Helper()
	own := map[string]bool{}
	for v, by := range s.versions(b) {
		if by == pathtree.NodeKey(s.Key()) {
			own[v] = true
		}
	}
	return own
}

// versions returns the versions that s has, with who wrote them.
func (s *store) versions(b [16]byte) map[string]pathtree.NodeKey {
	s.t.Helper()
	all := map[string]pathtree.NodeKey{}
	err := s.db.Write(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		if err != nil {
			return err
		}
		_, err = s.tree.ExportAll(tx, sh.bucket.ID, func(v *pathtree.Version) error {
			all[thingKey(v)+v.ID.String()] = v.ID.Node
			return nil
		})
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// TestTakenBackOnlyWhatIsCovered has a node that was away hear of a compaction after
// history was pruned: what it wrote and nobody heard stays, also what it may not send.
func TestTakenBackOnlyWhatIsCovered(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.write(b, "file", "1")
	send(t, a, c, b)
	c.write(b, "sent before", "c")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	send(t, c, a, b)
	c.write(b, "in a change", "c")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.write(b, "waiting", "c")
	a.write(b, "file", "2")
	a.write(b, "file", "3")
	if err := a.Grant(b, c.Key(), identity.ReadOnly, "c"); err != nil {
		t.Fatal(err)
	}
	a.prune()
	a.compact(b)
	grants, _, err := a.Grants(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := c.own(t, b)
	if err := c.hear(a, b); err != nil {
		t.Fatal(err)
	}
	for v := range before {
		if !c.own(t, b)[v] {
			t.Errorf("lost: %s", v)
		}
	}
	if _, err := c.AddGrants(b, grants); err != nil {
		t.Fatal(err)
	}
	if err := a.Grant(b, c.Key(), identity.ReadWrite, "c"); err != nil {
		t.Fatal(err)
	}
	if grants, _, err = a.Grants(b, 0); err == nil {
		_, err = c.AddGrants(b, grants)
	}
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, a, b)
	send(t, a, c, b)
	for v := range before {
		if !c.own(t, b)[v] {
			t.Errorf("lost once it may write again: %s", v)
		}
	}
	sameTrees(t, b, a, c)
}

// countdown is a context that ends when it has been asked so often whether it has.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestKilledWhileCompacting has a node be killed wherever a compaction, or what
// follows one elsewhere, can be interrupted: started again it comes to the same.
func TestKilledWhileCompacting(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	for i := range 6 {
		a.write(b, fmt.Sprint("dir/", i), "of a")
	}
	a.write(b, "goes", "of a")
	send(t, a, c, b)
	c.write(b, "of c", "away")
	if _, err := c.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.write(b, "waiting", "away")
	a.remove(b, "goes")
	for i := range 6 {
		a.write(b, fmt.Sprint("dir/", i), fmt.Sprint("of a, again ", i))
	}
	a.prune()
	if err := a.db.Sync(); err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(t.TempDir(), "a")
	copyStore(t, a.dir, before)
	a.compact(b)
	if err := c.receivePacks(a, b); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*store{a, c} {
		if err := s.db.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	packed := filepath.Join(t.TempDir(), "c")
	copyStore(t, c.dir, packed)
	if err := c.hear(a, b); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		name, dir string
		like      *store
		do        func(s *store, ctx context.Context) error
	}{
		{"a", before, a, func(s *store, ctx context.Context) error { _, err := s.Compact(ctx, b, nil); return err }},
		{"c", packed, c, func(s *store, ctx context.Context) error { _, err := s.Fold(ctx, b); return err }},
	} {
		interrupted := 0
		for left := 0; ; left++ {
			s := openStore(t, k.name, crashed(t, k.dir))
			err := k.do(s, &countdown{t.Context(), left})
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatalf("%s, interrupted after %d: %v", k.name, left, err)
			}
			dir := crashed(t, s.dir)
			if left%2 == 0 {
				if err := s.db.Commit(); err != nil {
					t.Fatal(err)
				}
				dir = crashed(t, s.dir)
			}
			s = openStore(t, k.name, dir)
			s.fsck()
			if again := k.do(s, t.Context()); again != nil {
				t.Fatalf("%s, after it was killed at %d: %v", k.name, left, again)
			}
			sameTrees(t, b, k.like, s)
			if got, want := s.own(t, b), k.like.own(t, b); len(got) != len(want) {
				t.Errorf("%s, killed at %d, has %d versions of its own, not %d", k.name, left, len(got), len(want))
			}
			if got, want := s.changes(b), k.like.changes(b); got != want {
				t.Errorf("%s, killed at %d, keeps %d changes, not %d", k.name, left, got, want)
			}
			if err == nil {
				break
			}
			interrupted++
		}
		if interrupted < 5 {
			t.Errorf("%s was interrupted %d times", k.name, interrupted)
		}
		t.Logf("%s was killed at %d places", k.name, interrupted)
	}
}

// crashed returns a copy of a store as it is on the disk.
func crashed(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "store")
	copyStore(t, dir, to)
	return to
}
