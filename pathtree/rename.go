package pathtree

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// RenameResult is what a rename did.
type RenameResult struct {
	Moved    Inode
	Replaced *Inode // what had the new name, as it is now; with RENAME_EXCHANGE the other one
}

// Rename moves a name. flags are those of renameat2(2): RENAME_NOREPLACE,
// RENAME_EXCHANGE, RENAME_WHITEOUT. When both names are of one inode nothing
// happens. EINVAL when a directory would come to be in itself. What is replaced
// has an event of its own, before that of the rename.
func (v *View) Rename(tx *schema.Tx, oldParent Ino, oldName string, newParent Ino, newName string, flags uint32) (RenameResult, error) {
	v.tree.moved.Add(1)
	m := &move{flags: flags, from: place{dir: oldParent, name: oldName}, to: place{dir: newParent, name: newName}}
	err := m.rename(v, tx)
	return m.result, fail("rename", oldName, err)
}

// place is one end of a rename.
type place struct {
	dir    Ino
	name   string
	parent *inodeRow // the same one at both ends of a rename within a directory
	cur    headDentry
	inode  inodeRow // what is there, if cur.ino is not 0
}

type move struct {
	change
	flags    uint32
	from, to place
	result   RenameResult
}

func (m *move) rename(v *View, tx *schema.Tx) (err error) {
	if err := m.check(); err != nil {
		return err
	}
	if m.change, err = v.begin(tx); err != nil {
		return err
	}
	if err := m.read(); err != nil {
		return err
	}
	if m.from.cur.ino == m.to.cur.ino {
		if m.flags&unix.RENAME_NOREPLACE != 0 {
			return syscall.EEXIST
		}
		m.result.Moved = m.from.inode.Inode
		return nil
	}
	if err := m.allowed(); err != nil {
		return err
	}
	if m.flags&unix.RENAME_EXCHANGE != 0 {
		return m.exchange()
	}
	return m.replace()
}

func (m *move) check() error {
	const exchange, noreplace, whiteout = unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE, unix.RENAME_WHITEOUT
	if m.flags&^(exchange|noreplace|whiteout) != 0 || m.flags&exchange != 0 && m.flags&^exchange != 0 {
		return syscall.EINVAL
	}
	if err := checkName(m.from.name); err != nil {
		return err
	}
	return checkName(m.to.name)
}

func (m *move) read() error {
	for _, p := range []*place{&m.from, &m.to} {
		if p == &m.to && p.dir == m.from.dir {
			p.parent = m.from.parent
		} else {
			dir, err := m.v.dir(m.tx, p.dir)
			if err != nil {
				return err
			}
			p.parent = &dir
		}
		var err error
		if p.cur, err = m.v.dentry(m.tx, p.dir, p.name); err != nil {
			return err
		}
		if p.cur.ino == 0 {
			if p == &m.from || m.flags&unix.RENAME_EXCHANGE != 0 {
				return syscall.ENOENT
			}
			continue
		}
		if p.inode, err = m.v.inode(m.tx, p.cur.ino); err != nil {
			return err
		}
	}
	return nil
}

// allowed checks what POSIX says about the two kinds and places.
func (m *move) allowed() error {
	from, to := &m.from, &m.to
	exchange := m.flags&unix.RENAME_EXCHANGE != 0
	if from.dir != to.dir {
		if from.inode.IsDir() {
			if inside, err := m.v.inside(m.tx, to.dir, from.inode.Ino); err != nil || inside {
				return orInvalid(err)
			}
		}
		if exchange && to.inode.IsDir() {
			if inside, err := m.v.inside(m.tx, from.dir, to.inode.Ino); err != nil || inside {
				return orInvalid(err)
			}
		}
	}
	switch {
	case exchange || to.cur.ino == 0:
		return nil
	case m.flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	case from.inode.IsDir() && !to.inode.IsDir():
		return syscall.ENOTDIR
	case !from.inode.IsDir() && to.inode.IsDir():
		return syscall.EISDIR
	}
	return nil
}

func orInvalid(err error) error {
	if err == nil {
		return syscall.EINVAL
	}
	return err
}

func (m *move) replace() error {
	from, to := &m.from, &m.to
	fromLinks, toLinks := 0, 0
	if from.inode.IsDir() {
		fromLinks, toLinks = -1, 1
	}
	if to.cur.ino != 0 {
		if err := m.dropName(&to.inode); err != nil {
			return err
		}
		if to.inode.IsDir() {
			toLinks--
		}
		m.result.Replaced = &to.inode.Inode
	}
	if err := m.setDentry(to.dir, to.name, to.cur, from.cur.ino, from.cur.kind); err != nil {
		return err
	}
	if err := m.vacate(); err != nil {
		return err
	}
	if err := m.finish(fromLinks, toLinks); err != nil {
		return err
	}
	if r := m.result.Replaced; r != nil {
		err := m.event(notify.Event{
			Op: notify.OpRemove, Ino: uint64(r.Ino), Parent: uint64(to.dir), Name: []byte(to.name),
			Old: hashBytes(r.Hash), Size: r.Size,
		})
		if err != nil {
			return err
		}
	}
	return m.renamed(to, from)
}

// vacate removes the old name, or leaves a whiteout there.
func (m *move) vacate() error {
	from := &m.from
	if m.flags&unix.RENAME_WHITEOUT == 0 {
		return m.setDentry(from.dir, from.name, from.cur, 0, 0)
	}
	w, err := m.newInode(from.parent, from.name, NewInode{Mode: unix.S_IFCHR, UID: from.inode.UID, GID: from.inode.GID})
	if err != nil {
		return err
	}
	if err := m.addInode(&w); err != nil {
		return err
	}
	return m.setDentry(from.dir, from.name, from.cur, w.Ino, unix.S_IFCHR)
}

func (m *move) exchange() error {
	from, to := &m.from, &m.to
	links := 0 // that the new parent gains
	if from.inode.IsDir() {
		links++
	}
	if to.inode.IsDir() {
		links--
	}
	if err := m.setDentry(to.dir, to.name, to.cur, from.cur.ino, from.cur.kind); err != nil {
		return err
	}
	if err := m.setDentry(from.dir, from.name, from.cur, to.cur.ino, to.cur.kind); err != nil {
		return err
	}
	if err := m.relink(&to.inode, 0); err != nil {
		return err
	}
	if err := m.finish(-links, links); err != nil {
		return err
	}
	m.result.Replaced = &to.inode.Inode
	if err := m.renamed(to, from); err != nil {
		return err
	}
	return m.renamed(from, to)
}

// finish touches the moved inode and the directories, which gain links.
func (m *move) finish(fromLinks, toLinks int) error {
	if err := m.relink(&m.from.inode, 0); err != nil {
		return err
	}
	m.result.Moved = m.from.inode.Inode
	if m.from.parent == m.to.parent {
		return m.touchDir(m.from.parent, fromLinks+toLinks)
	}
	if err := m.touchDir(m.from.parent, fromLinks); err != nil {
		return err
	}
	return m.touchDir(m.to.parent, toLinks)
}

// renamed records that what was at from is at to.
func (m *move) renamed(to, from *place) error {
	return m.event(notify.Event{
		Op: notify.OpRename, Ino: uint64(from.cur.ino), Size: from.inode.Size,
		Parent: uint64(to.dir), Name: []byte(to.name), Ref: int64(from.dir), Old: []byte(from.name),
	})
}
