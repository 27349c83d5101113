package pathtree

import (
	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// BucketsOf returns the uuids of the buckets in which a version, of any branch
// and of any time that is kept, has the content h.
func (t *Tree) BucketsOf(tx *schema.Tx, h blobstore.Hash) (uuids [][16]byte, err error) {
	s := tx.Stmt(`SELECT uuid FROM bucket WHERE id IN
		(SELECT bucket FROM branch WHERE id IN (SELECT branch FROM inode WHERE hash = ?))`)
	s.BindBytes(1, h[:])
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return uuids, fail("buckets of", h.String(), err)
		}
		var u [16]byte
		s.ColumnBytes(0, u[:])
		uuids = append(uuids, u)
	}
}
