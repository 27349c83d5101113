package pathtree

import (
	"sync/atomic"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// Tree is the path tree of a store. Safe for concurrent use; each method works
// in the transaction it is given.
type Tree struct {
	db  *schema.DB
	tag atomic.Uint64 // of this node in inode numbers, with tagKnown; 0: not read yet

	moved atomic.Uint64 // see Moved

	heads *heads
	prune pruner

	now func() time.Time // for stamps of the future
}

// New returns the tree of db.
func New(db *schema.DB) *Tree { return &Tree{db: db, heads: headsOf(db), now: db.Now} }

// Moved returns a number that grows when this process renames or removes
// anything but a file by Unlink, or a branch or bucket. Where a directory was
// found stays true while neither it nor schema.DB.Others, for the other
// processes, has changed. Read it in the transaction that the answer is for.
func (t *Tree) Moved() uint64 { return t.moved.Load() }

// Stats are counts of what the store holds.
type Stats struct {
	Buckets, Branches, Snapshots int64
	Inodes                       int64 // made so far by this node, about
	Bytes                        int64 // of all blobs that are here
}

// Stats counts, in time that does not depend on the number of files but for
// Bytes, which reads the table of blobs.
func (t *Tree) Stats(tx *schema.Tx) (Stats, error) {
	s := tx.Stmt(`SELECT (SELECT count(*) FROM bucket), (SELECT count(*) FROM branch WHERE deleted IS NULL),
		(SELECT count(*) FROM snapshot), (SELECT ino FROM clock), (SELECT coalesce(sum(size), 0) FROM blob WHERE state <> 3)`)
	if _, err := s.Step(); err != nil {
		return Stats{}, err
	}
	return Stats{
		Buckets: s.ColumnInt64(0), Branches: s.ColumnInt64(1), Snapshots: s.ColumnInt64(2),
		Inodes: s.ColumnInt64(3), Bytes: s.ColumnInt64(4),
	}, nil
}
