package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Create makes a file, directory, symlink or special file.
func (v *View) Create(tx *schema.Tx, parent Ino, name string, n NewInode) (Inode, error) {
	return Inode{}, syscall.EIO
}

// CreateUnlinked makes an inode without a name (O_TMPFILE); dir gives the group
// if it is setgid.
func (v *View) CreateUnlinked(tx *schema.Tx, dir Ino, n NewInode) (Inode, error) {
	return Inode{}, syscall.EIO
}

// Link makes a further name for ino, which must not be a directory.
func (v *View) Link(tx *schema.Tx, ino, parent Ino, name string) (Inode, error) {
	return Inode{}, syscall.EIO
}
