package pathtree

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

// play is a bucket in which a property test makes random history.
type play struct {
	*world
	rt *rapid.T
	c  texts
}

// newPlay gives the test a bucket of its own in the store of w.
func newPlay(w *world, rt *rapid.T, c texts) *play {
	p := &play{world: &world{t: w.t, db: w.db, tree: w.tree}, rt: rt, c: c}
	p.do(func(tx *schema.Tx) (err error) {
		p.bucket, err = w.tree.CreateBucket(tx, fmt.Sprintf("b%d", tx.NextIno()))
		return err
	})
	p.main = p.open(MainBranch, 0)
	return p
}

func (p *play) do(f func(tx *schema.Tx) error) {
	if err := p.db.Write(f); err != nil {
		p.rt.Fatal(err)
	}
}

func (p *play) open(branch string, at schema.Stamp) (v *View) {
	p.do(func(tx *schema.Tx) error {
		b, err := p.tree.Branch(tx, p.bucket.ID, branch)
		if err == nil {
			v, err = p.tree.View(tx, b.ID, at)
		}
		return err
	})
	return v
}

func (p *play) forkOf(from *View, name string) *View {
	p.do(func(tx *schema.Tx) error {
		_, err := p.tree.CreateBranch(tx, p.bucket.ID, name, Origin{Branch: from.Branch().ID})
		return err
	})
	return p.open(name, 0)
}

func (p *play) snap(v *View) (s schema.Stamp) {
	p.do(func(tx *schema.Tx) error {
		n, err := p.tree.CreateSnapshot(tx, v.Branch().ID, fmt.Sprintf("s%d", tx.NextIno()), "")
		s = n.Stamp
		return err
	})
	return s
}

func (p *play) show(v *View) (m map[string]string) {
	p.do(func(tx *schema.Tx) (err error) {
		m, err = p.world.show(tx, v, p.c)
		return err
	})
	return m
}

func (p *play) checkStructure() {
	p.do(func(tx *schema.Tx) error {
		if err := checkHeads(tx, p.tree); err != nil {
			return err
		}
		ck := checker{tree: p.tree, tx: tx, tell: func(problem string) { p.rt.Errorf("check: %s", problem) }}
		return ck.bucket(p.bucket)
	})
}

// Commands by weight. The plain ones do not move things, so that a merge of
// paths and a merge of inodes come to the same.
const (
	plainOps = "ffffrrddc--"
	allOps   = "fffrddlhmmmmxca--"
)

// act does a random thing in v; what is impossible leaves no trace.
func (p *play) act(v *View, ops string) {
	pick := func(label string) string {
		depth := rapid.IntRange(1, 3).Draw(p.rt, label)
		names := make([]string, depth)
		for i := range names {
			names[i] = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(p.rt, label)
		}
		return strings.Join(names, "/")
	}
	f := []string{string(ops[rapid.IntRange(0, len(ops)-1).Draw(p.rt, "op")]), pick("path"), "", ""}
	switch f[0] {
	case "f", "r", "l":
		f[2] = rapid.SampledFrom([]string{"1", "2", "3"}).Draw(p.rt, "text")
	case "h", "m", "x":
		f[2] = pick("to")
	case "c":
		f[2] = rapid.SampledFrom([]string{"600", "700"}).Draw(p.rt, "mode")
	case "a":
		f[2], f[3] = "user.k", rapid.SampledFrom([]string{"", "1", "2"}).Draw(p.rt, "value")
	}
	if err := p.db.Write(func(tx *schema.Tx) error { return p.command(tx, v, p.c, f) }); err == nil {
		p.rt.Logf("%s: %s", v.Branch().Name, strings.Join(f, " "))
	}
}

func (p *play) acts(v *View, n int, ops string) {
	for range rapid.IntRange(0, n).Draw(p.rt, "acts") {
		p.act(v, ops)
	}
	if rapid.Bool().Draw(p.rt, "age") {
		p.do(func(tx *schema.Tx) error {
			tx.ObserveStamp(tx.NextStamp() + 2000<<16)
			return nil
		})
	}
}

func (p *play) diff(a, b *View) (changes []Change) {
	p.do(func(tx *schema.Tx) (err error) {
		changes, err = p.tree.Diff(tx, a, b, 0)
		return err
	})
	return changes
}

