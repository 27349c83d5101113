package alkfs

import (
	"errors"
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Xattr is an extended attribute.
type Xattr struct {
	Name  string // with its namespace: user.x
	Value []byte
}

// Xattrs returns the extended attributes of name, a symlink's own, in byte order.
func (v *View) Xattrs(name string) (list []Xattr, err error) {
	in, err := v.stat("listxattr", name, false)
	if err != nil {
		return nil, err
	}
	err = v.store.db.Read(func(tx *schema.Tx) error {
		names, err := v.v.Listxattr(tx, in.Ino)
		for _, n := range names {
			value, e := v.v.Getxattr(tx, in.Ino, n)
			list, err = append(list, Xattr{n, value}), errors.Join(err, e)
		}
		return err
	})
	return list, pathError("listxattr", name, err)
}

// SetXattr sets an extended attribute; a nil value removes it.
func (v *View) SetXattr(name, attr string, value []byte) error {
	in, err := v.stat("setxattr", name, false)
	if err == nil && v.ReadOnly() {
		err = syscall.EROFS
	}
	if err == nil {
		err = v.store.db.Write(func(tx *schema.Tx) error {
			if value == nil {
				return v.v.Removexattr(tx, in.Ino, attr)
			}
			return v.v.Setxattr(tx, in.Ino, attr, value, 0)
		})
	}
	return pathError("setxattr", name, err)
}
