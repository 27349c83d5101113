package pathtree

import (
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// Policy is how a bucket is run. The zero value is the default.
type Policy struct {
	Retention       time.Duration `json:"retention,omitempty"`        // ns superseded versions are kept; 0: 7 days, negative: for ever
	ExclusiveWrites bool          `json:"exclusive_writes,omitempty"` // a second writer of one file is refused
}

// Bucket is the unit of isolation and of sharing.
type Bucket struct {
	ID      int64
	UUID    [16]byte // the same on every node
	Name    string
	Root    Ino
	Policy  Policy
	Created time.Time
}

// CreateBucket makes a bucket with a branch main and an empty root directory
// of mode 0755 owned by the process.
func (t *Tree) CreateBucket(tx *schema.Tx, name string) (Bucket, error) {
	return Bucket{}, syscall.EIO
}

// Bucket returns the bucket of that name, ENOENT without one.
func (t *Tree) Bucket(tx *schema.Tx, name string) (Bucket, error) { return Bucket{}, syscall.EIO }

// Buckets returns all buckets by name.
func (t *Tree) Buckets(tx *schema.Tx) ([]Bucket, error) { return nil, syscall.EIO }

// RemoveBucket removes the bucket with its branches and all their versions.
func (t *Tree) RemoveBucket(tx *schema.Tx, name string) error { return syscall.EIO }

// SetPolicy replaces the policy of a bucket.
func (t *Tree) SetPolicy(tx *schema.Tx, id int64, p Policy) error { return syscall.EIO }
