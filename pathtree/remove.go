package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Unlink removes a name of something that is no directory and returns the
// inode as it is then; Nlink 0 means that this was its last name.
func (v *View) Unlink(tx *schema.Tx, parent Ino, name string) (Inode, error) {
	return Inode{}, syscall.EIO
}

// Rmdir removes an empty directory and returns it as it is then.
func (v *View) Rmdir(tx *schema.Tx, parent Ino, name string) (Inode, error) {
	return Inode{}, syscall.EIO
}
