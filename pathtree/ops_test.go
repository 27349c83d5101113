package pathtree

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

func TestCreateErrors(t *testing.T) {
	w := newWorld(t)
	root := w.main.Root()
	f := w.make(w.main, "f")
	w.make(w.main, "d/")
	gone := w.make(w.main, "gone/")
	w.unlink(w.main, "gone")
	link := func(target string) NewInode { return NewInode{Mode: unix.S_IFLNK, Target: target} }
	for _, c := range []struct {
		what string
		dir  Ino
		name string
		n    NewInode
		want syscall.Errno
	}{
		{"exists", root, "f", NewInode{Mode: file}, syscall.EEXIST},
		{"directory exists", root, "d", NewInode{Mode: dir}, syscall.EEXIST},
		{"in a file", f.Ino, "x", NewInode{Mode: file}, syscall.ENOTDIR},
		{"in a removed directory", gone.Ino, "x", NewInode{Mode: file}, syscall.ENOENT},
		{"nowhere", 12345, "x", NewInode{Mode: file}, syscall.ENOENT},
		{"255 bytes", root, strings.Repeat("\xff", 255), NewInode{Mode: file}, 0},
		{"256 bytes", root, strings.Repeat("x", 256), NewInode{Mode: file}, syscall.ENAMETOOLONG},
		{"slash", root, "a/b", NewInode{Mode: file}, syscall.EINVAL},
		{"NUL", root, "a\x00", NewInode{Mode: file}, syscall.EINVAL},
		{"dot", root, ".", NewInode{Mode: dir}, syscall.EINVAL},
		{"dot dot", root, "..", NewInode{Mode: dir}, syscall.EINVAL},
		{"empty name", root, "", NewInode{Mode: file}, syscall.ENOENT},
		{"empty target", root, "l", link(""), syscall.ENOENT},
		{"long target", root, "l", link(strings.Repeat("t", 4096)), syscall.ENAMETOOLONG},
		{"target of 4095 bytes", root, "l", link(strings.Repeat("t", 4095)), 0},
		{"unknown type", root, "u", NewInode{Mode: 0o170000}, syscall.EINVAL},
		{"no type is a file", root, "n", NewInode{Mode: 0o600}, 0},
	} {
		err := w.db.Write(func(tx *schema.Tx) error { _, err := w.main.Create(tx, c.dir, c.name, c.n); return err })
		if Errno(err) != c.want {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	past := w.view(MainBranch, w.stamp())
	w.fails(syscall.EROFS, func(tx *schema.Tx) error { _, err := past.Create(tx, root, "x", NewInode{}); return err })
	w.fails(syscall.EISDIR, func(tx *schema.Tx) error { _, err := w.main.CreateUnlinked(tx, root, NewInode{Mode: dir}); return err })
}

func TestCreateAttributes(t *testing.T) {
	w := newWorld(t)
	d := w.make(w.main, "d/")
	hash := blobstore.Sum([]byte("content"))
	w.write(func(tx *schema.Tx) error {
		mode, gid := uint32(0o2775), uint32(42)
		if _, err := w.main.SetAttr(tx, d.Ino, SetAttr{Mode: &mode, GID: &gid}); err != nil {
			return err
		}
		for n, c := range map[string]struct{ make, want Inode }{
			"file":   {Inode{Mode: file, UID: 7, GID: 8, Size: 7, Hash: hash, Mtime: 99}, Inode{Mode: file, UID: 7, GID: 42, Size: 7, Hash: hash, Mtime: 99, Nlink: 1}},
			"dir":    {Inode{Mode: dir, UID: 7, GID: 8}, Inode{Mode: dir | unix.S_ISGID, UID: 7, GID: 42, Nlink: 2}},
			"link":   {Inode{Mode: unix.S_IFLNK, Target: "\xfe/x"}, Inode{Mode: unix.S_IFLNK | 0o777, GID: 42, Target: "\xfe/x", Size: 3, Nlink: 1}},
			"device": {Inode{Mode: unix.S_IFCHR | 0o600, Rdev: 0x103}, Inode{Mode: unix.S_IFCHR | 0o600, GID: 42, Rdev: 0x103, Nlink: 1}},
			"socket": {Inode{Mode: unix.S_IFSOCK | 0o600, Rdev: 5, Size: 9}, Inode{Mode: unix.S_IFSOCK | 0o600, GID: 42, Nlink: 1}},
		} {
			m := c.make
			in, err := w.main.Create(tx, d.Ino, n, NewInode{
				Mode: m.Mode, UID: m.UID, GID: m.GID, Rdev: m.Rdev, Target: m.Target, Hash: m.Hash, Size: m.Size, Mtime: m.Mtime,
			})
			if err != nil {
				return err
			}
			got, err := w.main.LookupInode(tx, d.Ino, n)
			if err != nil {
				return err
			}
			if got != in {
				t.Errorf("%s: made %+v, read %+v", n, in, got)
			}
			if got.Btime != got.Ctime || got.Home != d.Ino || got.Ino < 2 || got.Ino>>63 != 0 {
				t.Errorf("%s: %+v", n, got)
			}
			c.want.Ino, c.want.Home, c.want.Stamp, c.want.Branch = got.Ino, got.Home, got.Stamp, got.Branch
			c.want.Atime, c.want.Ctime, c.want.Btime = got.Atime, got.Ctime, got.Btime
			if c.want.Mtime == 0 {
				c.want.Mtime = got.Mtime
			}
			if got != c.want {
				t.Errorf("%s:\n got %+v\nwant %+v", n, got, c.want)
			}
		}
		return nil
	})
}

// times checks which of a path's times an operation changes.
func TestTimes(t *testing.T) {
	type times struct{ mtime, ctime bool }
	touched, inode, same := times{true, true}, times{false, true}, times{}
	w := newWorld(t)
	for i, c := range []struct {
		what string
		do   func(w *world)
		want map[string]times
	}{
		{"create", func(w *world) { w.make(w.main, "d/new") }, map[string]times{"d": touched, "": same}},
		{"mkdir", func(w *world) { w.make(w.main, "d/new/") }, map[string]times{"d": touched, "": same}},
		{"unlink", func(w *world) { w.unlink(w.main, "d/f2") }, map[string]times{"d": touched, "d/f": inode}},
		{"rmdir", func(w *world) { w.unlink(w.main, "d/sub") }, map[string]times{"d": touched, "d/f": same}},
		{"rename within", func(w *world) { w.rename(w.main, "d/f2", "d/f3", 0) }, map[string]times{"d": touched, "d/f": inode}},
		{"rename across", func(w *world) { w.rename(w.main, "d/f2", "e/f2", 0) }, map[string]times{"d": touched, "e": touched, "d/f": inode}},
		{"rename to a link of itself", func(w *world) { w.rename(w.main, "d/f", "d/f2", 0) }, map[string]times{"d": same, "d/f": same}},
		{"exchange", func(w *world) { w.rename(w.main, "d/f", "e/g", unix.RENAME_EXCHANGE) }, map[string]times{"d": touched, "e": touched, "d/f2": inode, "d/f": inode}},
		{"replace", func(w *world) { w.rename(w.main, "e/g", "d/f", 0) }, map[string]times{"d": touched, "e": touched, "d/f2": inode}},
		{"write", func(w *world) { w.setContent(w.main, "d/f", "new") }, map[string]times{"d": same, "d/f": touched}},
		{"link", func(w *world) {
			w.write(func(tx *schema.Tx) error {
				f, _ := w.main.Resolve(tx, "d/f")
				e, _ := w.main.Resolve(tx, "e")
				_, err := w.main.Link(tx, f.Ino, e.Ino, "l")
				return err
			})
		}, map[string]times{"d": same, "e": touched, "d/f": inode}},
		{"xattr", func(w *world) {
			w.write(func(tx *schema.Tx) error {
				f, _ := w.main.Resolve(tx, "d/f")
				return w.main.Setxattr(tx, f.Ino, "user.x", nil, 0)
			})
		}, map[string]times{"d": same, "d/f": inode}},
	} {
		w.use(fmt.Sprint("bucket", i))
		for _, p := range []string{"d/", "e/", "d/sub/", "d/f", "e/g"} {
			w.make(w.main, p)
		}
		w.write(func(tx *schema.Tx) error {
			f, _ := w.main.Resolve(tx, "d/f")
			d, _ := w.main.Resolve(tx, "d")
			_, err := w.main.Link(tx, f.Ino, d.Ino, "f2")
			return err
		})
		before := map[string]Inode{}
		for p := range c.want {
			before[p] = w.mustStat(w.main, p)
		}
		c.do(w)
		for p, want := range c.want {
			a, b := before[p], w.mustStat(w.main, p)
			if got := (times{a.Mtime < b.Mtime, a.Ctime < b.Ctime}); got != want && a.Ino == b.Ino {
				t.Errorf("%s: %q mtime, ctime changed: %v, want %v", c.what, p, got, want)
			}
		}
	}
}

func TestSetAttr(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "f")
	mode, uid, atime, mtime, ctime := uint32(unix.S_IFDIR|0o4755), uint32(1<<32-1), int64(-5), int64(1<<62), int64(3)
	w.write(func(tx *schema.Tx) error {
		got, err := w.main.SetAttr(tx, f.Ino, SetAttr{Mode: &mode, UID: &uid, Atime: &atime, Mtime: &mtime, Ctime: &ctime})
		want := f
		want.Mode, want.UID, want.Atime, want.Mtime, want.Ctime = unix.S_IFREG|0o4755, uid, atime, mtime, ctime
		if got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
		if read, _ := w.main.Inode(tx, f.Ino); read != want {
			t.Errorf("read %+v\nwant %+v", read, want)
		}
		return err
	})
	w.write(func(tx *schema.Tx) error {
		got, err := w.main.SetAttr(tx, f.Ino, SetAttr{})
		if got.Ctime <= 3 || got.Mtime != mtime {
			t.Errorf("got %+v", got)
		}
		return err
	})
	w.fails(syscall.ENOENT, func(tx *schema.Tx) error { _, err := w.main.SetAttr(tx, 99, SetAttr{}); return err })
}

func TestSetContentClearsSetID(t *testing.T) {
	for _, c := range []struct {
		mode, want uint32
		clear      bool
	}{
		{0o6755, 0o755, true}, {0o6745, 0o2745, true}, {0o755, 0o755, true}, {0o6755, 0o6755, false},
	} {
		w := newWorld(t)
		f := w.make(w.main, "f")
		w.write(func(tx *schema.Tx) error {
			if _, err := w.main.SetAttr(tx, f.Ino, SetAttr{Mode: &c.mode}); err != nil {
				return err
			}
			got, err := w.main.SetContent(tx, f.Ino, Content{ClearSetID: c.clear})
			if got.Mode&0o7777 != c.want {
				t.Errorf("%o became %o, want %o", c.mode, got.Mode&0o7777, c.want)
			}
			return err
		})
	}
}

func TestXattr(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "f").Ino
	w.fails(syscall.ENODATA, func(tx *schema.Tx) error { _, err := w.main.Getxattr(tx, f, "user.a"); return err })
	w.fails(syscall.ENODATA, func(tx *schema.Tx) error {
		return w.main.Setxattr(tx, f, "user.a", []byte("1"), unix.XATTR_REPLACE)
	})
	w.fails(syscall.ENODATA, func(tx *schema.Tx) error { return w.main.Removexattr(tx, f, "user.a") })
	w.fails(syscall.ERANGE, func(tx *schema.Tx) error { return w.main.Setxattr(tx, f, "", nil, 0) })
	w.fails(syscall.ERANGE, func(tx *schema.Tx) error { return w.main.Setxattr(tx, f, strings.Repeat("n", 256), nil, 0) })
	w.fails(syscall.E2BIG, func(tx *schema.Tx) error { return w.main.Setxattr(tx, f, "user.a", make([]byte, XattrMax+1), 0) })
	w.write(func(tx *schema.Tx) error {
		for n, value := range map[string]string{"user.b": "", "user.a": "\x00\xff", "user.\xfe": strings.Repeat("v", XattrMax)} {
			if err := w.main.Setxattr(tx, f, n, []byte(value), unix.XATTR_CREATE); err != nil {
				return err
			}
			got, err := w.main.Getxattr(tx, f, n)
			if err != nil || string(got) != value || got == nil {
				t.Errorf("%q: %d bytes, %v", n, len(got), err)
			}
		}
		names, err := w.main.Listxattr(tx, f)
		if want := []string{"user.a", "user.b", "user.\xfe"}; !slices.Equal(names, want) {
			t.Errorf("%q, want %q", names, want)
		}
		return err
	})
	w.fails(syscall.EEXIST, func(tx *schema.Tx) error { return w.main.Setxattr(tx, f, "user.a", nil, unix.XATTR_CREATE) })
	w.age()
	fork := w.fork(w.main, "fork", Origin{})
	w.write(func(tx *schema.Tx) error {
		if err := fork.Removexattr(tx, f, "user.a"); err != nil {
			return err
		}
		names, err := fork.Listxattr(tx, f)
		if want := []string{"user.b", "user.\xfe"}; !slices.Equal(names, want) {
			t.Errorf("%q, want %q", names, want)
		}
		if names, _ = w.main.Listxattr(tx, f); len(names) != 3 {
			t.Errorf("%q", names)
		}
		return err
	})
}

