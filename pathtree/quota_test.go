package pathtree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

func (w *world) limit(bytes, inodes int64) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		return w.tree.SetPolicy(tx, w.bucket.ID, Policy{QuotaBytes: bytes, QuotaInodes: inodes})
	})
}

func (w *world) quota() (q Quota) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) (err error) {
		var ok bool
		if q, ok, err = w.tree.Quota(tx, w.bucket.ID); err == nil && !ok {
			w.t.Error("the bucket has no quota")
		}
		return err
	})
	return q
}

func (w *world) holds(bytes, inodes int64) {
	w.t.Helper()
	if q := w.quota(); q.Bytes != bytes || q.Inodes != inodes {
		w.t.Errorf("%d bytes in %d inodes count, want %d in %d", q.Bytes, q.Inodes, bytes, inodes)
	}
}

// fill makes content of size bytes out of its number, without a blob.
func fill(tx *schema.Tx, v *View, ino Ino, number, size int64) error {
	h := blobstore.Sum(fmt.Append(nil, number, size))
	if size == 0 {
		h = blobstore.Hash{}
	}
	_, err := v.SetContent(tx, ino, Content{Hash: h, Size: size})
	return err
}

func (w *world) fill(v *View, ino Ino, number, size int64) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error { return fill(tx, v, ino, number, size) })
}

func (w *world) remove(v *View, name string) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error { _, err := v.Unlink(tx, v.Root(), name); return err })
}

func TestQuotaCountsWhatBranchesAdd(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "/f")
	w.fill(w.main, f.Ino, 1, 1000)
	w.limit(10000, 10)
	w.holds(1000, 2) // with the root directory

	side := w.fork(w.main, "side", Origin{})
	w.holds(1000, 2)
	w.write(func(tx *schema.Tx) error {
		mode := uint32(0o600)
		_, err := side.SetAttr(tx, f.Ino, SetAttr{Mode: &mode})
		return err
	})
	w.holds(1000, 2) // its content is still shared
	w.fill(side, f.Ino, 2, 300)
	w.holds(1300, 2)
	w.fill(side, f.Ino, 1, 1000) // as it was
	w.holds(1000, 2)
	g := w.make(side, "/g")
	w.fill(side, g.Ino, 3, 50)
	w.write(func(tx *schema.Tx) error { _, err := side.Link(tx, g.Ino, side.Root(), "g2"); return err })
	w.holds(1050, 3)
	w.remove(side, "g")
	w.holds(1050, 3)
	w.remove(side, "g2")
	w.holds(1000, 2)
	w.remove(side, "f") // main has it
	w.holds(1000, 2)
	w.remove(w.main, "f")
	w.holds(0, 1)
	h := w.make(side, "/h")
	w.fill(side, h.Ino, 4, 700)
	w.holds(700, 2)
	w.write(func(tx *schema.Tx) error { return w.tree.RemoveBranch(tx, side.Branch().ID) })
	w.holds(0, 1)
}

