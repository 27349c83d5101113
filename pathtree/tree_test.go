package pathtree

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// world is a store with one bucket, and operations that fail the test.
type world struct {
	t      testing.TB
	db     *schema.DB
	tree   *Tree
	bucket Bucket
	main   *View
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db, err := schema.Open(context.Background(), t.TempDir(), schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, db: db, tree: New(db)}
	w.use("default")
	return w
}

// use goes on in a new bucket.
func (w *world) use(name string) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) (err error) {
		w.bucket, err = w.tree.CreateBucket(tx, name)
		return err
	})
	w.main = w.view(MainBranch, 0)
}

func (w *world) write(f func(tx *schema.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(f func(tx *schema.Tx) error) {
	w.t.Helper()
	if err := w.db.Read(f); err != nil {
		w.t.Fatal(err)
	}
}

// fails checks that f returns errno, and keeps nothing of it.
func (w *world) fails(errno syscall.Errno, f func(tx *schema.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(f); Errno(err) != errno {
		w.t.Errorf("got %v, want %v", err, errno)
	}
}

func (w *world) view(branch string, at schema.Stamp) (v *View) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) error {
		b, err := w.tree.Branch(tx, w.bucket.ID, branch)
		if err != nil {
			return err
		}
		v, err = w.tree.View(tx, b.ID, at)
		return err
	})
	return v
}

func (w *world) fork(from *View, name string, o Origin) *View {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		o.Branch = from.Branch().ID
		_, err := w.tree.CreateBranch(tx, w.bucket.ID, name, o)
		return err
	})
	return w.view(name, 0)
}

// stamp returns one later than all so far.
func (w *world) stamp() (s schema.Stamp) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error { s = tx.NextStamp(); return nil })
	return s
}

// make creates path (its parent must exist); a trailing slash makes a directory.
func (w *world) make(v *View, path string) (in Inode) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		n := NewInode{Mode: unix.S_IFREG | 0o644}
		if strings.HasSuffix(path, "/") {
			n.Mode = unix.S_IFDIR | 0o755
		}
		dir, base, err := v.ResolveParent(tx, path)
		if err != nil {
			return err
		}
		in, err = v.Create(tx, dir.Ino, base, n)
		return err
	})
	return in
}

func (w *world) rename(v *View, from, to string, flags uint32) (r RenameResult, err error) {
	err = w.db.Write(func(tx *schema.Tx) error {
		a, an, err := v.ResolveParent(tx, from)
		if err != nil {
			return err
		}
		b, bn, err := v.ResolveParent(tx, to)
		if err != nil {
			return err
		}
		r, err = v.Rename(tx, a.Ino, an, b.Ino, bn, flags)
		return err
	})
	return r, err
}

func (w *world) unlink(v *View, path string) (in Inode) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		dir, base, err := v.ResolveParent(tx, path)
		if err != nil {
			return err
		}
		if in, err = v.Unlink(tx, dir.Ino, base); errors.Is(err, syscall.EISDIR) {
			in, err = v.Rmdir(tx, dir.Ino, base)
		}
		return err
	})
	return in
}

func (w *world) setContent(v *View, path, content string) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		in, err := v.Resolve(tx, path)
		if err != nil {
			return err
		}
		_, err = v.SetContent(tx, in.Ino, Content{Hash: blobstore.Sum([]byte(content)), Size: int64(len(content))})
		return err
	})
}

func (w *world) stat(v *View, path string) (in Inode, err error) {
	err = w.db.Read(func(tx *schema.Tx) (err error) {
		in, err = v.Resolve(tx, path)
		return err
	})
	return in, err
}

func (w *world) mustStat(v *View, path string) Inode {
	w.t.Helper()
	in, err := w.stat(v, path)
	if err != nil {
		w.t.Fatal(err)
	}
	return in
}

// list returns every path in v, sorted, directories with a slash.
func (w *world) list(v *View) string {
	w.t.Helper()
	var out []string
	var walk func(tx *schema.Tx, dir Ino, at string) error
	walk = func(tx *schema.Tx, dir Ino, at string) error {
		entries, inodes, err := v.ReadDirPlus(tx, dir, "", 0)
		if err != nil {
			return err
		}
		for i, e := range entries {
			p := at + e.Name
			if inodes[i].Mode&unix.S_IFMT != e.Kind || inodes[i].Ino != e.Ino {
				return fmt.Errorf("%q: entry %+v, inode %+v", p, e, inodes[i])
			}
			if got, err := v.Lookup(tx, dir, e.Name); err != nil || got != e {
				return fmt.Errorf("%q: lookup %+v %v, readdir %+v", p, got, err, e)
			}
			if !e.IsDir() {
				out = append(out, p)
				continue
			}
			out = append(out, p+"/")
			if err := walk(tx, e.Ino, p+"/"); err != nil {
				return err
			}
		}
		return nil
	}
	w.read(func(tx *schema.Tx) error { return walk(tx, v.Root(), "") })
	return strings.Join(out, " ")
}

func (w *world) wantList(v *View, want string) {
	w.t.Helper()
	if got := w.list(v); got != want {
		w.t.Errorf("branch %s at %d:\n got %s\nwant %s", v.Branch().Name, v.At(), got, want)
	}
}

// age makes all versions so far too old to be overwritten in place.
func (w *world) age() {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		tx.ObserveStamp(tx.NextStamp() + (coalesce+1)<<16)
		return nil
	})
}

func (w *world) count(query string) (n int64) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) error {
		s := tx.Stmt(query)
		_, err := s.Step()
		n = s.ColumnInt64(0)
		return err
	})
	return n
}
