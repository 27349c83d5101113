package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// newInode makes an inode for a request: with a name, or without one
// (O_TMPFILE). It returns the node with one lookup counted.
func (fs *fileSystem) newInode(dir *node, name string, umask uint32, want pathtree.NewInode) (*node, pathtree.Inode, error) {
	var n *node
	var in pathtree.Inode
	err := fs.db.Write(func(tx *schema.Tx) error {
		acl, err := fs.inherit(tx, dir, &want, umask)
		if err != nil {
			return err
		}
		view := dir.vol.view
		if name == "" {
			in, err = view.CreateUnlinked(tx, dir.ino, want)
		} else {
			in, err = view.Create(tx, dir.ino, name, want)
			dir.drop(false)
		}
		if err != nil {
			return err
		}
		has, err := acl.apply(tx, view, &in)
		if err != nil {
			return err
		}
		n = fs.nodes.enter(dir.vol, 0, in.Ino, dir.id, name)
		n.store(&in)
		n.mu.Lock()
		n.mu.xattrs = has
		n.mu.Unlock()
		return nil
	})
	if err != nil {
		fs.undo(n, err)
		return nil, in, err
	}
	return n, in, nil
}

// undo takes back the lookup of a node that a failed transaction entered.
func (fs *fileSystem) undo(n *node, err error) fuse.Status {
	if n != nil {
		n.drop(true)
		fs.nodes.forget(n.id, 1)
	}
	return status(err)
}

// create is newInode for the requests that answer with an entry.
func (fs *fileSystem) create(h *fuse.InHeader, name string, umask uint32, want pathtree.NewInode, out *fuse.EntryOut) fuse.Status {
	epoch := fs.epoch.Load()
	dir, err := fs.inBranch(h.NodeId)
	if err != nil {
		return status(err)
	}
	want.UID, want.GID = h.Uid, h.Gid
	n, in, err := fs.newInode(dir, name, umask, want)
	if err != nil {
		return status(err)
	}
	fs.fillEntry(n, &in, epoch, out)
	return fuse.OK
}

// Mknod implements MKNOD.
func (fs *fileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.create(&in.InHeader, name, in.Umask, pathtree.NewInode{Mode: in.Mode, Rdev: in.Rdev}, out)
}

// Mkdir implements MKDIR. Where the directories are branches it forks main.
func (fs *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if n := fs.nodes.get(in.NodeId); n != nil && n.vol == nil {
		return fs.forkMain(n, name, out)
	}
	return fs.create(&in.InHeader, name, in.Umask, pathtree.NewInode{Mode: unix.S_IFDIR | in.Mode&0o7777}, out)
}

// Symlink implements SYMLINK.
func (fs *fileSystem) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return fs.create(h, name, 0, pathtree.NewInode{Mode: unix.S_IFLNK | 0o777, Target: target}, out)
}

// Link implements LINK.
func (fs *fileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	epoch := fs.epoch.Load()
	dir, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	n, err := fs.inBranch(in.Oldnodeid)
	if err != nil {
		return status(err)
	}
	if n.vol != dir.vol {
		return fuse.EXDEV
	}
	if err := fs.recordAttrs(n); err != nil {
		return status(err)
	}
	var linked pathtree.Inode
	entered := false
	err = fs.db.Write(func(tx *schema.Tx) error {
		var err error
		if linked, err = dir.vol.view.Link(tx, n.ino, dir.ino, name); err != nil {
			return err
		}
		dir.drop(false)
		n.store(&linked)
		entered = fs.nodes.enter(n.vol, 0, n.ino, dir.id, name) == n
		return nil
	})
	if err != nil {
		if entered {
			fs.undo(n, err)
		}
		return status(err)
	}
	if f := n.openFile(); f != nil {
		linked = overlay(f, linked)
	}
	fs.fillEntry(n, &linked, epoch, out)
	return fuse.OK
}

// Create implements CREATE.
func (fs *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	epoch := fs.epoch.Load()
	dir, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	want := pathtree.NewInode{Mode: unix.S_IFREG | in.Mode&0o7777, UID: in.Uid, GID: in.Gid}
	flags := in.Flags &^ unix.O_TRUNC
	n, attr, err := fs.newInode(dir, name, in.Umask, want)
	if errors.Is(err, syscall.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		// Another surface was faster than the kernel, which saw no such name.
		if n, attr, err = fs.lookup(dir, name); err == nil && !attr.IsRegular() {
			fs.nodes.forget(n.id, 1)
			return fuse.Status(syscall.ESTALE) // look again
		}
		flags = in.Flags
	}
	if err != nil {
		return status(err)
	}
	if err := fs.open(n, flags, in.OpenFlags, &out.OpenOut); err != nil {
		fs.nodes.forget(n.id, 1)
		return status(err)
	}
	fs.fillEntry(n, &attr, epoch, &out.EntryOut)
	if flags&unix.O_TRUNC != 0 {
		out.EntryOut.Attr.Size, out.EntryOut.AttrValid = 0, 0
	}
	return fuse.OK
}

// Tmpfile implements TMPFILE.
func (fs *fileSystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	epoch := fs.epoch.Load()
	dir, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	want := pathtree.NewInode{Mode: unix.S_IFREG | in.Mode&0o7777, UID: in.Uid, GID: in.Gid}
	n, attr, err := fs.newInode(dir, "", in.Umask, want)
	if err != nil {
		return status(err)
	}
	if err := fs.open(n, in.Flags, in.OpenFlags, &out.OpenOut); err != nil {
		fs.nodes.forget(n.id, 1)
		return status(err)
	}
	fs.fillEntry(n, &attr, epoch, &out.EntryOut)
	return fuse.OK
}
