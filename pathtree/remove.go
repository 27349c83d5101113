package pathtree

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Unlink removes a name of something that is no directory (EISDIR) and returns
// the inode as it is then; Nlink 0 means that this was its last name. The inode
// itself stays readable and can be changed until it is pruned.
func (v *View) Unlink(tx *schema.Tx, parent Ino, name string) (Inode, error) {
	in, err := v.remove(tx, parent, name, false)
	return in, fail("unlink", name, err)
}

// Rmdir removes an empty directory and returns it as it is then.
func (v *View) Rmdir(tx *schema.Tx, parent Ino, name string) (Inode, error) {
	v.tree.moved.Add(1)
	in, err := v.remove(tx, parent, name, true)
	return in, fail("rmdir", name, err)
}

func (v *View) remove(tx *schema.Tx, parent Ino, name string, wantDir bool) (Inode, error) {
	if err := checkName(name); err != nil {
		return Inode{}, err
	}
	c, err := v.begin(tx)
	if err != nil {
		return Inode{}, err
	}
	cur, err := v.entry(tx, parent, name)
	if err != nil {
		return Inode{}, err
	}
	isDir := cur.kind == unix.S_IFDIR
	switch {
	case wantDir && !isDir:
		return Inode{}, syscall.ENOTDIR
	case !wantDir && isDir:
		return Inode{}, syscall.EISDIR
	}
	dir, err := v.dir(tx, parent)
	if err != nil {
		return Inode{}, err
	}
	r, err := v.inode(tx, cur.ino)
	if err != nil {
		return Inode{}, err
	}
	links := 0
	if isDir {
		links = -1
	}
	if err := c.dropName(&r); err != nil {
		return Inode{}, err
	}
	if err := c.setDentry(parent, name, cur, 0, 0); err != nil {
		return Inode{}, err
	}
	if err := c.touchDir(&dir, links); err != nil {
		return Inode{}, err
	}
	return r.Inode, c.event(notify.Event{
		Op: notify.OpRemove, Ino: uint64(r.Ino), Parent: uint64(parent), Name: []byte(name),
		Old: hashBytes(r.Hash), Size: r.Size,
	})
}

// dropName takes a name from r; a directory must be empty and has no other.
func (c *change) dropName(r *inodeRow) error {
	links := -1
	if r.IsDir() {
		if err := c.dropHidden(r.Ino); err != nil {
			return err
		}
		empty, err := c.v.isEmpty(c.tx, r.Ino)
		if err != nil {
			return err
		}
		if !empty {
			return syscall.ENOTEMPTY
		}
		links = -int(r.Nlink)
	}
	return c.relink(r, links)
}

// dropHidden removes further entries of a directory, which the overlay hides:
// with the one that shows gone they would show.
func (c *change) dropHidden(d Ino) error {
	s := c.tx.Peek("SELECT EXISTS (SELECT 1 FROM stray)")
	if _, err := s.Step(); err != nil || s.ColumnInt64(0) == 0 {
		return err
	}
	x := &exchange{t: c.v.tree, tx: c.tx}
	es, err := x.everNamed(d)
	if err != nil {
		return err
	}
	for _, e := range es {
		raw, err := findRaw(x, c.v.chain, e)
		if err != nil {
			return err
		}
		if raw.ino != d {
			continue
		}
		if cur, _, err := findDentry(c.tx, c.v.chain, e.parent, e.name); err != nil {
			return err
		} else if cur.ino == d {
			continue
		}
		if err := insertDentry(c.tx, e.parent, e.name, c.at, 0, 0); err != nil {
			return err
		}
	}
	return nil
}
