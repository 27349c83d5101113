package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Lookup implements LOOKUP.
func (fs *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	epoch := fs.epoch.Load()
	dir, err := fs.node(h.NodeId)
	if err != nil {
		return fs.lookupHandle(h.NodeId, name, out)
	}
	if dir.vol == nil {
		return fs.lookupVolume(dir, name, out)
	}
	if name == "." || name == ".." {
		return fs.lookupDot(dir, name, out)
	}
	n, in, err := fs.lookup(dir, name)
	if errors.Is(err, syscall.ENOENT) {
		fs.setValid(epoch, out) // with node id 0: a negative entry
		return fuse.OK
	}
	if err != nil {
		return status(err)
	}
	if f := n.openFile(); f != nil {
		in = overlay(f, in)
	}
	fs.fillEntry(n, &in, epoch, out)
	return fuse.OK
}

// lookup finds name in dir and counts a lookup of it.
func (fs *fileSystem) lookup(dir *node, name string) (n *node, in pathtree.Inode, err error) {
	err = fs.db.Read(func(tx *schema.Tx) error {
		var err error
		if in, err = dir.vol.view.LookupInode(tx, dir.ino, name); err != nil {
			return err
		}
		n = fs.nodes.enter(dir.vol, 0, in.Ino, dir.id, name)
		n.store(&in)
		return nil
	})
	return n, in, err
}

// lookupDot serves the names that only NFS servers and open_by_handle_at ask for.
func (fs *fileSystem) lookupDot(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	var n *node
	var in pathtree.Inode
	err := fs.db.Read(func(tx *schema.Tx) error {
		ino, err := dir.ino, error(nil)
		if name == ".." {
			if ino, err = dir.vol.view.Parent(tx, dir.ino); err != nil {
				return err
			}
		}
		if in, err = dir.vol.view.Inode(tx, ino); err != nil {
			return err
		}
		parent, as := uint64(0), ""
		if n = fs.nodes.find(nodeKey{dir.vol.branch, ino}); n != nil {
			parent, as = fs.nodes.place(n)
		}
		n = fs.nodes.enter(dir.vol, 0, ino, parent, as)
		n.store(&in)
		return nil
	})
	if err != nil {
		return status(err)
	}
	if f := n.openFile(); f != nil {
		in = overlay(f, in)
	}
	fs.fillEntry(n, &in, fs.epoch.Load(), out)
	return fuse.OK
}

// lookupHandle serves a file handle made before the kernel forgot the node, or
// by an earlier mount: where ids are inode numbers they still say which.
func (fs *fileSystem) lookupHandle(id uint64, name string, out *fuse.EntryOut) fuse.Status {
	root := fs.nodes.get(fuse.FUSE_ROOT_ID)
	if name != "." || !fs.nodes.single || id >= 1<<63 {
		return fuse.Status(syscall.ESTALE)
	}
	n := &node{vol: root.vol, ino: pathtree.Ino(id)}
	st := fs.lookupDot(n, ".", out)
	if st == fuse.ENOENT || out.Attr.Nlink == 0 && st.Ok() {
		if st.Ok() {
			fs.nodes.forget(out.NodeId, 1)
		}
		return fuse.Status(syscall.ESTALE)
	}
	return st
}

// Forget implements FORGET.
func (fs *fileSystem) Forget(id, nlookup uint64) { fs.nodes.forget(id, nlookup) }

// GetAttr implements GETATTR.
func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	epoch := fs.epoch.Load()
	n, err := fs.node(in.NodeId)
	if err != nil {
		return status(err)
	}
	if n.vol == nil {
		fs.fillVolumeDir(n, &out.Attr)
		out.AttrValid = 1
		return fuse.OK
	}
	attr, err := fs.inode(n)
	if err != nil {
		return status(err)
	}
	fs.fillAttr(n.vol, &attr, &out.Attr)
	if fs.epoch.Load() == epoch {
		out.AttrValid = cacheSeconds
	}
	return fuse.OK
}

// Readlink implements READLINK.
func (fs *fileSystem) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, err := fs.inBranch(h.NodeId)
	if err != nil {
		return nil, status(err)
	}
	in, err := fs.inode(n)
	if err != nil {
		return nil, status(err)
	}
	if !in.IsSymlink() {
		return nil, fuse.EINVAL
	}
	return []byte(in.Target), fuse.OK
}

// Access implements ACCESS, which the kernel decides itself.
func (fs *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }
