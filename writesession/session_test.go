package writesession

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

func TestOtherSurfacesSeeTheOldVersionUntilPublish(t *testing.T) {
	w := newWorld(t, small)
	other := w.main.WithOrigin(2)
	for _, n := range []int{100, 30 << 10, 100 << 10} {
		name := string(rune('a' + n>>10))
		f := w.create(w.main, name)
		first, second := fill(n, 1), fill(n, 2)
		w.put(f, 0, first)
		w.publish(f)
		g, same := w.open(other, name), w.open(w.main, name)
		if same != f || g == f {
			t.Fatal("Files are shared by surface")
		}
		w.put(f, 0, second)
		w.holds(same, second)
		w.holds(g, first)
		w.publish(f)
		w.holds(g, first) // until it is told
		w.s.Refresh(w.main.Branch().ID, f.Ino())
		w.holds(g, second)
		again := w.open(other, name) // close-to-open needs no telling
		w.holds(again, second)
		for _, f := range []*File{f, g, same, again} {
			w.shut(f)
		}
	}
}

func TestTheLastToPublishWinsAndBytesNeverMix(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	w.put(f, 0, fill(100<<10, 0))
	w.publish(f)
	g := w.open(w.main.WithOrigin(2), "f")
	w.put(f, 10, fill(50, 1))
	w.put(g, 60<<10, fill(50, 2))
	base := fill(100<<10, 0)
	one, two := bytes.Clone(base), bytes.Clone(base)
	copy(one[10:], fill(50, 1))
	copy(two[60<<10:], fill(50, 2))
	w.publish(f)
	w.s.Refresh(w.main.Branch().ID, f.Ino())
	w.holds(g, two)
	w.same(w.published(w.main, "f"), one)
	w.shut(g)
	w.same(w.published(w.main, "f"), two)
	w.shut(f)
	w.same(w.published(w.main, "f"), two)
}

func TestWhatIsCutOffDoesNotComeBack(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	w.put(f, 0, fill(100<<10, 1))
	w.publish(f)
	want := fill(100<<10, 1)
	clear(want[50<<10:])
	for _, size := range []int64{50 << 10, 100 << 10} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
	}
	w.holds(f, want)
	if hole, err := f.Seek(0, unix.SEEK_HOLE); hole != 50<<10 || err != nil {
		t.Fatal(hole, err)
	}
	w.publish(f)
	w.holds(f, want)
	if hole, err := f.Seek(0, unix.SEEK_HOLE); hole > 64<<10 || err != nil {
		t.Fatalf("hole at %d: %v", hole, err)
	}
	w.shut(f)
}

func TestPublishOfNothingIsNothing(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	w.put(f, 0, []byte("x"))
	in := w.publish(f)
	if again := w.publish(f); again != in {
		t.Fatalf("%+v became %+v", in, again)
	}
	if f.SetMtime(5) {
		t.Fatal("SetMtime joined a clean file")
	}
	w.shut(f)
	if got := w.stat(w.main, "f"); got != in {
		t.Fatalf("%+v became %+v", in, got)
	}
}

func TestTimesAndSetIDJoinThePublish(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	mode := uint32(0o6755)
	w.write(func(tx *schema.Tx) error {
		in, err := w.main.SetAttr(tx, f.Ino(), pathtree.SetAttr{Mode: &mode})
		f.Observe(in)
		return err
	})
	w.put(f, 0, []byte("x"))
	f.ClearSetID()
	if !f.SetMtime(12345) {
		t.Fatal("SetMtime did not join")
	}
	check := func(in pathtree.Inode) {
		t.Helper()
		if in.Mtime != 12345 || in.Mode&0o7777 != 0o755 || in.Size != 1 {
			t.Fatalf("%+v", in)
		}
	}
	check(f.Inode())
	check(w.s.Overlay(w.main, w.stat(w.main, "f")))
	if in := w.s.Overlay(w.main.WithOrigin(5), w.stat(w.main, "f")); in.Size != 0 {
		t.Fatal("another surface sees the open session")
	}
	check(w.publish(f))
	check(w.stat(w.main, "f"))
	before := time.Now().UnixNano()
	w.put(f, 0, []byte("y"))
	if in := w.publish(f); in.Mtime < before {
		t.Fatal("a later write has an earlier time")
	}
	w.shut(f)
}