func TestQuotaRefuses(t *testing.T) {
	w := newWorld(t)
	w.limit(1000, 3)
	f := w.make(w.main, "/f")
	w.fill(w.main, f.Ino, 1, 900)
	w.fails(syscall.EDQUOT, func(tx *schema.Tx) error { return fill(tx, w.main, f.Ino, 2, 1001) })
	w.holds(900, 2)
	g := w.make(w.main, "/g")
	w.fails(syscall.EDQUOT, func(tx *schema.Tx) error { return fill(tx, w.main, g.Ino, 3, 101) })
	w.fill(w.main, g.Ino, 3, 100)
	var q *QuotaError
	for _, n := range []NewInode{{Mode: unix.S_IFREG}, {Mode: unix.S_IFDIR}, {Mode: unix.S_IFLNK, Target: "t"}, {Mode: unix.S_IFIFO}} {
		err := w.db.Write(func(tx *schema.Tx) error { _, err := w.main.Create(tx, w.main.Root(), "more", n); return err })
		if !errors.As(err, &q) || !q.Inodes || q.Max != 3 || q.Held != 3 {
			t.Errorf("mode %o: got %v", n.Mode, err)
		}
	}
	w.holds(1000, 3)

	// One that is over its quota can still be made smaller, and nothing else.
	w.limit(500, 2)
	w.fails(syscall.EDQUOT, func(tx *schema.Tx) error { return fill(tx, w.main, g.Ino, 4, 101) })
	w.fill(w.main, g.Ino, 5, 99)
	if _, err := w.rename(w.main, "/f", "/f2", 0); err != nil {
		t.Error(err)
	}
	w.write(func(tx *schema.Tx) error { _, err := w.main.Link(tx, f.Ino, w.main.Root(), "f3"); return err })
	w.remove(w.main, "f2")
	w.holds(999, 3)
	w.remove(w.main, "f3")
	w.holds(99, 2)

	// A file without a name counts when it gets one.
	var tmp Inode
	w.write(func(tx *schema.Tx) (err error) {
		if tmp, err = w.main.CreateUnlinked(tx, w.main.Root(), NewInode{}); err == nil {
			err = fill(tx, w.main, tmp.Ino, 6, 600)
		}
		return err
	})
	w.holds(99, 2)
	w.fails(syscall.EDQUOT, func(tx *schema.Tx) error { _, err := w.main.Link(tx, tmp.Ino, w.main.Root(), "tmp"); return err })
	w.limit(0, 0)
	w.write(func(tx *schema.Tx) error { _, err := w.main.Link(tx, tmp.Ino, w.main.Root(), "tmp"); return err })
	w.read(func(tx *schema.Tx) error {
		if _, ok, err := w.tree.Quota(tx, w.bucket.ID); ok || err != nil {
			t.Error("the quota is still there:", err)
		}
		return nil
	})
}

// A merge, and a restore, keep to the quota as a whole: the order in which they
// write does not matter, and one that does not fit leaves nothing behind.
func TestQuotaOfMergeAndRestore(t *testing.T) {
	w := newWorld(t)
	for i := range int64(4) {
		in := w.make(w.main, fmt.Sprintf("/f%d", i))
		w.fill(w.main, in.Ino, i, 100)
	}
	before := w.stamp()
	side := w.fork(w.main, "side", Origin{})
	for i := range int64(4) {
		w.write(func(tx *schema.Tx) error {
			e, err := side.Lookup(tx, side.Root(), fmt.Sprintf("f%d", i))
			if err == nil {
				err = fill(tx, side, e.Ino, 10+i, 50+100*(i%2))
			}
			return err
		})
	}
	w.limit(800, 0) // 400 and 400, now
	merge := func(tx *schema.Tx) error {
		_, err := w.tree.Merge(tx, side, w.main, MergeOptions{Strategy: Theirs})
		return err
	}
	w.write(merge)
	w.holds(800, 5)

	more := w.make(side, "/more")
	w.limit(900, 0)
	w.fill(side, more.Ino, 20, 100)
	w.fails(syscall.EDQUOT, merge)
	w.holds(900, 6)
	w.remove(side, "more")

	w.limit(800, 0)
	then := w.view(MainBranch, before)
	w.write(func(tx *schema.Tx) error {
		_, err := w.tree.Restore(tx, w.main, "", then)
		return err
	})
	w.holds(800, 5)
}

