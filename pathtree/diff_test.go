package pathtree

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// texts holds the content that tests store, by hash.
type texts map[blobstore.Hash]string

func (c texts) put(s string) (blobstore.Hash, int64) {
	if s == "" {
		return blobstore.Hash{}, 0
	}
	h := blobstore.Sum([]byte(s))
	c[h] = s
	return h, int64(len(s))
}

func (c texts) merge() *TextMerge {
	return &TextMerge{
		Read: func(_ *schema.Tx, h blobstore.Hash, _ int64) ([]byte, error) { return []byte(c[h]), nil },
		Store: func(_ *schema.Tx, p []byte) (blobstore.Hash, error) {
			h, _ := c.put(string(p))
			return h, nil
		},
	}
}

// script runs commands, one a line or separated by ";":
//
//	f PATH TEXT     make or rewrite a file (\n in TEXT is a newline)
//	r PATH TEXT     replace a file by a new one, as editors do
//	d PATH          make a directory
//	l PATH TARGET   make a symlink
//	h OLD NEW       make a hard link
//	m OLD NEW       rename;  x A B  exchange
//	c PATH MODE     change the mode
//	a PATH NAME VAL set an extended attribute; no VAL removes it
//	- PATH          remove, with everything below
func (w *world) script(v *View, c texts, lines string) {
	w.t.Helper()
	for line := range strings.FieldsFuncSeq(lines, func(r rune) bool { return r == ';' || r == '\n' }) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		f = append(f, "", "")
		w.write(func(tx *schema.Tx) error {
			if err := w.command(tx, v, c, f); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			return nil
		})
	}
}

func (w *world) command(tx *schema.Tx, v *View, c texts, f []string) error {
	op, path := f[0], f[1]
	dir, base, err := v.ResolveParent(tx, path)
	if path == "/" {
		err = nil
	}
	if err != nil {
		return err
	}
	in, found := v.Resolve(tx, path)
	switch op {
	case "f", "r":
		h, n := c.put(strings.ReplaceAll(f[2], `\n`, "\n"))
		if op == "r" {
			_, err := v.Create(tx, dir.Ino, base+".tmp", NewInode{Mode: in.Mode, UID: in.UID, GID: in.GID, Hash: h, Size: n})
			if err == nil {
				_, err = v.Rename(tx, dir.Ino, base+".tmp", dir.Ino, base, 0)
			}
			return err
		}
		if found == nil {
			_, err = v.SetContent(tx, in.Ino, Content{Hash: h, Size: n})
			return err
		}
		_, err = v.Create(tx, dir.Ino, base, NewInode{Mode: unix.S_IFREG | 0o644, Hash: h, Size: n})
	case "d":
		_, err = v.Create(tx, dir.Ino, base, NewInode{Mode: unix.S_IFDIR | 0o755})
	case "l":
		_, err = v.Create(tx, dir.Ino, base, NewInode{Mode: unix.S_IFLNK | 0o777, Target: f[2]})
	case "h":
		to, name, e := v.ResolveParent(tx, f[2])
		if e != nil {
			return e
		}
		_, err = v.Link(tx, in.Ino, to.Ino, name)
	case "m", "x":
		to, name, e := v.ResolveParent(tx, f[2])
		if e != nil {
			return e
		}
		flags := uint32(0)
		if op == "x" {
			flags = unix.RENAME_EXCHANGE
		}
		_, err = v.Rename(tx, dir.Ino, base, to.Ino, name, flags)
	case "c":
		var mode uint32
		fmt.Sscanf(f[2], "%o", &mode)
		_, err = v.SetAttr(tx, in.Ino, SetAttr{Mode: &mode})
	case "a":
		if f[3] == "" {
			return v.Removexattr(tx, in.Ino, f[2])
		}
		return v.Setxattr(tx, in.Ino, f[2], []byte(f[3]), 0)
	case "-":
		return removeAll(tx, v, dir.Ino, base)
	default:
		return fmt.Errorf("no command %q", op)
	}
	return err
}

func removeAll(tx *schema.Tx, v *View, dir Ino, name string) error {
	e, err := v.Lookup(tx, dir, name)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		_, err = v.Unlink(tx, dir, name)
		return err
	}
	below, err := v.ReadDir(tx, e.Ino, "", 0)
	if err != nil {
		return err
	}
	for _, b := range below {
		if err := removeAll(tx, v, e.Ino, b.Name); err != nil {
			return err
		}
	}
	_, err = v.Rmdir(tx, dir, name)
	return err
}

