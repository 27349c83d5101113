package alkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// other is a source that brings content from another store.
type other struct {
	blobs  *blobstore.Store
	groups atomic.Int64 // brought
}

func (o *other) Fetch(_ context.Context, p *blobstore.Partial, want []blobstore.Range, _ blobstore.Priority) error {
	b, err := o.blobs.Open(p.Hash(), p.Size())
	if err != nil {
		return err
	}
	defer b.Close()
	for _, r := range want {
		for r.Count > 0 {
			got, err := o.bring(p, b, r)
			if err != nil {
				return err
			}
			r = blobstore.Range{First: got.End(), Count: r.End() - got.End()}
		}
	}
	return nil
}

func (o *other) bring(p *blobstore.Partial, b *blobstore.Blob, r blobstore.Range) (blobstore.Range, error) {
	proof, got, _, err := b.Proof(nil, r)
	if err != nil {
		return got, err
	}
	sl, err := p.Begin(got, proof)
	if err != nil {
		return got, err
	}
	defer sl.Close()
	data := make([]byte, sl.Len())
	if _, err := b.ReadAt(data, got.First*blobstore.GroupSize); err != nil && err != io.EOF {
		return got, err
	}
	o.groups.Add(got.Count)
	return got, sl.Put(data)
}

// emptied returns a store with the tree of s and none of its content, and the
// source that brings that.
func emptied(t *testing.T, s *Store) (*Store, *other) {
	t.Helper()
	dir := t.TempDir() + "/backup"
	backUp(t, s, dir, BackupOptions{})
	e := restored(t, dir)
	var all []Hash
	v := openView(t, e, Spec{})
	err := fs.WalkDir(v, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if h := fi.Sys().(Inode).Hash; !h.IsZero() {
			all = append(all, h)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	may := func(_ context.Context, hs []Hash) ([]bool, error) { return []bool{true}, nil }
	for _, h := range all {
		if _, err := e.blobs.Evict(context.Background(), h, may); err != nil && !errors.Is(err, blobstore.ErrNotHere) {
			t.Fatal(err)
		}
	}
	o := &other{blobs: s.blobs}
	e.blobs.SetSource(o)
	return e, o
}

func randomBytes(seed uint64, n int) []byte {
	p := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7})
	rnd.Read(p)
	return p
}

func TestAbsentTreeReadsEqual(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	want := map[string][]byte{}
	for i, n := range []int{0, 1, 1000, 16384, 16385, 70_000, 1 << 20, 1<<20 + 1, 5_000_000, 1000} {
		name := fmt.Sprintf("file%d", i)
		want[name] = randomBytes(uint64(i), n)
		writeFile(t, v, name, want[name])
	}
	e, o := emptied(t, s)
	r, err := e.Check(context.Background(), CheckOptions{})
	if err != nil || !r.OK() || r.Absent != 9 || r.Blobs != 0 {
		t.Errorf("check: %+v, %v", r, err)
	}
	for name, p := range want {
		wantFile(t, e, Spec{Path: name}, p)
	}
	if o.groups.Load() == 0 {
		t.Error("nothing was brought")
	}
	r, err = e.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil || !r.OK() || r.Absent != 0 || r.Blobs != 9 {
		t.Errorf("check after: %+v, %v", r, err)
	}
}

