package pathtree

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

// prune prunes to the end, in batches of limit, and returns how much.
func (w *world) pruneAll(before schema.Stamp, limit int) (total int) {
	w.t.Helper()
	for more := true; more; {
		w.write(func(tx *schema.Tx) error {
			n, m, err := w.tree.Prune(tx, Cut{Before: before}, limit)
			total, more = total+n, m
			return err
		})
	}
	return total
}

// later makes the store's clock run ahead.
func (w *world) later(d time.Duration) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		tx.ObserveStamp(tx.NextStamp() + schema.Stamp(d.Milliseconds())<<16)
		return nil
	})
}

func TestPruneKeepsWhatIsSeen(t *testing.T) {
	w, c := newWorld(t), texts{}
	var snaps []*View
	for k := range 5 {
		w.script(w.main, c, fmt.Sprintf("f a %d", k))
		if k == 2 {
			snaps = append(snaps, w.view(MainBranch, w.seal(w.main)))
		}
		w.age()
	}
	cut := w.stamp()
	w.age()
	w.script(w.main, c, "f a 5; f b 1")
	if n := w.count("SELECT count(*) FROM inode WHERE hash IS NOT NULL"); n != 7 {
		t.Fatalf("%d versions of files before, want 7", n)
	}
	w.pruneAll(cut, 3)
	w.wantTree(w.main, c, "a=5 b=1")
	w.wantTree(snaps[0], c, "a=2")
	w.wantTree(w.view(MainBranch, cut), c, "a=4")
	if n := w.count("SELECT count(*) FROM inode WHERE hash IS NOT NULL"); n != 4 {
		t.Errorf("%d versions of files left, want 4: those of the snapshot, the cut and the head", n)
	}
	w.check()
}

func TestPruneRemovesDeletedFilesAndBranches(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "d d; f d/a 1; a d/a user.k v; f b 1")
	dev := w.fork(w.main, "dev", Origin{})
	w.age()
	w.script(w.main, c, "- d")
	w.script(dev, c, "f x 1; f b 2")
	w.later(48 * time.Hour)
	w.pruneAll(w.stamp(), 0)
	w.wantTree(dev, c, "b=2 d=/ d/a=1 user.k=v x=1")
	w.write(func(tx *schema.Tx) error { return w.tree.RemoveBranch(tx, dev.Branch().ID) })
	w.later(48 * time.Hour)
	cut := w.stamp()
	w.pruneAll(cut, 2)
	w.pruneAll(cut, 2) // what the first round made free
	w.wantTree(w.main, c, "b=1")
	for query, want := range map[string]int64{
		"SELECT count(*) FROM branch": 1, "SELECT count(*) FROM dentry": 1,
		"SELECT count(*) FROM inode": 2, "SELECT count(*) FROM xattr": 0,
	} {
		if n := w.count(query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
	w.check()
}

// TestPruneByBucket has one bucket that keeps its history and one that does not.
func TestPruneByBucket(t *testing.T) {
	w, c := newWorld(t), texts{}
	var short Bucket
	w.write(func(tx *schema.Tx) (err error) { short, err = w.tree.CreateBucket(tx, "short"); return err })
	var other *View
	w.read(func(tx *schema.Tx) error {
		b, err := w.tree.Branch(tx, short.ID, MainBranch)
		if err == nil {
			other, err = w.tree.View(tx, b.ID, 0)
		}
		return err
	})
	for _, v := range []*View{w.main, other} {
		for k := range 3 {
			w.script(v, c, fmt.Sprintf("f a %d", k))
			w.age()
		}
		w.script(v, c, "f b 1")
		w.age()
		w.script(v, c, "- b")
		w.age()
	}
	w.later(48 * time.Hour)
	versions := func(v *View) int64 {
		return w.count(fmt.Sprintf("SELECT count(*) FROM inode WHERE hash IS NOT NULL AND branch = %d", v.Branch().ID))
	}
	kept := versions(w.main)
	for more := true; more; {
		w.write(func(tx *schema.Tx) (err error) {
			_, more, err = w.tree.Prune(tx, Cut{Before: 0, Of: map[int64]schema.Stamp{short.ID: schema.MaxStamp}}, 2)
			return err
		})
	}
	if n := versions(w.main); n != kept || n < 4 {
		t.Errorf("%d versions where history is kept, had %d", n, kept)
	}
	if n := versions(other); n != 1 {
		t.Errorf("%d versions where it is not, want 1", n)
	}
	w.check()
}

func TestPruneSparesOpenFiles(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "f a 1")
	in := w.mustStat(w.main, "a")
	open := true
	w.tree.KeepWhile(func(ino Ino) bool { return open && ino == in.Ino })
	w.script(w.main, c, "- a")
	w.age()
	kept := func() bool {
		w.pruneAll(w.stamp(), 0)
		found := false
		w.read(func(tx *schema.Tx) error {
			got, err := w.main.Inode(tx, in.Ino)
			if found = err == nil; found && (got.Nlink != 0 || got.Hash != in.Hash) {
				t.Errorf("%+v", got)
			}
			return nil
		})
		return found
	}
	if !kept() {
		t.Error("removed before anybody could say that it is open")
	}
	w.later(2 * orphanAge)
	if !kept() {
		t.Error("removed while it is open")
	}
	open = false
	if kept() {
		t.Error("kept with nobody to see it")
	}
}

