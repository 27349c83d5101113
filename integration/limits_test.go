package integration_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// rows counts what a store holds, table by table.
func rows(t testing.TB, st *alkfs.Store) map[string]int64 {
	t.Helper()
	n := map[string]int64{}
	must(t, st.Barrier())
	for _, table := range []string{"dentry", "inode", "xattr", "event"} {
		must(t, st.DB().Read(func(tx *schema.Tx) error {
			q := tx.Stmt("SELECT count(*) FROM " + table)
			ok, err := q.Step()
			if ok {
				n[table] = q.ColumnInt64(0)
			}
			return err
		}))
	}
	return n
}

// fillDirectory makes a directory "big" with n empty files through the Go API.
func fillDirectory(t testing.TB, st *alkfs.Store, n int) {
	t.Helper()
	var v *pathtree.View
	var dir pathtree.Inode
	must(t, st.DB().Write(func(tx *schema.Tx) error {
		b, err := st.Tree().Bucket(tx, "default")
		if err != nil {
			return err
		}
		br, err := st.Tree().Branch(tx, b.ID, "main")
		if err != nil {
			return err
		}
		if v, err = st.Tree().View(tx, br.ID, 0); err != nil {
			return err
		}
		dir, err = v.Create(tx, v.Root(), "big", pathtree.NewInode{Mode: unix.S_IFDIR | 0o755})
		return err
	}))
	for i := 0; i < n; {
		must(t, st.DB().Write(func(tx *schema.Tx) error {
			for end := min(i+500, n); i < end; i++ {
				_, err := v.Create(tx, dir.Ino, fmt.Sprintf("file-%06d", i), pathtree.NewInode{Mode: unix.S_IFREG | 0o644, Hash: blobstore.Hash{}})
				if err != nil {
					return err
				}
			}
			return nil
		}))
	}
	must(t, st.Sync())
}

// Renaming a directory of 100,000 files is one change of one name; a fork of
// it is one row; the branch goes as it came; and all names are listed.
func TestHundredThousandEntries(t *testing.T) {
	const n = 100_000
	s := newStore(t)
	st := openStore(t, s.dir)
	fillDirectory(t, st, n)
	m := s.mount(t)
	if _, err := os.Stat(m.path("big", "file-000500")); err != nil {
		t.Fatal(err)
	}
	before := rows(t, st)
	must(t, os.Mkdir(m.path("to"), 0o755))
	made := rows(t, st)
	begin := time.Now()
	must(t, os.Rename(m.path("big"), m.path("to", "moved")))
	t.Logf("rename took %v", time.Since(begin))
	after := rows(t, st)
	t.Logf("rows: %v, with the directory %v, after the rename %v", before, made, after)
	for table, most := range map[string]int64{"dentry": 3, "inode": 4, "xattr": 0, "event": 2} {
		if grown := after[table] - made[table]; grown > most {
			t.Errorf("rename added %d rows to %s", grown, table)
		}
	}
	entries, err := os.ReadDir(m.path("to", "moved"))
	must(t, err)
	if len(entries) != n {
		t.Fatalf("%d entries, want %d", len(entries), n)
	}
	for i, e := range entries {
		if want := fmt.Sprintf("file-%06d", i); e.Name() != want {
			t.Fatalf("entry %d is %s, want %s", i, e.Name(), want)
		}
	}
	before = rows(t, st)
	begin = time.Now()
	_, err = st.CreateBranch("default", "fork", alkfs.BranchOptions{})
	must(t, err)
	t.Logf("fork took %v", time.Since(begin))
	if after := rows(t, st); after["dentry"] != before["dentry"] || after["inode"] != before["inode"] {
		t.Errorf("a fork copied rows: %v, %v", before, after)
	}
	fork := s.mount(t, "default/fork")
	if _, err := os.Stat(fork.path("to", "moved", "file-099999")); err != nil {
		t.Error(err)
	}
	fork.unmount(t)
	must(t, st.RemoveBranch("default", "fork"))
	m.unmount(t)
}

