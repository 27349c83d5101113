package crdtsync

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// simOp is an operation on a view of a branch.
type simOp struct {
	weight int
	name   string
	do     func(o *simDoing) error
}

// simDoing is an operation that is being done.
type simDoing struct {
	s    *sim
	n    *simNode
	tx   *schema.Tx
	v    *pathtree.View
	what string // for the trace
}

var simOps = []simOp{
	{6, "create", (*simDoing).create},
	{1, "create many", (*simDoing).createMany},
	{3, "mkdir", (*simDoing).mkdir},
	{6, "write", (*simDoing).write},
	{2, "chmod", (*simDoing).chmod},
	{2, "xattr", (*simDoing).xattr},
	{8, "rename", (*simDoing).rename},
	{2, "link", (*simDoing).link},
	{1, "symlink", (*simDoing).symlink},
	{4, "remove", (*simDoing).remove},
	{2, "fork", (*simDoing).fork},
	{1, "rename branch", (*simDoing).renameBranch},
	{1, "remove branch", (*simDoing).removeBranch},
	{3, "merge", (*simDoing).merge},
	{1, "snapshot", (*simDoing).snapshot},
	{1, "remove snapshot", (*simDoing).removeSnapshot},
	{1, "restore", (*simDoing).restore},
	{2, "resolve", (*simDoing).resolve},
}

// operation does one on some node.
func (s *sim) operation() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if !n.up {
		return
	}
	total := 0
	for _, o := range simOps {
		total += o.weight
	}
	k := s.rng.IntN(total)
	for _, o := range simOps {
		if k -= o.weight; k < 0 {
			s.do(n, o)
			return
		}
	}
}

// do does an operation, which may be refused but must not fail.
func (s *sim) do(n *simNode, op simOp) {
	o := &simDoing{s: s, n: n}
	err := n.db.Write(func(tx *schema.Tx) error {
		o.tx = tx
		sh, err := n.lookup(tx, s.bucket)
		if err != nil {
			return err
		}
		all, err := n.tree.Branches(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil // nothing has arrived yet
		}
		b := all[0]
		if s.rng.IntN(2) == 0 {
			b = all[s.rng.IntN(len(all))]
		}
		if o.v, err = n.tree.View(tx, b.ID, 0); err != nil {
			return err
		}
		return op.do(o)
	})
	if o.v == nil {
		return
	}
	s.logf("%s %s: %s %s: %v", n.name, o.v.Branch().Name, op.name, o.what, err)
	if err != nil && pathtree.Errno(err) == unix.EIO {
		s.fatalf("%s: %v", op.name, err)
	}
}

// dir returns some directory.
func (o *simDoing) dir() (ino pathtree.Ino, at string, err error) {
	ino, at = o.v.Root(), "/"
	for {
		var dirs []pathtree.Entry
		es, err := o.v.ReadDir(o.tx, ino, "", 0)
		if err != nil {
			return 0, "", err
		}
		for _, e := range es {
			if e.IsDir() {
				dirs = append(dirs, e)
			}
		}
		k := o.s.rng.IntN(2*len(dirs) + 1)
		if k >= len(dirs) {
			return ino, at, nil
		}
		ino, at = dirs[k].Ino, path.Join(at, dirs[k].Name)
	}
}

// place returns a directory and a name that may be there.
func (o *simDoing) place() (dir pathtree.Ino, name, at string, err error) {
	dir, at, err = o.dir()
	name = string(rune('a' + o.s.rng.IntN(4)))
	return dir, name, path.Join(at, name), err
}

// existing returns an entry that is there.
func (o *simDoing) existing() (dir pathtree.Ino, e pathtree.Entry, at string, err error) {
	for range 4 {
		if dir, at, err = o.dir(); err != nil {
			return dir, e, at, err
		}
		es, err := o.v.ReadDir(o.tx, dir, "", 0)
		if err != nil {
			return dir, e, at, err
		}
		if len(es) > 0 {
			e = es[o.s.rng.IntN(len(es))]
			return dir, e, path.Join(at, e.Name), nil
		}
	}
	return dir, e, "", unix.ENOENT
}

// content returns content that nobody has written before, or, now and then,
// content that others write too.
func (o *simDoing) content() (pathtree.Content, error) {
	o.s.serial++
	text := fmt.Sprint("content ", o.s.serial)
	if o.s.rng.IntN(8) == 0 {
		text = "the same"
	}
	o.what += fmt.Sprintf(" %q", text)
	c := pathtree.Content{Hash: o.s.texts.add([]byte(text)), Size: int64(len(text))}
	if !o.s.bytes {
		return c, nil
	}
	_, err := o.n.content.blobs.PutInline(o.tx, []byte(text))
	return c, err
}

