package pathtree

import (
	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// BucketsWith returns the uuids of the shared buckets of which some version has
// the content h: those whose readers may have its bytes, and under which other
// nodes can be asked for them.
func (t *Tree) BucketsWith(tx *schema.Tx, h blobstore.Hash) (uuids [][16]byte, err error) {
	s := tx.Stmt(`SELECT DISTINCT k.uuid FROM inode i JOIN branch b ON b.id = i.branch JOIN bucket k ON k.id = b.bucket
		WHERE i.hash = ? AND k.shared = 1`)
	s.BindBytes(1, h[:])
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return uuids, err
		}
		var u [16]byte
		s.ColumnBytes(0, u[:])
		uuids = append(uuids, u)
	}
}
