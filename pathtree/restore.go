package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Restore makes path (a file, a directory with everything below it, or "" for
// the whole tree) in v as it is in from, and returns what it changed, sorted by
// path. A path that from does not have is removed. What was moved out of path
// since stays where it is; path then gets a copy of it. The old state stays in
// history, so that a restore can be undone by another.
func (t *Tree) Restore(tx *schema.Tx, v *View, path string, from *View) ([]Change, error) {
	return nil, syscall.EIO
}
