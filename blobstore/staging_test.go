package blobstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/schema"
	"pgregory.net/rapid"
)

// Whatever is written, copied, punched and cut, in whatever order, Seal's hash
// is that of the bytes, and the outboard is the one a fresh hash makes.
func TestStagingAgainstModel(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	base := noise(20, 2*spanSize+3*GroupSize+100)
	clear(base[GroupSize+100 : spanSize+9*GroupSize]) // to be a hole
	sparse, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sparse.CopyRange(bytes.NewReader(base), nil, 0, 0, int64(len(base))); err != nil {
		t.Fatal(err)
	}
	seal(t, sparse, int64(len(base)))
	rapid.Check(t, func(rt *rapid.T) {
		b, err := s.Open(Sum(base), int64(len(base)))
		if err != nil {
			rt.Fatal(err)
		}
		defer b.Close()
		m := newModel(rt, s, b, base)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			m.step(rt)
		}
		m.seal(rt)
	})
}

type model struct {
	s    *Store
	st   *Staging
	b    *Blob
	base []byte
	want []byte
	seed uint64
}

func newModel(rt *rapid.T, s *Store, b *Blob, base []byte) *model {
	st, err := s.NewStaging()
	if err != nil {
		rt.Fatal(err)
	}
	return &model{s: s, st: st, b: b, base: base, seed: 100}
}

// place draws a range near boundaries.
func place(rt *rapid.T, limit int) (off, n int) {
	unit := rapid.SampledFrom([]int{1, 4096, GroupSize, spanSize}).Draw(rt, "unit")
	off = min(limit, rapid.IntRange(0, limit/unit).Draw(rt, "off")*unit+rapid.IntRange(-1, 1).Draw(rt, "delta"))
	off = max(0, off)
	n = min(limit-off, rapid.IntRange(1, 40).Draw(rt, "len")*unit)
	return off, n
}

func (m *model) write(off int, p []byte) {
	if end := off + len(p); end > len(m.want) {
		m.want = append(m.want, make([]byte, end-len(m.want))...)
	}
	copy(m.want[off:], p)
}

func (m *model) step(rt *rapid.T) {
	var err error
	limit := len(m.base)
	off, n := place(rt, limit)
	switch rapid.SampledFrom([]string{"write", "append", "truncate", "punch", "copy", "copyall", "range", "file"}).Draw(rt, "op") {
	case "write":
		m.seed++
		p := noise(m.seed, n)
		_, err = m.st.WriteAt(p, int64(off))
		if n > 0 {
			m.write(off, p)
		}
	case "append": // sequentially, so that the hashers take part
		m.seed++
		p := noise(m.seed, n)
		for i := 0; i < n && err == nil; i += 50_000 {
			_, err = m.st.WriteAt(p[i:min(n, i+50_000)], int64(len(m.want)))
			m.write(len(m.want), p[i:min(n, i+50_000)])
		}
	case "truncate":
		err = m.st.Truncate(int64(off))
		m.want = append(m.want, make([]byte, max(0, off-len(m.want)))...)[:off]
	case "punch":
		err = m.st.Punch(int64(off), int64(n))
		if off < len(m.want) {
			clear(m.want[off:min(len(m.want), off+n)])
		}
	case "copy":
		err = m.st.CopyFrom(m.b, int64(off), int64(n))
		if n > 0 {
			m.write(off, m.base[off:off+n])
		}
	case "copyall":
		err = m.st.CopyFrom(m.b, 0, int64(limit))
		m.write(0, m.base)
	case "range":
		to, _ := place(rt, limit)
		_, err = m.st.CopyRange(m.b, nil, int64(off), int64(to), int64(n))
		if n > 0 {
			m.write(to, m.base[off:off+n])
		}
	case "file":
		to, _ := place(rt, limit)
		_, err = m.st.CopyRange(nil, m.b.File(), int64(off), int64(to), int64(n))
		if n > 0 {
			m.write(to, m.base[off:off+n])
		}
	}
	if err != nil {
		rt.Fatal(err)
	}
}

func (m *model) seal(rt *rapid.T) {
	h, err := m.st.Seal(context.Background(), int64(len(m.want)))
	if err != nil {
		rt.Fatal(err)
	}
	if want := Sum(m.want); h != want {
		rt.Fatalf("Seal of %d bytes says %s, want %s", len(m.want), h, want)
	}
	if err := m.s.db.Write(func(tx *schema.Tx) error { return m.s.AddFile(tx, h, int64(len(m.want))) }); err != nil {
		rt.Fatal(err)
	}
	got, err := readBlob(m.s, h, int64(len(m.want)))
	if err != nil || !bytes.Equal(got, m.want) {
		rt.Fatalf("blob reads differently: %v", err)
	}
	if len(m.want) <= spanSize {
		return
	}
	f, err := os.Open(m.s.blobPath(h))
	if err != nil {
		rt.Fatal(err)
	}
	defer f.Close()
	mem := make(memory, (groupCount(int64(len(m.want)))-1)*parentSize)
	b := build{src: f, size: int64(len(m.want)), out: mem}
	if _, err := b.run(context.Background()); err != nil {
		rt.Fatal(err)
	}
	if have, err := os.ReadFile(m.s.outboardPath(h)); err != nil || !bytes.Equal(have, mem) {
		rt.Fatalf("outboard differs: %v", err)
	}
}

