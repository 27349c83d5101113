package pathtree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

// mergeCases merge dev, forked from base, into main. ours and theirs are what
// was done on main and on dev. want is main afterwards; conflicts what Ask
// says, and ours_, theirs_, both what main is with the other strategies.
var mergeCases = []struct {
	name, base, ours, theirs string
	want                     string
	conflicts                string // "KIND PATH; …"
	wantOurs                 string
	wantTheirs               string
	wantBoth                 string
}{
	{name: "nothing", base: "f a 1", want: "a=1"},
	{name: "added", base: "f a 1", theirs: "f b 2", want: "a=1 b=2"},
	{name: "added tree", theirs: "d d; d d/e; f d/e/a 1; l d/l x", want: "d=/ d/e=/ d/e/a=1 d/l=->x"},
	{name: "deleted", base: "f a 1; f b 1", theirs: "- a", want: "b=1"},
	{name: "deleted tree", base: "d d; d d/e; f d/e/a 1", theirs: "- d", want: ""},
	{name: "modified", base: "f a 1", theirs: "f a 2", want: "a=2"},
	{name: "modified on either side", base: "f a 1; f b 1", ours: "f a 2", theirs: "f b 2", want: "a=2 b=2"},
	{name: "replaced as editors do", base: "f a 1", theirs: "r a 2", want: "a=2"},
	{name: "chmod here, write there", base: "f a 1", ours: "c a 600", theirs: "f a 2", want: "a=2 600"},
	{name: "write here, chmod there", base: "f a 1", ours: "r a 2", theirs: "c a 600", want: "a=2 600"},
	{name: "rename here, write there", base: "f a 1", ours: "m a b", theirs: "f a 2", want: "b=2"},
	{name: "rename here, replaced there", base: "f a 1", ours: "m a b", theirs: "r a 2", want: "b=2"},
	{name: "rename there, write here", base: "f a 1", ours: "f a 2", theirs: "m a b", want: "b=2"},
	{name: "directory renamed here, file added there", base: "d d; f d/a 1", ours: "m d e", theirs: "f d/b 2; f d/a 3", want: "e=/ e/a=3 e/b=2"},
	{name: "directory renamed there, file added here", base: "d d; f d/a 1", ours: "f d/b 2", theirs: "m d e", want: "e=/ e/a=1 e/b=2"},
	{name: "swap", base: "f a 1; f b 2", theirs: "x a b", want: "a=2 b=1"},
	{name: "swap of directories, edits here", base: "d a; f a/f 1; d b; f b/g 2", ours: "f a/f 3", theirs: "x a b", want: "a=/ a/g=2 b=/ b/f=3"},
	{name: "move to a new directory", base: "f a 1", theirs: "d d; m a d/a", want: "d=/ d/a=1"},
	{name: "hard link", base: "f a 1", theirs: "h a b", ours: "f a 2", want: "a=2 b=2 same as a"},
	{name: "hard links on either side", base: "f a 1", theirs: "h a b", ours: "h a c", want: "a=1 b=1 same as a c=1 same as a"},
	{name: "xattrs of different names", base: "f a 1", ours: "a a user.o 1", theirs: "a a user.t 2", want: "a=1 user.o=1 user.t=2"},
	{name: "xattr removed", base: "f a 1; a a user.k v", theirs: "a a user.k", want: "a=1"},
	{name: "equal edits", base: "f a 1", ours: "f a 2", theirs: "r a 2", want: "a=2"},
	{name: "equal additions", ours: "f a 1; d d; f d/b 2", theirs: "f a 1; d d; f d/b 2", want: "a=1 d=/ d/b=2"},
	{name: "equal deletions", base: "f a 1; d d; f d/a 1", ours: "- a; - d", theirs: "- d; - a", want: ""},
	{name: "equal renames", base: "f a 1", ours: "m a b", theirs: "m a b", want: "b=1"},
	{name: "same new directory", ours: "d d; f d/a 1", theirs: "d d; f d/b 2", want: "d=/ d/a=1 d/b=2"},
	{name: "same new directory of different number", base: "d d", ours: "- d; d d; f d/a 1", theirs: "- d; d d; - d; d d; f d/b 2", want: "d=/ d/a=1 d/b=2"},
	{name: "type changed there", base: "f a 1", theirs: "- a; d a; f a/b 2", want: "a=/ a/b=2"},
	{name: "name moved away and given anew", base: "f a 1", theirs: "m a a~; f a 2", want: "a=2 a~=1"},
	{name: "moved away there, edited here, given anew", base: "f a 1", ours: "f a 3", theirs: "m a a~; f a 2", want: "a=2 a~=3"},

	{
		name: "both modified", base: "f a 1", ours: "f a 2", theirs: "f a 3",
		conflicts: "both modified a", wantOurs: "a=2", wantTheirs: "a=3", wantBoth: "a=2 a.dev=3",
	},
	{
		name: "both replaced", base: "f a 1; f a.dev 0", ours: "r a 2", theirs: "r a 3",
		conflicts: "both modified a", wantOurs: "a=2 a.dev=0", wantTheirs: "a=3 a.dev=0", wantBoth: "a=2 a.dev=0 a.dev.2=3",
	},
	{
		name: "both added", ours: "f a 2", theirs: "f a 3",
		conflicts: "both added a", wantOurs: "a=2", wantTheirs: "a=3", wantBoth: "a=2 a.dev=3",
	},
	{
		name: "both added, other types", ours: "f a 2", theirs: "d a; f a/b 3",
		conflicts: "both added a", wantOurs: "a=2", wantTheirs: "a=/ a/b=3", wantBoth: "a=2 a.dev=/ a.dev/b=3",
	},
	{
		name: "both added, directory here", ours: "d a; f a/b 2", theirs: "f a 3",
		conflicts: "both added a", wantOurs: "a=/ a/b=2", wantTheirs: "a=3", wantBoth: "a=/ a.dev=3 a/b=2",
	},
	{
		name: "deleted there, modified here", base: "f a 1", ours: "f a 2", theirs: "- a",
		conflicts: "deleted by them a", wantOurs: "a=2", wantTheirs: "", wantBoth: "a=2",
	},
	{
		name: "deleted here, modified there", base: "f a 1", ours: "- a", theirs: "f a 2",
		conflicts: "deleted by us a", wantOurs: "", wantTheirs: "a=2", wantBoth: "a=2",
	},
	{
		name: "deleted there, renamed here", base: "f a 1", ours: "m a b", theirs: "- a",
		conflicts: "deleted by them b", wantOurs: "b=1", wantTheirs: "", wantBoth: "b=1",
	},
	{
		name: "deleted here, renamed there", base: "f a 1", ours: "- a", theirs: "m a b",
		conflicts: "deleted by us b", wantOurs: "", wantTheirs: "b=1", wantBoth: "b=1",
	},
	{
		name: "renamed to different names", base: "f a 1", ours: "m a b", theirs: "m a c",
		conflicts: "both renamed b", wantOurs: "b=1", wantTheirs: "c=1", wantBoth: "b=1 c=1",
	},
	{
		name: "directory renamed to different names", base: "d a; f a/f 1", ours: "m a b", theirs: "m a c; f c/g 2",
		conflicts: "both renamed b", wantOurs: "b=/ b/f=1 b/g=2", wantTheirs: "c=/ c/f=1 c/g=2", wantBoth: "b=/ b/f=1 b/g=2",
	},
	{
		name: "directories moved into each other", base: "d a; d b", ours: "m a b/a", theirs: "m b a/b",
		conflicts: "directories moved into each other b", wantOurs: "b=/ b/a=/", wantTheirs: "a=/ a/b=/", wantBoth: "b=/ b/a=/",
	},
	{
		name: "directory deleted there, file added here", base: "d d; f d/a 1", ours: "f d/b 2", theirs: "- d",
		conflicts: "deleted by them d", wantOurs: "d=/ d/b=2", wantTheirs: "", wantBoth: "d=/ d/b=2",
	},
	{
		name: "nested directories deleted there, file added here", base: "d d; d d/e; f d/e/a 1", ours: "f d/e/b 2", theirs: "- d",
		conflicts: "deleted by them d/e", wantOurs: "d=/ d/e=/ d/e/b=2", wantTheirs: "", wantBoth: "d=/ d/e=/ d/e/b=2",
	},
	{
		name: "directory deleted here, file added there", base: "d d; f d/a 1", ours: "- d", theirs: "f d/b 2",
		conflicts: "deleted by us d", wantOurs: "", wantTheirs: "d=/ d/b=2", wantBoth: "d=/ d/b=2",
	},
	{
		name: "directory deleted here, file edited there", base: "d d; d d/e; f d/e/a 1", ours: "- d", theirs: "f d/e/a 2",
		conflicts: "deleted by us d/e/a", wantOurs: "", wantTheirs: "d=/ d/e=/ d/e/a=2", wantBoth: "d=/ d/e=/ d/e/a=2",
	},
	{
		name: "type changed here, modified there", base: "f a 1", ours: "- a; d a; f a/x 1", theirs: "f a 2",
		conflicts: "deleted by us a", wantOurs: "a=/ a/x=1", wantTheirs: "a=2", wantBoth: "a=/ a.dev=2 a/x=1",
	},
	{
		name: "directory moved here into what takes the place of a file modified there", base: "d c; f b 1",
		ours: "- b; d b; m c b/c", theirs: "f b 2; f c/a 3", conflicts: "deleted by us b",
		wantOurs: "b=/ b/c=/ b/c/a=3", wantTheirs: "b=2 c=/ c/a=3", wantBoth: "b=/ b.dev=2 b/c=/ b/c/a=3",
	},
	{
		name: "renamed to a name taken here", base: "f a 1", ours: "f b 2", theirs: "m a b",
		conflicts: "name taken a", wantOurs: "a=1 b=2", wantTheirs: "b=1", wantBoth: "b=2 b.dev=1",
	},
	{
		name: "renamed over what was edited here", base: "f a 1; f b 2", ours: "f b 3", theirs: "m a b",
		conflicts: "deleted by them b", wantOurs: "a=1 b=3", wantTheirs: "b=1", wantBoth: "b=3 b.dev=1",
	},
	{
		name: "added where something was moved to here", base: "f a 1", ours: "m a b", theirs: "f b 2",
		conflicts: "name taken b", wantOurs: "b=1", wantTheirs: "a=1 b=2", wantBoth: "b=1 b.dev=2",
	},
	{
		name: "both changed the mode", base: "f a 1", ours: "c a 600", theirs: "c a 640",
		conflicts: "both changed attributes a", wantOurs: "a=1 600", wantTheirs: "a=1 640", wantBoth: "a=1 600",
	},
	{
		name: "both changed an xattr", base: "f a 1", ours: "a a user.k 1", theirs: "a a user.k 2",
		conflicts: "both changed attributes a", wantOurs: "a=1 user.k=1", wantTheirs: "a=1 user.k=2", wantBoth: "a=1 user.k=1",
	},
	{
		name: "symlinks retargeted", base: "l a x", ours: "- a; l a y", theirs: "- a; l a z",
		conflicts: "both modified a", wantOurs: "a=->y", wantTheirs: "a=->z", wantBoth: "a=->y a.dev=->z",
	},
}

