package crdtsync

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// bytesOf opens the blob store of a node.
func bytesOf(t *testing.T, s *store) *blobstore.Store {
	t.Helper()
	b, err := blobstore.Open(t.Context(), s.dir, s.db, blobstore.Options{SyncAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// putBytes makes a file of a bucket's main with content that is here.
func (s *store) putBytes(blobs *blobstore.Store, b [16]byte, name string, p []byte) (h blobstore.Hash) {
	s.t.Helper()
	add := func(tx *schema.Tx) (err error) { h, err = blobs.PutInline(tx, p); return err }
	if len(p) > blobstore.InlineMax {
		st, err := blobs.NewStaging()
		if err == nil {
			_, err = st.WriteAt(p, 0)
		}
		if err == nil {
			h, err = st.Seal(s.t.Context(), int64(len(p)))
		}
		if err != nil {
			s.t.Fatal(err)
		}
		add = func(tx *schema.Tx) error { return blobs.AddFile(tx, h, int64(len(p))) }
	}
	s.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		if err := add(tx); err != nil {
			return err
		}
		_, err := v.Create(tx, v.Root(), name, pathtree.NewInode{Mode: unix.S_IFREG | 0o644, Hash: h, Size: int64(len(p))})
		return err
	})
	return h
}

func readAll(blobs *blobstore.Store, h blobstore.Hash, size int) ([]byte, error) {
	b, err := blobs.Open(h, int64(size))
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(io.NewSectionReader(b, 0, int64(size)))
	return p, errors.Join(err, b.Close())
}

func collect(t *testing.T, blobs *blobstore.Store) {
	t.Helper()
	if _, err := blobs.GC(t.Context(), blobstore.GCOptions{Grace: -1}); err != nil {
		t.Fatal(err)
	}
}

// TestContentOfUnsentChanges: what a node wrote that nobody heard stays with its bytes
// while the node may only read, or belongs to the bucket no more, and is collected as
// any other once it has been sent and removed, or with the bucket.
func TestContentOfUnsentChanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		role   identity.Role
		rotate bool // comes back with another key
	}{{"reader", identity.ReadOnly, false}, {"shut out", identity.None, true}} {
		t.Run(c.name, func(t *testing.T) {
			a, m := newStore(t, "a"), newStore(t, "m")
			b := a.makeBucket("team")
			m.admit(a, b, identity.ReadWrite)
			send(t, a, m, b)
			blobs := bytesOf(t, m)
			texts := map[string][]byte{"small": []byte("of m"), "large": bytes.Repeat([]byte("of m "), blobstore.InlineMax)}
			hashes := map[string]blobstore.Hash{}
			for name, p := range texts {
				hashes[name] = m.putBytes(blobs, b, name, p)
			}
			if _, err := m.Drain(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if err := a.Grant(b, m.Key(), c.role, ""); err != nil {
				t.Fatal(err)
			}
			tell(t, a, m, b)
			if l := m.listing(b); strings.Contains(l, "/small") {
				t.Fatalf("m still shows\n%s", l)
			}
			collect(t, blobs)
			if c.rotate {
				m.rotate()
			}
			m.letIn(a, b, identity.ReadWrite)
			tell(t, a, m, b)
			collect(t, blobs)
			send(t, m, a, b)
			if l := a.listing(b); !strings.Contains(l, "/small") || !strings.Contains(l, "/large") || l != m.listing(b) {
				t.Errorf("a shows\n%s\nand m\n%s", l, m.listing(b))
			}
			for name, p := range texts {
				got, err := readAll(blobs, hashes[name], len(p))
				if err != nil || !bytes.Equal(got, p) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
				if !m.MayRead(t.Context(), a.Key(), b, hashes[name]) {
					t.Errorf("%s may not be read by a", name)
				}
			}
			if n := leases(t, m); n != 0 {
				t.Errorf("%d contents are kept that a version names", n)
			}
		})
	}
}

// leases returns how many contents a store keeps for changes that it has not sent.
func leases(t *testing.T, s *store) (n int64) {
	t.Helper()
	err := s.db.Read(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT count(*) FROM lease WHERE owner LIKE 'unsent-%'")
		_, err := q.Step()
		n = q.ColumnInt64(0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestContentOfUnsentChangesGoes: with the bucket goes what it kept.
func TestContentOfUnsentChangesGoes(t *testing.T) {
	a, m := newStore(t, "a"), newStore(t, "m")
	b := a.makeBucket("team")
	m.admit(a, b, identity.ReadWrite)
	send(t, a, m, b)
	blobs := bytesOf(t, m)
	h := m.putBytes(blobs, b, "small", []byte("of m"))
	if _, err := m.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := a.Grant(b, m.Key(), identity.ReadOnly, ""); err != nil {
		t.Fatal(err)
	}
	tell(t, a, m, b)
	if n := leases(t, m); n != 1 {
		t.Fatalf("%d contents are kept", n)
	}
	err := m.db.Write(func(tx *schema.Tx) error {
		sh, err := m.lookup(tx, b)
		if err != nil {
			return err
		}
		return m.tree.RemoveBucket(tx, sh.bucket.Name)
	})
	if err != nil {
		t.Fatal(err)
	}
	collect(t, blobs)
	if _, err := readAll(blobs, h, 4); !errors.Is(err, blobstore.ErrMissing) {
		t.Errorf("the content of a bucket that was removed: %v", err)
	}
}