// explain checks that changes lead exactly from a to b: everything of b that is
// not listed is as it was, at the place that the listed renames give it, or at
// its own, moved to a new directory that took the place of the one it was in;
// and everything of a that is nowhere in b is listed as deleted.
func (p *play) explain(a, b map[string]string, changes []Change) {
	listed, deleted := map[string]Change{}, map[string]bool{}
	for _, c := range changes {
		if c.New == nil {
			deleted[c.Path] = true
		} else {
			listed[c.Path] = c
		}
	}
	used := map[string]bool{}
	var from func(path string) string
	from = func(at string) string {
		if at == "." {
			return at
		}
		c, ok := listed[at]
		switch {
		case ok && c.Kind == Added:
			return ""
		case ok && c.OldPath != "":
			return c.OldPath
		case ok:
			return at
		}
		dir := from(path.Dir(at))
		if dir == "" {
			return ""
		}
		return path.Join(dir, path.Base(at))
	}
	for at, is := range b {
		c, ok := listed[at]
		old := from(at)
		if was, existed := a[at]; !ok && old == "" && existed && !deleted[at] && cutLink(was) == cutLink(is) {
			old = at
		}
		used[old] = true
		was, existed := a[old]
		switch {
		case !ok && (!existed || cutLink(was) != cutLink(is)):
			p.rt.Fatalf("%q (%s) was %q (%s) and is not listed: %q", at, is, old, was, render(changes))
		case ok && c.Kind != Added && c.Kind != Renamed && cutLink(was) == cutLink(is):
			p.rt.Fatalf("%q is listed and did not change: %q", at, render(changes))
		}
	}
	for at := range listed {
		if _, ok := b[at]; !ok && at != "" {
			p.rt.Fatalf("%q is listed and not there: %q", at, render(changes))
		}
	}
	for at := range a {
		if used[at] == deleted[at] {
			p.rt.Fatalf("%q: still there %v, listed as deleted %v: %q", at, used[at], deleted[at], render(changes))
		}
	}
}

func TestDiffModel(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		p.acts(p.main, 15, allOps)
		first := p.open(MainBranch, p.snap(p.main))
		dev := p.forkOf(p.main, "dev")
		p.acts(p.main, 8, allOps)
		p.acts(dev, 8, allOps)
		sub := p.forkOf(dev, "sub")
		p.acts(dev, 5, allOps)
		p.acts(sub, 5, allOps)
		views := []*View{first, p.main, dev, sub, p.open("dev", p.snap(dev))}
		p.acts(dev, 5, allOps)
		for _, a := range views {
			for _, b := range views {
				p.explain(p.show(a), p.show(b), p.diff(a, b))
			}
		}
		p.checkStructure()
	})
}

func (p *play) merge(src, dst *View, o MergeOptions) (r MergeResult, err error) {
	err = p.db.Write(func(tx *schema.Tx) (err error) {
		r, err = p.tree.Merge(tx, src, dst, o)
		return err
	})
	if err != nil && !errors.Is(err, ErrConflict) {
		p.rt.Fatal(err)
	}
	return r, err
}

// settle merges src into dst by a strategy and checks what must hold of any
// merge: it is what the dry run said, and the way back asks nothing and makes
// both the same.
func (p *play) settle(src, dst *View, s Strategy) {
	was := p.show(dst)
	dry, _ := p.merge(src, dst, MergeOptions{Strategy: s, DryRun: true})
	if !maps.Equal(was, p.show(dst)) {
		p.rt.Fatal("a dry run changed something")
	}
	r, err := p.merge(src, dst, MergeOptions{Strategy: s})
	if err != nil {
		p.rt.Fatalf("%v %+v", err, r.Conflicts)
	}
	if a, b := render(dry.Applied), render(r.Applied); !slices.Equal(a, b) {
		p.rt.Fatalf("dry run %q, then %q", a, b)
	}
	p.rt.Logf("merge %s into %s by %d: %q", src.Branch().Name, dst.Branch().Name, s, render(r.Applied))
	p.explain(was, p.show(dst), r.Applied)
	p.checkStructure()
}

func (p *play) back(src, dst *View) {
	if r, err := p.merge(src, dst, MergeOptions{}); err != nil {
		p.rt.Fatalf("back: %v %+v", err, r.Conflicts)
	}
	p.rt.Logf("back from %s into %s", src.Branch().Name, dst.Branch().Name)
	if a, b := p.show(src), p.show(dst); !maps.Equal(a, b) {
		p.rt.Fatalf("after merging back:\n%q\n%q", a, b)
	}
	p.checkStructure()
}

func TestMergeModel(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		p.acts(p.main, 12, allOps)
		dev := p.forkOf(p.main, "dev")
		for range 2 {
			p.acts(p.main, 6, allOps)
			p.acts(dev, 6, allOps)
			strategy := rapid.SampledFrom([]Strategy{Ours, Theirs, Both}).Draw(rt, "strategy")
			p.settle(dev, p.main, strategy)
			if rapid.Bool().Draw(rt, "back at once") {
				p.back(p.main, dev)
			}
		}
	})
}

