package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// SetAttr says which attributes to set; nil leaves one alone.
type SetAttr struct {
	Mode                *uint32 // permission bits; the type is kept
	UID, GID            *uint32
	Atime, Mtime, Ctime *int64 // ns since 1970; a nil Ctime means now
}

// SetAttr sets attributes.
func (v *View) SetAttr(tx *schema.Tx, ino Ino, a SetAttr) (Inode, error) {
	return Inode{}, syscall.EIO
}

// Content is new content of a regular file, already in the blob store.
type Content struct {
	Hash       blobstore.Hash
	Size       int64 // bytes
	Mtime      int64 // ns since 1970; 0: now
	ClearSetID bool  // clear suid, and sgid where group execution is allowed, as a write by an unprivileged process does
	Session    int64 // write session that published it, for the event; 0 none
}

// SetContent publishes content. Equal content is a change of mtime only.
func (v *View) SetContent(tx *schema.Tx, ino Ino, c Content) (Inode, error) {
	return Inode{}, syscall.EIO
}
