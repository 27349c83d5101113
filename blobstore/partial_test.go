package blobstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
	"pgregory.net/rapid"
)

// storeSource brings content from another store.
type storeSource struct {
	from   *Store
	groups atomic.Int64 // brought
	mu     sync.Mutex   // guards what follows
	asked  []Range
	one    sync.Mutex                      // held while groups are brought, each once
	before func(p *Partial, r Range) error // may be nil
}

func (s *storeSource) Fetch(ctx context.Context, p *Partial, want []Range, _ Priority) error {
	b, err := s.from.Open(p.Hash(), p.Size())
	if err != nil {
		return NotHere(p.Hash(), "the other store says: "+err.Error())
	}
	defer b.Close()
	for _, r := range want {
		s.mu.Lock()
		s.asked = append(s.asked, r)
		s.mu.Unlock()
		if s.before != nil {
			if err := s.before(p, r); err != nil {
				return err
			}
		}
		if err := s.bring(ctx, p, b, r); err != nil {
			return err
		}
	}
	return nil
}

// bring brings what is still missing of r.
func (s *storeSource) bring(ctx context.Context, p *Partial, b *Blob, r Range) error {
	s.one.Lock()
	defer s.one.Unlock()
	miss, err := p.Missing(r)
	for _, r := range miss {
		if err == nil {
			err = s.bringAll(ctx, p, b, r)
		}
	}
	return err
}

func (s *storeSource) bringAll(ctx context.Context, p *Partial, b *Blob, r Range) error {
	for r.Count > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part, err := s.copySlice(p, b, r)
		if err != nil {
			return err
		}
		r = Range{part.End(), r.End() - part.End()}
	}
	return nil
}

// copySlice brings the first slice of r.
func (s *storeSource) copySlice(p *Partial, b *Blob, r Range) (got Range, err error) {
	proof, got, zero, err := b.Proof(nil, r)
	if err != nil {
		return got, err
	}
	sl, err := p.Begin(got, proof)
	if err != nil {
		return got, err
	}
	defer sl.Close()
	if zero != (sl.Len() == 0) {
		return got, fmt.Errorf("zero is %v, but %d bytes are to come", zero, sl.Len())
	}
	if zero {
		return got, nil
	}
	s.groups.Add(got.Count)
	data := make([]byte, sl.Len())
	if _, err := b.ReadAt(data, got.First*GroupSize); err != nil && err != io.EOF {
		return got, err
	}
	return got, sl.Put(data)
}

// expect notes p as content that is elsewhere.
func expect(tb testing.TB, s *Store, p []byte) Hash {
	tb.Helper()
	h := Sum(p)
	if err := s.db.Write(func(tx *schema.Tx) error { return Expect(tx, h, int64(len(p))) }); err != nil {
		tb.Fatal(err)
	}
	return h
}

