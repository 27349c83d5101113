package pathtree

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// layer is the model of a branch: what it sets itself, over what is below. A
// pinned branch has a copy below it, a live one its parent itself.
type layer struct {
	below   *layer
	dentry  map[name]Ino // 0: removed
	content map[Ino]string
	mode    map[Ino]uint32
	nlink   map[Ino]uint32
	xattr   map[name]string // by inode and name; "" is removed
}

func newLayer(below *layer) *layer {
	return &layer{below, map[name]Ino{}, map[Ino]string{}, map[Ino]uint32{}, map[Ino]uint32{}, map[name]string{}}
}

func (l *layer) clone() *layer {
	if l == nil {
		return nil
	}
	return &layer{l.below.clone(), maps.Clone(l.dentry), maps.Clone(l.content), maps.Clone(l.mode), maps.Clone(l.nlink), maps.Clone(l.xattr)}
}

func get[K comparable, V any](l *layer, m func(*layer) map[K]V, k K) (v V, ok bool) {
	for ; l != nil; l = l.below {
		if v, ok = m(l)[k]; ok {
			return v, true
		}
	}
	return v, false
}

// all returns every key and value seen from l.
func all[K comparable, V any](l *layer, m func(*layer) map[K]V) map[K]V {
	if l == nil {
		return map[K]V{}
	}
	seen := all(l.below, m)
	maps.Copy(seen, m(l))
	return seen
}

func dentries(l *layer) map[name]Ino   { return l.dentry }
func contents(l *layer) map[Ino]string { return l.content }
func modes(l *layer) map[Ino]uint32    { return l.mode }
func nlinks(l *layer) map[Ino]uint32   { return l.nlink }
func xattrs(l *layer) map[name]string  { return l.xattr }

func (l *layer) entry(dir Ino, n string) Ino { i, _ := get(l, dentries, name{dir, n}); return i }
func (l *layer) links(i Ino) uint32          { n, _ := get(l, nlinks, i); return n }
func (l *layer) isDir(i Ino) bool            { m, _ := get(l, modes, i); return m&unix.S_IFMT == unix.S_IFDIR }

func (l *layer) addLinks(i Ino, d int) {
	least := 0
	if l.isDir(i) {
		least = 2
	}
	l.nlink[i] = uint32(max(least, int(l.links(i))+d))
}

// dir returns the errno for using i as a directory.
func (l *layer) dir(i Ino) syscall.Errno {
	switch _, ok := get(l, modes, i); {
	case !ok:
		return syscall.ENOENT
	case !l.isDir(i):
		return syscall.ENOTDIR
	case l.links(i) == 0:
		return syscall.ENOENT
	}
	return 0
}