func TestSparseFileOfTenGiB(t *testing.T) {
	const size = 10 << 30
	s := newStore(t)
	m := s.mount(t)
	f, err := os.Create(m.path("sparse"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	places := []int64{0, 5<<30 + 12345, size - 100}
	for _, at := range places {
		_, err := f.WriteAt(filled('x', 100), at)
		must(t, err)
	}
	must(t, f.Close())
	check := func() {
		t.Helper()
		f, err := os.Open(m.path("sparse"))
		must(t, err)
		defer f.Close()
		st, err := f.Stat()
		must(t, err)
		if st.Size() != size {
			t.Errorf("size %d", st.Size())
		}
		got := make([]byte, 300)
		for _, at := range places {
			n, err := f.ReadAt(got[:100], at)
			if n != 100 || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got[:100], filled('x', 100)) {
				t.Errorf("at %d: %d bytes, %v", at, n, err)
			}
		}
		if _, err := f.ReadAt(got, 3<<30); err != nil || !bytes.Equal(got, make([]byte, 300)) {
			t.Errorf("in the hole: %v", err)
		}
		if at, err := f.Seek(1<<20, unix.SEEK_DATA); err != nil || at < 4<<30 || at > places[1] {
			t.Errorf("data after the hole at %d, %v", at, err)
		}
	}
	check()
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	check()
	m.unmount(t)
	if used := diskUsage(t, s.dir); used > 64<<20 {
		t.Errorf("the store takes %d MiB of disk", used>>20)
	}
}

// diskUsage returns the bytes allocated below dir.
func diskUsage(t testing.TB, dir string) int64 {
	t.Helper()
	var sum int64
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		sum += st.Blocks * 512
		return nil
	}))
	return sum
}

// noise gives reproducible bytes that do not compress.
func noise(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func TestBigContent(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	want := sha256.New()
	f, err := os.Create(m.path("big"))
	must(t, err)
	defer f.Close()
	buf := make([]byte, 1<<20)
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, want)}, io.LimitReader(noise(1), bigFile), buf)
	must(t, err)
	must(t, f.Close())
	check := func() {
		t.Helper()
		got := sha256.New()
		f, err := os.Open(m.path("big"))
		must(t, err)
		defer f.Close()
		n, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{f}, buf)
		must(t, err)
		if n != bigFile || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Fatalf("%d bytes that are not what was written", n)
		}
	}
	check()
	m.settle(t)
	m.kill9(t)
	m = s.mountAt(t, m.dir)
	check()
	m.unmount(t)
}

// A small change in a big file, and a copy of it, cost little disk.
func TestOverwriteAndCopyOfBigFile(t *testing.T) {
	const size = 64 << 20
	s := newStore(t)
	m := s.mount(t)
	f, err := os.Create(m.path("big"))
	must(t, err)
	defer f.Close()
	_, err = io.Copy(f, io.LimitReader(noise(2), size))
	must(t, err)
	must(t, f.Close())
	want := []byte(read(t, m.path("big")))
	tool{}.run(t, "cp", m.path("big"), m.path("copy"))
	g, err := os.OpenFile(m.path("big"), os.O_RDWR, 0)
	must(t, err)
	defer g.Close()
	for _, at := range []int{0, 1000, size/2 - 3, size - 1} {
		_, err := g.WriteAt([]byte{'!'}, int64(at))
		must(t, err)
	}
	must(t, g.Close())
	if got := read(t, m.path("copy")); got != string(want) {
		t.Error("the copy changed")
	}
	for _, at := range []int{0, 1000, size/2 - 3, size - 1} {
		want[at] = '!'
	}
	m.settle(t)
	m.kill9(t)
	m = s.mountAt(t, m.dir)
	if got := read(t, m.path("big")); got != string(want) {
		t.Error("wrong content after overwriting single bytes")
	}
	m.unmount(t)
	s.fsckDeep(t)
	if used := diskUsage(t, s.dir); used > 4*size {
		t.Errorf("the store takes %d MiB of disk", used>>20)
	}
}

