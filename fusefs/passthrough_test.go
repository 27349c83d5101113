package fusefs

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// needPassthrough skips where the kernel (before 6.9) or the user cannot.
func needPassthrough(t *testing.T, s *Server) {
	t.Helper()
	if !s.fs.passthrough.Load() {
		t.Skip("needs root and a kernel with FUSE passthrough")
	}
}

func TestReadOnlyMountReadsThrough(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, _ := testMount(t, c, mainBranch)
	old, changed := strings.Repeat("old ", 100<<10), strings.Repeat("new ", 50<<10)
	write(t, filepath.Join(dir, "f"), old)
	var snap pathtree.Snapshot
	err := c.DB.Write(func(tx *schema.Tx) error {
		b, err := c.Tree.Bucket(tx, "b")
		if err != nil {
			return err
		}
		main, err := c.Tree.Branch(tx, b.ID, "main")
		if err != nil {
			return err
		}
		snap, err = c.Tree.CreateSnapshot(tx, main.ID, "s", "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "f"), changed)

	past, s := testMount(t, c, Options{Bucket: "b", Branch: "main", At: snap.Stamp})
	needPassthrough(t, s)
	if got := read(t, filepath.Join(past, "f")); got != old {
		t.Fatal("the past reads something else")
	}
	present, p := testMount(t, c, Options{Bucket: "b", Branch: "main", ReadOnly: true})
	f := open(t, filepath.Join(present, "f"), os.O_RDONLY)
	if readAt(t, f, 0, 1<<20) != changed {
		t.Fatal("the present reads something else")
	}
	if s.Stats().Passthrough == 0 || p.Stats().Passthrough == 0 {
		t.Fatal("reads did not pass through")
	}
	// A descriptor stays on what it was opened on; a new one sees the new.
	write(t, filepath.Join(dir, "f"), old)
	eventually(t, "new content beside an open descriptor", func() bool { return read(t, filepath.Join(present, "f")) == old })
	if readAt(t, f, 0, 1<<20) != changed {
		t.Fatal("the open descriptor lost its content")
	}
}

// blobFiles returns the content of every blob file of a store.
func blobFiles(t *testing.T, store string) map[string]blobstore.Hash {
	t.Helper()
	sums := make(map[string]blobstore.Hash)
	err := filepath.WalkDir(filepath.Join(store, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		sums[path] = blobstore.Sum(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// TestBlobsNeverChange opens, writes, maps, truncates, reads and closes one
// large file in random order with passthrough on. Whatever is done, no blob
// file that ever existed may change, and each read sees what was written last
// or, through a descriptor bound to a blob, that blob.
func TestBlobsNeverChange(t *testing.T) {
	store := t.TempDir()
	c := testStore(t, store)
	dir, s := testMount(t, c, Options{Bucket: "b", Branch: "main", Passthrough: true})
	needPassthrough(t, s)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(dir, "f")
	const size = 96 << 10
	write(t, path, strings.Repeat("0", size))
	known := blobFiles(t, store)
	var readers, writers []*os.File
	check := func() {
		t.Helper()
		for path, sum := range blobFiles(t, store) {
			if was, ok := known[path]; ok && was != sum {
				t.Fatalf("blob %s changed", path)
			}
			known[path] = sum
		}
	}
	fill := func() string { return strings.Repeat(string(rune('a'+rnd.IntN(26))), 4096) }
	for range 150 {
		switch rnd.IntN(9) {
		case 0, 1:
			f := open(t, path, os.O_RDONLY)
			if got := readAt(t, f, 0, 4096); len(got) != 4096 {
				t.Fatalf("read %d bytes", len(got))
			}
			readers = append(readers, f)
		case 2:
			writers = append(writers, open(t, path, os.O_RDWR))
		case 3:
			for _, f := range writers {
				if _, err := f.WriteAt([]byte(fill()), int64(rnd.IntN(20))*4096); err != nil {
					t.Fatal(err)
				}
			}
		case 4:
			for _, f := range writers {
				mapWrite(t, f, fill())
			}
		case 5:
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		case 6:
			write(t, path, strings.Repeat(fill(), size/4096))
		case 7:
			readers = closeOne(rnd, readers)
		case 8:
			writers = closeOne(rnd, writers)
		}
		check()
	}
	for _, f := range append(readers, writers...) {
		f.Close()
	}
	write(t, path, strings.Repeat("z", size))
	if got := read(t, path); got != strings.Repeat("z", size) {
		t.Fatal("read something else than was written last")
	}
	check()
	eventually(t, "a reader that is passed through", func() bool { // once the last writer is done
		read(t, path)
		return s.Stats().Passthrough > 0
	})
}

func closeOne(rnd *rand.Rand, files []*os.File) []*os.File {
	if len(files) == 0 {
		return files
	}
	i := rnd.IntN(len(files))
	files[i].Close()
	return append(files[:i], files[i+1:]...)
}

func mapWrite(t *testing.T, f *os.File, content string) {
	t.Helper()
	if st, err := f.Stat(); err != nil || st.Size() < 8192 {
		return // beyond the end is SIGBUS
	}
	mapInChild(t, f, 100, content, true)()
}
