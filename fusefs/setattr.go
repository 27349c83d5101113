package fusefs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// SetAttr implements SETATTR: chmod, chown, utimensat and truncate, of which
// the kernel has checked the permissions.
func (fs *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	epoch := fs.epoch.Load()
	n, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	if size, ok := in.GetSize(); ok {
		if err := fs.resize(n, in, int64(size)); err != nil {
			return status(err)
		}
	}
	if set, any := fs.wanted(n, in); any {
		if err := fs.setAttr(n, set); err != nil {
			return status(err)
		}
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

// resize truncates or extends. truncate(2) of a file that nobody has open for
// writing is published before it returns.
func (fs *fileSystem) resize(n *node, in *fuse.SetAttrIn, size int64) error {
	kill := in.Valid&fuse.FATTR_KILL_SUIDGID != 0
	if fh, ok := in.GetFh(); ok {
		if h := fs.handles.get(fh); h != nil && h.file != nil {
			return fs.truncate(n, h.file, size, kill)
		}
	}
	f, err := fs.openFileOf(n)
	if err != nil {
		return err
	}
	err = fs.truncate(n, f, size, kill)
	if err == nil && n.openFile() == nil {
		version := n.version()
		if _, err = f.Publish(fs.ctx); err == nil {
			n.published(version, f)
		}
	}
	if err != nil {
		f.Abort()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	n.drop(false) // this may have been the last close, and a publish
	return err
}

// wanted says which attributes a request sets beside the size.
func (fs *fileSystem) wanted(n *node, in *fuse.SetAttrIn) (set pathtree.SetAttr, any bool) {
	const all = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&all == 0 {
		return set, false
	}
	if mode, ok := in.GetMode(); ok {
		set.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		set.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		set.GID = &gid
	}
	now := time.Now().UnixNano()
	if in.Valid&fuse.FATTR_ATIME != 0 {
		set.Atime = pickTime(in.Valid&fuse.FATTR_ATIME_NOW != 0, now, in.Atime, in.Atimensec)
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		set.Mtime = pickTime(in.Valid&fuse.FATTR_MTIME_NOW != 0, now, in.Mtime, in.Mtimensec)
	}
	return set, true
}

func pickTime(isNow bool, now int64, sec uint64, nsec uint32) *int64 {
	if !isNow {
		now = int64(sec)*1e9 + int64(nsec)
	}
	return &now
}

// setAttr sets attributes, and what follows from it: a new owner clears suid,
// sgid and capabilities, a new mode changes the mask of an ACL.
func (fs *fileSystem) setAttr(n *node, set pathtree.SetAttr) error {
	if fs.postpone(n, set) {
		return nil
	}
	if f := n.openFile(); f != nil && set.Mtime != nil {
		f.SetMtime(*set.Mtime) // a publish would otherwise replace it by the time of the write
	}
	var in pathtree.Inode
	err := fs.db.Write(func(tx *schema.Tx) error {
		set := set
		if p := n.Take(); p != nil {
			p.Ctime = nil
			set = *merged(p, &set)
		}
		if set.UID != nil || set.GID != nil {
			old, err := fs.current(tx, n)
			if err != nil {
				return err
			}
			chownMode(old, &set)
			if err := fs.dropCaps(tx, n); err != nil {
				return err
			}
		}
		var err error
		if in, err = n.vol.view.SetAttr(tx, n.ino, set); err != nil {
			return err
		}
		if set.Mode != nil {
			if err := fs.chmodACL(tx, n, in.Mode); err != nil {
				return err
			}
		}
		n.store(&in)
		return nil
	})
	if err != nil {
		n.drop(true)
		return err
	}
	observe(n, &in)
	return nil
}

// chownMode makes set, which changes the owner of old, clear suid and sgid.
func chownMode(old pathtree.Inode, set *pathtree.SetAttr) {
	if mode := withoutSetID(old.Mode); set.Mode == nil && !old.IsDir() && mode != old.Mode {
		set.Mode = &mode
	}
}

// current returns the inode of n as the database has it.
func (fs *fileSystem) current(tx *schema.Tx, n *node) (pathtree.Inode, error) {
	n.mu.Lock()
	in, fresh := n.mu.inode, n.mu.fresh
	n.mu.Unlock()
	if fresh {
		return in, nil
	}
	in, err := n.vol.view.Inode(tx, n.ino)
	if err == nil {
		n.store(&in)
	}
	return in, err
}

// withoutSetID clears suid, and sgid unless it means mandatory locking.
func withoutSetID(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// killPriv does what CAP_HANDLE_KILLPRIV_V2 leaves to the file system when
// content changes: capabilities go always, suid and sgid if the kernel says so.
func (fs *fileSystem) killPriv(n *node, setID bool) error {
	n.mu.Lock()
	noCaps := n.mu.xattrs&(xattrsKnown|xattrCaps) == xattrsKnown
	maySet := !n.mu.fresh || n.mu.inode.Mode&(unix.S_ISUID|unix.S_ISGID) != 0
	n.mu.Unlock()
	if noCaps && !(setID && maySet) {
		return nil
	}
	return fs.killPrivSlow(n, setID)
}

func (fs *fileSystem) killPrivSlow(n *node, setID bool) error {
	if err := fs.recordAttrs(n); err != nil {
		return err
	}
	var in pathtree.Inode
	change := false
	err := fs.db.Read(func(tx *schema.Tx) error {
		flags, err := fs.xattrsOf(tx, n)
		if err != nil {
			return err
		}
		if in, err = fs.current(tx, n); err != nil {
			return err
		}
		change = flags&xattrCaps != 0 || setID && withoutSetID(in.Mode) != in.Mode
		return nil
	})
	if err != nil || !change {
		return err
	}
	err = fs.db.Write(func(tx *schema.Tx) error {
		if err := fs.dropCaps(tx, n); err != nil || !setID {
			return err
		}
		var err error
		if in, err = fs.current(tx, n); err != nil {
			return err
		}
		mode := withoutSetID(in.Mode)
		if mode == in.Mode {
			return nil
		}
		if in, err = n.vol.view.SetAttr(tx, n.ino, pathtree.SetAttr{Mode: &mode}); err == nil {
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