func (o *simDoing) setContent(ino pathtree.Ino) error {
	c, err := o.content()
	if err == nil {
		_, err = o.v.SetContent(o.tx, ino, c)
	}
	return err
}

func (o *simDoing) create() error {
	dir, name, at, err := o.place()
	if o.what = at; err != nil {
		return err
	}
	in, err := o.v.Create(o.tx, dir, name, pathtree.NewInode{Mode: unix.S_IFREG | 0o644})
	if err != nil {
		return err
	}
	o.what += fmt.Sprint(" as ", in.Ino)
	if o.s.rng.IntN(3) > 0 {
		err = o.setContent(in.Ino)
	}
	return err
}

// createMany makes more than one packet can carry, and a change that takes long.
func (o *simDoing) createMany() error {
	dir, at, err := o.dir()
	n := 1 + o.s.rng.IntN(30)
	if o.what = fmt.Sprintf("%d in %s", n, at); err != nil {
		return err
	}
	value := []byte(strings.Repeat("long ", 1+o.s.rng.IntN(800)))
	for i := range n {
		in, err := o.v.Create(o.tx, dir, fmt.Sprint(o.n.name, i), pathtree.NewInode{Mode: unix.S_IFREG | 0o644})
		if err == nil {
			err = o.v.Setxattr(o.tx, in.Ino, "user.long", value, 0)
		}
		if err != nil && pathtree.Errno(err) != unix.EEXIST {
			return err
		}
	}
	return nil
}

func (o *simDoing) mkdir() error {
	dir, name, at, err := o.place()
	if o.what = at; err != nil {
		return err
	}
	in, err := o.v.Create(o.tx, dir, name, pathtree.NewInode{Mode: unix.S_IFDIR | 0o755})
	o.what += fmt.Sprint(" as ", in.Ino)
	return err
}

func (o *simDoing) symlink() error {
	dir, name, at, err := o.place()
	if o.what = at; err != nil {
		return err
	}
	_, err = o.v.Create(o.tx, dir, name, pathtree.NewInode{Mode: unix.S_IFLNK | 0o777, Target: "to/" + name})
	return err
}

func (o *simDoing) write() error {
	_, e, at, err := o.existing()
	if o.what = at; err != nil {
		return err
	}
	return o.setContent(e.Ino)
}

func (o *simDoing) chmod() error {
	_, e, at, err := o.existing()
	mode := []uint32{0o600, 0o700, 0o755, 0o644}[o.s.rng.IntN(4)]
	if o.what = fmt.Sprintf("%s %o", at, mode); err != nil {
		return err
	}
	a := pathtree.SetAttr{Mode: &mode}
	if o.s.rng.IntN(3) == 0 {
		mtime := int64(o.s.rng.IntN(1e9))
		a.Mtime = &mtime
	}
	_, err = o.v.SetAttr(o.tx, e.Ino, a)
	return err
}

func (o *simDoing) xattr() error {
	_, e, at, err := o.existing()
	value := []string{"", "1", "2"}[o.s.rng.IntN(3)]
	if o.what = fmt.Sprintf("%s %q", at, value); err != nil {
		return err
	}
	if value == "" {
		return o.v.Removexattr(o.tx, e.Ino, "user.a")
	}
	return o.v.Setxattr(o.tx, e.Ino, "user.a", []byte(value), 0)
}

func (o *simDoing) rename() error {
	from, e, at, err := o.existing()
	if o.what = at; err != nil {
		return err
	}
	to, name, at, err := o.place()
	flags := uint32(0)
	if o.s.rng.IntN(5) == 0 {
		flags = unix.RENAME_EXCHANGE
	}
	if o.what += fmt.Sprintf(" to %s, flags %d", at, flags); err != nil {
		return err
	}
	_, err = o.v.Rename(o.tx, from, e.Name, to, name, flags)
	return err
}

func (o *simDoing) link() error {
	_, e, at, err := o.existing()
	if o.what = at; err != nil {
		return err
	}
	to, name, at, err := o.place()
	if o.what += " as " + at; err != nil {
		return err
	}
	_, err = o.v.Link(o.tx, e.Ino, to, name)
	return err
}

func (o *simDoing) remove() error {
	dir, e, at, err := o.existing()
	if o.what = at; err != nil {
		return err
	}
	if e.IsDir() {
		_, err = o.v.Rmdir(o.tx, dir, e.Name)
	} else {
		_, err = o.v.Unlink(o.tx, dir, e.Name)
	}
	return err
}
