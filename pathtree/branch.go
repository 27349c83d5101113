package pathtree

import (
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// Branch is a line of change in a bucket.
type Branch struct {
	ID      int64
	UUID    [16]byte // the same on every node
	Bucket  int64
	Name    string
	Parent  int64        // 0: none
	Fork    schema.Stamp // bound on the parent
	Live    bool         // keeps following the parent
	Created time.Time
}

// Origin is where a branch starts.
type Origin struct {
	Branch int64        // 0: empty but for the root directory
	At     schema.Stamp // 0: now
	Live   bool         // keep following Branch
}

// CreateBranch makes a branch. Its cost does not depend on the size of the tree.
func (t *Tree) CreateBranch(tx *schema.Tx, bucket int64, name string, from Origin) (Branch, error) {
	return Branch{}, syscall.EIO
}

// Branch returns the branch of that name, ENOENT without one.
func (t *Tree) Branch(tx *schema.Tx, bucket int64, name string) (Branch, error) {
	return Branch{}, syscall.EIO
}

// BranchByID returns a branch, deleted ones included.
func (t *Tree) BranchByID(tx *schema.Tx, id int64) (Branch, error) { return Branch{}, syscall.EIO }

// Branches returns the branches of a bucket by name.
func (t *Tree) Branches(tx *schema.Tx, bucket int64) ([]Branch, error) { return nil, syscall.EIO }

// RenameBranch gives a branch another name.
func (t *Tree) RenameBranch(tx *schema.Tx, id int64, name string) error { return syscall.EIO }

// RemoveBranch marks a branch deleted. Branches made from it keep seeing what
// they saw; pruning removes what nobody sees.
func (t *Tree) RemoveBranch(tx *schema.Tx, id int64) error { return syscall.EIO }