func (l *layer) children(dir Ino) (names []string) {
	for k, i := range all(l, dentries) {
		if k.parent == dir && i != 0 {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	return names
}

func (l *layer) placesOf(ino Ino) (at []name) {
	for k, i := range all(l, dentries) {
		if i == ino {
			at = append(at, k)
		}
	}
	slices.SortFunc(at, func(a, b name) int {
		return cmp.Or(cmp.Compare(a.parent, b.parent), strings.Compare(a.name, b.name))
	})
	return at
}

func (l *layer) inside(root, dir, top Ino) syscall.Errno {
	seen := map[Ino]bool{}
	for {
		if dir == top {
			return syscall.EINVAL
		}
		if dir == root {
			return 0
		}
		if seen[dir] {
			return syscall.ELOOP
		}
		seen[dir] = true
		at := l.placesOf(dir)
		if len(at) == 0 {
			return syscall.ENOENT
		}
		dir = at[0].parent
	}
}

// drop takes a name from i; the errno of rmdir.
func (l *layer) drop(i Ino) syscall.Errno {
	if !l.isDir(i) {
		l.addLinks(i, -1)
		return 0
	}
	if len(l.children(i)) > 0 {
		return syscall.ENOTEMPTY
	}
	l.nlink[i] = 0
	return 0
}

func (l *layer) create(dir Ino, n string) syscall.Errno {
	if err := Errno(checkName(n)); err != 0 {
		return err
	}
	if err := l.dir(dir); err != 0 {
		return err
	}
	if l.entry(dir, n) != 0 {
		return syscall.EEXIST
	}
	return 0
}

func (l *layer) created(dir Ino, n string, in Inode) {
	l.dentry[name{dir, n}] = in.Ino
	l.content[in.Ino], l.mode[in.Ino], l.nlink[in.Ino] = "", in.Mode, in.Nlink
	if in.IsDir() {
		l.addLinks(dir, 1)
	}
}

func (l *layer) link(ino, dir Ino, n string) syscall.Errno {
	if err := Errno(checkName(n)); err != 0 {
		return err
	}
	if _, ok := get(l, modes, ino); !ok {
		return syscall.ENOENT
	}
	if l.isDir(ino) {
		return syscall.EPERM
	}
	if err := l.create(dir, n); err != 0 {
		return err
	}
	l.dentry[name{dir, n}] = ino
	l.addLinks(ino, 1)
	return 0
}

func (l *layer) remove(dir Ino, n string, wantDir bool) syscall.Errno {
	if err := Errno(checkName(n)); err != 0 {
		return err
	}
	i := l.entry(dir, n)
	switch {
	case i == 0:
		return syscall.ENOENT
	case wantDir && !l.isDir(i):
		return syscall.ENOTDIR
	case !wantDir && l.isDir(i):
		return syscall.EISDIR
	}
	if err := l.dir(dir); err != 0 {
		return err
	}
	isDir := l.isDir(i)
	if err := l.drop(i); err != 0 {
		return err
	}
	l.dentry[name{dir, n}] = 0
	if isDir {
		l.addLinks(dir, -1)
	}
	return 0
}

func (l *layer) rename(root Ino, from, to name, flags uint32) syscall.Errno {
	exchange := flags == unix.RENAME_EXCHANGE
	var fromLinks, toLinks int // what the directories gain
	for _, n := range []string{from.name, to.name} {
		if err := Errno(checkName(n)); err != 0 {
			return err
		}
	}
	if err := l.dir(from.parent); err != 0 {
		return err
	}
	a, b := l.entry(from.parent, from.name), l.entry(to.parent, to.name)
	if a == 0 {
		return syscall.ENOENT
	}
	if err := l.dir(to.parent); err != 0 {
		return err
	}
	if b == 0 && exchange {
		return syscall.ENOENT
	}
	if b != 0 && flags == unix.RENAME_NOREPLACE && a == b {
		return syscall.EEXIST
	}
	if a == b {
		return 0
	}
	if from.parent != to.parent {
		if l.isDir(a) {
			if err := l.inside(root, to.parent, a); err != 0 {
				return err
			}
		}
		if exchange && l.isDir(b) {
			if err := l.inside(root, from.parent, b); err != 0 {
				return err
			}
		}
	}
	if !exchange && b != 0 {
		switch {
		case flags == unix.RENAME_NOREPLACE:
			return syscall.EEXIST
		case l.isDir(a) && !l.isDir(b):
			return syscall.ENOTDIR
		case !l.isDir(a) && l.isDir(b):
			return syscall.EISDIR
		}
		wasDir := l.isDir(b)
		if err := l.drop(b); err != 0 {
			return err
		}
		if wasDir {
			toLinks--
		}
		b = 0
	}
	l.dentry[to], l.dentry[from] = a, b
	if l.isDir(a) {
		toLinks++
		fromLinks--
	}
	if b != 0 && l.isDir(b) {
		toLinks--
		fromLinks++
	}
	if from.parent == to.parent {
		toLinks += fromLinks
		fromLinks = 0
	}
	for d, n := range map[Ino]int{from.parent: fromLinks, to.parent: toLinks} {
		if n != 0 {
			l.addLinks(d, n)
		}
	}
	l.nlink[a] = l.links(a) // both now belong to this branch
	if b != 0 {
		l.nlink[b] = l.links(b)
	}
	return 0
}

// pair is a view with its model.
type pair struct {
	v     *View
	model *layer
}

// machine drives both.
type machine struct {
	w      *world
	heads  []pair // writable
	past   []pair // snapshots and times
	inodes []Ino  // every one ever made, in that order
	names  []string
	serial int
}

func (m *machine) ino(t *rapid.T) Ino     { return rapid.SampledFrom(m.inodes).Draw(t, "ino") }
func (m *machine) head(t *rapid.T) pair   { return rapid.SampledFrom(m.heads).Draw(t, "branch") }
func (m *machine) name(t *rapid.T) string { return rapid.SampledFrom(m.names).Draw(t, "name") }

func (m *machine) place(t *rapid.T, p pair) name {
	if rapid.IntRange(0, 3).Draw(t, "any") > 0 { // mostly one that exists
		var at []name
		for k, i := range all(p.model, dentries) {
			if i != 0 {
				at = append(at, k)
			}
		}
		if len(at) > 0 {
			slices.SortFunc(at, func(a, b name) int {
				return cmp.Or(cmp.Compare(a.parent, b.parent), strings.Compare(a.name, b.name))
			})
			return rapid.SampledFrom(at).Draw(t, "place")
		}
	}
	return name{m.ino(t), m.name(t)}
}

// dirOf draws a directory, mostly.
func (m *machine) dirOf(t *rapid.T, p pair) Ino {
	var dirs []Ino
	for _, i := range m.inodes {
		if p.model.dir(i) == 0 {
			dirs = append(dirs, i)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
		return m.ino(t)
	}
	return rapid.SampledFrom(dirs).Draw(t, "dir")
}

// do runs f and checks that it ends as the model did.
func (m *machine) do(t *rapid.T, want syscall.Errno, f func(tx *schema.Tx) error) {
	if err := m.w.db.Write(f); Errno(err) != want {
		t.Fatalf("got %v, model says %v", err, want)
	}
}

func (m *machine) create(t *rapid.T) {
	p := m.head(t)
	d, n := m.dirOf(t, p), m.name(t)
	mode := rapid.SampledFrom([]uint32{file, dir, dir, unix.S_IFLNK, unix.S_IFIFO | 0o600}).Draw(t, "mode")
	want := p.model.create(d, n)
	m.do(t, want, func(tx *schema.Tx) error {
		in, err := p.v.Create(tx, d, n, NewInode{Mode: mode, Target: "target"})
		if err == nil {
			p.model.created(d, n, in)
			if !slices.Contains(m.inodes, in.Ino) {
				m.inodes = append(m.inodes, in.Ino)
			}
		}
		return err
	})
}

func (m *machine) link(t *rapid.T) {
	p := m.head(t)
	i, d, n := m.ino(t), m.dirOf(t, p), m.name(t)
	m.do(t, p.model.link(i, d, n), func(tx *schema.Tx) error { _, err := p.v.Link(tx, i, d, n); return err })
}

func (m *machine) remove(t *rapid.T) {
	p := m.head(t)
	at := m.place(t, p)
	wantDir := p.model.isDir(p.model.entry(at.parent, at.name)) != (rapid.IntRange(0, 9).Draw(t, "wrong") == 0)
	m.do(t, p.model.remove(at.parent, at.name, wantDir), func(tx *schema.Tx) (err error) {
		if wantDir {
			_, err = p.v.Rmdir(tx, at.parent, at.name)
		} else {
			_, err = p.v.Unlink(tx, at.parent, at.name)
		}
		return err
	})
}

func (m *machine) rename(t *rapid.T) {
	p := m.head(t)
	from, to := m.place(t, p), m.place(t, p)
	if rapid.Bool().Draw(t, "new place") {
		to = name{m.dirOf(t, p), m.name(t)}
	}
	flags := rapid.SampledFrom([]uint32{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}).Draw(t, "flags")
	m.do(t, p.model.rename(p.v.Root(), from, to, flags), func(tx *schema.Tx) error {
		_, err := p.v.Rename(tx, from.parent, from.name, to.parent, to.name, flags)
		return err
	})
}

func (m *machine) write(t *rapid.T) {
	p := m.head(t)
	i, c := m.ino(t), rapid.SampledFrom([]string{"", "x", "yy"}).Draw(t, "content")
	mode, ok := get(p.model, modes, i)
	want := syscall.Errno(0)
	switch {
	case !ok:
		want = syscall.ENOENT
	case p.model.isDir(i):
		want = syscall.EISDIR
	case mode&unix.S_IFMT != unix.S_IFREG:
		want = syscall.EINVAL
	default:
		p.model.content[i] = c
	}
	m.do(t, want, func(tx *schema.Tx) error {
		_, err := p.v.SetContent(tx, i, Content{Hash: blobstore.Sum([]byte(c)), Size: int64(len(c))})
		return err
	})
}

func (m *machine) chmod(t *rapid.T) {
	p := m.head(t)
	i, perm := m.ino(t), rapid.SampledFrom([]uint32{0, 0o755, 0o4711}).Draw(t, "mode")
	mode, ok := get(p.model, modes, i)
	want := syscall.ENOENT
	if ok {
		want = 0
		p.model.mode[i] = mode&unix.S_IFMT | perm
	}
	m.do(t, want, func(tx *schema.Tx) error { _, err := p.v.SetAttr(tx, i, SetAttr{Mode: &perm}); return err })
}

func (m *machine) setXattr(t *rapid.T) {
	p := m.head(t)
	i, n := m.ino(t), rapid.SampledFrom([]string{"user.a", "user.b"}).Draw(t, "xattr")
	value := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")
	mode, ok := get(p.model, modes, i)
	old, _ := get(p.model, xattrs, name{i, n})
	want := syscall.Errno(0)
	switch {
	case !ok:
		want = syscall.ENOENT
	case value == "" && old == "":
		want = syscall.ENODATA
	default:
		p.model.xattr[name{i, n}] = value
		p.model.mode[i] = mode // an xattr belongs to the attributes
	}
	m.do(t, want, func(tx *schema.Tx) error {
		if value == "" {
			return p.v.Removexattr(tx, i, n)
		}
		return p.v.Setxattr(tx, i, n, []byte(value), 0)
	})
}

func (m *machine) fork(t *rapid.T) {
	if len(m.heads) == 8 {
		t.Skip("enough branches")
	}
	p := m.head(t)
	o := Origin{Live: rapid.IntRange(0, 2).Draw(t, "live") == 0}
	model := p.model
	if !o.Live {
		if len(m.past) > 0 && rapid.IntRange(0, 2).Draw(t, "of the past") == 0 {
			q := rapid.SampledFrom(m.past).Draw(t, "past")
			p, model, o.At = q, q.model, q.v.At()
		}
		model = model.clone()
	}
	m.serial++
	m.heads = append(m.heads, pair{m.w.fork(p.v, fmt.Sprint("fork", m.serial), o), newLayer(model)})
}

func (m *machine) snapshot(t *rapid.T) {
	p := m.head(t)
	m.serial++
	var n Snapshot
	m.do(t, 0, func(tx *schema.Tx) (err error) {
		n, err = m.w.tree.CreateSnapshot(tx, p.v.Branch().ID, fmt.Sprint("snap", m.serial), "")
		return err
	})
	m.past = append(m.past, pair{m.w.view(p.v.Branch().Name, n.Stamp), p.model.clone()})
}

// remember a time, after which nothing is overwritten in place.
func (m *machine) remember(t *rapid.T) {
	p := m.head(t)
	at := m.w.stamp()
	m.w.age()
	m.past = append(m.past, pair{m.w.view(p.v.Branch().Name, at), p.model.clone()})
}

func (m *machine) removeBranch(t *rapid.T) {
	if len(m.heads) < 3 {
		t.Skip("too few branches")
	}
	i := rapid.IntRange(1, len(m.heads)-1).Draw(t, "head")
	p := m.heads[i]
	m.heads = slices.Delete(m.heads, i, i+1)
	m.do(t, 0, func(tx *schema.Tx) error { return m.w.tree.RemoveBranch(tx, p.v.Branch().ID) })
	m.do(t, syscall.ESTALE, func(tx *schema.Tx) error { _, err := p.v.SetAttr(tx, p.v.Root(), SetAttr{}); return err })
	m.compare(t, p)
}

// compare checks everything that p's view shows against its model.
func (m *machine) compare(t *rapid.T, p pair) {
	err := m.w.db.Read(func(tx *schema.Tx) error {
		for _, i := range m.inodes {
			if err := m.compareInode(tx, p, i); err != nil {
				return fmt.Errorf("branch %s at %d, inode %s: %w", p.v.branch.Name, p.v.at, i, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) compareInode(tx *schema.Tx, p pair, i Ino) error {
	in, err := p.v.Inode(tx, i)
	mode, ok := get(p.model, modes, i)
	if !ok {
		if Errno(err) != syscall.ENOENT {
			return fmt.Errorf("got %+v %v, model has none", in, err)
		}
		return nil
	}
	content, _ := get(p.model, contents, i)
	want := in
	want.Mode, want.Nlink = mode, p.model.links(i)
	if in.IsRegular() {
		want.Size, want.Hash = int64(len(content)), blobstore.Sum([]byte(content))
	}
	if in != want || err != nil {
		return fmt.Errorf("got %+v %v, model has %+v", in, err, want)
	}
	for _, n := range []string{"user.a", "user.b"} {
		value, err := p.v.Getxattr(tx, i, n)
		if want, _ := get(p.model, xattrs, name{i, n}); string(value) != want || (want == "") != (Errno(err) == syscall.ENODATA) {
			return fmt.Errorf("xattr %s: %q %v, want %q", n, value, err, want)
		}
	}
	if in.IsDir() {
		if err := m.compareDir(tx, p, i); err != nil {
			return err
		}
	}
	return m.comparePaths(tx, p, in)
}

func (m *machine) compareDir(tx *schema.Tx, p pair, d Ino) error {
	want := p.model.children(d)
	entries, err := p.v.ReadDir(tx, d, "", 0)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name)
		if i := p.model.entry(d, e.Name); i != e.Ino || p.model.isDir(i) != e.IsDir() {
			return fmt.Errorf("entry %+v, model has %s", e, i)
		}
		if l, err := p.v.Lookup(tx, d, e.Name); l != e || err != nil {
			return fmt.Errorf("lookup %+v %v, readdir %+v", l, err, e)
		}
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("entries %q, model has %q", got, want)
	}
	if len(want) > 1 { // pages
		rest, err := p.v.ReadDir(tx, d, want[0], 1)
		if err != nil || len(rest) != 1 || rest[0].Name != want[1] {
			return fmt.Errorf("after %q: %v %v", want[0], rest, err)
		}
	}
	return nil
}

// comparePaths checks what holds in every branch that follows no other.
func (m *machine) comparePaths(tx *schema.Tx, p pair, in Inode) error {
	if p.v.live || in.Nlink == 0 {
		return nil
	}
	paths, err := p.v.Paths(tx, in.Ino)
	if err != nil {
		return err
	}
	want := int(in.Nlink)
	if in.IsDir() {
		want = 1
		subdirs := 0
		for _, n := range p.model.children(in.Ino) {
			if p.model.isDir(p.model.entry(in.Ino, n)) {
				subdirs++
			}
		}
		if int(in.Nlink) != 2+subdirs {
			return fmt.Errorf("nlink %d with %d subdirectories", in.Nlink, subdirs)
		}
	}
	if len(paths) != want {
		return fmt.Errorf("paths %q, want %d", paths, want)
	}
	for _, path := range paths {
		if got, err := p.v.Resolve(tx, path); err != nil || got != in {
			return fmt.Errorf("path %q: %+v %v", path, got, err)
		}
	}
	first, err := p.v.Path(tx, in.Ino)
	if err != nil || !slices.Contains(paths, first) {
		return fmt.Errorf("path %q %v, of %q", first, err, paths)
	}
	return nil
}

var badNames = []string{"", ".", "..", "a/b", "nul\x00", strings.Repeat("x", NameMax+1)}

func TestModel(t *testing.T) {
	w := newWorld(t)
	defer uuid.SetRand(nil)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		uuid.SetRand(rand.NewChaCha8([32]byte{})) // the order of inode numbers must be the same when a run is repeated
		bucket := fmt.Sprint("bucket", runs)
		w.write(func(tx *schema.Tx) (err error) { w.bucket, err = w.tree.CreateBucket(tx, bucket); return err })
		defer w.db.Write(func(tx *schema.Tx) error { return w.tree.RemoveBucket(tx, bucket) })
		root := newLayer(nil)
		root.mode[w.bucket.Root], root.nlink[w.bucket.Root] = unix.S_IFDIR|0o755, 2
		m := &machine{
			w: w, heads: []pair{{w.view(MainBranch, 0), root}}, inodes: []Ino{w.bucket.Root},
			names: append([]string{"a", "b", "c", "\xff\xfe", strings.Repeat("\xc3", NameMax)}, badNames[t0(t)]),
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": m.create, "create2": m.create, "link": m.link, "remove": m.remove, "rename": m.rename,
			"rename2": m.rename, "write": m.write, "chmod": m.chmod, "xattr": m.setXattr, "fork": m.fork,
			"snapshot": m.snapshot, "remember": m.remember, "remove branch": m.removeBranch,
			"age": func(t *rapid.T) { w.age() }, "fail": m.fail,
			"compare": func(t *rapid.T) {
				m.compare(t, m.head(t))
				m.checkHeads(t)
			},
		})
		for _, p := range slices.Concat(m.heads, m.past) {
			m.compare(t, p)
		}
		err := w.db.Read(func(tx *schema.Tx) error {
			return w.tree.Check(tx, func(problem string) {
				if !strings.Contains(problem, "not in the blob store") && !m.anyLive() {
					t.Errorf("check: %s", problem)
				}
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		w.write(func(tx *schema.Tx) error { return w.tree.RemoveBucket(tx, bucket) })
		for _, table := range []string{"dentry", "inode", "xattr"} {
			if n := w.count("SELECT count(*) FROM " + table + " WHERE branch NOT IN (SELECT id FROM branch)"); n != 0 {
				t.Fatalf("%d rows of %s left behind", n, table)
			}
		}
	})
}

// anyLive reports whether some branch follows another, below which directories
// may come to have two parents or none.
func (m *machine) anyLive() bool {
	return slices.ContainsFunc(m.heads, func(p pair) bool { return p.v.live })
}

func t0(t *rapid.T) int { return rapid.IntRange(0, len(badNames)-1).Draw(t, "bad name") }

func TestErrnoTable(t *testing.T) {
	wrapped := &Error{Op: "x", Path: "\xff", Err: fmt.Errorf("wrapped: %w", syscall.ENOTEMPTY)}
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0}, {wrapped, syscall.ENOTEMPTY}, {errors.New("?"), syscall.EIO}, {syscall.ENOSYS, syscall.EIO},
		{fmt.Errorf("x: %w", errors.ErrUnsupported), syscall.EOPNOTSUPP},
	} {
		if got := Errno(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if !bytes.Contains([]byte(wrapped.Error()), []byte(`"\xff"`)) {
		t.Error(wrapped)
	}
}
