package pathtree

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// SetAttr says which attributes to set; nil leaves one alone.
type SetAttr struct {
	Mode                *uint32 // permission bits; the type is kept
	UID, GID            *uint32
	Atime, Mtime, Ctime *int64 // ns since 1970; a nil Ctime means now
}

// SetAttr sets attributes. It does not clear suid and sgid by itself.
func (v *View) SetAttr(tx *schema.Tx, ino Ino, a SetAttr) (Inode, error) {
	in, err := v.setAttr(tx, ino, a)
	return in, failIno("setattr", ino, err)
}

func (v *View) setAttr(tx *schema.Tx, ino Ino, a SetAttr) (Inode, error) {
	c, err := v.begin(tx)
	if err != nil {
		return Inode{}, err
	}
	r, err := v.inode(tx, ino)
	if err != nil {
		return Inode{}, err
	}
	r.Ctime = c.now
	a.Apply(&r.Inode)
	groups := groupAttrs
	if a.Mtime != nil {
		groups |= groupMtime
	}
	if err := c.setInode(&r, groups); err != nil {
		return Inode{}, err
	}
	return r.Inode, c.event(notify.Event{Op: notify.OpAttr, Ino: uint64(ino), Size: r.Size})
}

// Apply sets in in what a sets. A Ctime of nil leaves that of in.
func (a *SetAttr) Apply(in *Inode) {
	if a.Mode != nil {
		in.Mode = in.Mode&unix.S_IFMT | *a.Mode&0o7777
	}
	set(&in.UID, a.UID)
	set(&in.GID, a.GID)
	set(&in.Atime, a.Atime)
	set(&in.Mtime, a.Mtime)
	set(&in.Ctime, a.Ctime)
}

func set[T any](dst, src *T) {
	if src != nil {
		*dst = *src
	}
}

// Content is new content of a regular file, already in the blob store.
type Content struct {
	Hash       blobstore.Hash
	Size       int64    // bytes
	Mtime      int64    // ns since 1970; 0: now
	Ctime      int64    // ns since 1970 of the last change; 0: now. Later than the present one in any case
	Attr       *SetAttr // attributes that change with it; nil: none. Mtime and Ctime above win
	ClearSetID bool     // clear suid, and sgid where group execution is allowed, as a write by an unprivileged process does
	Session    int64    // write session that published it, for the event; 0 none
}

// SetContent publishes content. What is not a regular file is refused with
// EISDIR or EINVAL. Content equal to the present one changes the times only.
func (v *View) SetContent(tx *schema.Tx, ino Ino, n Content) (Inode, error) {
	in, err := v.setContent(tx, ino, n)
	return in, failIno("set content of", ino, err)
}

func (v *View) setContent(tx *schema.Tx, ino Ino, n Content) (Inode, error) {
	c, err := v.begin(tx)
	if err != nil {
		return Inode{}, err
	}
	r, err := v.inode(tx, ino)
	switch {
	case err != nil:
		return Inode{}, err
	case r.IsDir():
		return Inode{}, syscall.EISDIR
	case !r.IsRegular():
		return Inode{}, syscall.EINVAL
	}
	e := notify.Event{Op: notify.OpContent, Ino: uint64(ino), Size: n.Size, Ref: n.Session}
	if old := r.Hash; old == n.Hash && r.Size == n.Size {
		e.Op, e.Ref = notify.OpAttr, 0
	} else {
		e.Old, e.New = hashBytes(old), hashBytes(n.Hash)
	}
	was, groups, before := r.Inode, groupContent, r.Ctime
	// A power cut may take a blob file. Then the content before is to be there.
	c.keepOld = n.Size > blobstore.InlineMax && was.Size > 0 && was.Hash != n.Hash
	r.Hash, r.Size, r.Mtime, r.Ctime = n.Hash, n.Size, c.now, c.now
	if n.Attr != nil {
		n.Attr.Apply(&r.Inode)
		groups |= groupAttrs
		if n.Attr.Ctime != nil {
			before = max(before, r.Ctime)
		}
	}
	if n.Mtime != 0 {
		r.Mtime = n.Mtime
	}
	if n.Ctime != 0 {
		r.Ctime = max(n.Ctime, before+1)
	}
	if n.ClearSetID {
		if mode := withoutSetID(r.Mode); mode != r.Mode {
			r.Mode = mode
			groups |= groupAttrs
		}
	}
	if err := c.charge(&was, &r.Inode); err != nil {
		return Inode{}, err
	}
	if err := c.setInode(&r, groups); err != nil {
		return Inode{}, err
	}
	return r.Inode, c.event(e)
}

// withoutSetID clears suid, and sgid unless it marks mandatory locking.
func withoutSetID(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}
