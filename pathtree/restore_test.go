package pathtree

import (
	"maps"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

func (w *world) restore(v *View, path string, from *View) (changes []Change, err error) {
	err = w.db.Write(func(tx *schema.Tx) (err error) {
		changes, err = w.tree.Restore(tx, v, path, from)
		return err
	})
	return changes, err
}

func TestRestoreCases(t *testing.T) {
	store := newWorld(t)
	for _, tc := range []struct{ name, base, ops, path, want string }{
		{"content", "f a 1; f b 1", "f a 2; f b 2", "a", "a=1 b=2"},
		{"mode and xattr", "f a 1; a a user.k v", "c a 600; a a user.k; a a user.n 1", "a", "a=1 user.k=v"},
		{"deleted file", "f a 1", "- a", "a", "a=1"},
		{"added file", "", "f a 1", "a", ""},
		{"replaced file", "f a 1", "r a 2", "a", "a=1"},
		{"other type", "f a 1", "- a; d a; f a/b 1", "a", "a=1"},
		{"deleted tree", "d d; d d/e; f d/e/a 1", "- d", "d", "d=/ d/e=/ d/e/a=1"},
		{"file in a deleted tree", "d d; d d/e; f d/e/a 1; f d/b 1", "- d", "d/e/a", "d=/ d/e=/ d/e/a=1"},
		{"directory, not its neighbours", "d d; f d/a 1; f x 1", "f d/a 2; f d/b 1; f x 2", "d", "d=/ d/a=1 x=2"},
		{"renamed within", "d d; f d/a 1", "m d/a d/b", "d", "d=/ d/a=1"},
		{"moved out of it", "d d; f d/a 1", "m d/a a; f a 2", "d", "a=2 d=/ d/a=1"},
		{"directory moved out of it", "d d; d d/e; f d/e/a 1", "m d/e e; f e/a 2; f e/b 3", "d", "d=/ d/e=/ d/e/a=1 e=/ e/a=2 e/b=3"},
		{"moved into it", "d d; d e; f e/a 1", "m e d/e", "d", "d=/"},
		{"itself renamed", "d d; f d/a 1", "m d e; f e/a 2", "d", "d=/ d/a=1 e=/ e/a=2"},
		{"hard link outside stays one", "f a 1; h a b", "- a; f b 2", "a", "a=1 b=1 same as a"},
		{"everything", "d d; f d/a 1; f b 2; l c x", "m d/a a; - d; - b; x a c; f e 1", "", "b=2 c=->x d=/ d/a=1"},
		{"nothing to do", "f a 1", "f b 2", "a", "a=1 b=2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := store.another(t), texts{}
			w.script(w.main, c, tc.base)
			then := w.view(MainBranch, w.seal(w.main))
			w.script(w.main, c, tc.ops)
			before := w.view(MainBranch, w.seal(w.main))
			changes, err := w.restore(w.main, tc.path, then)
			if err != nil {
				t.Fatal(err)
			}
			w.wantTree(w.main, c, tc.want)
			w.check()
			if got, want := render(changes), render(w.diff(before, w.main)); !maps.Equal(set1(got), set1(want)) {
				t.Errorf("said %q, did %q", got, want)
			}
			if _, err := w.restore(w.main, "", before); err != nil {
				t.Fatal(err)
			}
			if d := w.diff(before, w.main); len(d) > 0 {
				t.Errorf("undone: %q", render(d))
			}
			w.check()
		})
	}
}

func set1(lines []string) map[string]bool {
	m := map[string]bool{}
	for _, l := range lines {
		m[l] = true
	}
	return m
}

func TestRestoreRefuses(t *testing.T) {
	w := newWorld(t)
	then := w.view(MainBranch, w.seal(w.main))
	if _, err := w.restore(w.main, "nothing", then); Errno(err) != unix.ENOENT {
		t.Errorf("a path that never was: %v", err)
	}
	if _, err := w.restore(then, "", w.main); Errno(err) != unix.EROFS {
		t.Errorf("into the past: %v", err)
	}
}

func TestRestoreModel(t *testing.T) {
	w, c := newWorld(t), texts{}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(w, rt, c)
		p.acts(p.main, 12, allOps)
		then := p.open(MainBranch, p.snap(p.main))
		p.acts(p.main, 10, allOps)
		before := p.open(MainBranch, p.snap(p.main))
		path := rapid.SampledFrom([]string{"", "a", "b", "a/a", "a/b"}).Draw(rt, "path")
		var changes []Change
		err := p.db.Write(func(tx *schema.Tx) (err error) {
			changes, err = p.tree.Restore(tx, p.main, path, then)
			return err
		})
		if err != nil {
			return // the path was in neither, or a file is in its way
		}
		p.checkStructure()
		p.explain(p.show(before), p.show(p.main), changes)
		was, is := p.show(then), p.show(p.main)
		for _, m := range []map[string]string{was, is} {
			maps.DeleteFunc(m, func(at, _ string) bool { return !within(at, path) })
		}
		plain := func(m map[string]string) map[string]string { // links to outside may become copies
			if path == "" {
				return m
			}
			n := map[string]string{}
			for at, s := range m {
				n[at] = cutLink(s)
			}
			return n
		}
		if !maps.Equal(plain(was), plain(is)) {
			rt.Fatalf("%q was %q, is %q", path, was, is)
		}
	})
}
