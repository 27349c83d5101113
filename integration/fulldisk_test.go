package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk makes and mounts an ext4 file system of the given size.
func smallDisk(t testing.TB, mib int) (dir, image string) {
	t.Helper()
	needRoot(t)
	image, dir = filepath.Join(t.TempDir(), "disk"), t.TempDir()
	f, err := os.Create(image)
	must(t, err)
	must(t, f.Truncate(int64(mib)<<20))
	must(t, f.Close())
	tool{}.run(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image)
	t.Cleanup(func() { detach(dir) })
	tool{}.run(t, "mount", "-o", "loop", image, dir)
	return dir, image
}

// fill takes all space on the disk but about keep bytes, in a file it returns.
func fill(t testing.TB, dir string, keep int64) string {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	must(t, err)
	defer f.Close()
	must(t, syscall.Fallocate(int(f.Fd()), 0, 0, free(t, dir)-keep))
	return ballast
}

// free returns the bytes that may still be written to a disk.
func free(t testing.TB, dir string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	must(t, syscall.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// put writes a file as a program would that looks at every error.
func put(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// On a full disk a write or the close after it fails with ENOSPC, what was
// there stays, what was acknowledged is kept, and once there is space again the
// store works and is in order.
func TestFullDisk(t *testing.T) {
	disk, _ := smallDisk(t, 96)
	s := storeAt(t, filepath.Join(disk, "store"))
	m := s.mount(t)
	old := filled('o', 1<<20)
	must(t, put(m.path("old"), old))
	must(t, put(m.path("small"), []byte("small")))
	m.settle(t)
	ballast := fill(t, disk, 12<<20)
	t.Logf("%d KiB left", free(t, disk)>>10)

	// Small files, until one fails.
	kept := map[string][]byte{}
	var err error
	for i := 0; i < 20_000 && err == nil; i++ {
		name := fmt.Sprintf("f%05d", i)
		b := bytes.Repeat([]byte(name), 700)
		if err = put(m.path(name), b); err == nil {
			kept[name] = b
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || len(kept) == 0 {
		t.Errorf("small files, after %d of them: %v, want ENOSPC", len(kept), err)
	}
	t.Logf("%d small files went in", len(kept))
	if err := put(m.path("old"), filled('n', 40<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("overwriting with 40 MiB: %v, want ENOSPC", err)
	}
	if err := put(m.path("new"), filled('n', 40<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a new file of 40 MiB: %v, want ENOSPC", err)
	}
	whole := func(when string) {
		t.Helper()
		for name, want := range kept {
			if b, err := os.ReadFile(m.path(name)); err != nil || !bytes.Equal(b, want) {
				t.Fatalf("%s: %s has %d bytes, want %d, %v", when, name, len(b), len(want), err)
			}
		}
		if b, err := os.ReadFile(m.path("small")); err != nil || string(b) != "small" {
			t.Errorf("%s: small: %q, %v", when, b, err)
		}
	}
	whole("on the full disk")
	must(t, os.Remove(ballast))

	must(t, put(m.path("after"), old))
	whole("with space again")
	m.settle(t)
	m.kill9(t)
	m = s.mountAt(t, m.dir)
	whole("after kill -9")
	if b, err := os.ReadFile(m.path("after")); err != nil || !bytes.Equal(b, old) {
		t.Errorf("after: %v", err)
	}
	// The overwrite that failed was of a file truncated at open: it never got
	// to a close that succeeded.
	if b, err := os.ReadFile(m.path("old")); err != nil || !bytes.Equal(b, old) {
		t.Errorf("old version: %d bytes, %v", len(b), err)
	}
	m.unmount(t)
	s.fsckDeep(t)
}

// A disk that is full already when the store opens: it says so, or works.
func TestMountOnAFullDisk(t *testing.T) {
	disk, _ := smallDisk(t, 64)
	s := storeAt(t, filepath.Join(disk, "store"))
	m := s.mount(t)
	must(t, put(m.path("file"), filled('a', 100_000)))
	m.unmount(t)
	ballast := fill(t, disk, 0)
	if r := s.try(t, "cat", "default/main:file"); r.code != 0 {
		if err := saysError(r); err != nil || !strings.Contains(r.err, "no space left") {
			t.Errorf("on a full disk: %v: %s", err, r.err)
		}
	} else if r.out != string(filled('a', 100_000)) {
		t.Error("wrong content")
	}
	must(t, os.Remove(ballast))
	m = s.mountAt(t, m.dir)
	holds(t, m.path("file"), 'a', 100_000)
	must(t, put(m.path("large"), filled('b', 8<<20)))
	m.unmount(t)
	s.fsckDeep(t)
}

// A mount with --read-only, and a store on a file system mounted read-only.
func TestReadOnly(t *testing.T) {
	disk, image := smallDisk(t, 64)
	s := storeAt(t, filepath.Join(disk, "store"))
	m := s.mount(t)
	must(t, os.Mkdir(m.path("dir"), 0o755))
	must(t, put(m.path("dir", "large"), filled('a', 200_000)))
	must(t, put(m.path("dir", "small"), []byte("small")))
	m.unmount(t)

	refuses := func(m *mount) {
		t.Helper()
		holds(t, m.path("dir", "large"), 'a', 200_000)
		if got := read(t, m.path("dir", "small")); got != "small" {
			t.Errorf("content %q", got)
		}
		for what, err := range map[string]error{
			"create":   put(m.path("new"), nil),
			"write":    put(m.path("dir", "small"), []byte("x")),
			"mkdir":    os.Mkdir(m.path("d"), 0o755),
			"remove":   os.Remove(m.path("dir", "small")),
			"rename":   os.Rename(m.path("dir"), m.path("d")),
			"chmod":    os.Chmod(m.path("dir"), 0o700),
			"truncate": os.Truncate(m.path("dir", "large"), 0),
		} {
			if !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: %v, want EROFS", what, err)
			}
		}
	}
	m = s.mountAt(t, m.dir, "--read-only")
	refuses(m)
	m.unmount(t)

	must(t, syscall.Unmount(disk, 0))
	tool{}.run(t, "mount", "-o", "loop,ro", image, disk)
	if out := s.alkfs(t, "ls", "default/main:dir"); !bytes.Contains([]byte(out), []byte("large")) {
		t.Errorf("ls of a read-only store: %q", out)
	}
	if out := s.alkfs(t, "cat", "default/main:dir/small"); out != "small" {
		t.Errorf("cat of a read-only store: %q", out)
	}
	m = s.mountAt(t, m.dir, "--read-only")
	refuses(m)
	m.unmount(t)
	if err := saysError(s.try(t, "mkdir", "default/main:more")); err != nil {
		t.Errorf("mkdir in a read-only store: %v", err)
	}
}

// The background job that watches the disk warns from 90 % on.
func TestNearlyFullDiskIsWarnedOf(t *testing.T) {
	disk, _ := smallDisk(t, 64)
	s := storeAt(t, filepath.Join(disk, "store"))
	run := func() result {
		t.Helper()
		r := s.try(t, "jobs", "run", "disk")
		if r.code != 0 {
			t.Fatal(r.err)
		}
		return r
	}
	if r := run(); strings.Contains(r.err, "nearly full") {
		t.Errorf("half empty: %s", r.err)
	}
	fill(t, disk, 4<<20)
	if r := run(); !strings.Contains(r.err, "the disk under the store is nearly full") || !strings.Contains(r.err, "make room") || !strings.Contains(r.out, "% full") {
		t.Errorf("nearly full: %s%s", r.err, r.out)
	}
}

// Where nothing more can be written, and a process has the store, what is there can be
// looked at.
func TestCommandsOnAFullDisk(t *testing.T) {
	disk, _ := smallDisk(t, 64)
	s := storeAt(t, filepath.Join(disk, "store"))
	m := s.mount(t)
	must(t, put(m.path("f"), []byte("still here")))
	m.settle(t)
	fill(t, disk, 0)
	for size := 4096; size > 0; size /= 2 { // what fallocate left over
		for i := 0; put(filepath.Join(disk, fmt.Sprint("rest", size, "-", i)), make([]byte, size)) == nil; i++ {
		}
	}
	for _, args := range [][]string{{"ls"}, {"cat", ":f"}, {"df"}, {"sync", "status"}} {
		if r := s.try(t, args...); r.code != 0 {
			t.Errorf("alkfs %s: status %d, %s", strings.Join(args, " "), r.code, r.err)
		}
	}
}