func TestRenameTable(t *testing.T) {
	const exchange, noreplace, whiteout = unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE, unix.RENAME_WHITEOUT
	w := newWorld(t)
	for i, c := range []struct {
		from, to string
		flags    uint32
		want     syscall.Errno
		list     string // "" unchanged
	}{
		{"f", "x", 0, 0, "d/ d/g d/sub/ e/ x"},
		{"f", "d/g", 0, 0, "d/ d/g d/sub/ e/"},
		{"f", "f", 0, 0, ""},
		{"d", "e", 0, 0, "e/ e/g e/sub/ f"},
		{"e", "d", 0, syscall.ENOTEMPTY, ""},
		{"e", "d/sub", 0, 0, "d/ d/g d/sub/ f"},
		{"d", "f", 0, syscall.ENOTDIR, ""},
		{"f", "e", 0, syscall.EISDIR, ""},
		{"d", "d/x", 0, syscall.EINVAL, ""},
		{"d", "d/sub/x", 0, syscall.EINVAL, ""},
		{"d", "d/sub", exchange, syscall.EINVAL, ""},
		{"d/sub", "d", exchange, syscall.EINVAL, ""},
		{"d/sub", "d", 0, syscall.ENOTEMPTY, ""},
		{"none", "x", 0, syscall.ENOENT, ""},
		{"f", "none/x", 0, syscall.ENOENT, ""},
		{"f", "f/x", 0, syscall.ENOTDIR, ""},
		{"f", "d/g", noreplace, syscall.EEXIST, ""},
		{"f", "x", noreplace, 0, "d/ d/g d/sub/ e/ x"},
		{"f", "x", exchange, syscall.ENOENT, ""},
		{"f", "d", exchange, 0, "d e/ f/ f/g f/sub/"},
		{"d", "e", exchange, 0, "d/ e/ e/g e/sub/ f"},
		{"d/sub", "f", exchange, 0, "d/ d/g d/sub e/ f/"},
		{"f", "d/x", whiteout, 0, "d/ d/g d/sub/ d/x e/ f"},
		{"f", "x", exchange | noreplace, syscall.EINVAL, ""},
		{"f", "x", exchange | whiteout, syscall.EINVAL, ""},
		{"f", "x", 1 << 10, syscall.EINVAL, ""},
		{"f", strings.Repeat("n", 256), 0, syscall.ENAMETOOLONG, ""},
	} {
		w.use(fmt.Sprint("bucket", i))
		for _, p := range []string{"d/", "d/g", "d/sub/", "e/", "f"} {
			w.make(w.main, p)
		}
		before := w.list(w.main)
		moved, _ := w.stat(w.main, c.from)
		r, err := w.rename(w.main, c.from, c.to, c.flags)
		if Errno(err) != c.want {
			t.Errorf("%s → %s (%d): %v, want %v", c.from, c.to, c.flags, err, c.want)
		}
		if c.list == "" {
			c.list = before
		}
		w.wantList(w.main, c.list)
		if err == nil {
			if got := w.mustStat(w.main, c.to); got.Ino != moved.Ino || r.Moved != got {
				t.Errorf("%s → %s: at the new place %+v, result %+v", c.from, c.to, got, r.Moved)
			}
		}
		if c.flags == whiteout {
			if in := w.mustStat(w.main, c.from); in.Mode != unix.S_IFCHR || in.Rdev != 0 {
				t.Errorf("whiteout is %+v", in)
			}
		}
		if c.flags == 0 && err == nil && r.Replaced != nil && r.Replaced.Nlink != 0 {
			t.Errorf("%s → %s: replaced %+v", c.from, c.to, r.Replaced)
		}
	}
}