// TestMergeOfPaths compares a merge with one of plain maps from path to state.
func TestMergeOfPaths(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		p.acts(p.main, 12, plainOps)
		base := p.show(p.main)
		dev := p.forkOf(p.main, "dev")
		p.acts(p.main, 5, plainOps)
		p.acts(dev, 5, plainOps)
		want, clash := mergeMaps(base, p.show(p.main), p.show(dev))
		r, err := p.merge(dev, p.main, MergeOptions{})
		if clash != (err != nil) {
			rt.Fatalf("by paths a conflict: %v, by inodes %+v", clash, r.Conflicts)
		}
		if got := p.show(p.main); !clash && !maps.Equal(got, want) {
			rt.Fatalf("got %q\nwant %q", got, want)
		}
	})
}

// mergeMaps merges two trees of paths, each state being content and mode. A
// file and a directory of one path are two things: to replace one by the other
// is to delete it.
func mergeMaps(base, ours, theirs map[string]string) (merged map[string]string, clash bool) {
	base, ours, theirs = typed(base), typed(ours), typed(theirs)
	all := maps.Clone(base)
	maps.Copy(all, ours)
	maps.Copy(all, theirs)
	three := func(b, o, t string) string {
		switch {
		case b == t || o == t:
			return o
		case b == o:
			return t
		}
		clash = true
		return o
	}
	merged = map[string]string{}
	for at := range all {
		b, inB := base[at]
		o, inO := ours[at]
		t, inT := theirs[at]
		state := ""
		if inO && inT {
			bc, bm, _ := strings.Cut(b, " ")
			oc, om, _ := strings.Cut(o, " ")
			tc, tm, _ := strings.Cut(t, " ")
			if !inB {
				bc, bm = "none", "none"
			}
			state = strings.TrimSuffix(three(bc, oc, tc)+" "+three(bm, om, tm), " ")
		} else if state = three(b, o, t); state == "" {
			continue
		}
		at = strings.TrimSuffix(at, "/")
		if _, taken := merged[at]; taken {
			clash = true
		}
		merged[at] = state
	}
	for at := range merged {
		for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
			if !strings.HasPrefix(merged[dir], "/") {
				clash = true
			}
		}
	}
	return merged, clash
}

// typed puts a slash after the paths of directories.
func typed(m map[string]string) map[string]string {
	by := make(map[string]string, len(m))
	for at, state := range m {
		if strings.HasPrefix(state, "/") {
			at += "/"
		}
		by[at] = state
	}
	return by
}

// cutLink removes the note of what a path is a hard link to.
func cutLink(s string) string { s, _, _ = strings.Cut(s, " same as "); return s }

// TestMergeModelThree merges three branches and a child of one of them in any
// direction; in the end all are merged into main and main into all, which makes
// all of them the same and asks nothing on the way back.
func TestMergeModelThree(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		p.acts(p.main, 8, allOps)
		one := p.forkOf(p.main, "one")
		p.acts(one, 4, allOps)
		all := []*View{p.main, one, p.forkOf(p.main, "two"), p.forkOf(one, "three")}
		for range rapid.IntRange(1, 5).Draw(rt, "merges") {
			src, dst := all[rapid.IntRange(0, 3).Draw(rt, "src")], all[rapid.IntRange(0, 3).Draw(rt, "dst")]
			p.acts(src, 4, allOps)
			p.acts(dst, 4, allOps)
			if src != dst {
				p.settle(src, dst, rapid.SampledFrom([]Strategy{Ours, Theirs, Both}).Draw(rt, "strategy"))
			}
		}
		for _, v := range all[1:] {
			p.settle(v, p.main, Both)
		}
		for _, v := range all[1:] {
			p.back(p.main, v)
		}
	})
}

// TestMergeModelLive merges a branch that follows its parent, and back.
func TestMergeModelLive(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		p.acts(p.main, 8, plainOps)
		p.do(func(tx *schema.Tx) error {
			_, err := p.tree.CreateBranch(tx, p.bucket.ID, "dev", Origin{Branch: p.main.Branch().ID, Live: true})
			return err
		})
		dev := p.open("dev", 0)
		p.acts(dev, 5, plainOps)
		if r, err := p.merge(dev, p.main, MergeOptions{}); err != nil {
			rt.Fatalf("%v %+v", err, r.Conflicts)
		}
		if a, b := p.show(p.main), p.show(dev); !maps.Equal(a, b) {
			rt.Fatalf("main %q\ndev %q", a, b)
		}
	})
}
