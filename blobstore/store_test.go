package blobstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
	"github.com/zeebo/blake3"
)

// openTest opens a store of its own directory, or of dir.
func openTest(tb testing.TB, dir string, o Options) *Store {
	tb.Helper()
	db, err := schema.Open(context.Background(), dir, schema.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := Open(context.Background(), dir, db, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// noise returns n bytes that a seed decides.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return p
}

// sealFile stages p, seals it and adds its row.
func sealFile(tb testing.TB, s *Store, p []byte) Hash {
	tb.Helper()
	st, err := s.NewStaging()
	if err != nil {
		tb.Fatal(err)
	}
	for off := 0; off < len(p); off += 100_000 {
		if _, err := st.WriteAt(p[off:min(off+100_000, len(p))], int64(off)); err != nil {
			tb.Fatal(err)
		}
	}
	return seal(tb, st, int64(len(p)))
}

func seal(tb testing.TB, st *Staging, size int64) Hash {
	tb.Helper()
	h, err := st.Seal(context.Background(), size)
	if err == nil {
		err = st.s.db.Write(func(tx *schema.Tx) error { return st.s.AddFile(tx, h, size) })
	}
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func readBlob(s *Store, h Hash, size int64) ([]byte, error) {
	b, err := s.Open(h, size)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(io.NewSectionReader(b, 0, size))
}

func wantBlob(tb testing.TB, s *Store, p []byte) {
	tb.Helper()
	got, err := readBlob(s, Sum(p), int64(len(p)))
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(got, p) {
		tb.Fatalf("blob of %d bytes reads differently", len(p))
	}
}

var sizes = []int{
	1, 2, 1023, 1024, 1025, 4096, GroupSize - 1, GroupSize, GroupSize + 1, 2 * GroupSize, 2*GroupSize + 1,
	3 * GroupSize, 5*GroupSize - 1024, 63*GroupSize + 7, spanSize - 1, spanSize, spanSize + 1, spanSize + GroupSize,
	2 * spanSize, 3*spanSize - 5, 5*spanSize + 12345, 17*spanSize + GroupSize,
}

func TestSumIsBlake3(t *testing.T) {
	p := noise(1, sizes[len(sizes)-1])
	for _, n := range sizes {
		if got, want := Sum(p[:n]), Hash(blake3.Sum256(p[:n])); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
	if !Sum(nil).IsZero() {
		t.Error("empty content has a hash")
	}
}

func TestParseHash(t *testing.T) {
	h := Sum([]byte("x"))
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Errorf("ParseHash(String()) = %v, %v", got, err)
	}
	for _, s := range []string{"", "ab", strings.Repeat("g", 64), h.String() + "00"} {
		if _, err := ParseHash(s); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("ParseHash(%q) = %v, want EINVAL", s, err)
		}
	}
}

func TestInline(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	for _, n := range []int{0, 1, 100, InlineMax} {
		p := noise(2, n)
		var h Hash
		err := s.db.Write(func(tx *schema.Tx) (err error) {
			for range 2 {
				if h, err = s.PutInline(tx, p); err != nil {
					return err
				}
			}
			got, inline, err := s.Inline(tx, h)
			if err == nil && (!inline || !bytes.Equal(got, p)) {
				t.Errorf("%d bytes: inline content differs", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if h != Sum(p) {
			t.Errorf("%d bytes: wrong hash", n)
		}
		wantBlob(t, s, p)
	}
	err := s.db.Write(func(tx *schema.Tx) error {
		_, err := s.PutInline(tx, make([]byte, InlineMax+1))
		return err
	})
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("too long: %v", err)
	}
	err = s.db.Read(func(tx *schema.Tx) error {
		_, _, err := s.Inline(tx, Sum([]byte("nothing")))
		return err
	})
	if !errors.Is(err, ErrMissing) || !errors.Is(err, syscall.EIO) {
		t.Errorf("missing: %v", err)
	}
}

func TestFileRoundTrip(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(3, sizes[len(sizes)-1])
	for _, n := range sizes {
		if h := sealFile(t, s, p[:n]); h != Sum(p[:n]) {
			t.Fatalf("%d bytes: Seal says %s", n, h)
		}
		wantBlob(t, s, p[:n])
		_, err := os.Stat(s.outboardPath(Sum(p[:n])))
		if has := err == nil; has != (n > spanSize) {
			t.Errorf("%d bytes: outboard %v", n, err)
		}
	}
	if left, _ := os.ReadDir(s.dir + "/staging"); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
}

// A read of any range returns what is there, whatever was verified before.
func TestRangedReads(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(4, 3*spanSize+3*GroupSize+77)
	h := sealFile(t, s, p)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		s.forget(h)
		b, err := s.Open(h, int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			off, n := rnd.IntN(len(p)+10), 1+rnd.IntN(1<<rnd.IntN(22))
			buf := make([]byte, n)
			got, err := b.ReadAt(buf, int64(off))
			want := p[min(off, len(p)):min(off+n, len(p))]
			if !bytes.Equal(buf[:got], want) || (err == io.EOF) != (off+n > len(p)) || err != nil && err != io.EOF {
				t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", n, off, got, err)
			}
		}
		b.Close()
	}
}

func TestGroupsAreVerifiedOnce(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(5, 4*spanSize)
	h := sealFile(t, s, p)
	wantBlob(t, s, p)
	if n := s.counts.verified.Load(); n != 0 {
		t.Errorf("%d groups hashed that Seal had just hashed", n)
	}
	s.forget(h)
	b, err := s.Open(h, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 3 {
		wantBlob(t, s, p)
	}
	if !b.Verified() {
		t.Error("not verified")
	}
	if n := s.counts.verified.Load(); n != 4*spanGroups {
		t.Errorf("%d groups hashed, want %d", n, 4*spanGroups)
	}
}

func TestSmallReadHashesItsGroupsOnly(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(6, 4*spanSize+5)
	h := sealFile(t, s, p)
	s.forget(h)
	b, err := s.Open(h, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	sum := int64(0)
	for _, r := range []struct{ off, n, groups int64 }{
		{5*GroupSize + 4096, 4096, 1},
		{5 * GroupSize, GroupSize, 0}, // known
		{9*GroupSize - 1, 2, 2},
		{4 * spanSize, 5, 1}, // at the end
		{spanSize + 100, 8 * GroupSize, 9},
		{3*spanSize - 10, 20, 2},
	} {
		buf := make([]byte, r.n)
		if _, err := b.ReadAt(buf, r.off); err != nil || !bytes.Equal(buf, p[r.off:r.off+r.n]) {
			t.Fatalf("%d bytes at %d: %v", r.n, r.off, err)
		}
		sum += r.groups
		if got := s.counts.verified.Load(); got != sum {
			t.Errorf("%d bytes at %d: %d groups hashed so far, want %d", r.n, r.off, got, sum)
		}
	}
}

func TestStep(t *testing.T) {
	b := &blobFile{size: 2*spanSize + 100}
	for _, c := range []struct{ off, n, want int64 }{
		{0, 4096, 4096},
		{4096, 4 * GroupSize, 4 * GroupSize},        // few: all at once
		{4096, 5 * GroupSize, GroupSize - 4096},     // many: the group in part first,
		{GroupSize, 5*GroupSize + 1, 5 * GroupSize}, // and last
		{0, spanSize, spanSize},
		{0, spanSize + 100, spanSize},
		{spanSize - 10, 100, 10},
		{2 * spanSize, 100, 100}, // the last group is short
		{spanSize + GroupSize, spanSize - GroupSize + 100, spanSize - GroupSize},
	} {
		if got := b.step(c.off, c.n); got != c.want {
			t.Errorf("step(%d, %d) = %d, want %d", c.off, c.n, got, c.want)
		}
	}
}

// records is a log that can be asked.
type records struct{ bytes.Buffer }

func TestFlippedBit(t *testing.T) {
	for _, n := range []int{100, GroupSize + 1, spanSize, 4*spanSize + 5} {
		var log records
		s := openTest(t, t.TempDir(), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		p := noise(6, n)
		h := sealFile(t, s, p)
		flip(t, s.blobPath(h), int64(n)-3)
		s.forget(h)
		b, err := s.Open(h, int64(n))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err = b.ReadAt(make([]byte, 2), int64(n)-2)
			var errno syscall.Errno
			if !errors.Is(err, ErrDamaged) || !errors.As(err, &errno) || errno != syscall.EIO {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if n > 2*spanSize {
			if _, err := b.ReadAt(make([]byte, 4096), 0); err != nil {
				t.Errorf("a whole part: %v", err)
			}
		}
		b.Close()
		// The mark is made in the background; a deep check needs none.
		rep, err := s.Check(context.Background(), CheckOptions{Deep: true})
		if err != nil || len(rep.Damaged) != 1 || rep.Damaged[0] != h {
			t.Fatalf("Check: %+v, %v", rep, err)
		}
		if _, err := os.Stat(s.quarantinePath(h)); err != nil {
			t.Error(err)
		}
		if _, err := readBlob(s, h, int64(n)); !errors.Is(err, ErrDamaged) {
			t.Errorf("from quarantine: %v", err)
		}
		if c := strings.Count(log.String(), "damaged blob"); c != 1 {
			t.Errorf("told %d times", c)
		}
		// The content comes again, and all is well.
		sealFile(t, s, p)
		wantBlob(t, s, p)
	}
}

func flip(tb testing.TB, path string, off int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	f.ReadAt(b[:], off)
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		tb.Fatal(err)
	}
}

func TestMissingFile(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(7, 100_000)
	h := sealFile(t, s, p)
	os.Remove(s.blobPath(h))
	if _, err := s.Open(h, 100_000); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "fsck") {
		t.Errorf("Open: %v", err)
	}
	rep, err := s.Check(context.Background(), CheckOptions{})
	if err != nil || len(rep.Missing) != 1 {
		t.Errorf("Check: %+v, %v", rep, err)
	}
	sealFile(t, s, p)
	wantBlob(t, s, p)
	err = s.db.Write(func(tx *schema.Tx) error { return s.AddFile(tx, Sum([]byte("none")), 4) })
	if !errors.Is(err, ErrMissing) {
		t.Errorf("AddFile of nothing: %v", err)
	}
}

func TestOutboardIsRebuilt(t *testing.T) {
	for name, harm := range map[string]func(path string){
		"missing": func(path string) { os.Remove(path) },
		"short":   func(path string) { os.Truncate(path, 100) },
		"flipped": func(path string) { flip(t, path, 64*70) },
		"root":    func(path string) { flip(t, path, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), Options{})
			p := noise(8, 3*spanSize+1)
			h := sealFile(t, s, p)
			good, err := os.ReadFile(s.outboardPath(h))
			if err != nil {
				t.Fatal(err)
			}
			harm(s.outboardPath(h))
			s.forget(h)
			wantBlob(t, s, p)
			if now, _ := os.ReadFile(s.outboardPath(h)); !bytes.Equal(now, good) {
				t.Error("the outboard is another one")
			}
			harm(s.outboardPath(h))
			rep, err := s.Check(context.Background(), CheckOptions{Deep: true})
			if err != nil || len(rep.Rebuilt) != 1 || len(rep.Damaged) != 0 {
				t.Errorf("Check: %+v, %v", rep, err)
			}
		})
	}
}

func TestSync(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	p := noise(9, 2*spanSize)
	h := sealFile(t, s, p)
	if n := s.Stats().Unsynced; n != 1 {
		t.Fatalf("%d unsynced", n)
	}
	if err := s.Sync(context.Background(), h); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().Unsynced; n != 0 {
		t.Fatalf("%d unsynced", n)
	}
	if err := s.Sync(context.Background(), Sum([]byte("none"))); !errors.Is(err, ErrMissing) {
		t.Errorf("Sync of nothing: %v", err)
	}
}

func TestBackgroundSync(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: time.Millisecond})
	for i := range 2 * manyFiles {
		sealFile(t, s, noise(uint64(i), 20_000))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for gen := s.db.Generation(); s.Stats().Unsynced > 0; {
		var err error
		if gen, err = s.db.Wait(ctx, gen); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerify(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	for _, n := range []int{100, 40_000, 2*spanSize + 1} {
		p := noise(10, n)
		h := sealFile(t, s, p)
		s.forget(h)
		b, err := s.Open(h, int64(n))
		if err != nil {
			t.Fatal(err)
		}
		if b.Verified() {
			t.Errorf("%d bytes: verified before anything was read", n)
		}
		if err := b.Verify(context.Background()); err != nil || !b.Verified() {
			t.Errorf("%d bytes: Verify: %v", n, err)
		}
		b.Close()
	}
}

// A read's finding reaches the next check, deep or not, in any process.
func TestSuspect(t *testing.T) {
	dir := t.TempDir()
	s, other := openTest(t, dir, Options{}), openTest(t, dir, Options{})
	p, q := noise(11, 100_000), noise(12, 100_000)
	h := sealFile(t, s, p)
	sealFile(t, s, q)
	flip(t, s.blobPath(h), 5)
	gen := s.db.Generation()
	if _, err := readBlob(s, h, int64(len(p))); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for rep := (CheckReport{}); len(rep.Damaged) == 0; {
		var err error
		if gen, err = s.db.Wait(ctx, gen); err != nil {
			t.Fatal(err)
		}
		if rep, err = other.Check(ctx, CheckOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if rep, err := other.Check(ctx, CheckOptions{}); err != nil || len(rep.Quarantined) != 1 || len(rep.Damaged) != 0 {
		t.Errorf("the second time: %+v, %v", rep, err)
	}
	sealFile(t, other, p)
	wantBlob(t, other, p)
	if err := s.db.Barrier(); err != nil {
		t.Fatal(err)
	}
	if rep, err := s.Check(ctx, CheckOptions{Deep: true}); err != nil || len(rep.Quarantined)+len(rep.Damaged) != 0 {
		t.Errorf("stored anew: %+v, %v", rep, err)
	}
	wantBlob(t, s, p)
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	p := noise(13, 3*spanSize)
	s := openTest(t, dir, Options{})
	h := sealFile(t, s, p)
	if err := s.db.Sync(); err != nil {
		t.Fatal(err)
	}
	os.Remove(s.outboardPath(h))
	db, err := schema.Open(context.Background(), dir, schema.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ro, err := Open(context.Background(), dir, db, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	wantBlob(t, ro, p)
	if _, err := os.Stat(s.outboardPath(h)); err == nil {
		t.Error("a read-only store wrote an outboard")
	}
	if rep, err := ro.GC(context.Background(), GCOptions{Grace: -1, DryRun: true}); err != nil || rep.Blobs != 1 {
		t.Errorf("GC: %+v, %v", rep, err)
	}
	flip(t, s.blobPath(h), 5)
	rep, err := ro.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil || len(rep.Damaged) != 1 {
		t.Errorf("Check: %+v, %v", rep, err)
	}
	if _, err := os.Stat(s.blobPath(h)); err != nil {
		t.Errorf("a read-only store moved a blob: %v", err)
	}
}

func TestCheckProgress(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	sizes := []int{100, 40_000, 3*spanSize + 1}
	var want int64
	for _, n := range sizes {
		sealFile(t, s, noise(14, n))
		want += int64(n)
	}
	err := s.db.Write(func(tx *schema.Tx) error { _, err := s.PutInline(tx, make([]byte, 500)); return err })
	if err != nil {
		t.Fatal(err)
	}
	want += 500
	for _, deep := range []bool{true, false} {
		var done, total int64
		rep, err := s.Check(context.Background(), CheckOptions{Deep: deep, Progress: func(d, t int64) { done, total = d, t }})
		if err != nil || rep.Bytes != want || rep.Blobs != 4 {
			t.Errorf("%+v, %v", rep, err)
		}
		end := want
		if !deep {
			end = 4
		}
		if done != end || total != end {
			t.Errorf("deep %v: progress ends at %d of %d, want %d", deep, done, total, end)
		}
	}
}