func TestMergeCases(t *testing.T) {
	store := newWorld(t)
	for _, tc := range mergeCases {
		t.Run(tc.name, func(t *testing.T) {
			w, c := store.another(t), texts{}
			w.script(w.main, c, tc.base)
			dev := w.fork(w.main, "dev", Origin{})
			w.script(w.main, c, tc.ours)
			w.script(dev, c, tc.theirs)
			r, err := w.merge(dev, w.main, MergeOptions{})
			var got []string
			for _, x := range r.Conflicts {
				got = append(got, x.Kind.String()+" "+x.Path())
			}
			if s := strings.Join(got, "; "); s != tc.conflicts {
				t.Errorf("conflicts: got %q, want %q", s, tc.conflicts)
			}
			if tc.conflicts == "" {
				if err != nil {
					t.Error(err)
				}
				w.wantTree(w.main, c, tc.want)
				w.check()
				w.forthAndBack(dev, w.main, c)
				return
			}
			if !errors.Is(err, ErrConflict) {
				t.Errorf("got %v, want ErrConflict", err)
			}
			for n, s := range []struct {
				strategy Strategy
				want     string
			}{{Ours, tc.wantOurs}, {Theirs, tc.wantTheirs}, {Both, tc.wantBoth}} {
				main := w.fork(w.main, fmt.Sprintf("main%d", n), Origin{})
				src := w.fork(dev, "tmp", Origin{})
				w.renameBranch(w.view("dev", 0), fmt.Sprintf("used%d", n))
				w.renameBranch(src, "dev")
				src = w.view("dev", 0)
				dry, err := w.merge(src, main, MergeOptions{Strategy: s.strategy, DryRun: true})
				if err != nil {
					t.Fatal(err)
				}
				r, err := w.merge(src, main, MergeOptions{Strategy: s.strategy})
				if err != nil {
					t.Fatal(err)
				}
				if a, b := render(dry.Applied), render(r.Applied); !slices.Equal(a, b) {
					t.Errorf("strategy %d: dry run said %q, then did %q", s.strategy, a, b)
				}
				w.wantTree(main, c, s.want)
				w.forthAndBack(src, main, c)
			}
			w.check()
		})
	}
}

