package writesession

import (
	"errors"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

func (w *world) quota(bytes, inodes int64) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		return w.tree.SetPolicy(tx, w.main.Bucket().ID, pathtree.Policy{QuotaBytes: bytes, QuotaInodes: inodes})
	})
	if err := w.s.Policies(); err != nil {
		w.t.Fatal(err)
	}
}

// A write that cannot fit is refused at once, in memory and in staging; the
// file can go on within the quota.
func TestQuotaRefusesTheWrite(t *testing.T) {
	w := newWorld(t, small)
	for _, limit := range []int64{20 << 10, 3 << 20} {
		w.quota(limit, 0)
		f := w.create(w.main, "f")
		w.put(f, 0, fill(int(limit), 1))
		_, err := f.WriteAt([]byte("x"), limit)
		var q *pathtree.QuotaError
		if !errors.As(err, &q) || pathtree.Errno(err) != syscall.EDQUOT || q.Max != limit {
			t.Fatal(err)
		}
		if _, err := f.Publish(ctx); pathtree.Errno(err) != syscall.EDQUOT {
			t.Fatal("what is there of a refused write was published:", err)
		}
		if err := f.Truncate(limit + 1); pathtree.Errno(err) != syscall.EDQUOT {
			t.Fatal(err)
		}
		w.put(f, 0, []byte("y")) // succeeds, so what is there is what is meant
		w.publish(f)
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		w.shut(f)
		w.write(func(tx *schema.Tx) error { _, err := w.main.Unlink(tx, w.main.Root(), "f"); return err })
	}
}

// What fits when it is written may no longer when it is published: close says
// so, the old version stands, and the session can be published when there is
// room.
func TestQuotaRefusesThePublish(t *testing.T) {
	w := newWorld(t, small)
	for _, size := range []int{10 << 10, 200 << 10} {
		w.quota(int64(size)*3/2, 0)
		f, g := w.create(w.main, "f"), w.create(w.main, "g")
		w.put(f, 0, []byte("old"))
		w.publish(f)
		w.put(f, 0, fill(size, 1))
		w.put(g, 0, fill(size, 2))
		w.publish(g)
		for range 2 {
			if _, err := f.Publish(ctx); pathtree.Errno(err) != syscall.EDQUOT {
				t.Fatal(err)
			}
		}
		h := w.open(w.main.WithOrigin(7), "f")
		if in := h.Inode(); in.Size != 3 {
			t.Fatalf("others see %d bytes", in.Size)
		}
		w.shut(h)
		if err := g.Truncate(0); err != nil {
			t.Fatal(err)
		}
		w.publish(g)
		w.publish(f)
		p := make([]byte, size)
		if _, err := f.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		w.same(p, fill(size, 1))
		w.shut(f)
		w.shut(g)
		for _, name := range []string{"f", "g"} {
			w.write(func(tx *schema.Tx) error { _, err := w.main.Unlink(tx, w.main.Root(), name); return err })
		}
	}
}