// TestPruneForgetsMergedBranches forks, merges and drops: the rows of branches
// and merges must not become ever more, and one that two others have must stay.
func TestPruneForgetsMergedBranches(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "f a 1")
	other := w.fork(w.main, "other", Origin{})
	both := w.fork(w.main, "both", Origin{})
	w.script(both, c, "f b 1")
	merge := func(src, dst *View) {
		w.write(func(tx *schema.Tx) error {
			_, err := w.tree.Merge(tx, src, dst, MergeOptions{Strategy: Theirs})
			return err
		})
	}
	drop := func(v *View) {
		w.write(func(tx *schema.Tx) error { return w.tree.RemoveBranch(tx, v.Branch().ID) })
	}
	merge(both, w.main)
	merge(both, other)
	drop(both)
	for k := range 10 {
		v := w.fork(w.main, fmt.Sprint("v", k), Origin{})
		w.script(v, c, fmt.Sprintf("f v %d", k))
		child := w.fork(v, fmt.Sprint("child", k), Origin{})
		w.script(child, c, fmt.Sprintf("f child %d", k))
		merge(child, w.main)
		merge(v, w.main)
		drop(v)
		drop(child)
		w.age()
	}
	w.later(48 * time.Hour)
	w.pruneAll(w.stamp(), 0)
	w.pruneAll(w.stamp(), 0) // children first, then what they were forked from
	for query, want := range map[string]int64{"SELECT count(*) FROM branch": 3, "SELECT count(*) FROM merge": 2} {
		if n := w.count(query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
	w.wantTree(w.main, c, "a=1 b=1 child=9 v=9")
	w.check()
}

func TestPruneModel(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		defer p.do(func(tx *schema.Tx) error { return p.tree.RemoveBucket(tx, p.bucket.Name) }) // or the next one prunes it too
		heads := []*View{p.main}
		var views []*View
		for k := range rapid.IntRange(2, 8).Draw(rt, "rounds") {
			v := rapid.SampledFrom(heads).Draw(rt, "branch")
			p.acts(v, 6, allOps)
			switch rapid.IntRange(0, 3).Draw(rt, "then") {
			case 0:
				heads = append(heads, p.forkOf(v, fmt.Sprint("f", k)))
			case 1:
				views = append(views, p.open(v.Branch().Name, p.snap(v)))
			case 2:
				if dst := rapid.SampledFrom(heads).Draw(rt, "into"); dst != v {
					if _, err := p.merge(v, dst, MergeOptions{Strategy: Both}); err != nil {
						rt.Fatal(err)
					}
				}
			case 3:
				if k > 3 && len(heads) > 1 && v != p.main {
					p.do(func(tx *schema.Tx) error { return p.tree.RemoveBranch(tx, v.Branch().ID) })
					heads = slices.DeleteFunc(heads, func(h *View) bool { return h == v })
				}
			}
		}
		views = append(views, heads...)
		var before []map[string]string
		for _, v := range views {
			before = append(before, p.show(v))
		}
		dry := p.dryRuns(heads)
		limit := rapid.IntRange(1, 50).Draw(rt, "limit")
		stamp := p.snap(p.main)
		for more := true; more; {
			p.do(func(tx *schema.Tx) (err error) {
				_, more, err = p.tree.Prune(tx, Cut{Before: stamp}, limit)
				return err
			})
		}
		for k, v := range views {
			if got := p.show(v); !maps.Equal(got, before[k]) {
				rt.Fatalf("%s at %d was %q, is %q", v.Branch().Name, v.At(), before[k], got)
			}
		}
		if got := p.dryRuns(heads); !maps.Equal(got, dry) {
			rt.Fatalf("merges were %q, are %q", dry, got)
		}
		p.checkStructure()
	})
}

// dryRuns says what merges between all heads would do.
func (p *play) dryRuns(heads []*View) map[string]string {
	all := map[string]string{}
	for _, a := range heads {
		for _, b := range heads {
			r, _ := p.merge(a, b, MergeOptions{DryRun: true})
			s := fmt.Sprint(render(r.Applied))
			for _, c := range r.Conflicts {
				s += fmt.Sprint(c.Kind, c.BasePath, c.OurPath, c.TheirPath)
			}
			all[a.Branch().Name+" into "+b.Branch().Name] = s
		}
	}
	return all
}
