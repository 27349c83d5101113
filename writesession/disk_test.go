package writesession

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// tinyDisk mounts a memory file system of n bytes.
func tinyDisk(t *testing.T, n string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("alkfs-test", dir, "tmpfs", 0, "size="+n); err != nil {
		t.Skip("mounting a small tmpfs needs root: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ballast fills the disk but for some bytes.
func ballast(t *testing.T, dir string, leave uint64) (free func()) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ballast")
	if err := os.WriteFile(path, make([]byte, st.Bavail*uint64(st.Bsize)-leave), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func expectFull(t *testing.T, err error) {
	t.Helper()
	if pathtree.Errno(err) != syscall.ENOSPC {
		t.Fatalf("got %v, want ENOSPC", err)
	}
}

func TestFullDiskAtWriteKeepsWhatWasWritten(t *testing.T) {
	dir := tinyDisk(t, "48m")
	w := openWorld(t, dir, small)
	f := w.create(w.main, "f")
	old := fill(1<<20, 1)
	w.put(f, 0, old)
	w.publish(f)
	free := ballast(t, dir, 1<<20)
	chunk := fill(256<<10, 2)
	now := append([]byte(nil), old...)
	for {
		n, err := f.WriteAt(chunk, int64(len(now)))
		now = append(now, chunk[:n]...)
		if err != nil {
			expectFull(t, err)
			break
		}
	}
	w.holds(f, now)
	w.same(w.published(w.main, "f"), old)
	_, err := f.Publish(ctx)
	expectFull(t, err)
	w.holds(f, now)
	w.same(w.published(w.main, "f"), old)
	expectFull(t, f.Close()) // nobody has it open now, and yet
	f = w.open(w.main, "f")
	w.holds(f, now)
	free()
	_, err = f.Publish(ctx) // half of what was to be written does not replace the old version
	expectFull(t, err)
	w.put(f, int64(len(now)), chunk)
	now = append(now, chunk...)
	w.shut(f)
	w.same(w.published(w.main, "f"), now)
	if len(w.sessions()) != 0 || w.s.Stats().Open != 0 {
		t.Fatal(w.sessions(), w.s.Stats())
	}
	w.noStaging()
}

func TestFullDiskAtCloseOfSmallFiles(t *testing.T) {
	dir := tinyDisk(t, "48m")
	w := openWorld(t, dir, small)
	f := w.create(w.main, "f")
	old := fill(5000, 1)
	w.put(f, 0, old)
	w.publish(f)
	if err := w.db.Commit(); err != nil {
		t.Fatal(err)
	}
	free := ballast(t, dir, 0)
	now := fill(16000, 2)
	w.put(f, 0, now)
	expectFull(t, f.Sync(ctx))
	w.holds(f, now)
	w.same(w.published(w.main, "f"), old)
	expectFull(t, f.Close())
	f = w.open(w.main, "f")
	w.holds(f, now)
	free()
	if err := f.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	w.shut(f)
	w.same(w.published(w.main, "f"), now)
}

func TestAbortOnAFullDisk(t *testing.T) {
	dir := tinyDisk(t, "48m")
	w := openWorld(t, dir, small)
	f := w.create(w.main, "f")
	w.put(f, 0, fill(4<<20, 1))
	w.publish(f)
	free := ballast(t, dir, 0)
	defer free()
	if _, err := f.WriteAt(fill(1<<20, 2), 0); err != nil {
		expectFull(t, err)
	}
	f.Abort()
	w.holds(f, fill(4<<20, 1))
	w.shut(f)
	w.read(func(tx *schema.Tx) error {
		_, err := w.main.Inode(tx, f.Ino())
		return err
	})
}
