package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Prune removes versions that were superseded before the given stamp and that
// no head, fork, snapshot or merge base shows, and what is left of deleted
// branches. It looks at about limit rows and returns how many it removed and
// whether there is more to look at; the next call goes on from there.
func (t *Tree) Prune(tx *schema.Tx, before schema.Stamp, limit int) (n int, more bool, err error) {
	return 0, false, syscall.EIO
}