// An fsync of a file without links succeeds also when what it began on was replaced,
// pruned and collected meanwhile.
func TestUnlinkedFileIsSyncedWithoutItsBase(t *testing.T) {
	w := newWorld(t, small)
	defer w.close()
	f := w.create(w.main, "f")
	w.put(f, 0, fill(3000, 1))
	base := w.publish(f)
	w.put(f, 100, fill(10, 2))
	w.write(func(tx *schema.Tx) error {
		_, err := w.main.SetContent(tx, base.Ino, pathtree.Content{})
		if err == nil {
			_, err = w.main.Unlink(tx, w.main.Root(), "f")
		}
		return err
	})
	w.write(func(tx *schema.Tx) error {
		_, _, err := w.tree.Prune(tx, pathtree.Cut{Before: schema.MaxStamp}, 0)
		return err
	})
	if _, err := w.blobs.GC(t.Context(), blobstore.GCOptions{Grace: -1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.blobs.Open(base.Hash, base.Size); !errors.Is(err, blobstore.ErrMissing) {
		t.Fatalf("what it began on is there: %v", err)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	w.holds(f, slices.Concat(fill(3000, 1)[:100], fill(10, 2), fill(3000, 1)[110:]))
	w.shut(f)
}

func TestUnlinkedFilesAreDroppedUnlessLinkedAgain(t *testing.T) {
	w := newWorld(t, small)
	for _, n := range []int{100, 100 << 10} {
		var in pathtree.Inode
		w.write(func(tx *schema.Tx) (err error) {
			in, err = w.main.CreateUnlinked(tx, w.main.Root(), pathtree.NewInode{Mode: unix.S_IFREG | 0o600})
			return err
		})
		f := w.openInode(w.main, in)
		w.put(f, 0, fill(n, 1))
		if err := f.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if !f.Dirty() || w.s.Stats().Publishes != 0 {
			t.Fatal("an unlinked file was published")
		}
		w.holds(f, fill(n, 1))
		w.shut(f)

		w.write(func(tx *schema.Tx) (err error) {
			in, err = w.main.CreateUnlinked(tx, w.main.Root(), pathtree.NewInode{Mode: unix.S_IFREG | 0o600})
			return err
		})
		f = w.openInode(w.main, in)
		w.put(f, 0, fill(n, 2))
		w.publish(f)
		name := string(rune('a' + n>>10))
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Link(tx, in.Ino, w.main.Root(), name)
			return err
		})
		w.publish(f)
		w.same(w.published(w.main, name), fill(n, 2))
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Unlink(tx, w.main.Root(), name)
			return err
		})
		w.put(f, 0, fill(n, 3))
		w.holds(f, fill(n, 3))
		w.shut(f)
		w.s.stats.publishes.Store(0)
	}
	if n := w.s.Stats().Open; n != 0 || len(w.sessions()) != 0 {
		t.Fatalf("%d files open, sessions %v", n, w.sessions())
	}
	w.noStaging()
}

func TestARemovedBranchTakesItsSessionsWithIt(t *testing.T) {
	w := newWorld(t, small)
	var v *pathtree.View
	w.write(func(tx *schema.Tx) error {
		b, err := w.tree.CreateBranch(tx, w.main.Bucket().ID, "fork", pathtree.Origin{Branch: w.main.Branch().ID})
		if err == nil {
			v, err = w.tree.View(tx, b.ID, 0)
		}
		return err
	})
	for _, n := range []int{10, 100 << 10} {
		w.put(w.create(v, string(rune('a'+n>>10))), 0, fill(n, 1))
	}
	w.write(func(tx *schema.Tx) error { return w.tree.RemoveBranch(tx, v.Branch().ID) })
	for _, f := range w.s.open(func(*File) bool { return true }) {
		if err := f.Close(); pathtree.Errno(err) != syscall.ESTALE {
			t.Fatal(err)
		}
	}
	if n := w.s.Stats().Open; n != 0 || len(w.sessions()) != 0 {
		t.Fatalf("%d files open, sessions %v", n, w.sessions())
	}
	w.noStaging()
}

func TestCopyOfAWholeFileMovesNoBytes(t *testing.T) {
	w := newWorld(t, small)
	for _, n := range []int64{1, 10 << 10, 30 << 10, 300 << 10} {
		src := w.create(w.main, "src"+string(rune('a'+n>>10)))
		want := fill(int(n), 1)
		w.put(src, 0, want)
		w.publish(src)
		name := "dst" + string(rune('a'+n>>10))
		dst := w.create(w.main, name)
		shared := w.s.Stats().Shared
		for done := int64(0); done < n; { // as the kernel splits it
			m, err := CopyRange(dst, done, src, done, min(n-done, 128<<10))
			if err != nil || m == 0 {
				t.Fatal(m, err)
			}
			done += m
			w.holds(dst, want[:done])
		}
		if w.s.Stats().Shared == shared {
			t.Fatal("bytes were copied")
		}
		if in := w.publish(dst); in.Hash != src.Inode().Hash {
			t.Fatal("the content differs")
		}
		w.put(dst, 0, []byte{0xff})
		w.shut(dst)
		w.same(w.published(w.main, name), append([]byte{0xff}, want[1:]...))
		w.holds(src, want)
		w.shut(src)
	}
}