func TestUnlinkedInodeLives(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "f")
	if in := w.unlink(w.main, "f"); in.Nlink != 0 || in.Ino != f.Ino {
		t.Errorf("%+v", in)
	}
	w.write(func(tx *schema.Tx) error {
		if _, err := w.main.SetContent(tx, f.Ino, Content{Size: 1, Hash: blobstore.Hash{1}}); err != nil {
			return err
		}
		in, err := w.main.Inode(tx, f.Ino)
		if in.Size != 1 || in.Nlink != 0 {
			t.Errorf("%+v", in)
		}
		tmp, err2 := w.main.CreateUnlinked(tx, w.main.Root(), NewInode{Mode: file})
		if err2 != nil || tmp.Nlink != 0 {
			t.Errorf("%+v %v", tmp, err2)
		}
		tmp, err2 = w.main.Link(tx, tmp.Ino, w.main.Root(), "named")
		if err2 != nil || tmp.Nlink != 1 {
			t.Errorf("%+v %v", tmp, err2)
		}
		return err
	})
	w.fails(syscall.ENOENT, func(tx *schema.Tx) error { _, err := w.main.Path(tx, f.Ino); return err })
	w.wantList(w.main, "named")
}

func TestManyHardLinks(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "f")
	const n = manyLinks
	w.write(func(tx *schema.Tx) (err error) {
		for i := 1; i < n && err == nil; i++ {
			_, err = w.main.Link(tx, f.Ino, w.main.Root(), fmt.Sprint("link", i))
		}
		return err
	})
	if in := w.mustStat(w.main, "f"); in.Nlink != n {
		t.Errorf("nlink %d", in.Nlink)
	}
	w.read(func(tx *schema.Tx) error {
		paths, err := w.main.Paths(tx, f.Ino)
		if len(paths) != n {
			t.Errorf("%d paths", len(paths))
		}
		return err
	})
}

