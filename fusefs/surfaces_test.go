package fusefs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// twoMounts mounts one store twice, opened as two processes would.
func twoMounts(t *testing.T) (a, b string) {
	store := t.TempDir()
	a, _ = testMount(t, testStore(t, store), mainBranch)
	b, _ = testMount(t, testStore(t, store), mainBranch)
	return a, b
}

func TestOtherMountSeesPublishedContentOnly(t *testing.T) {
	a, b := twoMounts(t)
	fa, fb := filepath.Join(a, "f"), filepath.Join(b, "f")
	write(t, fa, "first")
	eventually(t, "the new file", func() bool { p, err := os.ReadFile(fb); return err == nil && string(p) == "first" })

	w := open(t, fa, os.O_RDWR)
	if _, err := w.WriteAt([]byte("SECOND"), 0); err != nil {
		t.Fatal(err)
	}
	if got := read(t, fa); got != "SECOND" {
		t.Fatalf("the same mount reads %q", got)
	}
	if got := read(t, fb); got != "first" {
		t.Fatalf("the other mount reads %q before the close", got)
	}
	w.Close()
	eventually(t, "the new content", func() bool { return read(t, fb) == "SECOND" })
}

// TestOtherMountsCachesAreDropped: whatever the kernel holds for one mount is
// dropped when another changes it, also under a file that stays open.
func TestOtherMountsCachesAreDropped(t *testing.T) {
	a, b := twoMounts(t)
	big := strings.Repeat("x", 300<<10)
	write(t, filepath.Join(a, "f"), big)
	if err := os.Mkdir(filepath.Join(a, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the directory", func() bool { _, err := os.Stat(filepath.Join(b, "d")); return err == nil })

	f := open(t, filepath.Join(b, "f"), os.O_RDONLY)
	if readAt(t, f, 0, len(big)) != big {
		t.Fatal("read something else")
	}
	missing := filepath.Join(b, "d/missing")
	if _, err := os.Stat(missing); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if names(t, filepath.Join(b, "d")) != "" {
		t.Fatal("not empty")
	}

	write(t, filepath.Join(a, "f"), strings.Repeat("y", 200<<10))
	eventually(t, "pages of an open file", func() bool { return readAt(t, f, 0, 1<<20) == strings.Repeat("y", 200<<10) })
	write(t, filepath.Join(a, "d/missing"), "here")
	eventually(t, "a name that was missing", func() bool { _, err := os.Stat(missing); return err == nil })
	eventually(t, "a listing", func() bool { return names(t, filepath.Join(b, "d")) == "missing" })
	if err := os.Chmod(filepath.Join(a, "f"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a mode", func() bool { st, err := os.Stat(filepath.Join(b, "f")); return err == nil && st.Mode() == 0o600 })
	if err := os.Rename(filepath.Join(a, "d/missing"), filepath.Join(a, "moved")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a rename", func() bool { return names(t, b) == "d f moved" && names(t, filepath.Join(b, "d")) == "" })
	eventually(t, "a name that was renamed", func() bool { _, err := os.Stat(missing); return os.IsNotExist(err) })
	if err := os.Link(filepath.Join(a, "f"), filepath.Join(a, "l")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a link count", func() bool {
		var st unix.Stat_t
		return unix.Stat(filepath.Join(b, "f"), &st) == nil && st.Nlink == 2
	})
	if err := os.Remove(filepath.Join(a, "d")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a removal", func() bool { _, err := os.Stat(filepath.Join(b, "d")); return os.IsNotExist(err) })
	if err := unix.Setxattr(filepath.Join(a, "f"), "user.k", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an attribute", func() bool {
		p := make([]byte, 9)
		n, err := unix.Getxattr(filepath.Join(b, "f"), "user.k", p)
		return err == nil && string(p[:n]) == "v"
	})
}

// TestWorkingDirectoryOutlivesChangesAroundIt: a change elsewhere must not cut
// off a directory that a program of this mount is in.
func TestWorkingDirectoryOutlivesChangesAroundIt(t *testing.T) {
	a, b := twoMounts(t)
	if err := os.Mkdir(filepath.Join(a, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the directory", func() bool { _, err := os.Stat(filepath.Join(b, "d")); return err == nil })
	fd, err := unix.Open(filepath.Join(b, "d"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.Rename(filepath.Join(a, "d"), filepath.Join(a, "e")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(a, "e/f"), "x")
	eventually(t, "the file in the directory", func() bool {
		var st unix.Stat_t
		return unix.Fstatat(fd, "f", &st, 0) == nil
	})
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestMountOfABucket(t *testing.T) {
	store := t.TempDir()
	c := testStore(t, store)
	dir, _ := testMount(t, c, Options{Bucket: "b"})
	write(t, filepath.Join(dir, "main/f"), "main")
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "main work" {
		t.Fatal(got)
	}
	if got := read(t, filepath.Join(dir, "work/f")); got != "main" {
		t.Fatalf("the fork reads %q", got)
	}
	write(t, filepath.Join(dir, "work/f"), "work")
	if got := read(t, filepath.Join(dir, "main/f")); got != "main" {
		t.Fatalf("main reads %q", got)
	}
	var x, y unix.Stat_t
	if unix.Stat(filepath.Join(dir, "main/f"), &x) != nil || unix.Stat(filepath.Join(dir, "work/f"), &y) != nil || x.Ino == y.Ino {
		t.Fatal("two branches share an inode number", x.Ino, y.Ino)
	}
	for what, err := range map[string]error{
		"rmdir":  unix.Rmdir(filepath.Join(dir, "work")),
		"rename": unix.Rename(filepath.Join(dir, "work"), filepath.Join(dir, "other")),
		"create": unix.Mknod(filepath.Join(dir, "file"), unix.S_IFREG|0o644, 0),
		"chmod":  unix.Chmod(dir, 0o700),
	} {
		if err != unix.EPERM {
			t.Errorf("%s at the level of branches: %v, want EPERM", what, err)
		}
	}
	if err := os.Link(filepath.Join(dir, "main/f"), filepath.Join(dir, "work/l")); err == nil || !strings.Contains(err.Error(), "cross-device") {
		t.Error("link between branches:", err)
	}

	other := testStore(t, store) // another process
	err := other.DB.Write(func(tx *schema.Tx) error {
		b, err := other.Tree.Bucket(tx, "b")
		if err != nil {
			return err
		}
		work, err := other.Tree.Branch(tx, b.ID, "work")
		if err != nil {
			return err
		}
		if err := other.Tree.RemoveBranch(tx, work.ID); err != nil {
			return err
		}
		_, err = other.Tree.CreateBranch(tx, b.ID, "fresh", pathtree.Origin{Branch: work.ID})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "branches made and removed elsewhere", func() bool {
		_, gone := os.Stat(filepath.Join(dir, "work"))
		return names(t, dir) == "fresh main" && os.IsNotExist(gone)
	})
	if got := read(t, filepath.Join(dir, "fresh/f")); got != "work" {
		t.Fatalf("read %q", got)
	}
}

// A branch that descends from one of which not all is here is not listed, and does not
// hinder that the others are.
func TestBranchesThatAreComing(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, _ := testMount(t, c, Options{Bucket: "b"})
	err := c.DB.Write(func(tx *schema.Tx) error {
		b, err := c.Tree.Bucket(tx, "b")
		if err != nil {
			return err
		}
		main, err := c.Tree.Branch(tx, b.ID, "main")
		if err != nil {
			return err
		}
		if _, err := c.Tree.CreateBranch(tx, b.ID, "from main", pathtree.Origin{Branch: main.ID}); err != nil {
			return err
		}
		return c.Tree.SetKeep(tx, b.ID, map[int64]pathtree.Keeping{main.ID: pathtree.Coming})
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "no branch", func() bool { return names(t, dir) == "" })
}

func TestMountOfEverything(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, _ := testMount(t, c, Options{})
	write(t, filepath.Join(dir, "b/main/f"), "x")
	if got := names(t, dir) + "/" + names(t, filepath.Join(dir, "b")) + "/" + names(t, filepath.Join(dir, "b/main")); got != "b/main/f" {
		t.Fatal(got)
	}
	if err := unix.Mkdir(filepath.Join(dir, "c"), 0o755); err != unix.EPERM {
		t.Fatal(err)
	}
	err := c.DB.Write(func(tx *schema.Tx) error { _, err := c.Tree.CreateBucket(tx, "c"); return err })
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new bucket", func() bool { _, err := os.Stat(filepath.Join(dir, "c/main")); return err == nil })
}

// TestLiveBranchShowsItsParentsChanges, also those made through the same mount.
func TestLiveBranchShowsItsParentsChanges(t *testing.T) {
	c := testStore(t, t.TempDir())
	err := c.DB.Write(func(tx *schema.Tx) error {
		b, err := c.Tree.Bucket(tx, "b")
		if err != nil {
			return err
		}
		main, err := c.Tree.Branch(tx, b.ID, "main")
		if err != nil {
			return err
		}
		_, err = c.Tree.CreateBranch(tx, b.ID, "live", pathtree.Origin{Branch: main.ID, Live: true})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := testMount(t, c, Options{Bucket: "b"})
	live := filepath.Join(dir, "live/f")
	if _, err := os.Stat(live); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "main/f"), "one")
	eventually(t, "a file of the parent", func() bool { p, err := os.ReadFile(live); return err == nil && string(p) == "one" })
	write(t, filepath.Join(dir, "main/f"), "two")
	eventually(t, "content of the parent", func() bool { return read(t, live) == "two" })
}

// TestLostWritesAreForgotten: after the loss of acknowledged writes the mount
// shows what is in the database, whatever it and the kernel had kept.
func TestLostWritesAreForgotten(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, s := testMount(t, c, mainBranch)
	path := filepath.Join(dir, "f")
	write(t, path, "x")
	m := mode(t, path) // the kernel keeps it
	var in pathtree.Inode
	err := c.DB.Write(func(tx *schema.Tx) (err error) {
		view := s.fs.nodes.get(1).vol.view // its events are this mount's own: it does not look at them
		if in, err = view.LookupInode(tx, view.Root(), "f"); err != nil {
			return err
		}
		changed := m ^ 0o111
		_, err = view.SetAttr(tx, in.Ino, pathtree.SetAttr{Mode: &changed})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := mode(t, path); got != m {
		t.Fatalf("mode %o: the test needs what it changed to be kept", got)
	}
	s.fs.lost.Store(true)
	if err := c.DB.Write(func(tx *schema.Tx) error { tx.NextStamp(); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.DB.Commit(); err != nil { // wakes, as a loss does
		t.Fatal(err)
	}
	eventually(t, "what the database holds", func() bool { return mode(t, path) == m^0o111 })
}
