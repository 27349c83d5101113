package pathtree

import (
	"errors"
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// View is a branch at a bound: what a reader sees. It is immutable and safe for
// concurrent use.
type View struct {
	tree   *Tree
	bucket Bucket
	branch Branch
	at     schema.Stamp // 0: the head
	chain  chain
	live   bool // some element of chain is not bounded by a fork
	origin int64
}

// View opens a branch: at 0 its head, writable; otherwise as of at, read-only.
// What a view of the last second shows may still change (a change within a
// second of the last overwrites it) unless a fork or a snapshot was made there.
func (t *Tree) View(tx *schema.Tx, branch int64, at schema.Stamp) (*View, error) {
	b, err := t.BranchByID(tx, branch)
	if err != nil {
		return nil, err
	}
	bucket, err := t.bucketByID(tx, b.Bucket)
	if err != nil {
		return nil, err
	}
	if err := t.here(tx, b); err != nil {
		return nil, fail("view", b.Name, err)
	}
	bound := at
	if at == 0 {
		bound = schema.MaxStamp
	}
	ch, err := loadChain(tx, branch, bound)
	if err != nil {
		return nil, fail("view", b.Name, err)
	}
	v := &View{tree: t, bucket: bucket, branch: b, at: at, chain: ch, live: ch.hasLive()}
	if _, err := v.dir(tx, v.Root()); errors.Is(err, syscall.ENOENT) {
		return nil, fail("view", b.Name, syscall.ENOENT) // as of a time before the bucket was made
	} else if err != nil {
		return nil, fail("view", b.Name, err)
	}
	return v, nil
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
