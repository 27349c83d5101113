package pathtree

import (
	"syscall"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// XattrMax is the greatest length of an attribute's value in bytes.
const XattrMax = 64 << 10

// Getxattr returns the value of an attribute, ENODATA when it is not set.
func (v *View) Getxattr(tx *schema.Tx, ino Ino, name string) ([]byte, error) {
	r, ok, err := findXattr(tx, v.chain, ino, name)
	if err == nil && (!ok || !r.set) {
		err = syscall.ENODATA
	}
	return r.value, fail("getxattr", name, err)
}

// Setxattr sets an attribute. flags: XATTR_CREATE fails with EEXIST when it is
// set, XATTR_REPLACE with ENODATA when it is not. Names have 1 to 255 bytes
// (ERANGE), values at most XattrMax (E2BIG).
func (v *View) Setxattr(tx *schema.Tx, ino Ino, name string, value []byte, flags int) error {
	switch {
	case name == "" || len(name) > NameMax:
		return fail("setxattr", name, syscall.ERANGE)
	case len(value) > XattrMax:
		return fail("setxattr", name, syscall.E2BIG)
	}
	if value == nil {
		value = []byte{}
	}
	return fail("setxattr", name, v.changeXattr(tx, ino, name, value, flags))
}

// Removexattr removes an attribute, ENODATA when it is not set.
func (v *View) Removexattr(tx *schema.Tx, ino Ino, name string) error {
	return fail("removexattr", name, v.changeXattr(tx, ino, name, nil, unix.XATTR_REPLACE))
}

func (v *View) changeXattr(tx *schema.Tx, ino Ino, name string, value []byte, flags int) error {
	c, err := v.begin(tx)
	if err != nil {
		return err
	}
	r, err := v.inode(tx, ino)
	if err != nil {
		return err
	}
	cur, found, err := findXattr(tx, v.chain, ino, name)
	switch {
	case err != nil:
		return err
	case flags&unix.XATTR_CREATE != 0 && cur.set:
		return syscall.EEXIST
	case flags&unix.XATTR_REPLACE != 0 && !cur.set:
		return syscall.ENODATA
	}
	if err := c.setXattr(ino, name, cur, found, value); err != nil {
		return err
	}
	r.Ctime = c.now
	if err := c.setInode(&r, groupAttrs); err != nil {
		return err
	}
	return c.event(notify.Event{Op: notify.OpXattr, Ino: uint64(ino), Name: []byte(name)})
}

// Listxattr returns the names of the attributes that are set, in byte order.
func (v *View) Listxattr(tx *schema.Tx, ino Ino) ([]string, error) {
	names, err := v.listXattr(tx, ino)
	return names, failIno("listxattr", ino, err)
}

func (v *View) listXattr(tx *schema.Tx, ino Ino) ([]string, error) {
	s := tx.Stmt(`SELECT branch, stamp, name, value IS NOT NULL FROM xattr
		WHERE ino = ? ORDER BY ino, name, branch, stamp, node`)
	s.BindInt64(1, int64(ino))
	var names []string
	var name string
	var set bool
	for {
		ok, err := s.Step()
		if err != nil {
			return nil, err
		}
		if !ok || s.ColumnText(2) != name {
			if set {
				names = append(names, name)
			}
			if !ok {
				return names, nil
			}
			name, set = s.ColumnText(2), false
		}
		if v.chain.sees(s.ColumnInt64(0), schema.Stamp(s.ColumnInt64(1))) {
			set = s.ColumnType(3) == sqlite.TypeInteger && s.ColumnInt64(3) != 0
		}
	}
}