func TestNamesOf255BytesThatAreNotUTF8(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	var names []string
	for i := range 3 {
		b := bytes.Repeat([]byte{0xff, 0x80, 0x01, '\n', '*', 0xc3}, 43)[:255]
		b[0] = byte(0xf0 + i)
		names = append(names, string(b))
	}
	for _, n := range names {
		write(t, filepath.Join(m.dir, n), n)
	}
	check := func() {
		t.Helper()
		entries, err := os.ReadDir(m.dir)
		must(t, err)
		if len(entries) != len(names) {
			t.Fatalf("%d entries", len(entries))
		}
		for i, e := range entries {
			if e.Name() != names[i] {
				t.Errorf("entry %d: %q", i, e.Name())
			}
			if got := read(t, filepath.Join(m.dir, names[i])); got != names[i] {
				t.Errorf("content %q", got)
			}
		}
	}
	check()
	long := strings.Repeat("x", 256)
	if _, err := os.Create(m.path(long)); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("a name of 256 bytes: %v", err)
	}
	if _, err := os.Stat(m.path(long)); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("stat of a name of 256 bytes: %v", err)
	}
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	check()
	m.unmount(t)
}

// 60 directories of 200 bytes each, one in the other: no path names the file at
// the end, but relative steps do, also after a remount.
func TestDeeperThanPathMax(t *testing.T) {
	const depth = 60
	s := newStore(t)
	m := s.mount(t)
	name := strings.Repeat("d", 200)
	descend := func(mk bool) int {
		t.Helper()
		at, err := unix.Open(m.dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, err)
		for range depth {
			if mk {
				must(t, unix.Mkdirat(at, name, 0o755))
			}
			next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
			unix.Close(at)
			must(t, err)
			at = next
		}
		return at
	}
	at := descend(true)
	fd, err := unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(fd, []byte("deep"))
	must(t, err)
	must(t, unix.Close(fd))
	unix.Close(at)
	m.unmount(t)

	m = s.mountAt(t, m.dir)
	at = descend(false)
	fd, err = unix.Openat(at, "file", unix.O_RDONLY, 0)
	must(t, err)
	buf := make([]byte, 10)
	n, err := unix.Read(fd, buf)
	must(t, err)
	if string(buf[:n]) != "deep" {
		t.Errorf("content %q", buf[:n])
	}
	unix.Close(fd)
	unix.Close(at)
	tool{}.run(t, "rm", "-r", m.path(name))
	m.unmount(t)
	s.alkfs(t, "fsck")
}

func TestManyHardLinks(t *testing.T) {
	const n = 65_000
	s := newStore(t)
	m := s.mount(t)
	write(t, m.path("file"), "one content")
	must(t, os.Mkdir(m.path("links"), 0o755))
	for i := range n {
		if err := os.Link(m.path("file"), m.path("links", fmt.Sprintf("l%05d", i))); err != nil {
			if errors.Is(err, syscall.EMLINK) && i > 30_000 {
				t.Fatalf("EMLINK after %d links", i)
			}
			t.Fatal(err)
		}
	}
	var st syscall.Stat_t
	must(t, syscall.Stat(m.path("links", "l64999"), &st))
	if st.Nlink != n+1 {
		t.Errorf("nlink %d, want %d", st.Nlink, n+1)
	}
	must(t, os.Remove(m.path("file")))
	if got := read(t, m.path("links", "l00000")); got != "one content" {
		t.Errorf("content %q", got)
	}
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	must(t, syscall.Stat(m.path("links", "l33333"), &st))
	if st.Nlink != n {
		t.Errorf("nlink %d after remount, want %d", st.Nlink, n)
	}
	m.unmount(t)
}
