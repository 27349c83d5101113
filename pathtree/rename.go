package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// RenameResult is what a rename did.
type RenameResult struct {
	Moved    Inode
	Replaced *Inode // what had the new name, as it is now; with RENAME_EXCHANGE the other one
}

// Rename moves a name. flags are those of renameat2(2): RENAME_NOREPLACE,
// RENAME_EXCHANGE, RENAME_WHITEOUT. When both names are of one inode nothing
// happens.
func (v *View) Rename(tx *schema.Tx, oldParent Ino, oldName string, newParent Ino, newName string, flags uint32) (RenameResult, error) {
	return RenameResult{}, syscall.EIO
}