func TestDeepDirectories(t *testing.T) {
	w := newWorld(t)
	const depth = deepPath
	at := w.main.Root()
	top := at
	w.write(func(tx *schema.Tx) error {
		for i := range depth {
			in, err := w.main.Create(tx, at, "ddd", NewInode{Mode: dir})
			if err != nil {
				return err
			}
			if at = in.Ino; i == 0 {
				top = at
			}
		}
		return nil
	})
	w.write(func(tx *schema.Tx) error {
		p, err := w.main.Path(tx, at)
		if err != nil || len(p) != 4*depth-1 {
			t.Errorf("%d bytes, %v", len(p), err)
		}
		if in, err := w.main.Resolve(tx, p); err != nil || in.Ino != at {
			t.Errorf("%v %v", in.Ino, err)
		}
		if _, err = w.main.Rename(tx, w.main.Root(), "ddd", at, "x", 0); Errno(err) != syscall.EINVAL {
			t.Errorf("into itself: %v", err)
		}
		if parent, err := w.main.Parent(tx, top); err != nil || parent != w.main.Root() {
			t.Errorf("%v %v", parent, err)
		}
		return nil
	})
}

func TestResolve(t *testing.T) {
	w := newWorld(t)
	for _, p := range []string{"d/", "d/\xff/", "d/\xff/f"} {
		w.make(w.main, p)
	}
	for _, c := range []struct {
		path string
		want syscall.Errno
		same string
	}{
		{"", 0, ""}, {"/", 0, ""}, {".", 0, ""}, {"/d/./\xff//f", 0, "d/\xff/f"}, {"d/", 0, "d"},
		{"d/..", syscall.EINVAL, ""}, {"d/x", syscall.ENOENT, ""}, {"d/\xff/f/x", syscall.ENOTDIR, ""},
		{"d/" + strings.Repeat("n", 256), syscall.ENAMETOOLONG, ""},
	} {
		in, err := w.stat(w.main, c.path)
		if Errno(err) != c.want || err == nil && in != w.mustStat(w.main, c.same) {
			t.Errorf("%q: %v %v", c.path, in.Ino, err)
		}
	}
	w.read(func(tx *schema.Tx) error {
		for path, want := range map[string]syscall.Errno{
			"": syscall.EINVAL, "/": syscall.EINVAL, "d/\xff/f/x": syscall.ENOTDIR, "new": 0, "d/new/": 0,
			"x/new": syscall.ENOENT, "d/..": syscall.EINVAL,
		} {
			if _, _, err := w.main.ResolveParent(tx, path); Errno(err) != want {
				t.Errorf("parent of %q: %v, want %v", path, err, want)
			}
		}
		return nil
	})
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	v := w.main.WithOrigin(77)
	var before int64
	w.read(func(tx *schema.Tx) (err error) { before, err = notify.Last(tx); return err })
	w.make(v, "d/")
	w.make(v, "f")
	w.setContent(v, "f", "one")
	w.setContent(v, "f", "one")
	w.make(v, "g")
	w.rename(v, "g", "f", 0)
	w.rename(v, "f", "d/\xff", 0)
	w.unlink(v, "d/\xff")
	w.rename(v, "none", "x", 0)
	var got []string
	w.read(func(tx *schema.Tx) error {
		events, err := notify.Since(tx, before, 100)
		for _, e := range events {
			if e.Origin != 77 || e.Branch != v.Branch().ID || e.Bucket != v.Bucket().ID || e.Node != schema.LocalNode || e.Stamp == 0 {
				t.Errorf("%+v", e)
			}
			s := e.Op.String() + " " + string(e.Name)
			if e.Op == notify.OpRename {
				s += " from " + string(e.Old)
			}
			got = append(got, s)
		}
		return err
	})
	want := []string{"create d", "create f", "content ", "attr ", "create g", "remove f", "rename f from g", "rename \xff from f", "remove \xff"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
