package fusefs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readAt(t *testing.T, f *os.File, off int64, n int) string {
	t.Helper()
	p := make([]byte, n)
	k, err := f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return string(p[:k])
}

func TestDescriptorsOfOneMountSeeEachOthersWrites(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	path := filepath.Join(dir, "f")
	write(t, path, "0123456789")
	w, r := open(t, path, os.O_RDWR), open(t, path, os.O_RDONLY)
	a := open(t, path, os.O_WRONLY|os.O_APPEND)
	if _, err := w.WriteAt([]byte("XY"), 4); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, r, 0, 100); got != "0123XY6789end" {
		t.Fatalf("read %q", got)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 13 {
		t.Fatal(st.Size(), err)
	}
	if err := w.Truncate(5); err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, r, 0, 100); got != "0123X" {
		t.Fatalf("read %q", got)
	}
}

func TestMappingIsPublished(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, s := testMount(t, c, mainBranch)
	path := filepath.Join(dir, "f")
	for _, size := range []int{8 << 10, 1 << 20} {
		write(t, path, string(bytes.Repeat([]byte("a"), size)))
		f := open(t, path, os.O_RDWR)
		wrote := mapInChild(t, f, size-5, "hello", false)
		f.Close() // the mapping keeps it open
		wrote()
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	dir, _ = testMount(t, c, mainBranch)
	if got := read(t, filepath.Join(dir, "f")); len(got) != 1<<20 || got[len(got)-6:] != "ahello" {
		t.Fatal("the mapping's write was lost")
	}
}

func TestRenameOverOpenAndUnlinkOpen(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	path, other := filepath.Join(dir, "f"), filepath.Join(dir, "g")
	write(t, path, "old")
	write(t, other, "new")
	f := open(t, path, os.O_RDWR)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, f, 0, 9); got != "old" {
		t.Fatalf("the open file reads %q", got)
	}
	if got := read(t, path); got != "new" {
		t.Fatalf("the name reads %q", got)
	}
	g := open(t, path, os.O_RDWR)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*os.File{f, g} {
		if _, err := h.WriteAt([]byte("still"), 0); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(h.Fd()), &st); err != nil || st.Nlink != 0 || st.Size != 5 {
			t.Fatal(st.Nlink, st.Size, err)
		}
		if got := readAt(t, h, 0, 9); got != "still" {
			t.Fatalf("read %q", got)
		}
	}
}

func TestSparseFile(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	const far = 10 << 30
	if _, err := f.WriteAt([]byte("end"), far); err != nil {
		t.Fatal(err)
	}
	if off, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err != nil || off == 0 || off > far {
		t.Fatal("data at", off, err)
	}
	if off, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE); err != nil || off != 0 {
		t.Fatal("hole at", off, err)
	}
	if got := readAt(t, f, far-2, 5); got != "\x00\x00end" {
		t.Fatalf("read %q", got)
	}
}

func TestFallocate(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	path := filepath.Join(dir, "f")
	write(t, path, string(bytes.Repeat([]byte("a"), 64<<10)))
	f := open(t, path, os.O_RDWR)
	fd := int(f.Fd())
	if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("a"), 64<<10)
	clear(want[4096 : 4096+8192])
	if got := readAt(t, f, 0, 1<<20); got != string(want) {
		t.Fatal("the hole does not read as zeros, or more does")
	}
	if err := unix.Fallocate(fd, 0, 0, 100<<10); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 100<<10 {
		t.Fatal(st.Size(), err)
	}
}

func TestCopyFileRange(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	content := string(bytes.Repeat([]byte("0123456789abcdef"), 8<<10))
	write(t, filepath.Join(dir, "f"), content)
	src := open(t, filepath.Join(dir, "f"), os.O_RDONLY)
	dst := open(t, filepath.Join(dir, "g"), os.O_RDWR|os.O_CREATE)
	for left := len(content); left > 0; {
		n, err := unix.CopyFileRange(int(src.Fd()), nil, int(dst.Fd()), nil, left, 0)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		left -= n
	}
	dst.Close()
	if got := read(t, filepath.Join(dir, "g")); got != content {
		t.Fatal("the copy differs")
	}
}