func (w *world) wantTree(v *View, c texts, want string) {
	w.t.Helper()
	if got := strings.Join(w.treeLines(v, c), " "); got != want {
		w.t.Errorf("branch %s:\n got %s\nwant %s", v.Branch().Name, got, want)
	}
}

// forthAndBack checks that after a merge of src into dst the way back asks
// nothing, that both are the same then, and that nothing more is to be merged.
func (w *world) forthAndBack(src, dst *View, c texts) {
	w.t.Helper()
	if r, err := w.merge(src, dst, MergeOptions{}); err != nil || len(r.Applied) > 0 {
		w.t.Errorf("again: %v, %q", err, render(r.Applied))
	}
	if r, err := w.merge(dst, src, MergeOptions{}); err != nil {
		w.t.Errorf("back: %v, %+v", err, r.Conflicts)
	}
	if a, b := w.treeLines(src, c), w.treeLines(dst, c); !slices.Equal(a, b) {
		w.t.Errorf("after merging back:\n%q\n%q", a, b)
	}
	if d := w.diff(src, dst); len(d) > 0 {
		w.t.Errorf("after merging back: diff %q", render(d))
	}
	for k, p := range [][2]*View{{src, dst}, {dst, src}, {src, dst}, {dst, src}} {
		r, err := w.merge(p[0], p[1], MergeOptions{})
		if err != nil || len(r.Applied) > 0 {
			w.t.Errorf("nothing to merge: %v, %q", err, render(r.Applied))
		}
		if k > 1 && r.ID != 0 {
			w.t.Errorf("a merge of nothing is recorded: each takes the other's affirmations for news")
		}
	}
}