// show renders a whole view: per path the mode where it is unusual, content,
// attributes and the first path of what it is linked with.
func (w *world) show(tx *schema.Tx, v *View, c texts) (map[string]string, error) {
	out, first := map[string]string{}, map[Ino]string{}
	var walk func(dir Ino, at string) error
	walk = func(dir Ino, at string) error {
		entries, inodes, err := v.ReadDirPlus(tx, dir, "", 0)
		if err != nil {
			return err
		}
		for i, e := range entries {
			in, path := inodes[i], at+e.Name
			var s string
			switch {
			case in.IsDir():
				s = "/"
			case in.IsSymlink():
				s = "->" + in.Target
			default:
				s = strings.ReplaceAll(c[in.Hash], "\n", `\n`)
			}
			if m := in.Mode & 0o7777; m != 0o644 && m != 0o755 && m != 0o777 {
				s += fmt.Sprintf(" %o", m)
			}
			names, err := v.Listxattr(tx, in.Ino)
			if err != nil {
				return err
			}
			for _, n := range names {
				value, err := v.Getxattr(tx, in.Ino, n)
				if err != nil {
					return err
				}
				s += " " + n + "=" + string(value)
			}
			if f, ok := first[in.Ino]; ok {
				s += " same as " + f
			} else {
				first[in.Ino] = path
			}
			out[path] = s
			if in.IsDir() {
				if err := walk(in.Ino, path+"/"); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return out, walk(v.Root(), "")
}

func (w *world) treeLines(v *View, c texts) (lines []string) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) error {
		m, err := w.show(tx, v, c)
		for _, p := range slices.Sorted(maps.Keys(m)) {
			lines = append(lines, p+"="+m[p])
		}
		return err
	})
	return lines
}

func (w *world) merge(src, dst *View, o MergeOptions) (r MergeResult, err error) {
	err = w.db.Write(func(tx *schema.Tx) (err error) {
		r, err = w.tree.Merge(tx, src, dst, o)
		return err
	})
	return r, err
}

func (w *world) diff(a, b *View) (changes []Change) {
	w.t.Helper()
	w.read(func(tx *schema.Tx) (err error) {
		changes, err = w.tree.Diff(tx, a, b, 0)
		return err
	})
	return changes
}

func render(changes []Change) (lines []string) {
	letters := map[ChangeKind]string{Added: "A", Deleted: "D", Modified: "M", Renamed: "R", ModeChanged: "C", TypeChanged: "T", XattrChanged: "X"}
	for _, c := range changes {
		s := letters[c.Kind]
		if c.Kind == Renamed && c.Content {
			s += "M"
		}
		if c.OldPath != "" {
			s += " " + c.OldPath
		}
		lines = append(lines, s+" "+c.Path)
	}
	return lines
}

// check checks the structure of the bucket.
func (w *world) check() {
	w.t.Helper()
	w.read(func(tx *schema.Tx) error {
		ck := checker{tree: w.tree, tx: tx, tell: func(problem string) { w.t.Errorf("check: %s", problem) }}
		return ck.bucket(w.bucket)
	})
}

// another returns a world in the same store with a bucket of its own.
func (w *world) another(t testing.TB) *world {
	t.Helper()
	x := &world{t: t, db: w.db, tree: w.tree}
	x.write(func(tx *schema.Tx) (err error) {
		x.bucket, err = w.tree.CreateBucket(tx, fmt.Sprintf("b%d", tx.NextIno()))
		return err
	})
	x.main = x.view(MainBranch, 0)
	return x
}

