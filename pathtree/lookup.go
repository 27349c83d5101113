package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Lookup returns the entry name of directory parent.
func (v *View) Lookup(tx *schema.Tx, parent Ino, name string) (Entry, error) {
	return Entry{}, syscall.EIO
}

// Inode returns an inode, unlinked ones included.
func (v *View) Inode(tx *schema.Tx, ino Ino) (Inode, error) { return Inode{}, syscall.EIO }

// LookupInode is Lookup and Inode.
func (v *View) LookupInode(tx *schema.Tx, parent Ino, name string) (Inode, error) {
	return Inode{}, syscall.EIO
}

// Resolve walks a slash-separated path from the root. Symlinks are not
// followed; empty and "." elements are skipped, ".." is refused with EINVAL.
func (v *View) Resolve(tx *schema.Tx, path string) (Inode, error) { return Inode{}, syscall.EIO }

// ResolveParent resolves all but the last element of path and returns that.
// The root has no parent: EINVAL.
func (v *View) ResolveParent(tx *schema.Tx, path string) (parent Inode, base string, err error) {
	return Inode{}, "", syscall.EIO
}