func TestAbsentFilesAreWrittenTo(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	model := map[string][]byte{}
	for i, n := range []int{3000, 100_000, 3_000_000} {
		for _, what := range []string{"patch", "cut", "grow", "append"} {
			name := fmt.Sprintf("%s%d", what, i)
			model[name] = randomBytes(uint64(1000*i+len(model)), n)
			writeFile(t, v, name, model[name])
		}
	}
	e, _ := emptied(t, s)
	ev := openView(t, e, Spec{})
	for name, p := range model {
		f, err := ev.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		switch name[:len(name)-1] {
		case "patch":
			copy(p[len(p)/2:], "patched")
			_, err = f.WriteAt([]byte("patched"), int64(len(p)/2))
		case "cut":
			model[name] = p[:len(p)/3]
			err = f.Truncate(int64(len(p) / 3))
		case "grow":
			model[name] = append(p, make([]byte, 100)...)
			err = f.Truncate(int64(len(p) + 100))
		case "append":
			model[name] = append(p, "the end"...)
			_, err = f.WriteAt([]byte("the end"), int64(len(p)))
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, p := range model {
		wantFile(t, e, Spec{Path: name}, p)
	}
	if r, err := e.Check(context.Background(), CheckOptions{Deep: true}); err != nil || !r.OK() {
		t.Errorf("check: %+v, %v", r, err)
	}
}

// Copying a file that is elsewhere, and renaming it, needs none of its bytes;
// writing to it when nobody has them fails and leaves it as it was.
func TestAbsentFilesAreCopiedByHash(t *testing.T) {
	s := openStore(t, t.TempDir())
	p := randomBytes(5, 200_000)
	writeFile(t, openView(t, s, Spec{}), "a", p)
	writeFile(t, openView(t, s, Spec{}), "short", p[:1000])
	e, o := emptied(t, s)
	ev := openView(t, e, Spec{})
	if err := ev.Copy(context.Background(), "a", ev, "b", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := o.groups.Load(); n != 0 {
		t.Errorf("%d groups were brought for a copy", n)
	}
	e.blobs.SetSource(nil)
	_, err := ev.ReadFile("b")
	if !errors.Is(err, blobstore.ErrNotHere) || Errno(err) != syscall.EHOSTUNREACH || Damaged(err) {
		t.Errorf("read: %v (%v)", err, Errno(err))
	}
	// A change of a part needs the rest: of a short file at once, of a long one
	// when it is closed.
	for name, step := range map[string]string{"short": "write", "b": "close"} {
		f, err := ev.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		failed := ""
		if _, err := f.WriteAt([]byte("x"), 10); err != nil {
			failed += "write"
			if Errno(err) != syscall.EHOSTUNREACH {
				t.Errorf("%s: write: %v", name, err)
			}
		}
		if err := f.Close(); err != nil {
			failed += "close"
			if Errno(err) != syscall.EHOSTUNREACH {
				t.Errorf("%s: close: %v", name, err)
			}
		}
		if failed != step {
			t.Errorf("%s: failed at %q, not at %s", name, failed, step)
		}
	}
	e.blobs.SetSource(o)
	wantFile(t, e, Spec{Path: "b"}, p)
	wantFile(t, e, Spec{Path: "short"}, p[:1000])
	f, err := ev.OpenFile("b", os.O_RDWR, 0) // the change is still there, and goes on
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	p[10] = 'x'
	wantFile(t, e, Spec{Path: "b"}, p)
}

func TestAbsentTextIsMerged(t *testing.T) {
	s := openStore(t, t.TempDir())
	lines := func(edit int, text string) []byte {
		var b bytes.Buffer
		for i := range 3000 {
			if i == edit {
				fmt.Fprintln(&b, text)
			} else {
				fmt.Fprintln(&b, "line", i)
			}
		}
		return b.Bytes()
	}
	v := openView(t, s, Spec{})
	writeFile(t, v, "text", lines(-1, ""))
	if _, err := s.CreateBranch("", "side", BranchOptions{}); err != nil {
		t.Fatal(err)
	}
	side := Spec{Branch: "side"}
	writeFile(t, openView(t, s, side), "text", lines(2900, "theirs"))
	writeFile(t, v, "text", lines(5, "ours"))
	e, o := emptied(t, s) // the content of side is there, that of main is not
	r, err := e.Merge(side, Spec{}, MergeOptions{Lines: true})
	if err != nil || len(r.Conflicts) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if o.groups.Load() == 0 {
		t.Error("nothing was brought")
	}
	want := bytes.Replace(lines(5, "ours"), []byte("line 2900\n"), []byte("theirs\n"), 1)
	wantFile(t, e, Spec{Path: "text"}, want)
}

func TestBucketsWithContent(t *testing.T) {
	s := openStore(t, t.TempDir())
	p := randomBytes(9, 20_000)
	writeFile(t, openView(t, s, Spec{}), "f", p)
	with := func() (uuids [][16]byte) {
		t.Helper()
		err := s.db.Read(func(tx *schema.Tx) (err error) {
			uuids, err = s.tree.BucketsWith(tx, blobstore.Sum(p))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return uuids
	}
	if u := with(); len(u) != 0 {
		t.Errorf("a bucket that is not shared: %v", u)
	}
	err := s.db.Write(func(tx *schema.Tx) error {
		_, err := tx.Stmt("UPDATE bucket SET shared = 1").Step()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, openView(t, s, Spec{}), "g", p) // once, however many files have it
	if u := with(); len(u) != 1 || u[0] == [16]byte{} {
		t.Errorf("the shared bucket: %v", u)
	}
}

// stuck is a source that brings nothing, and tells when it is asked.
type stuck func()

func (asked stuck) Fetch(ctx context.Context, _ *blobstore.Partial, _ []blobstore.Range, _ blobstore.Priority) error {
	asked()
	<-ctx.Done()
	return ctx.Err()
}

// A read that waits for another machine ends with the context of the file.
func TestReadOfAbsentContentIsInterrupted(t *testing.T) {
	s := openStore(t, t.TempDir())
	mustDo(t, openView(t, s, Spec{}).WriteFile("a", bytes.Repeat([]byte("far away "), 1<<16), 0o644))
	e, _ := emptied(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	e.blobs.SetSource(stuck(cancel))
	f, err := openView(t, e, Spec{}).OpenContext(ctx, "a")
	mustDo(t, err)
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, not %v", err, context.Canceled)
	}
}