var diffCases = []struct{ name, base, ops, want string }{
	{"nothing", "f a 1", "", ""},
	{"added file", "", "f a 1", "A a"},
	{"added tree", "", "d d; d d/e; f d/e/f 1", "A d; A d/e; A d/e/f"},
	{"deleted tree", "d d; f d/f 1", "- d", "D d; D d/f"},
	{"modified", "f a 1", "f a 2", "M a"},
	{"changed and changed back", "f a 1", "f a 2; f a 1", ""},
	{"made and removed", "f a 1", "f b 1; - b", ""},
	{"mode", "f a 1", "c a 600", "C a"},
	{"xattr", "f a 1", "a a user.k v", "X a"},
	{"xattr removed", "f a 1; a a user.k v", "a a user.k", "X a"},
	{"replaced as editors do", "f a 1", "r a 2", "M a"},
	{"replaced by the same", "f a 1", "r a 1", ""},
	{"recreated with other content", "f a 1", "- a; f a 2", "M a"},
	{"recreated with other type", "f a 1", "- a; d a; f a/b 1", "T a; A a/b"},
	{"symlink retargeted", "l a x", "- a; l a y", "M a"},
	{"renamed", "f a 1", "m a b", "R a b"},
	{"renamed and back", "f a 1", "m a b; m b a", ""},
	{"renamed and edited", "f a 1", "m a b; f b 2", "RM a b"},
	{"renamed directory", "d d; f d/a 1; f d/b 1", "m d e", "R d e"},
	{"edit in renamed directory", "d d; f d/a 1; f d/b 1", "m d e; f e/a 2", "R d e; M d/a e/a"},
	{"renames below a renamed directory", "d d; f d/a 1", "m d e; m e/a e/b", "R d e; R d/a e/b"},
	{"swap", "f a 1; f b 2", "x a b", "R b a; R a b"},
	{"directory under its own name", "d d; f d/a 1", "m d t; d d; m t d/t", "A d; R d d/t"},
	{"rename over", "f a 1; f b 2", "m a b", "D b; R a b"},
	{"hard link", "f a 1", "h a b", "A b"},
	{"hard link removed", "f a 1; h a b", "- a", "D a"},
	{"hard link moved and edited", "f a 1; h a b", "m b c; f a 2", "M a; RM b c"},
	{"backup by rename", "f a 1", "m a a~; f a 2", "A a; R a a~"},
	{"same path in a new directory", "d d; f d/a 1", "m d e; d d; m e/a d/a", "A d; R d e"},
	{"moved out of a deleted directory", "d d; f d/a 1; f d/b 1", "m d/a a; - d", "R d/a a; D d; D d/b"},
	{"directory recreated with the same", "d d; f d/a 1", "- d; d d; f d/a 1", ""},
	{"same path in a directory that took another's place", "d d; f d/a 1; d e", "- d; f e/a 1; m e d", "D d; R e d; A d/a; D d/a"},
	{"same path where a directory was moved away", "d d; f d/a 1", "m d e; - e/a; d d; f d/a 1", "A d; A d/a; D d/a; R d e"},
	{"root", "", "c / 700", "C "},
}

func TestDiffCases(t *testing.T) {
	store := newWorld(t)
	for _, tc := range diffCases {
		t.Run(tc.name, func(t *testing.T) {
			w, c := store.another(t), texts{}
			w.script(w.main, c, tc.base)
			old := w.view(MainBranch, w.seal(w.main))
			dev := w.fork(w.main, "dev", Origin{})
			side := w.fork(dev, "side", Origin{})
			w.script(dev, c, tc.ops)
			w.script(w.main, c, tc.ops)
			for _, p := range []struct {
				name string
				a, b *View
			}{{"parent and child", old, dev}, {"past and present", old, w.main}, {"siblings", side, dev}} {
				if got := strings.Join(render(w.diff(p.a, p.b)), "; "); got != tc.want {
					t.Errorf("%s:\n got %s\nwant %s", p.name, got, tc.want)
				}
			}
		})
	}
}

// seal returns a stamp of v's branch that stays visible, by a snapshot.
func (w *world) seal(v *View) (s schema.Stamp) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		n, err := w.tree.CreateSnapshot(tx, v.Branch().ID, fmt.Sprintf("s%d", tx.NextIno()), "")
		s = n.Stamp
		return err
	})
	return s
}

func TestDiffOfDifferentBuckets(t *testing.T) {
	w := newWorld(t)
	w.write(func(tx *schema.Tx) error {
		b, err := w.tree.CreateBucket(tx, "other")
		if err != nil {
			return err
		}
		br, err := w.tree.Branch(tx, b.ID, MainBranch)
		if err != nil {
			return err
		}
		v, err := w.tree.View(tx, br.ID, 0)
		if err != nil {
			return err
		}
		if _, err := w.tree.Diff(tx, w.main, v, 0); !errors.Is(err, unix.EXDEV) {
			t.Errorf("diff: %v, want EXDEV", err)
		}
		if _, err := w.tree.Merge(tx, w.main, v, MergeOptions{}); !errors.Is(err, unix.EXDEV) {
			t.Errorf("merge: %v, want EXDEV", err)
		}
		return nil
	})
}

func TestDiffUnder(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "d d; f d/a 1; d e; f e/b 1; f x 1")
	dev := w.fork(w.main, "dev", Origin{})
	w.script(dev, c, "f d/a 2; f e/b 2; m x d/x; f dd 1")
	w.read(func(tx *schema.Tx) error {
		for under, want := range map[string]string{"d": "M d/a; R x d/x", "e": "M e/b", "e/b": "M e/b"} {
			in, err := dev.Resolve(tx, under)
			if err != nil {
				return err
			}
			changes, err := w.tree.Diff(tx, w.main, dev, in.Ino)
			if got := strings.Join(render(changes), "; "); err != nil || got != want {
				t.Errorf("under %s: %s %v, want %s", under, got, err, want)
			}
		}
		_, err := w.tree.Diff(tx, w.main, dev, 12345)
		if Errno(err) != unix.ENOENT {
			t.Errorf("under nothing: %v", err)
		}
		return nil
	})
}

func (w *world) renameBranch(v *View, name string) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error { return w.tree.RenameBranch(tx, v.Branch().ID, name) })
}
