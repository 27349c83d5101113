package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Unlink implements UNLINK.
func (fs *fileSystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(h, name, (*pathtree.View).Unlink)
}

// Rmdir implements RMDIR. It never removes a branch.
func (fs *fileSystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(h, name, (*pathtree.View).Rmdir)
}

type remover func(*pathtree.View, *schema.Tx, pathtree.Ino, string) (pathtree.Inode, error)

func (fs *fileSystem) remove(h *fuse.InHeader, name string, remove remover) fuse.Status {
	dir, err := fs.inBranch(h.NodeId)
	if err != nil {
		return status(err)
	}
	var n *node
	var in pathtree.Inode
	err = fs.db.Write(func(tx *schema.Tx) error {
		var err error
		if in, err = remove(dir.vol.view, tx, dir.ino, name); err != nil {
			return err
		}
		dir.drop(false)
		n = fs.changed(dir.vol, &in)
		return nil
	})
	if n != nil {
		if err != nil {
			n.drop(false)
		} else {
			observe(n, &in)
		}
	}
	return status(err)
}

// Rename implements RENAME and RENAME2.
func (fs *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	from, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	to, err := fs.inBranch(in.Newdir)
	if err != nil {
		return status(err)
	}
	if from.vol != to.vol {
		return fuse.EXDEV
	}
	var res pathtree.RenameResult
	var moved, replaced *node
	err = fs.db.Write(func(tx *schema.Tx) error {
		var err error
		if res, err = from.vol.view.Rename(tx, from.ino, oldName, to.ino, newName, in.Flags); err != nil {
			return err
		}
		from.drop(false)
		to.drop(false)
		moved = fs.changed(from.vol, &res.Moved)
		if res.Replaced != nil {
			replaced = fs.changed(from.vol, res.Replaced)
		}
		return nil
	})
	if err != nil {
		for _, n := range []*node{moved, replaced} {
			if n != nil {
				n.drop(false)
			}
		}
		return status(err)
	}
	if moved != nil {
		observe(moved, &res.Moved)
		fs.nodes.moved(moved, to.id, newName)
		err = fs.recordAttrs(moved) // a file must not come under its final name without them
	}
	if replaced != nil {
		observe(replaced, res.Replaced)
		if in.Flags&unix.RENAME_EXCHANGE != 0 {
			fs.nodes.moved(replaced, from.id, oldName)
		}
	}
	return status(err)
}
