package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// ReadDir returns at most n entries of dir with names greater than after, in
// byte order; n <= 0 means all. "." and ".." are not among them.
func (v *View) ReadDir(tx *schema.Tx, dir Ino, after string, n int) ([]Entry, error) {
	return nil, syscall.EIO
}

// ReadDirPlus is ReadDir with the inode of each entry.
func (v *View) ReadDirPlus(tx *schema.Tx, dir Ino, after string, n int) ([]Entry, []Inode, error) {
	return nil, nil, syscall.EIO
}