// Whatever is done, what is counted as it happens is what counting all says,
// also after writes that fail, over batches, and after pruning.
func TestQuotaAgreesWithCountingAnew(t *testing.T) {
	for seed := range uint64(12) {
		w := newWorld(t)
		r := rand.New(rand.NewPCG(seed, 4))
		w.limit(1500, 30)
		views := []*View{w.main}
		full := 0
		for step := range 250 {
			v := views[r.IntN(len(views))]
			err := w.db.Write(func(tx *schema.Tx) error { return quotaStep(tx, w, v, r) })
			if Errno(err) == syscall.EDQUOT {
				full++
			}
			if step%40 == 20 && len(views) < 6 {
				o := Origin{Live: seed%3 == 0 && step%80 == 20}
				views = append(views, w.fork(v, fmt.Sprint("b", step), o))
			}
			switch r.IntN(30) {
			case 0:
				if err := w.db.Commit(); err != nil {
					t.Fatal(err)
				}
			case 1:
				w.write(func(tx *schema.Tx) error {
					_, _, err := w.tree.Prune(tx, Cut{Before: tx.NextStamp()}, 0)
					return err
				})
			case 2:
				if len(views) > 3 {
					k := 1 + r.IntN(len(views)-1)
					w.write(func(tx *schema.Tx) error { return w.tree.RemoveBranch(tx, views[k].Branch().ID) })
					views = append(views[:k], views[k+1:]...)
				}
			case 3:
				src, dst := views[r.IntN(len(views))], views[r.IntN(len(views))]
				err := w.db.Write(func(tx *schema.Tx) error {
					_, err := w.tree.Merge(tx, src, dst, MergeOptions{Strategy: Theirs})
					return err
				})
				if Errno(err) == syscall.EDQUOT {
					full++
				}
			}
			if step%10 == 0 {
				checkQuota(t, w, seed, step)
			}
		}
		checkQuota(t, w, seed, -1)
		if full == 0 {
			t.Errorf("seed %d: the quota was never met", seed)
		}
	}
}

