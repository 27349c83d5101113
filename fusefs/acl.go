package fusefs

import (
	"encoding/binary"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// The value of a POSIX ACL attribute (include/uapi/linux/posix_acl_xattr.h):
// a version in four bytes, then entries of tag (2), permissions (2) and id (4),
// little-endian, in the order of the tags.
const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntry     = 8
	aclUserObj   = 0x01
	aclGroupObj  = 0x04
	aclMask      = 0x10
	aclOther     = 0x20
	aclMaxLength = 64 << 10 // bytes, the kernel's limit on attributes
)

// acl is the value of an ACL attribute; the kernel has checked it.
type acl []byte

func parseACL(value []byte) (acl, error) {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntry != 0 || len(value) > aclMaxLength {
		return nil, syscall.EINVAL
	}
	if binary.LittleEndian.Uint32(value) != aclVersion {
		return nil, syscall.EOPNOTSUPP
	}
	return acl(value), nil
}

// each calls f with the tag and the place of the permissions of each entry.
func (a acl) each(f func(tag uint16, perm []byte)) {
	for p := a[aclHeader:]; len(p) >= aclEntry; p = p[aclEntry:] {
		f(binary.LittleEndian.Uint16(p), p[2:4])
	}
}

// minimal reports whether a says no more than permission bits do.
func (a acl) minimal() bool { return len(a) <= aclHeader+3*aclEntry }

// groupTag is the tag of the entry that the group bits of a mode stand for.
func (a acl) groupTag() uint16 {
	tag := uint16(aclGroupObj)
	a.each(func(t uint16, _ []byte) {
		if t == aclMask {
			tag = aclMask
		}
	})
	return tag
}

// mode returns the permission bits that a stands for.
func (a acl) mode() (mode uint32) {
	group := a.groupTag()
	a.each(func(tag uint16, perm []byte) {
		p := uint32(binary.LittleEndian.Uint16(perm)) & 7
		switch tag {
		case aclUserObj:
			mode |= p << 6
		case group:
			mode |= p << 3
		case aclOther:
			mode |= p
		}
	})
	return mode
}

// chmod sets the entries that mode stands for, or, if masked, takes from them
// what mode lacks.
func (a acl) chmod(mode uint32, masked bool) {
	group := a.groupTag()
	set := func(perm []byte, bits uint32) {
		if masked {
			bits &= uint32(binary.LittleEndian.Uint16(perm))
		}
		binary.LittleEndian.PutUint16(perm, uint16(bits&7))
	}
	a.each(func(tag uint16, perm []byte) {
		switch tag {
		case aclUserObj:
			set(perm, mode>>6)
		case group:
			set(perm, mode>>3)
		case aclOther:
			set(perm, mode)
		}
	})
}

// setACL implements setxattr(2) of an ACL.
func (fs *fileSystem) setACL(n *node, name string, value []byte, killSGID bool) error {
	if len(value) <= aclHeader {
		return fs.changeXattr(n, func(tx *schema.Tx, view *pathtree.View) error {
			return fs.removeACL(tx, n, name)
		})
	}
	a, err := parseACL(value)
	if err != nil {
		return err
	}
	return fs.changeXattr(n, func(tx *schema.Tx, view *pathtree.View) error {
		if name == nameAccess {
			in, err := fs.current(tx, n)
			if err != nil {
				return err
			}
			mode := in.Mode&0o7000 | a.mode()
			if killSGID {
				mode &^= unix.S_ISGID
			}
			if _, err := view.SetAttr(tx, n.ino, pathtree.SetAttr{Mode: &mode}); err != nil {
				return err
			}
			if a.minimal() {
				return fs.removeACL(tx, n, name)
			}
		}
		if err := view.Setxattr(tx, n.ino, name, a, 0); err != nil {
			return err
		}
		n.setFlag(name, true)
		return nil
	})
}

func (fs *fileSystem) removeACL(tx *schema.Tx, n *node, name string) error {
	err := n.vol.view.Removexattr(tx, n.ino, name)
	if err == nil || errors.Is(err, syscall.ENODATA) {
		n.setFlag(name, false)
		return nil
	}
	return err
}

// chmodACL brings the access ACL of n, if it has one, in line with its new mode.
func (fs *fileSystem) chmodACL(tx *schema.Tx, n *node, mode uint32) error {
	flags, err := fs.xattrsOf(tx, n)
	if err != nil || flags&xattrAccess == 0 {
		return err
	}
	value, err := n.vol.view.Getxattr(tx, n.ino, nameAccess)
	if err != nil {
		return err
	}
	a, err := parseACL(value)
	if err != nil {
		return err
	}
	a.chmod(mode, false)
	return n.vol.view.Setxattr(tx, n.ino, nameAccess, a, 0)
}

// inherited is what a new inode gets from the default ACL of its directory.
type inherited struct{ access, def acl }

// inherit sets the permissions of a new inode: those wanted less umask or,
// where the directory has a default ACL, less what that ACL does not allow.
func (fs *fileSystem) inherit(tx *schema.Tx, dir *node, want *pathtree.NewInode, umask uint32) (inherited, error) {
	kind := want.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		return inherited{}, nil
	}
	flags, err := fs.xattrsOf(tx, dir)
	if err != nil {
		return inherited{}, err
	}
	if flags&xattrDefault == 0 {
		want.Mode &^= umask & 0o777
		return inherited{}, nil
	}
	value, err := dir.vol.view.Getxattr(tx, dir.ino, nameDefault)
	if err != nil {
		return inherited{}, err
	}
	a, err := parseACL(value)
	if err != nil {
		return inherited{}, err
	}
	var got inherited
	if kind == unix.S_IFDIR {
		got.def = append(acl(nil), a...)
	}
	a.chmod(want.Mode, true)
	want.Mode = want.Mode&^0o777 | a.mode()
	if !a.minimal() {
		got.access = a
	}
	return got, nil
}

// apply sets the ACLs of the new inode in and returns which it has. It reads
// the inode again if that changed it.
func (i inherited) apply(tx *schema.Tx, view *pathtree.View, in *pathtree.Inode) (xattrFlags, error) {
	flags := xattrsKnown
	for _, set := range []struct {
		name  string
		value acl
	}{{nameAccess, i.access}, {nameDefault, i.def}} {
		if set.value == nil {
			continue
		}
		if err := view.Setxattr(tx, in.Ino, set.name, set.value, 0); err != nil {
			return 0, err
		}
		flags |= xattrFlag(set.name)
	}
	if flags == xattrsKnown {
		return flags, nil
	}
	var err error
	*in, err = view.Inode(tx, in.Ino)
	return flags, err
}