// TestMergeAfterAThirdBranch merges what came by way of another branch.
func TestMergeAfterAThirdBranch(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "f a 1; f b 1")
	one, two := w.fork(w.main, "one", Origin{}), w.fork(w.main, "two", Origin{})
	must := func(src, dst *View) {
		t.Helper()
		if r, err := w.merge(src, dst, MergeOptions{}); err != nil {
			t.Fatalf("%v %+v", err, r.Conflicts)
		}
	}
	w.script(one, c, "f a 2")
	must(one, w.main)
	must(w.main, two)
	w.script(two, c, "f a 3; f b 3")
	w.script(one, c, "f c 2")
	must(one, two) // the base is one as merged into main, not where they were forked
	w.wantTree(two, c, "a=3 b=3 c=2")
	must(two, one)
	w.wantTree(one, c, "a=3 b=3 c=2")

	// Created in one, seen by two, deleted in one, which main hears of only then.
	w.script(one, c, "f x 1")
	must(one, two)
	w.script(one, c, "- x")
	must(one, w.main)
	must(two, w.main)
	must(w.main, two)
	w.wantTree(two, c, "a=3 b=3 c=2")
	w.check()
}

// TestMergeWhereBasesDisagree has main make c, one make and remove another, and
// dev hear of both: what came last in one is no news for main's c. After main
// has heard of it too, the base of main and dev are several moments, which
// differ in c, and both must come to the same.
func TestMergeWhereBasesDisagree(t *testing.T) {
	w, c := newWorld(t), texts{}
	one := w.fork(w.main, "one", Origin{})
	w.script(one, c, "f c 2")
	dev := w.fork(one, "dev", Origin{})
	merge := func(src, dst *View, s Strategy) {
		t.Helper()
		if r, err := w.merge(src, dst, MergeOptions{Strategy: s}); err != nil {
			t.Fatalf("%v %+v", err, r.Conflicts)
		}
	}
	w.script(w.main, c, "f c 1")
	merge(w.main, dev, Ours)
	w.wantTree(dev, c, "c=2")
	w.script(one, c, "- c")
	merge(one, dev, Ask)
	w.wantTree(dev, c, "")
	merge(one, w.main, Ask)
	w.wantTree(w.main, c, "c=1")
	w.forthAndBack(dev, w.main, c)
	w.check()
}