func TestFlushOfACostlyFileWaits(t *testing.T) {
	w := newWorld(t, Options{MemoryMax: 1, PersistAfter: 10 * time.Millisecond})
	f := w.create(w.main, "f")
	w.put(f, 0, fill(100<<10, 1))
	if err := f.Flush(ctx); err != nil || f.Dirty() {
		t.Fatal(err, "the first flush must publish")
	}
	costs(f, time.Hour)
	w.put(f, 0, fill(100, 2))
	if err := f.Flush(ctx); err != nil || !f.Dirty() {
		t.Fatal(err, "an expensive publish was repeated at once")
	}
	f.due.Store(1)
	eventually(t, func() bool { return !f.Dirty() })
	if w.s.Stats().Deferred != 1 {
		t.Fatal(w.s.Stats())
	}
	costs(f, time.Hour)
	w.put(f, 0, fill(100, 3))
	if err := f.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	w.shut(f)
	w.same(w.published(w.main, "f")[:100], fill(100, 3))
}

// costs pretends that a publish of f took so long and has just ended.
func costs(f *File, took time.Duration) {
	f.change.Lock()
	defer f.release()
	f.cost = cost{took, time.Now()}
}

func TestSizesAndModesThatAreRefused(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	defer w.shut(f)
	expect := func(want syscall.Errno, err error) {
		t.Helper()
		if pathtree.Errno(err) != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	for _, off := range []int64{MaxSize, math.MaxInt64 - 1, math.MaxInt64} {
		_, err := f.WriteAt([]byte("xy"), off)
		expect(syscall.EFBIG, err)
		expect(syscall.EFBIG, f.Truncate(max(off, MaxSize+1)))
		expect(syscall.EFBIG, f.Allocate(0, off, 10))
	}
	_, err := f.WriteAt([]byte("x"), -1)
	expect(syscall.EINVAL, err)
	expect(syscall.EINVAL, f.Truncate(-1))
	expect(syscall.EINVAL, f.Allocate(0, 0, 0))
	expect(syscall.EOPNOTSUPP, f.Allocate(unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096))
	expect(syscall.EOPNOTSUPP, f.Allocate(unix.FALLOC_FL_PUNCH_HOLE, 0, 4096))
	_, err = f.Seek(0, unix.SEEK_DATA)
	expect(syscall.ENXIO, err)
	_, err = f.Seek(0, io.SeekEnd)
	expect(syscall.EINVAL, err)
	_, err = w.s.Open(w.main, w.main.Root())
	expect(syscall.EISDIR, err)
	if f.Dirty() {
		t.Error("a refused change opened the session")
	}
	w.write(func(tx *schema.Tx) error { return nil })
	var past *pathtree.View
	w.read(func(tx *schema.Tx) (err error) {
		past, err = w.tree.View(tx, w.main.Branch().ID, schema.MaxStamp-1)
		return err
	})
	g := w.open(past, "f")
	defer w.shut(g)
	_, err = g.WriteAt([]byte("x"), 0)
	expect(syscall.EROFS, err)
	expect(syscall.EROFS, g.Truncate(0))
	expect(syscall.EROFS, g.Allocate(0, 0, 1))
}

func TestASparseFileCostsItsData(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	const size = 10 << 30
	w.put(f, size-1, []byte{1})
	w.put(f, 5<<30, []byte("middle"))
	in := w.publish(f)
	if in.Size != size {
		t.Fatal(in.Size)
	}
	b, ok := f.ReadOnlyBlob()
	if !ok {
		t.Fatal("no blob")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(b.File().Fd()), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Fatal(st.Blocks, err)
	}
	w.put(f, 1<<30, []byte("x")) // a small change copies only data
	w.publish(f)
	p := make([]byte, 6)
	if _, err := f.ReadAt(p, 5<<30); err != nil || string(p) != "middle" {
		t.Fatal(err, p)
	}
	if off, err := f.Seek(1<<30+1<<20, unix.SEEK_DATA); err != nil || off > 5<<30 || off < 5<<30-1<<20 {
		t.Fatal(off, err)
	}
	w.shut(f)
}

func TestTheBlobGivenOutNeverChanges(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	first := fill(100<<10, 1)
	w.put(f, 0, first)
	if _, ok := f.ReadOnlyBlob(); ok {
		t.Fatal("a dirty file gave its blob")
	}
	w.publish(f)
	b, ok := f.ReadOnlyBlob()
	if !ok {
		t.Fatal("no blob")
	}
	for i := range byte(3) {
		w.put(f, int64(i)*20000, fill(30000, 10+i))
		w.publish(f)
		p := make([]byte, len(first))
		if _, err := b.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		w.same(p, first)
		if _, err := b.File().ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		w.same(p, first)
	}
	w.shut(f)
}

// Readers open the base blob, and are given it, at the moment at which a change
// replaces the content.
func TestTheBlobIsOpenedWhileTheContentIsReplaced(t *testing.T) {
	w := newWorld(t, small)
	want := fill(100<<10, 1)
	src := w.create(w.main, "src")
	w.put(src, 0, want)
	w.publish(src)
	changes := map[string]func(f *File) error{
		"cut":       func(f *File) error { return f.Truncate(10) },
		"overwrite": func(f *File) error { _, err := f.WriteAt(want[:10], 5); return err },
		"share":     func(f *File) error { _, err := CopyRange(f, 10, src, 10, 50<<10); return err },
		"drop": func(f *File) error {
			_, err := f.WriteAt(want[:10], 5)
			f.Abort()
			return err
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			for range 30 {
				f := w.create(w.main, "f")
				if _, err := CopyRange(f, 0, src, 0, int64(len(want))); err != nil {
					t.Fatal(err)
				}
				w.shut(f)
				f = w.open(w.main, "f") // its blob is not open
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						if b, ok := f.ReadOnlyBlob(); ok {
							p := make([]byte, len(want))
							if _, err := b.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
								t.Error("the blob given out has changed or was closed:", err)
							}
						}
						if _, err := f.ReadAt(make([]byte, 100), 0); err != nil && err != io.EOF {
							t.Error(err)
						}
					})
				}
				wg.Go(func() {
					if err := change(f); err != nil {
						t.Error(err)
					}
				})
				wg.Wait()
				w.shut(f)
				w.write(func(tx *schema.Tx) error { _, err := w.main.Unlink(tx, w.main.Root(), "f"); return err })
			}
		})
	}
	w.shut(src)
}

