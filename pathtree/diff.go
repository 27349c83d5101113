package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// ChangeKind is the leading property of a Change.
type ChangeKind uint8

const (
	Added        ChangeKind = iota + 1 // a name that was not there
	Deleted                            // a name that is gone
	Modified                           // other content
	Renamed                            // the same inode at another path; its content may differ too
	ModeChanged                        // other mode, owner or group, same content
	TypeChanged                        // the name now is another type of thing
	XattrChanged                       // other extended attributes, everything else the same
)

var changeNames = [...]string{
	Added: "added", Deleted: "deleted", Modified: "modified", Renamed: "renamed",
	ModeChanged: "mode changed", TypeChanged: "type changed", XattrChanged: "xattr changed",
}

func (k ChangeKind) String() string { return changeNames[k] }

// Change is one difference between two views. Paths are from the root, without
// a leading slash, and hold any bytes.
type Change struct {
	Kind    ChangeKind
	Path    string // in the second view; of a deleted name in the first
	OldPath string // in the first view where it differs from Path: the name or a directory above it was renamed
	Old     *Inode // in the first view; nil when added
	New     *Inode // in the second view; nil when deleted
	// What differs between Old and New, where both are there.
	Content, Attributes, Xattrs bool
}

// Diff returns what one must change to get from a to b, sorted by Path. Only
// end states count: what was changed and changed back is not listed, nor are
// times. A renamed directory is one change, and what is below it is listed only
// where it differs otherwise. under restricts the list to one directory or
// file (0: everything). The cost is that of the versions written on either side
// since the two views last were the same, not that of the tree. Views of
// different buckets have nothing in common: EXDEV.
func (t *Tree) Diff(tx *schema.Tx, a, b *View, under Ino) ([]Change, error) {
	return nil, syscall.EIO
}
