package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// xattrFlags says which of the attributes that mean something here a node has.
type xattrFlags uint8

const (
	xattrsKnown   xattrFlags = 1 << iota // the others are right
	xattrCaps                            // security.capability
	xattrAccess                          // system.posix_acl_access
	xattrDefault                         // system.posix_acl_default
	xattrsSpecial = xattrCaps | xattrAccess | xattrDefault
)

const (
	nameCaps    = "security.capability"
	nameAccess  = "system.posix_acl_access"
	nameDefault = "system.posix_acl_default"
)

func xattrFlag(name string) xattrFlags {
	switch name {
	case nameCaps:
		return xattrCaps
	case nameAccess:
		return xattrAccess
	case nameDefault:
		return xattrDefault
	}
	return 0
}

// xattrsOf returns the flags of n, reading the names once.
func (fs *fileSystem) xattrsOf(tx *schema.Tx, n *node) (xattrFlags, error) {
	n.mu.Lock()
	flags := n.mu.xattrs
	n.mu.Unlock()
	if flags&xattrsKnown != 0 {
		return flags, nil
	}
	names, err := n.vol.view.Listxattr(tx, n.ino)
	if err != nil {
		return 0, err
	}
	flags = xattrsKnown
	for _, name := range names {
		flags |= xattrFlag(name)
	}
	n.mu.Lock()
	n.mu.xattrs = flags
	n.mu.Unlock()
	return flags, nil
}

// setFlag records that n has an attribute, or that it does not.
func (n *node) setFlag(name string, has bool) {
	flag := xattrFlag(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if has {
		n.mu.xattrs |= flag
	} else {
		n.mu.xattrs &^= flag
	}
}

// dropCaps removes security.capability if n has it.
func (fs *fileSystem) dropCaps(tx *schema.Tx, n *node) error {
	flags, err := fs.xattrsOf(tx, n)
	if err != nil || flags&xattrCaps == 0 {
		return err
	}
	err = n.vol.view.Removexattr(tx, n.ino, nameCaps)
	if errors.Is(err, syscall.ENODATA) {
		err = nil
	}
	if err == nil {
		n.setFlag(nameCaps, false)
	}
	return err
}

// GetXAttr implements GETXATTR.
func (fs *fileSystem) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n, err := fs.node(h.NodeId)
	if err != nil {
		return 0, status(err)
	}
	if n.vol == nil {
		return 0, fuse.ENODATA
	}
	var value []byte
	err = fs.db.Read(func(tx *schema.Tx) error {
		if special := xattrFlag(name); special != 0 {
			flags, err := fs.xattrsOf(tx, n)
			if err != nil {
				return err
			}
			if flags&special == 0 {
				return syscall.ENODATA
			}
		}
		var err error
		value, err = n.vol.view.Getxattr(tx, n.ino, name)
		return err
	})
	if err != nil {
		return 0, status(err)
	}
	return answer(dest, value)
}

// answer copies value, or tells its size when dest is too small.
func answer(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// ListXAttr implements LISTXATTR.
func (fs *fileSystem) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, err := fs.node(h.NodeId)
	if err != nil {
		return 0, status(err)
	}
	if n.vol == nil {
		return 0, fuse.OK
	}
	var list []byte
	err = fs.db.Read(func(tx *schema.Tx) error {
		names, err := n.vol.view.Listxattr(tx, n.ino)
		for _, name := range names {
			list = append(append(list, name...), 0)
		}
		return err
	})
	if err != nil {
		return 0, status(err)
	}
	return answer(dest, list)
}

// SetXAttr implements SETXATTR.
func (fs *fileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	n, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	if name == nameAccess || name == nameDefault {
		return status(fs.setACL(n, name, value, in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0))
	}
	return status(fs.changeXattr(n, func(tx *schema.Tx, view *pathtree.View) error {
		err := view.Setxattr(tx, n.ino, name, value, int(in.Flags))
		if err == nil {
			n.setFlag(name, true)
		}
		return err
	}))
}

// RemoveXAttr implements REMOVEXATTR.
func (fs *fileSystem) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	n, err := fs.inBranch(h.NodeId)
	if err != nil {
		return status(err)
	}
	return status(fs.changeXattr(n, func(tx *schema.Tx, view *pathtree.View) error {
		err := view.Removexattr(tx, n.ino, name)
		if err == nil {
			n.setFlag(name, false)
		}
		return err
	}))
}

// changeXattr runs change and reads the inode again, whose ctime it moved.
func (fs *fileSystem) changeXattr(n *node, change func(*schema.Tx, *pathtree.View) error) error {
	if err := fs.recordAttrs(n); err != nil {
		return err
	}
	var in pathtree.Inode
	err := fs.db.Write(func(tx *schema.Tx) error {
		if err := change(tx, n.vol.view); err != nil {
			return err
		}
		var err error
		if in, err = n.vol.view.Inode(tx, n.ino); err == nil {
			n.store(&in)
		}
		return err
	})
	if err != nil {
		n.drop(true)
		return err
	}
	observe(n, &in)
	return nil
}