func TestExclusiveWritesRefuseTheSecond(t *testing.T) {
	w := newWorld(t, small)
	w.write(func(tx *schema.Tx) error {
		return w.tree.SetPolicy(tx, w.main.Bucket().ID, pathtree.Policy{ExclusiveWrites: true})
	})
	if err := w.s.Policies(); err != nil {
		t.Fatal(err)
	}
	var v *pathtree.View
	w.read(func(tx *schema.Tx) (err error) {
		v, err = w.tree.View(tx, w.main.Branch().ID, 0)
		return err
	})
	f := w.create(v, "f")
	g := w.open(v.WithOrigin(3), "f")
	w.put(f, 0, []byte("one"))
	_, err := g.WriteAt([]byte("two"), 0)
	if me := fmt.Sprint("process ", os.Getpid(), " ("); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), me) {
		t.Fatal(err)
	}
	may := func() (err error) {
		w.read(func(tx *schema.Tx) error { err = w.s.MayReplace(tx, v, f.Ino()); return nil })
		return err
	}
	if err := may(); !errors.Is(err, syscall.EBUSY) {
		t.Fatal(err)
	}
	w.publish(f)
	if err := may(); err != nil {
		t.Fatal(err)
	}
	w.put(g, 0, []byte("two"))
	if err := f.Truncate(0); !errors.Is(err, syscall.EBUSY) {
		t.Fatal(err)
	}
	w.shut(g)
	w.put(f, 0, []byte("six"))
	w.shut(f)
	w.same(w.published(v, "f"), []byte("six"))
	if l := w.sessions(); len(l) != 0 {
		t.Fatal(l)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, Options{MemoryMax: 40 << 10, PersistAfter: time.Millisecond})
	f := w.create(w.main, "f")
	const n = 8
	const size = 32 << 10
	var wg sync.WaitGroup
	for i := range byte(n) {
		g := w.open(w.main, "f")
		wg.Go(func() {
			defer g.Close()
			at := int64(i) * size
			for round := range byte(20) {
				p := fill(size, i+round)
				if _, err := g.WriteAt(p, at); err != nil {
					t.Error(err)
				}
				var err error
				switch round % 5 {
				case 1:
					_, err = g.Publish(ctx)
				case 2:
					err = g.Flush(ctx)
				case 3:
					err = g.Sync(ctx)
				}
				if err != nil {
					t.Error(err)
				}
				q := make([]byte, size)
				if _, err := g.ReadAt(q, at); err != nil && err != io.EOF || !bytes.Equal(p, q) {
					t.Errorf("writer %d does not see round %d: %v", i, round, err)
				}
				g.Inode()
				w.s.Refresh(w.main.Branch().ID, g.Ino())
				_, _ = g.Seek(0, unix.SEEK_HOLE)
			}
		})
	}
	wg.Wait()
	w.shut(f)
	got := w.published(w.main, "f")
	for i := range byte(n) {
		w.same(got[int(i)*size:][:size], fill(size, i+19))
	}
}

