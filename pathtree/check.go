package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Check looks at the structure of everything in the store and reports each
// problem in a line that says what and where. Its cost is that of all
// versions: run it in a schema.DB.Snapshot.
func (t *Tree) Check(tx *schema.Tx, report func(problem string)) error {
	return syscall.EIO
}
