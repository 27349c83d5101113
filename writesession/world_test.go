package writesession

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// world is one process's use of a store with a bucket and its branch main.
type world struct {
	t     rapid.TB // of the innermost test
	dir   string
	db    *schema.DB
	tree  *pathtree.Tree
	blobs *blobstore.Store
	s     *Sessions
	main  *pathtree.View
}

var ctx = context.Background()

// small makes every way of keeping content happen with little of it.
var small = Options{MemoryMax: 40 << 10, PersistAfter: 5 * time.Millisecond}

func newWorld(t testing.TB, o Options) *world { return openWorld(t, t.TempDir(), o) }

// openWorld opens the store in dir, made if need be.
func openWorld(t testing.TB, dir string, o Options) *world {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	w := &world{t: t, dir: dir}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.db, err = schema.Open(ctx, dir, schema.Options{})
	must(err)
	w.blobs, err = blobstore.Open(ctx, dir, w.db, blobstore.Options{Logger: o.Logger})
	must(err)
	w.tree = pathtree.New(w.db)
	w.s, err = New(ctx, w.db, w.tree, w.blobs, o)
	must(err)
	t.Cleanup(w.close)
	w.write(func(tx *schema.Tx) error {
		b, err := w.tree.Bucket(tx, "default")
		if pathtree.Errno(err) == syscall.ENOENT {
			b, err = w.tree.CreateBucket(tx, "default")
		}
		if err != nil {
			return err
		}
		branch, err := w.tree.Branch(tx, b.ID, pathtree.MainBranch)
		if err != nil {
			return err
		}
		w.main, err = w.tree.View(tx, branch.ID, 0)
		return err
	})
	return w
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (w *world) close() {
	if w.db == nil {
		return
	}
	if err := w.s.Close(ctx); err != nil {
		w.t.Error("sessions:", err)
	}
	w.blobs.Close()
	if err := w.db.Close(); err != nil {
		w.t.Error(err)
	}
	w.db = nil
}

func (w *world) write(f func(tx *schema.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(f func(tx *schema.Tx) error) {
	w.t.Helper()
	if err := w.db.Read(f); err != nil {
		w.t.Fatal(err)
	}
}

// create makes an empty file and opens it.
func (w *world) create(v *pathtree.View, name string) *File {
	w.t.Helper()
	var in pathtree.Inode
	w.write(func(tx *schema.Tx) (err error) {
		in, err = v.Create(tx, v.Root(), name, pathtree.NewInode{Mode: syscall.S_IFREG | 0o644})
		return err
	})
	return w.openInode(v, in)
}

func (w *world) openInode(v *pathtree.View, in pathtree.Inode) *File {
	w.t.Helper()
	f, err := w.s.OpenInode(v, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// open opens a file by name.
func (w *world) open(v *pathtree.View, name string) *File {
	w.t.Helper()
	return w.openInode(v, w.stat(v, name))
}

// stat returns what is published.
func (w *world) stat(v *pathtree.View, name string) (in pathtree.Inode) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) (err error) {
		in, err = v.LookupInode(tx, v.Root(), name)
		return err
	})
	return in
}

// published returns the published content of a file.
func (w *world) published(v *pathtree.View, name string) []byte {
	w.t.Helper()
	in := w.stat(v, name)
	b, err := w.blobs.Open(in.Hash, in.Size)
	if err != nil {
		w.t.Fatal(err)
	}
	defer b.Close()
	p := make([]byte, in.Size)
	if n, err := b.ReadAt(p, 0); int64(n) != in.Size || err != nil && err != io.EOF {
		w.t.Fatal(n, err)
	}
	return p
}

func (w *world) put(f *File, off int64, p []byte) {
	w.t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		w.t.Fatalf("wrote %d of %d: %v", n, len(p), err)
	}
}

func (w *world) publish(f *File) pathtree.Inode {
	w.t.Helper()
	in, err := f.Publish(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return in
}

func (w *world) shut(f *File) {
	w.t.Helper()
	if err := f.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sessions() (infos []Info) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) (err error) {
		infos, err = w.s.List(tx)
		return err
	})
	return infos
}

// holds checks what a reader of f sees.
func (w *world) holds(f *File, want []byte) {
	w.t.Helper()
	got := make([]byte, len(want)+1)
	n, err := f.ReadAt(got, 0)
	if err != io.EOF || n != len(want) {
		w.t.Fatalf("read %d bytes of %d: %v", n, len(want), err)
	}
	w.same(got[:n], want)
	if size := f.Inode().Size; size != int64(len(want)) {
		w.t.Fatalf("size is %d, want %d", size, len(want))
	}
}

func (w *world) same(got, want []byte) {
	w.t.Helper()
	if !bytes.Equal(got, want) {
		i := 0
		for i < len(got) && i < len(want) && got[i] == want[i] {
			i++
		}
		w.t.Fatalf("content of %d bytes differs from %d at %d", len(got), len(want), i)
	}
}

// noise is what fill takes its bytes from.
var noise = func() []byte {
	p := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
}()

// fill returns n bytes that tell their seed.
func fill(n int, seed byte) []byte {
	p := make([]byte, n)
	for done := 0; done < n; {
		done += copy(p[done:], noise[int(seed)*4099%len(noise):])
	}
	return p
}

// noStaging checks that staging files go away.
func (w *world) noStaging() {
	w.t.Helper()
	eventually(w.t, func() bool { return stagingFiles(w) == nil })
}

// stagingFiles is an error when a staging file is left.
func stagingFiles(w *world) error {
	entries, err := os.ReadDir(filepath.Join(w.dir, stagingDir))
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), "owner-") {
			err = errors.Join(err, fmt.Errorf("%s is left", e.Name()))
		}
	}
	return err
}