func TestCloseOfTheSessionsPublishes(t *testing.T) {
	dir := t.TempDir()
	w := openWorld(t, dir, small)
	for _, n := range []int{10, 100 << 10} {
		w.put(w.create(w.main, string(rune('a'+n>>10))), 0, fill(n, 1))
	}
	w.close()
	w = openWorld(t, dir, small)
	for _, n := range []int{10, 100 << 10} {
		w.same(w.published(w.main, string(rune('a'+n>>10))), fill(n, 1))
	}
}

func TestCloseThatCannotPublishLeavesAnOrphan(t *testing.T) {
	dir := t.TempDir()
	w := openWorld(t, dir, small)
	f := w.create(w.main, "f")
	old, cut := fill(100<<10, 1), fill(100<<10, 1)
	w.put(f, 0, old)
	w.publish(f)
	w.put(f, 3, []byte("new"))
	copy(cut[3:], "new")
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.s.Close(over); err == nil {
		t.Fatal("no error")
	}
	w.close()

	w = openWorld(t, dir, small)
	w.same(w.published(w.main, "f"), old)
	l := w.sessions()
	if len(l) != 1 || l[0].Alive || l[0].Synced || l[0].Ino != f.Ino() {
		t.Fatalf("%+v", l)
	}
	var got bytes.Buffer
	if err := w.s.Recover(ctx, l[0].ID, &got); err != nil {
		t.Fatal(err)
	}
	w.same(got.Bytes(), cut)
	if _, err := w.s.Publish(ctx, l[0].ID); err != nil {
		t.Fatal(err)
	}
	w.same(w.published(w.main, "f"), cut)
	if err := w.s.Abort(ctx, l[0].ID); pathtree.Errno(err) != syscall.ENOENT {
		t.Fatal(err)
	}
	w.noStaging()
}

func TestPublishGoesOnAfterTheTransactionFailed(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	want := fill(100<<10, 1)
	w.put(f, 0, want)
	f.change.Lock()
	if _, err := f.seal(ctx); err != nil {
		t.Fatal(err)
	}
	f.release()
	w.holds(f, want)
	w.put(f, 50, []byte("more"))
	copy(want[50:], "more")
	f.change.Lock()
	if _, err := f.seal(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.save(false); err != nil {
		t.Fatal(err)
	}
	f.release()
	w.holds(f, want)
	w.shut(f)
	w.same(w.published(w.main, "f"), want)
	if len(w.sessions()) != 0 {
		t.Fatal(w.sessions())
	}
}

func TestWhatTheDatabaseLostIsPublishedAgain(t *testing.T) {
	w := newWorld(t, small)
	for i, n := range []int{10, 30 << 10, 100 << 10} {
		name := string(rune('a' + i))
		f := w.create(w.main, name)
		before := f.Inode()
		want := fill(n, 3)
		w.put(f, 0, want)
		f.SetMtime(77)
		w.publish(f)
		w.write(func(tx *schema.Tx) error { // as if the batch had gone
			_, err := w.main.SetContent(tx, f.Ino(), pathtree.Content{})
			return err
		})
		f.change.Lock()
		f.revert(before)
		f.release()
		if !f.Dirty() {
			t.Fatal("content that is not published is clean")
		}
		w.holds(f, want)
		w.shut(f)
		w.same(w.published(w.main, name), want)
		if in := w.stat(w.main, name); in.Mtime != 77 {
			t.Fatal(in.Mtime)
		}
	}
	f := w.open(w.main, "a")
	w.s.Lost()
	w.holds(f, fill(10, 3))
	w.shut(f)
}

func eventually(t rapid.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came")
		}
	}
}
