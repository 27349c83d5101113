package crdtsync

import (
	"errors"
	"fmt"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// errRecount says that the tree could not be made what it is by new grants.
var errRecount = errors.New("changes could not be taken in, or back")

// recount makes the tree what it is by the changes that count now. What did not
// count by before, and so was kept as links of chains alone, is imported: a change
// can be here before the grant of its author, who may also have been made a writer
// again. What does not count any more is taken back: a node can have more of a
// revoked one's changes than the one that revoked it. So it does not matter which
// came first, a change or the grant that decides about it. Records of the bucket
// (branches, snapshots, merges, policies) stay as they are.
func (r *Replica) recount(tx *schema.Tx, sh shared, before *identity.Membership) error {
	if err := r.judgeAgain(tx, sh, before); err != nil {
		return err
	}
	return r.showAll(tx, sh)
}

func (r *Replica) judgeAgain(tx *schema.Tx, sh shared, before *identity.Membership) error {
	now, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	all, err := judged(tx, sh, before, now)
	if err != nil || len(all) == 0 {
		return err
	}
	if err := r.take(tx, sh); err != nil {
		return err
	}
	var b pathtree.Batch
	var out []pathtree.Version
	for _, a := range all {
		if !a.OfBucket() {
			if b, ok, err := findBranch(tx, sh.bucket.ID, a.Branch); err != nil {
				return err
			} else if ok && b.keep == notKept {
				continue // takeUp looks at what counts
			}
		}
		if a.counts(now) {
			b.Versions = append(b.Versions, a.batch.Versions...)
			b.Records = append(b.Records, a.batch.Records...)
		} else {
			out = append(out, a.batch.Versions...)
			r.log.Warn("a change no longer counts", "author", a.Author.String(), "number", a.Seq)
		}
	}
	if len(out) > 0 {
		if err := r.tree.RetractVersions(tx, sh.bucket.ID, out); err != nil {
			return fmt.Errorf("%w: %w", errRecount, err)
		}
	}
	if b.Empty() {
		return nil
	}
	if _, err := r.tree.ImportAgain(tx, sh.bucket.ID, b); err != nil {
		return fmt.Errorf("%w: %w", errRecount, err)
	}
	return nil
}

// judged returns the changes that are judged otherwise now than before, in the
// order in which they came.
func judged(tx *schema.Tx, sh shared, before, now *identity.Membership) (all []*arrival, err error) {
	marks, err := readMarks(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	changed := map[identity.Key]bool{}
	for _, m := range marks {
		if !before.Alike(now, m.Author) {
			changed[m.Author] = true
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	s := tx.Stmt(`SELECT node.key, envelope FROM sync_change JOIN node ON node.id = author WHERE +bucket = ? ORDER BY arrived`)
	s.BindInt64(1, sh.bucket.ID)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var k identity.Key
		if s.ColumnBytes(0, k[:]); !changed[k] {
			continue
		}
		a, err := open(schema.Bytes(s, 1), sh.bucket.UUID)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errRecount, err)
		}
		if a.counts(before) != a.counts(now) {
			all = append(all, a)
		}
	}
	return all, nil
}