func TestTmpfileCanBeLinked(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "tmp")
	defer f.Close()
	if _, err := f.WriteString("made whole"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "named")
	if err := unix.Linkat(fd, "", unix.AT_FDCWD, path, unix.AT_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := read(t, path); got != "made whole" {
		t.Fatalf("read %q", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Nlink != 1 || st.Mode&0o777 != 0o640 {
		t.Fatalf("nlink %d, mode %o, %v", st.Nlink, st.Mode, err)
	}
}

func TestRenameFlags(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	f, g := filepath.Join(dir, "f"), filepath.Join(dir, "g")
	write(t, f, "f")
	write(t, g, "g")
	rename := func(flags uint) error { return unix.Renameat2(unix.AT_FDCWD, f, unix.AT_FDCWD, g, flags) }
	if err := rename(unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Fatal(err)
	}
	if err := rename(unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	if a, b := read(t, f), read(t, g); a != "g" || b != "f" {
		t.Fatal(a, b)
	}
	if err := rename(unix.RENAME_WHITEOUT); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(f, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Fatalf("no whiteout: %o %v", st.Mode, err)
	}
}

// TestCloseReportsFailedPublish: close(2) is where a program learns that what
// it wrote did not become the file's content.
func TestCloseReportsFailedPublish(t *testing.T) {
	c := testStore(t, t.TempDir())
	var branch pathtree.Branch
	err := c.DB.Write(func(tx *schema.Tx) error {
		b, err := c.Tree.Bucket(tx, "b")
		if err != nil {
			return err
		}
		main, err := c.Tree.Branch(tx, b.ID, "main")
		if err != nil {
			return err
		}
		branch, err = c.Tree.CreateBranch(tx, b.ID, "doomed", pathtree.Origin{Branch: main.ID})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, s := testMount(t, c, Options{Bucket: "b", Branch: "doomed"})
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	if _, err := f.WriteString("lost"); err != nil {
		t.Fatal(err)
	}
	if err := c.DB.Write(func(tx *schema.Tx) error { return c.Tree.RemoveBranch(tx, branch.ID) }); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); !errors.Is(err, unix.ESTALE) {
		t.Fatalf("close: %v, want ESTALE", err)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := c.Sessions.Close(context.Background()); err != nil {
		t.Fatalf("the session of a branch that is no more was kept: %v", err)
	}
}

func TestUnmountPublishesAndReportsBusy(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, s := testMount(t, c, mainBranch)
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	if _, err := f.WriteString("open"); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("unmount: %v, want EBUSY", err)
	}
	other, _ := testMount(t, c, mainBranch)
	if got := read(t, filepath.Join(other, "f")); got != "open" {
		t.Fatalf("read %q", got)
	}
	f.Close()
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
}

func TestContextTakesTheMountAway(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := Mount(ctx, dir, c, mainBranch)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	if _, err := f.WriteString("kept"); err != nil {
		t.Fatal(err)
	}
	cancel()
	s.Wait()
	if kind := mountedOn(dir); kind != "" {
		t.Fatal("still mounted:", kind)
	}
	dir, _ = testMount(t, c, mainBranch)
	if got := read(t, filepath.Join(dir, "f")); got != "kept" {
		t.Fatalf("read %q", got)
	}
}

// TestRandomFileOperations compares a file, through several descriptors that
// come and go, with plain bytes. The kernel does not wait for a RELEASE before
// it sends the next OPEN, WRITE or truncation.
func TestRandomFileOperations(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	path := filepath.Join(dir, "f")
	const most = 400_000
	var want []byte
	resize := func(n int) {
		if n > len(want) {
			want = append(want, make([]byte, n-len(want))...)
		}
		want = want[:n]
	}
	files := []*os.File{open(t, path, os.O_RDWR|os.O_CREATE)}
	for i := range 2000 {
		f := files[rnd.IntN(len(files))]
		n := 1 + rnd.IntN([]int{50, 5000, 70_000}[rnd.IntN(3)])
		off := rnd.IntN(most - n)
		switch rnd.IntN(8) {
		case 0, 1:
			p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, n/2+1)[:n]
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				t.Fatal(i, err)
			}
			resize(max(len(want), off+n))
			copy(want[off:], p)
		case 2:
			end := min(off+n, len(want))
			if got := readAt(t, f, int64(off), n); off < end && got != string(want[off:end]) {
				t.Fatal(i, "read something else than was written")
			}
		case 3:
			size := rnd.IntN(most)
			err := f.Truncate(int64(size))
			if rnd.IntN(2) == 0 {
				err = os.Truncate(path, int64(size))
			}
			if err != nil {
				t.Fatal(i, err)
			}
			resize(min(size, len(want)))
			resize(size)
		case 4:
			if len(files) < 4 {
				files = append(files, open(t, path, os.O_RDWR))
				continue
			}
			if err := files[0].Close(); err != nil {
				t.Fatal(i, err)
			}
			files = files[1:]
		case 5:
			if rnd.IntN(4) == 0 {
				if err := f.Sync(); err != nil {
					t.Fatal(i, err)
				}
			}
			for _, f := range files {
				if err := f.Close(); err != nil {
					t.Fatal(i, err)
				}
			}
			files = []*os.File{open(t, path, os.O_RDWR)}
		case 6:
			if st, err := f.Stat(); err != nil || st.Size() != int64(len(want)) {
				t.Fatal(i, st.Size(), len(want), err)
			}
		case 7:
			if err := os.Chmod(path, os.FileMode(0o600+rnd.IntN(8))); err != nil {
				t.Fatal(i, err)
			}
		}
	}
	for _, f := range files {
		f.Close()
	}
	if read(t, path) != string(want) {
		t.Fatal("the file differs at the end")
	}
}