func TestSparse(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	const size = 10<<30 + 5
	st, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	mark := []byte("in the middle")
	const at = 3<<30 + 1234
	if _, err := st.WriteAt(mark, at); err != nil {
		t.Fatal(err)
	}
	h := seal(t, st, size)
	b, err := s.Open(h, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, off := range []int64{0, 1 << 30, at - 100, at + 50_000_000, size - 40_000, size - 100} {
		p := make([]byte, 30_000)
		n, _ := b.ReadAt(p, off)
		want := make([]byte, min(int64(len(p)), size-off))
		if i := at - off; i >= 0 && i < int64(len(p)) {
			copy(want[i:], mark)
		}
		if !bytes.Equal(p[:n], want) {
			t.Errorf("read at %d differs", off)
		}
	}
	// A copy keeps the holes, and an overwrite of it hashes little.
	st, err = s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	before := s.counts.hashed.Load()
	if err := st.CopyFrom(b, 0, size); err != nil {
		t.Fatal(err)
	}
	if again := seal(t, st, size); again != h {
		t.Errorf("the copy hashes to %s", again)
	}
	if n := s.counts.hashed.Load() - before; n > blockGroups {
		t.Errorf("%d groups hashed for a copy", n)
	}
	var fi syscall.Stat_t
	if err := syscall.Stat(s.blobPath(h), &fi); err != nil || fi.Blocks*512 > 1<<20 {
		t.Errorf("the blob takes %d bytes: %v", fi.Blocks*512, err)
	}
	// Bytes where zeros belong are found.
	flip(t, s.blobPath(h), 5<<30)
	s.forget(h)
	b2, err := s.Open(h, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b2.Close()
	if _, err := b2.ReadAt(make([]byte, 10), 5<<30+100); !errors.Is(err, ErrDamaged) {
		t.Errorf("changed hole: %v", err)
	}
}

// The hash of blocks the table knows is the same as that of all their groups.
func TestZeroBlocksHashRight(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	for _, size := range []int64{blockSize, blockSize + 1, 2 * blockSize, 2*blockSize + 3*spanSize} {
		st, err := s.NewStaging()
		if err != nil {
			t.Fatal(err)
		}
		if h, want := seal(t, st, size), Sum(make([]byte, size)); h != want {
			t.Errorf("%d zeros: %s, want %s", size, h, want)
		}
	}
}

// Damage in a base does not get a new hash.
func TestCopyFromDamaged(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	p := noise(21, 4*spanSize)
	h := sealFile(t, s, p)
	flip(t, s.blobPath(h), 2*spanSize+5)
	s.forget(h)
	b, err := s.Open(h, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	st, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	if err := st.CopyFrom(b, 10, int64(len(p))-10); err != nil {
		t.Fatal(err)
	}
	if _, err := st.WriteAt([]byte("0123456789"), 0); err != nil {
		t.Fatal(err)
	}
	h2 := seal(t, st, int64(len(p)))
	if _, err := readBlob(s, h2, int64(len(p))); !errors.Is(err, ErrDamaged) {
		t.Errorf("the damage passed: %v", err)
	}
	st, err = s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Discard()
	if err := st.CopyFrom(b, 2*spanSize+10, 100); !errors.Is(err, ErrDamaged) {
		t.Errorf("a part of a damaged group: %v", err)
	}
}

func TestStagingOwner(t *testing.T) {
	dir := t.TempDir()
	s, other := openTest(t, dir, Options{}), openTest(t, dir, Options{})
	st, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	p := noise(22, 40_000)
	if _, err := st.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := other.OpenStaging(st.Name()); !errors.Is(err, ErrBusy) {
		t.Errorf("open twice: %v", err)
	}
	if err := st.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := st.Leave(); err != nil {
		t.Fatal(err)
	}
	again, err := other.OpenStaging(st.Name())
	if err != nil {
		t.Fatal(err)
	}
	if h := seal(t, again, 40_000); h != Sum(p) {
		t.Error("another hash")
	}
	wantBlob(t, s, p)
	if _, err := s.OpenStaging("../blobs"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("name with a slash: %v", err)
	}
	if _, err := s.OpenStaging("none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such: %v", err)
	}
}

// fullDisk makes files that cannot be written to.
type fullDisk struct{ osFS }

func (fullDisk) create(string) (*os.File, error) { return os.OpenFile("/dev/full", os.O_RDWR, 0) }

func TestFullDisk(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := s.staging("none", full)
	if err == nil {
		_, err = bad.WriteAt([]byte("x"), 0)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	st, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	p := noise(23, 2*spanSize)
	if _, err := st.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	s.fs = fullDisk{}
	if _, err := st.Seal(context.Background(), int64(len(p))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("outboard: %v", err)
	}
	s.fs = osFS{} // room again: nothing is lost
	seal(t, st, int64(len(p)))
	wantBlob(t, s, p)
}
