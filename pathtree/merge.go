package pathtree

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// ErrConflict is returned by Merge when changes of both sides exclude each
// other and nobody said how to decide.
var ErrConflict = errors.New("both sides changed the same things: decide with ours, theirs or both")

// errNotHere says that something to merge is not all here. It is an EAGAIN.
var errNotHere = fmt.Errorf("part of it has not come from another node yet, merge again when it has: %w", syscall.EAGAIN)

// Strategy decides conflicts.
type Strategy uint8

const (
	Ask    Strategy = iota // apply nothing and return ErrConflict
	Ours                   // the destination stays as it is there
	Theirs                 // the source wins
	Both                   // the source's version is put beside the destination's, as NAME.BRANCH
)

// MergeOptions says how to merge. The zero value asks.
type MergeOptions struct {
	Strategy Strategy
	DryRun   bool       // only say what would be done, conflicting changes aside; tx need not be able to write
	Message  string     // kept with the merge and shown by Log
	Text     *TextMerge // merge text line by line where both sides edited a file; nil: that is a conflict
}

// TextMerge is how Merge reads and stores content.
type TextMerge struct {
	Read    func(tx *schema.Tx, h blobstore.Hash, size int64) ([]byte, error)
	Store   func(tx *schema.Tx, p []byte) (blobstore.Hash, error) // not called in a dry run
	MaxSize int64                                                 // bytes; larger files are not read. 0: 1 MiB
}

// MergeResult says what a merge did, or in a dry run would do.
type MergeResult struct {
	ID        int64      // of the recorded merge; 0 when nothing was recorded
	Applied   []Change   // to the destination, sorted by path
	Conflicts []Conflict // sorted by path; decided by the strategy unless it is Ask
	Texts     []string   // paths whose text was merged line by line
}

// Merge brings what changed in src since it and dst last had the same state
// into dst. Both sides of every name, content, attribute group and extended
// attribute are compared with that state, so that only what both changed, and
// changed differently, is a conflict. A merge remembers itself: the next one,
// in either direction, starts from it. It is one transaction; on any error
// nothing is changed.
func (t *Tree) Merge(tx *schema.Tx, src, dst *View, o MergeOptions) (MergeResult, error) {
	t.moved.Add(1)
	r, err := t.merge(tx, src, dst, o)
	return r, fail("merge", src.branch.Name+" into "+dst.branch.Name, err)
}

func (t *Tree) merge(tx *schema.Tx, src, dst *View, o MergeOptions) (r MergeResult, err error) {
	if src.bucket.ID != dst.bucket.ID {
		return r, syscall.EXDEV
	}
	if dst.at != 0 {
		return r, syscall.EROFS
	}
	bases, c, err := mergeBase(tx, src, dst)
	if err != nil {
		return r, err
	}
	if len(c.edges)+len(c.inodes) == 0 {
		return r, nil
	}
	p := t.newPlan(tx, bases, dst, src, o)
	if err := p.touched(c); err != nil {
		return r, err
	}
	d, err := p.fit()
	if err != nil {
		return r, err
	}
	if r, err = p.result(d); err != nil {
		return r, err
	}
	switch {
	case o.DryRun:
		return r, nil
	case o.Strategy == Ask && len(r.Conflicts) > 0:
		r.Applied, r.Texts = nil, nil
		return r, ErrConflict
	}
	r.ID, err = p.apply(d, src, dst)
	return r, err
}
