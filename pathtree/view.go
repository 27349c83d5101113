package pathtree

import (
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// View is a branch at a bound: what a reader sees. Safe for concurrent use.
type View struct {
	tree   *Tree
	bucket Bucket
	branch Branch
	at     schema.Stamp
	origin int64
}

// View opens a branch: at 0 its head, writable; otherwise as of at, read-only.
func (t *Tree) View(tx *schema.Tx, branch int64, at schema.Stamp) (*View, error) {
	return nil, syscall.EIO
}

// WithOrigin returns the view with the events of its changes marked as made by
// the surface id.
func (v *View) WithOrigin(id int64) *View {
	w := *v
	w.origin = id
	return &w
}

// Tree returns the tree v is a view of.
func (v *View) Tree() *Tree { return v.tree }

// Origin returns the surface v belongs to, 0 if none.
func (v *View) Origin() int64 { return v.origin }

// Branch returns the branch as it was when the view was opened.
func (v *View) Branch() Branch { return v.branch }

// Bucket returns the bucket as it was when the view was opened.
func (v *View) Bucket() Bucket { return v.bucket }

// Root returns the root directory.
func (v *View) Root() Ino { return v.bucket.Root }

// At returns the bound, 0 at the head.
func (v *View) At() schema.Stamp { return v.at }

// ReadOnly reports whether changes are refused with EROFS.
func (v *View) ReadOnly() bool { return v.at != 0 }
