package writesession

import (
	"testing"

	"github.com/alkdev/alkfs/blobstore"
)

// A collection looks at the files of owners, too, and must not keep a process
// from becoming one, nor a dead one from being taken over.
func TestOwnersBesideCollections(t *testing.T) {
	w := newWorld(t, small)
	done := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		for {
			select {
			case <-done:
				ended <- nil
				return
			default:
			}
			if _, err := w.blobs.GC(ctx, blobstore.GCOptions{Grace: -1}); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 300 {
		o, err := newOwner(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		if !alive(w.dir, o.name) {
			t.Fatal("a process that runs counts as dead")
		}
		if _, dead := claimDead(w.dir, o.name); dead {
			t.Fatal("a process that runs was taken over")
		}
		o.lock.Close() // as a crash does
		lock, dead := claimDead(w.dir, o.name)
		if !dead {
			t.Fatal("a dead process was not taken over")
		}
		lock.Close()
		o.release()
	}
	close(done)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
