package writesession

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// make makes a file as a surface does that says so.
func (w *world) make(name string, content []byte) *File {
	w.t.Helper()
	f := w.create(w.main, name)
	f.Made(w.main.Root(), name)
	w.put(f, 0, content)
	return f
}

func (w *world) exists(name string) bool {
	w.t.Helper()
	var err error
	w.read(func(tx *schema.Tx) error {
		_, err = w.main.Lookup(tx, w.main.Root(), name)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return err == nil
}

func TestAFileThatWasBeingMadeGoesWithItsWriter(t *testing.T) {
	for _, size := range []int{0, 100, 30 << 10, 300 << 10} {
		w := newWorld(t, small)
		want := fill(size, 1)
		f := w.make("f", want)
		if size > 0 {
			if err := f.Sync(ctx); err != nil { // which publishes what is small
				t.Fatal(err)
			}
		}
		published := w.stat(w.main, "f").Size > 0
		if err := f.Preserve(); err != nil {
			t.Fatal(err)
		}
		if got := w.exists("f"); got != published {
			t.Errorf("%d bytes: the file is there: %v, was published: %v", size, got, published)
		}
		infos := w.sessions()
		if size == 0 || published {
			if len(infos) != 0 {
				t.Errorf("%d bytes: sessions %+v", size, infos)
			}
			continue
		}
		if len(infos) != 1 || infos[0].Name != "f" || infos[0].Parent != w.main.Root() {
			t.Fatalf("sessions %+v", infos)
		}
		// Nothing collects the inode, old as it may be, and what came can be had.
		w.write(func(tx *schema.Tx) error {
			_, err := tx.Stmt("UPDATE inode SET stamp = 5 WHERE nlink = 0").Step()
			return err
		})
		for more := true; more; {
			w.write(func(tx *schema.Tx) (err error) {
				_, more, err = w.tree.Prune(tx, pathtree.Cut{Before: schema.MaxStamp}, 0)
				return err
			})
		}
		var got bytes.Buffer
		if err := w.s.Recover(ctx, infos[0].ID, &got); err != nil {
			t.Fatal(err)
		}
		w.same(got.Bytes(), want)
		other := w.create(w.main, "f")
		if _, err := w.s.Publish(ctx, infos[0].ID); !errors.Is(err, syscall.EEXIST) {
			t.Fatalf("published in another's place: %v", err)
		}
		w.shut(other)
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Unlink(tx, w.main.Root(), "f")
			return err
		})
		if _, err := w.s.Publish(ctx, infos[0].ID); err != nil {
			t.Fatal(err)
		}
		w.same(w.published(w.main, "f"), want)
		if infos := w.sessions(); len(infos) != 0 {
			t.Errorf("sessions %+v", infos)
		}
	}
}

func TestAFileThatOthersUseStays(t *testing.T) {
	for what, use := range map[string]func(w *world, f *File) (*File, error){
		"opened": func(w *world, f *File) (*File, error) { return w.s.Open(w.main.WithOrigin(7), f.Ino()) },
		"written": func(w *world, f *File) (*File, error) {
			g, err := w.s.Open(w.main.WithOrigin(7), f.Ino())
			if err == nil {
				_, err = g.WriteAt([]byte("theirs"), 0)
			}
			if err == nil {
				err = g.Close()
			}
			return nil, err
		},
		"linked": func(w *world, f *File) (*File, error) {
			return nil, w.db.Write(func(tx *schema.Tx) error {
				_, err := w.main.Link(tx, f.Ino(), w.main.Root(), "g")
				return err
			})
		},
		"renamed": func(w *world, f *File) (*File, error) {
			return nil, w.db.Write(func(tx *schema.Tx) error {
				_, err := w.main.Rename(tx, w.main.Root(), "f", w.main.Root(), "g", 0)
				return err
			})
		},
		"replaced": func(w *world, f *File) (*File, error) {
			return nil, w.db.Write(func(tx *schema.Tx) error {
				if _, err := w.main.Unlink(tx, w.main.Root(), "f"); err != nil {
					return err
				}
				_, err := w.main.Create(tx, w.main.Root(), "f", pathtree.NewInode{Mode: syscall.S_IFREG | 0o600})
				return err
			})
		},
	} {
		w := newWorld(t, small)
		f := w.make("f", []byte("mine"))
		other, err := use(w, f)
		if err != nil {
			t.Fatal(what, err)
		}
		if err := f.Preserve(); err != nil {
			t.Fatal(what, err)
		}
		if !w.exists("f") && !w.exists("g") {
			t.Errorf("%s: the file is gone", what)
		}
		if other != nil {
			w.shut(other)
		}
	}
}
