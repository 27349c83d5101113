package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Withdraw undoes every publish of the content h, as if it had not happened:
// the version before shows again, and a file that had none is empty. It returns
// the paths that showed h at some head, as BUCKET/BRANCH:PATH.
func (t *Tree) Withdraw(tx *schema.Tx, h blobstore.Hash) ([]string, error) {
	return nil, syscall.EIO
}
