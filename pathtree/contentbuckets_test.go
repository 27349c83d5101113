package pathtree

import (
	"context"
	"testing"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// What a write session began on may be the last copy of what another node's history
// names: it is asked for there when the session ends, and until then the bucket is known
// in which it can be had.
func TestContentIsGuardedWhileASessionHasIt(t *testing.T) {
	for name, remote := range map[string]bool{"here": false, "elsewhere": true} {
		t.Run(name, func(t *testing.T) {
			all := newReplicas(t, 2)
			a, b := all[0], all[1]
			a.make(a.main, "f")
			a.setContent(a.main, "f", "the first, which stays")
			a.age()
			a.setContent(a.main, "f", "1")
			meet(a, b)
			r := a
			if remote {
				r = b
			}
			blobs, err := blobstore.Open(t.Context(), t.TempDir(), r.db, blobstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			old := r.mustStat(r.main, "f")
			if !remote {
				r.write(func(tx *schema.Tx) error { _, err := blobs.PutInline(tx, []byte("1")); return err })
			}
			r.write(func(tx *schema.Tx) error {
				if _, err := tx.Stmt("UPDATE bucket SET shared = 1").Step(); err != nil {
					return err
				}
				s := tx.Stmt("INSERT INTO write_session (id, owner, branch, ino, base, size, mtime, staging, created, updated) VALUES (1, 'me', ?, ?, ?, 0, 0, '', 0, 0)")
				s.BindInt64(1, r.main.branch.ID)
				s.BindInt64(2, int64(old.Ino))
				s.BindBytes(3, old.Hash[:])
				_, err := s.Step()
				return err
			})
			r.age()
			r.setContent(r.main, "f", "2")
			r.later(48 * time.Hour)
			r.pruneAll(r.stamp(), 0)
			if n := r.count("SELECT count(*) FROM inode WHERE hash IS NOT NULL"); n != 2 {
				t.Fatalf("%d versions of the file are left", n)
			}
			var uuids [][16]byte
			r.read(func(tx *schema.Tx) (err error) {
				uuids, err = r.tree.BucketsWith(tx, old.Hash)
				return err
			})
			if len(uuids) != 1 {
				t.Errorf("while the session goes on it is to be had in %d buckets", len(uuids))
			}
			r.write(func(tx *schema.Tx) error {
				_, err := tx.Stmt("DELETE FROM write_session").Step()
				return err
			})
			if _, err := blobs.GC(t.Context(), blobstore.GCOptions{Grace: -1}); err != nil {
				t.Fatal(err)
			}
			asked := 0
			_, _, err = blobs.CollectGuarded(t.Context(), -1, func(_ context.Context, _ [16]byte, list []blobstore.Guarded) ([]bool, error) {
				asked += len(list)
				return make([]bool, len(list)), nil
			})
			if err != nil || (asked == 1) == remote {
				t.Errorf("asked about %d when it has ended, %v", asked, err)
			}
			if n := r.count("SELECT count(*) FROM guard"); (n == 1) == remote {
				t.Errorf("%d contents are guarded in the end", n)
			}
		})
	}
}
