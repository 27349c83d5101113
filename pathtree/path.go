package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Path returns a path of ino from the root, without a leading slash; "" for
// the root itself. ENOENT when it has none.
func (v *View) Path(tx *schema.Tx, ino Ino) (string, error) { return "", syscall.EIO }

// Paths returns every path of ino, one for each hard link.
func (v *View) Paths(tx *schema.Tx, ino Ino) ([]string, error) { return nil, syscall.EIO }

// Parent returns the directory that dir is in; the root's is itself.
func (v *View) Parent(tx *schema.Tx, dir Ino) (Ino, error) { return 0, syscall.EIO }
