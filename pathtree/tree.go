package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Tree is the path tree of a store. Safe for concurrent use; each method works
// in the transaction it is given.
type Tree struct {
	db *schema.DB
}

// New returns the tree of db.
func New(db *schema.DB) *Tree { return &Tree{db: db} }

// Stats are counts of what the store holds.
type Stats struct {
	Buckets, Branches, Snapshots int64
	Inodes                       int64 // distinct inode numbers in use, about
	Bytes                        int64 // of all blobs
}

// Stats counts. Inodes comes from the counter and so includes removed files.
func (t *Tree) Stats(tx *schema.Tx) (Stats, error) { return Stats{}, syscall.EIO }
