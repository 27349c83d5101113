package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Getxattr returns the value of an attribute, ENODATA when it is not set.
func (v *View) Getxattr(tx *schema.Tx, ino Ino, name string) ([]byte, error) {
	return nil, syscall.EIO
}

// Setxattr sets an attribute. flags: XATTR_CREATE fails with EEXIST when it is
// set, XATTR_REPLACE with ENODATA when it is not.
func (v *View) Setxattr(tx *schema.Tx, ino Ino, name string, value []byte, flags int) error {
	return syscall.EIO
}

// Listxattr returns the names of the attributes that are set, in byte order.
func (v *View) Listxattr(tx *schema.Tx, ino Ino) ([]string, error) { return nil, syscall.EIO }

// Removexattr removes an attribute, ENODATA when it is not set.
func (v *View) Removexattr(tx *schema.Tx, ino Ino, name string) error { return syscall.EIO }