// add stores p, whatever its size.
func add(tb testing.TB, s *Store, p []byte) {
	tb.Helper()
	if len(p) > InlineMax {
		sealFile(tb, s, p)
		return
	}
	err := s.db.Write(func(tx *schema.Tx) error {
		_, err := s.PutInline(tx, p)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// pair returns a store whose content comes from another.
func pair(tb testing.TB) (here, there *Store, src *storeSource) {
	tb.Helper()
	there = openTest(tb, tb.TempDir(), Options{SyncAfter: -1})
	here = openTest(tb, tb.TempDir(), Options{SyncAfter: -1})
	src = &storeSource{from: there}
	here.SetSource(src)
	return here, there, src
}

func partialsLeft(tb testing.TB, s *Store) int {
	tb.Helper()
	files, err := os.ReadDir(filepath.Join(s.dir, "partial"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	return len(files)
}

func TestAbsentContentIsReadAndKept(t *testing.T) {
	here, there, src := pair(t)
	for i, n := range sizes {
		p := noise(uint64(500+i), n)
		add(t, there, p)
		expect(t, here, p)
		wantBlob(t, here, p)
		before := src.groups.Load()
		wantBlob(t, here, p)
		if src.groups.Load() != before {
			t.Errorf("%d bytes were brought twice", n)
		}
		err := here.db.Read(func(tx *schema.Tx) error {
			ok, err := here.Here(tx, Sum(p))
			if err == nil && !ok {
				err = errors.New("the row does not say that it is here")
			}
			return err
		})
		if err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if n := partialsLeft(t, here); n != 0 {
		t.Errorf("%d files are left in partial/", n)
	}
	rep, err := here.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil || len(rep.Damaged)+len(rep.Missing)+len(rep.Rebuilt) != 0 || rep.Absent != 0 || rep.Blobs != int64(len(sizes)) {
		t.Errorf("check: %+v, %v", rep, err)
	}
}

func TestReadBringsWhatItNeeds(t *testing.T) {
	here, there, src := pair(t)
	p := noise(600, 40*spanSize+5)
	add(t, there, p)
	b, err := here.Open(expect(t, here, p), int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	rnd := rand.New(rand.NewPCG(6, 1))
	for range 8 { // far apart and backwards, so that none looks sequential
		q := make([]byte, 1+rnd.IntN(3*GroupSize))
		off := rnd.IntN(len(p) - len(q))
		asked := len(src.asked)
		if _, err := b.ReadAt(q, int64(off)); err != nil || !bytes.Equal(q, p[off:off+len(q)]) {
			t.Fatalf("%d bytes at %d: %v", len(q), off, err)
		}
		want := GroupsOf(int64(off), int64(len(q)))
		for _, r := range src.asked[asked:] {
			if off != 0 && (r.First < want.First || r.End() > want.End()) {
				t.Errorf("groups %v were asked for, %v needed", r, want)
			}
		}
	}
	if b.File() != nil || b.Verified() {
		t.Error("a part passes for the whole")
	}
	if err := b.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	if b.File() == nil || !b.Verified() {
		t.Error("the handle does not see that all is here")
	}
	if got := src.groups.Load(); got != Groups(int64(len(p))) {
		t.Errorf("%d groups were brought, there are %d", got, Groups(int64(len(p))))
	}
}

func TestSequentialReaderGetsReadAhead(t *testing.T) {
	here, there, src := pair(t)
	p := noise(601, 64*spanSize)
	add(t, there, p)
	b, err := here.Open(expect(t, here, p), int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	q := make([]byte, 128<<10)
	for off := 0; off < len(p); off += len(q) {
		if _, err := b.ReadAt(q, int64(off)); err != nil && err != io.EOF || !bytes.Equal(q, p[off:off+len(q)]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	longest := int64(0)
	src.mu.Lock()
	defer src.mu.Unlock()
	for _, r := range src.asked {
		longest = max(longest, r.Count)
	}
	if longest < 2*spanGroups {
		t.Errorf("at most %d groups were asked for at once", longest)
	}
}

func TestBlocksOfZerosAreNotBrought(t *testing.T) {
	here, there, src := pair(t)
	st, err := there.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	size := int64(5*blockSize + 12345)
	head, tail := noise(602, 100_000), noise(603, 12345)
	st.WriteAt(head, 0)
	st.WriteAt(head, 2*blockSize+777)
	st.WriteAt(tail, 5*blockSize)
	h := seal(t, st, size)
	if err := here.db.Write(func(tx *schema.Tx) error { return Expect(tx, h, size) }); err != nil {
		t.Fatal(err)
	}
	if err := here.Fetch(context.Background(), h, size, Eager); err != nil {
		t.Fatal(err)
	}
	if got, most := src.groups.Load(), int64(2*blockGroups+spanGroups); got > most {
		t.Errorf("%d groups were brought, expected at most %d", got, most)
	}
	b, err := here.Open(h, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var fi syscall.Stat_t
	if err := syscall.Fstat(int(b.File().Fd()), &fi); err != nil || fi.Blocks*512 > 1<<20 {
		t.Errorf("it takes %d bytes: %v", fi.Blocks*512, err)
	}
	rep, err := here.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil || len(rep.Damaged)+len(rep.Rebuilt) != 0 {
		t.Errorf("check: %+v, %v", rep, err)
	}
	got := make([]byte, len(head))
	if _, err := b.ReadAt(got, 2*blockSize+777); err != nil || !bytes.Equal(got, head) {
		t.Errorf("it reads differently: %v", err)
	}
}

func TestNotHere(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1, FetchWait: time.Millisecond})
	small, large := noise(610, 100), noise(611, 3*spanSize)
	for _, p := range [][]byte{small, large} {
		if _, err := s.Open(Sum(p), int64(len(p))); !errors.Is(err, ErrMissing) {
			t.Errorf("nobody said it was elsewhere: %v", err)
		}
		expect(t, s, p)
		_, err := readBlob(s, Sum(p), int64(len(p)))
		if !errors.Is(err, ErrNotHere) || !errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EIO) {
			t.Errorf("without a source: %v", err)
		}
	}
	s.SetSource(sourceFunc(func(ctx context.Context, _ *Partial, _ []Range, _ Priority) error {
		<-ctx.Done()
		return ctx.Err()
	}))
	for _, p := range [][]byte{small, large} {
		if _, err := readBlob(s, Sum(p), int64(len(p))); !errors.Is(err, ErrNotHere) {
			t.Errorf("from a source that never answers: %v", err)
		}
		b, err := s.Open(Sum(p), int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := b.ReadAtContext(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("an interrupted read: %v", err)
		}
		b.Close()
	}
	err := s.db.Read(func(tx *schema.Tx) error {
		_, err := s.Content(tx, Sum(large), int64(len(large)))
		return err
	})
	var first *NotHereError
	if !errors.As(err, &first) || first.Hash != Sum(large) {
		t.Errorf("inside a transaction: %v", err)
	}
	if rep, err := s.Check(context.Background(), CheckOptions{Deep: true}); err != nil || rep.Absent != 2 || rep.Blobs != 0 || len(rep.Missing) != 0 {
		t.Errorf("check: %+v, %v", rep, err)
	}
	if st := s.Stats(); st.Absent != 2 || st.AbsentBytes != int64(len(small)+len(large)) || st.Files != 0 {
		t.Errorf("statistics: %+v", st)
	}
}

type sourceFunc func(context.Context, *Partial, []Range, Priority) error

func (f sourceFunc) Fetch(ctx context.Context, p *Partial, want []Range, prio Priority) error {
	return f(ctx, p, want, prio)
}

// Damage, and content that should be here, is brought anew.
func TestMissingAndDamagedContentIsBroughtAnew(t *testing.T) {
	here, there, _ := pair(t)
	lost, bad, small := noise(620, 200_000), noise(621, 200_000), noise(622, 500)
	for _, p := range [][]byte{lost, bad, small} {
		add(t, there, p)
		add(t, here, p)
	}
	here.forget(Sum(lost))
	here.forget(Sum(bad))
	if err := os.Remove(here.blobPath(Sum(lost))); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(here.blobPath(Sum(bad)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{bad[70_000] ^ 1}, 70_000)
	f.Close()
	err = here.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("UPDATE blob SET data = zeroblob(500) WHERE hash = ?")
		h := Sum(small)
		q.BindBytes(1, h[:])
		_, err := q.Step()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := here.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil || len(rep.Damaged) != 2 || len(rep.Missing) != 1 {
		t.Fatalf("check: %+v, %v", rep, err)
	}
	for _, p := range [][]byte{lost, bad, small} {
		wantBlob(t, here, p)
	}
	rep, err = here.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil || len(rep.Damaged)+len(rep.Missing)+len(rep.Quarantined) != 0 {
		t.Errorf("check after: %+v, %v", rep, err)
	}
}

// What was brought is not brought again by the next process, and bits that a
// power cut made wrong are found out.
func TestPartialResumes(t *testing.T) {
	dir := t.TempDir()
	there := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	p := noise(630, 6*spanSize+99)
	add(t, there, p)
	h, size := Sum(p), int64(len(p))
	src := &storeSource{from: there}
	round := func(f func(s *Store, part *Partial)) {
		db, err := schema.Open(context.Background(), dir, schema.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		s, err := Open(context.Background(), dir, db, Options{SyncAfter: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.SetSource(src)
		expect(t, s, p)
		part := s.partial(h, size)
		defer part.Release()
		f(s, part)
	}
	ctx := context.Background()
	round(func(s *Store, part *Partial) {
		if err := part.fetch(ctx, Range{10, 200}, Eager); err != nil {
			t.Fatal(err)
		}
	})
	round(func(s *Store, part *Partial) {
		if miss, err := part.Missing(Range{0, 1 << 40}); err != nil || fmt.Sprint(miss) != fmt.Sprintf("[{0 10} {210 %d}]", part.Groups()-210) {
			t.Errorf("missing: %v, %v", miss, err)
		}
		// A power cut: another boot, and bytes that never reached the disk.
		files := part.mu.files
		files.have.WriteAt([]byte("another boot"), int64(len(haveMagic)+40))
		files.data.WriteAt(make([]byte, GroupSize), 100*GroupSize)
	})
	round(func(s *Store, part *Partial) {
		if miss, err := part.Missing(Range{10, 200}); err != nil || fmt.Sprint(miss) != "[{100 1}]" {
			t.Errorf("missing after a power cut: %v, %v", miss, err)
		}
		// Damage while the machine runs is met by the next read.
		part.mu.files.data.WriteAt(make([]byte, 10), 150*GroupSize)
	})
	round(func(s *Store, part *Partial) {
		wantBlob(t, s, p)
		if got := src.groups.Load(); got != part.Groups()+2 {
			t.Errorf("%d groups were brought for %d", got, part.Groups())
		}
	})
}

func TestWrongBytesAreRefused(t *testing.T) {
	here, there, _ := pair(t)
	p := noise(640, 5*spanSize+77)
	add(t, there, p)
	other := noise(641, len(p))
	add(t, there, other)
	h, size := expect(t, here, p), int64(len(p))
	b, err := there.Open(h, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	o, err := there.Open(Sum(other), size)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	part := here.partial(h, size)
	defer part.Release()
	r := Range{64, 64}
	proof, _, _, err := b.Proof(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	tailProof, _, _, _ := b.Proof(nil, Range{320, 1})
	otherProof, _, _, _ := o.Proof(nil, r)
	longer := here.partial(h, size+GroupSize) // a size that somebody made up
	defer longer.Release()
	data := p[64*GroupSize : 128*GroupSize]
	flip := func(p []byte, at int) []byte {
		p = bytes.Clone(p)
		p[at] ^= 0x10
		return p
	}
	for _, c := range []struct {
		name  string
		p     *Partial
		r     Range
		proof []byte
		data  []byte
	}{
		{"no proof", part, r, nil, data},
		{"proof cut short", part, r, proof[:len(proof)-64], data},
		{"half a parent", part, r, proof[:len(proof)-1], data},
		{"proof too long", part, r, append(bytes.Clone(proof), make([]byte, 64)...), data},
		{"a bit of the first parent", part, r, flip(proof, 5), data},
		{"a bit of the last parent", part, r, flip(proof, len(proof)-1), data},
		{"proof of another content", part, r, otherProof, data},
		{"proof of other groups", part, Range{0, 64}, proof, data},
		{"groups beyond the end", part, Range{300, 64}, proof, data},
		{"negative groups", part, Range{-1, 64}, proof, data},
		{"no groups", part, Range{64, 0}, proof, data},
		{"very many groups", part, Range{0, 1 << 60}, proof, data},
		{"wrong size", longer, Range{320, 2}, tailProof, p[320*GroupSize:]},
		{"wrong size, zeros added", longer, Range{320, 2}, tailProof, append(bytes.Clone(p[320*GroupSize:]), make([]byte, GroupSize)...)},
		{"a bit of the data", part, r, proof, flip(data, len(data)-1)},
		{"data of another content", part, r, proof, other[64*GroupSize : 128*GroupSize]},
		{"data cut inside a group", part, r, proof, data[:100]},
		{"data too long", part, r, proof, append(bytes.Clone(data), 0)},
	} {
		sl, err := c.p.Begin(c.r, c.proof)
		if err == nil {
			err = sl.Put(c.data)
			sl.Close()
		}
		if !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", c.name, err)
		}
		for at := int64(64); at < 128; at++ { // what was kept before an error is right
			q := make([]byte, GroupSize)
			if err := part.readHere(q, at*GroupSize); err == nil && !bytes.Equal(q, p[at*GroupSize:][:GroupSize]) {
				t.Fatalf("%s: group %d is kept and wrong", c.name, at)
			}
		}
	}
	wantBlob(t, here, p)
}

// Random reads of random contents by several readers at once, with a source
// that fails now and then, see what is there.
func TestPartialModel(t *testing.T) {
	here, there, src := pair(t)
	var turn atomic.Int64
	src.before = func(*Partial, Range) error {
		if turn.Add(1)%7 == 0 {
			return NotHere(Hash{}, "it is the seventh time")
		}
		return nil
	}
	seed := uint64(700)
	rapid.Check(t, func(rt *rapid.T) {
		seed++
		p := noise(seed, rapid.IntRange(1, 4*spanSize).Draw(rt, "size"))
		add(t, there, p)
		h := expect(t, here, p)
		type read struct{ off, n int }
		reads := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) read {
			off := rapid.IntRange(0, len(p)-1).Draw(rt, "off")
			return read{off, rapid.IntRange(1, min(len(p)-off, 300_000)).Draw(rt, "n")}
		}), 1, 24).Draw(rt, "reads")
		var wg sync.WaitGroup
		var failed atomic.Value
		for i := range 3 {
			wg.Go(func() {
				b, err := here.Open(h, int64(len(p)))
				if err != nil {
					failed.Store(err)
					return
				}
				defer b.Close()
				for j := i; j < len(reads); j += 3 {
					q := make([]byte, reads[j].n)
					_, err := b.ReadAt(q, int64(reads[j].off))
					if err != nil && !errors.Is(err, ErrNotHere) {
						failed.Store(fmt.Errorf("read %v: %w", reads[j], err))
					}
					if err == nil && !bytes.Equal(q, p[reads[j].off:][:reads[j].n]) {
						failed.Store(fmt.Errorf("read %v: wrong bytes", reads[j]))
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			rt.Fatal(err)
		}
		for err := error(ErrNotHere); err != nil; {
			if err = here.Fetch(context.Background(), h, int64(len(p)), Eager); err != nil && !errors.Is(err, ErrNotHere) {
				rt.Fatal(err)
			}
		}
		wantBlob(t, here, p)
	})
	if n := partialsLeft(t, here); n != 0 {
		t.Errorf("%d files are left in partial/", n)
	}
}