// TestMergeOfEqualFilesWithAThirdBranch makes the same file thrice and moves
// one away: all come to have one inode number for what they take as one thing.
func TestMergeOfEqualFilesWithAThirdBranch(t *testing.T) {
	w, c := newWorld(t), texts{}
	one, two, dev := w.fork(w.main, "one", Origin{}), w.fork(w.main, "two", Origin{}), w.fork(w.main, "dev", Origin{})
	merge := func(src, dst *View, s Strategy) {
		t.Helper()
		if r, err := w.merge(src, dst, MergeOptions{Strategy: s}); err != nil {
			t.Fatalf("%v %+v", err, r.Conflicts)
		}
	}
	w.script(two, c, "d c")
	w.script(dev, c, "f c 2")
	merge(dev, two, Both)
	w.wantTree(two, c, "c=/ c.dev=2")
	merge(dev, w.main, Ask)
	w.script(one, c, "f c 2")
	merge(one, w.main, Ask)
	merge(one, dev, Ask)
	merge(two, w.main, Both)
	merge(dev, w.main, Both)
	for _, v := range []*View{one, two, dev} {
		w.forthAndBack(v, w.main, c)
	}
	w.check()
}

// TestMergeWhereEachRemovedAnotherName keeps a file of which each side removed
// one of two names, in the name that the destination has.
func TestMergeWhereEachRemovedAnotherName(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "f a 1; h a b")
	dev := w.fork(w.main, "dev", Origin{})
	w.script(w.main, c, "- a")
	w.script(dev, c, "- b")
	if r, err := w.merge(dev, w.main, MergeOptions{}); err != nil {
		t.Fatalf("%v %+v", err, r.Conflicts)
	}
	w.wantTree(w.main, c, "b=1")
	w.forthAndBack(dev, w.main, c)
	w.check()
}

// TestMergeCostsNoMoreWithHistory merges forth and back many times: a merge
// looks at what is new, not at all that was ever merged.
func TestMergeCostsNoMoreWithHistory(t *testing.T) {
	w, c := newWorld(t), texts{}
	dev := w.fork(w.main, "dev", Origin{})
	for k := range 20 {
		w.script(w.main, c, fmt.Sprintf("f m%d 1", k))
		w.script(dev, c, fmt.Sprintf("f d%d 1", k))
		for _, p := range [][2]*View{{dev, w.main}, {w.main, dev}} {
			w.write(func(tx *schema.Tx) error {
				bases, cand, err := mergeBase(tx, p[0], p[1])
				if err != nil {
					return err
				}
				// Its own file and, on the way back, the other's, which is the same.
				if n := len(cand.edges); n > 2 {
					t.Errorf("round %d: %d candidates since %+v", k, n, bases[0].moment())
				}
				_, err = w.tree.Merge(tx, p[0], p[1], MergeOptions{})
				return err
			})
		}
	}
}
