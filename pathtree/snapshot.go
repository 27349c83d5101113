package pathtree

import (
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// Snapshot is a name for a branch at a stamp.
type Snapshot struct {
	ID, Bucket, Branch int64
	Name               string
	Stamp              schema.Stamp
	Message            string
	Created            time.Time
}

// CreateSnapshot names the present state of a branch.
func (t *Tree) CreateSnapshot(tx *schema.Tx, branch int64, name, message string) (Snapshot, error) {
	return Snapshot{}, syscall.EIO
}

// Snapshot returns the snapshot of that name, ENOENT without one.
func (t *Tree) Snapshot(tx *schema.Tx, bucket int64, name string) (Snapshot, error) {
	return Snapshot{}, syscall.EIO
}

// Snapshots returns the snapshots of a bucket by name.
func (t *Tree) Snapshots(tx *schema.Tx, bucket int64) ([]Snapshot, error) { return nil, syscall.EIO }

// RemoveSnapshot forgets a snapshot.
func (t *Tree) RemoveSnapshot(tx *schema.Tx, id int64) error { return syscall.EIO }
