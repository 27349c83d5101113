package pathtree

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

// elsewhere returns the same store as another process sees it.
func (w *world) elsewhere() *world {
	w.t.Helper()
	db, err := schema.Open(context.Background(), w.db.Dir(), schema.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { db.Close() })
	return &world{t: w.t, db: db, tree: New(db), bucket: w.bucket}
}

// A fork made by another process is safe from changes in place here.
func TestForkByAnotherProcess(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "f")
	w.setContent(w.main, "f", "one")
	if err := w.db.Commit(); err != nil { // Barrier in that process would wait for it
		t.Fatal(err)
	}
	other := w.elsewhere()
	db := other.db
	main := other.view(MainBranch, 0)
	fork := other.fork(main, "fork", Origin{})
	if err := db.Commit(); err != nil {
		t.Fatal(err)
	}
	w.setContent(w.main, "f", "second")
	w.unlink(w.main, "f")
	if err := w.db.Commit(); err != nil {
		t.Fatal(err)
	}
	if in := other.mustStat(fork, "f"); in.Size != 3 || in.Nlink != 1 {
		t.Errorf("%+v", in)
	}
	other.wantList(main, "")
	a, b := w.make(w.main, "a"), other.make(main, "b")
	if a.Ino == b.Ino {
		t.Errorf("both processes made %v", a.Ino)
	}
}

// One tree and one view serve many goroutines.
func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	const workers, each = 8, 40
	var wg sync.WaitGroup
	for g := range workers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%d-%d", g, i)
				err := w.db.Write(func(tx *schema.Tx) error {
					_, err := w.main.WithOrigin(int64(g)).Create(tx, w.main.Root(), name, NewInode{Mode: file})
					return err
				})
				if err == nil {
					err = w.db.Read(func(tx *schema.Tx) error {
						if _, err := w.main.LookupInode(tx, w.main.Root(), name); err != nil {
							return err
						}
						_, err := w.main.ReadDir(tx, w.main.Root(), name, 3)
						return err
					})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	w.read(func(tx *schema.Tx) error {
		entries, err := w.main.ReadDir(tx, w.main.Root(), "", 0)
		if len(entries) != workers*each {
			t.Errorf("%d entries", len(entries))
		}
		return err
	})
}
