package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// LogEntry is one version of a path.
type LogEntry struct {
	Stamp  schema.Stamp // its wall-clock time is Stamp.Time()
	Branch int64        // where it was written
	Path   string       // from then on; of a deletion the path that was lost
	// What changed against the version before.
	Created, Deleted, Content, Attributes, Xattrs bool
	RenamedFrom                                   string // "" when not renamed
	Inode                                         Inode  // from then on; of a deletion the last one
	Merge                                         *Merged
}

// Merged is a recorded merge.
type Merged struct {
	ID       int64
	Src, Dst int64 // branches
	SrcStamp schema.Stamp
	DstStamp schema.Stamp
	Message  string
}

// Log returns at most limit versions (0: all) of what is, or last was, at
// path, newest first. It follows renames, and what a file replaced under the
// same name. It goes back as far as versions are kept.
func (t *Tree) Log(tx *schema.Tx, v *View, path string, limit int) ([]LogEntry, error) {
	return nil, syscall.EIO
}