func checkQuota(t *testing.T, w *world, seed uint64, step int) {
	t.Helper()
	live := w.quota()
	err := w.db.Snapshot(func(tx *schema.Tx) error {
		stored, _, err := w.tree.Quota(tx, w.bucket.ID)
		if err != nil {
			return err
		}
		sum, err := countBranches(tx, w.bucket.ID)
		var want held
		for _, h := range sum {
			want = want.plus(h)
		}
		if got := (held{stored.Bytes, stored.Inodes}); stored != live || got != want {
			t.Fatalf("seed %d step %d: %+v in memory, %+v stored, %+v there", seed, step, live, stored, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// quotaStep does something at random in the root directory of v.
func quotaStep(tx *schema.Tx, w *world, v *View, r *rand.Rand) error {
	name := func() string { return fmt.Sprint("n", r.IntN(12)) }
	e, err := v.Lookup(tx, v.Root(), name())
	found := err == nil
	switch r.IntN(8) {
	case 0, 1, 2:
		mode := uint32(unix.S_IFREG)
		if r.IntN(5) == 0 {
			mode = unix.S_IFDIR
		}
		in, err := v.Create(tx, v.Root(), name(), NewInode{Mode: mode | 0o644})
		if err == nil && mode == unix.S_IFREG {
			err = fill(tx, v, in.Ino, r.Int64N(5), r.Int64N(300))
		}
		return err
	case 3, 4:
		if found {
			return fill(tx, v, e.Ino, r.Int64N(5), 100*r.Int64N(4))
		}
	case 5:
		if found && e.IsDir() {
			_, err := v.Rmdir(tx, v.Root(), name())
			return err
		}
		_, err := v.Unlink(tx, v.Root(), name())
		return err
	case 6:
		flags := uint32(0)
		if r.IntN(3) == 0 {
			flags = unix.RENAME_EXCHANGE
		}
		_, err := v.Rename(tx, v.Root(), name(), v.Root(), name(), flags)
		return err
	case 7:
		if found && r.IntN(2) == 0 {
			_, err := v.Link(tx, e.Ino, v.Root(), name())
			return err
		}
		if found {
			uid := uint32(r.IntN(3))
			_, err := v.SetAttr(tx, e.Ino, SetAttr{UID: &uid})
			return err
		}
	}
	return nil
}

// What counting costs: of a file made and given content, and of the counting
// alone.
func BenchmarkQuota(b *testing.B) {
	for _, limit := range []int64{0, 1 << 50} {
		b.Run(fmt.Sprint("Create/", limit > 0), func(b *testing.B) {
			w := newWorld(b)
			w.limit(limit, limit)
			for i := 0; b.Loop(); i++ {
				w.write(func(tx *schema.Tx) error {
					in, err := w.main.Create(tx, w.main.Root(), fmt.Sprint(i), NewInode{})
					if err == nil {
						err = fill(tx, w.main, in.Ino, 1, 4096)
					}
					return err
				})
			}
		})
		b.Run(fmt.Sprint("Charge/", limit > 0), func(b *testing.B) {
			w := newWorld(b)
			w.limit(limit, limit)
			w.write(func(tx *schema.Tx) error {
				c, err := w.main.begin(tx)
				if err != nil {
					return err
				}
				old := Inode{Ino: 5, Mode: unix.S_IFREG, Nlink: 1, Size: 1, Branch: c.at.branch}
				new := old
				new.Size, new.Hash = 2, blobstore.Sum([]byte("x"))
				for i := 0; b.Loop(); i++ {
					if err := c.charge(&old, &new); err != nil {
						return err
					}
					if r, ok := tx.Rider().(*ledger); ok && i%2 == 1 {
						r.Keep()
					}
				}
				return nil
			})
		})
	}
}

// A branch that follows its parent counts what it has a version of, until
// pruning takes that because the parent has removed the last name.
func TestQuotaOfWhatPruningTakes(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "/f")
	w.fill(w.main, f.Ino, 1, 100)
	live := w.fork(w.main, "live", Origin{Live: true})
	w.limit(1000, 0)
	w.write(func(tx *schema.Tx) error {
		mode := uint32(0o600)
		_, err := live.SetAttr(tx, f.Ino, SetAttr{Mode: &mode})
		return err
	})
	w.holds(200, 3)
	w.remove(w.main, "f")
	w.holds(100, 2)
	w.later(48 * time.Hour)
	cut := w.stamp()
	w.pruneAll(cut, 0)
	w.pruneAll(cut, 0)
	if n := w.count("SELECT count(*) FROM inode WHERE hash IS NOT NULL"); n != 0 {
		t.Fatalf("%d versions are left", n)
	}
	w.holds(0, 1)
	w.check()
}

// What a withdrawal brings back counts instead, also where a fork has it.
func TestQuotaOfWithdrawal(t *testing.T) {
	w := newWorld(t)
	w.limit(10000, 0)
	f := w.make(w.main, "/f")
	w.fill(w.main, f.Ino, 1, 100)
	w.age()
	w.fill(w.main, f.Ino, 2, 300)
	side := w.fork(w.main, "side", Origin{})
	w.fill(side, f.Ino, 1, 100)
	w.holds(400, 2)
	w.write(func(tx *schema.Tx) error {
		_, err := w.tree.Withdraw(tx, blobstore.Sum(fmt.Append(nil, 2, 300)))
		return err
	})
	w.holds(100, 2) // the fork has what it was forked from
	checkQuota(t, w, 0, 0)
}

// One Write may set a quota and change what it counts, in any order.
func TestQuotaSetBesideChanges(t *testing.T) {
	w := newWorld(t)
	w.limit(5000, 0)
	set := func(tx *schema.Tx, bytes int64) error {
		return w.tree.SetPolicy(tx, w.bucket.ID, Policy{QuotaBytes: bytes})
	}
	add := func(tx *schema.Tx, name string, number, size int64) error {
		in, err := w.main.Create(tx, w.main.Root(), name, NewInode{})
		if err == nil {
			err = fill(tx, w.main, in.Ino, number, size)
		}
		return err
	}
	w.write(func(tx *schema.Tx) error { return add(tx, "before", 1, 10) })
	run := 0
	both := func(tx *schema.Tx) error {
		run++
		return errors.Join(add(tx, fmt.Sprint("f", run), 2, 100), set(tx, 3000), set(tx, 2000), add(tx, fmt.Sprint("g", run), 3, 1000))
	}
	w.write(func(tx *schema.Tx) error {
		if err := both(tx); err != nil {
			return err
		}
		q, _, err := w.tree.Quota(tx, w.bucket.ID)
		if want := (Quota{MaxBytes: 2000, Bytes: 1110, Inodes: 4}); q != want {
			t.Errorf("in the Write itself: %+v, want %+v", q, want)
		}
		return err
	})
	w.holds(1110, 4)
	checkQuota(t, w, 0, 0)
	w.fails(syscall.EDQUOT, both)
	w.holds(1110, 4)
	checkQuota(t, w, 0, 1)
}
