package pathtree

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

// countRight checks that what the heads of a replica say of links is what counting
// anew says.
func (w *outlaws) countRight(t *rapid.T, r *replica) {
	r.read(func(tx *schema.Tx) error {
		return r.tree.Check(tx, func(problem string) {
			if strings.Contains(problem, "link count") || strings.Contains(problem, "no name") {
				t.Fatalf("%s\n%s", problem, strings.Join(w.trace, "\n"))
			}
		})
	})
}

// TestLinkCountsAfterImports: whatever comes, or is taken back, in whatever order,
// links are counted right after it.
func TestLinkCountsAfterImports(t *testing.T) {
	stores, runs := newStores(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w, done := newOutlaws(t, stores, runs)
		defer done()
		ops := w.outlawOperations()
		for _, name := range []string{"hear", "hear of"} {
			op := ops[name]
			ops[name+" and count"] = func(t *rapid.T) {
				op(t)
				for k, r := range w.all {
					w.publish(t, r, k) // links of a fork of the past are counted then
					w.countRight(t, r)
				}
			}
		}
		t.Repeat(ops)
	})
}

// TestLinkCountsOfThePast: a directory's rows that others superseded, also those that
// come between others late, count its subdirectories as of their end.
func TestLinkCountsOfThePast(t *testing.T) {
	all := newReplicas(t, 3)
	a, late, there := all[0], all[1], all[2]
	d := a.make(a.main, "d/")
	a.make(a.main, "d/first/")
	batch := a.export()
	late.take(batch)
	there.take(batch)
	var tardy []Batch
	for k := range 6 {
		for _, r := range []*replica{a, late} {
			now := max(a.stamp(), late.stamp())
			r.write(func(tx *schema.Tx) error { tx.ObserveStamp(now); return nil })
			r.age()
			switch k {
			case 3:
				r.write(func(tx *schema.Tx) error {
					_, err := r.main.Rmdir(tx, d.Ino, fmt.Sprint("made", 1, r == a))
					return err
				})
			case 4:
				r.make(r.main, fmt.Sprint("d/file", r == a))
			default:
				r.make(r.main, fmt.Sprint("d/made", k, r == a, "/"))
			}
		}
		there.take(a.export())
		tardy = append(tardy, late.export())
	}
	for _, k := range []int{4, 1, 5, 0, 3, 2} {
		there.take(tardy[k])
		there.countsRightThen(t, d.Ino, 0)
	}
	there.write(func(tx *schema.Tx) error {
		return there.tree.RetractVersions(tx, there.bucket.ID, tardy[2].Versions)
	})
	there.countsRightThen(t, d.Ino, 1) // the row before ends later
	there.check()
}

// countsRightThen checks the link count of each version of a directory of main, which
// may be wrong by so much.
func (r *replica) countsRightThen(t *testing.T, d Ino, by int) {
	t.Helper()
	r.read(func(tx *schema.Tx) error {
		rows, err := (&importer{exchange: &exchange{tx: tx}}).rowsFrom(r.main.branch.ID, d, 0)
		if err != nil {
			return err
		}
		for k, row := range rows {
			at := schema.MaxStamp
			if k+1 < len(rows) {
				at = rows[k+1].Stamp - 1
			}
			v, err := r.tree.View(tx, r.main.branch.ID, at)
			if err != nil {
				return err
			}
			es, err := v.ReadDir(tx, d, "", 0)
			if err != nil {
				return err
			}
			links := 2
			for _, e := range es {
				if e.IsDir() {
					links++
				}
			}
			if off := int(row.Nlink) - links; max(off, -off) > by {
				t.Errorf("version %d of %d has link count %d, and %d subdirectories", k, len(rows), row.Nlink, links-2)
			}
		}
		return nil
	})
}

// BenchmarkImportOne takes in one change of a directory with many entries, whose
// inode is changed by it: of a file, of a subdirectory, and of a file that was made
// before a hundred changes that came already.
func BenchmarkImportOne(b *testing.B) {
	for _, kind := range []string{"files", "dirs"} {
		for _, n := range []int{1000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s=%d", kind, n), func(b *testing.B) { benchImport(b, n, kind == "dirs") })
		}
	}
}

func benchImport(b *testing.B, n int, dirs bool) {
	mode := map[bool]uint32{false: file, true: dir}
	all := newReplicas(b, 3)
	here, late, there := all[0], all[1], all[2]
	d := here.make(here.main, "d/")
	for made := 0; made < n; {
		here.write(func(tx *schema.Tx) error {
			for end := min(n, made+5000); made < end; made++ {
				if _, err := here.main.Create(tx, d.Ino, fmt.Sprint("entry", made), NewInode{Mode: mode[dirs]}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	batch := here.export()
	late.take(batch)
	there.take(batch)
	made := 0
	change := func(r *replica, mode uint32) Batch {
		made++
		r.write(func(tx *schema.Tx) error {
			_, err := r.main.Create(tx, d.Ino, fmt.Sprint("one", made), NewInode{Mode: mode})
			return err
		})
		return r.export()
	}
	for _, c := range []struct {
		name string
		mode uint32
	}{{"file", file}, {"dir", unix.S_IFDIR | 0o755}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				batch := change(here, c.mode)
				b.StartTimer()
				there.take(batch)
			}
		})
	}
	b.Run("late", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			batch := change(late, dir)
			for range 100 {
				there.take(change(here, file))
			}
			b.StartTimer()
			there.take(batch)
		}
	})
}
