package crdtsync

import (
	"errors"
	"fmt"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// errRecount says that what counts by new grants could not be imported.
var errRecount = errors.New("changes that count now could not be taken in")

// recount imports the changes that did not count by before, and so were kept as
// links of their chains alone, but do by the grants that there are now: a change
// can be here before the grant of its author, who may also have been made a
// writer again.
func (r *Replica) recount(tx *schema.Tx, sh shared, before *identity.Membership) error {
	now, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	envelopes, err := newlyCounted(tx, sh.bucket.ID, before, now)
	if err != nil || len(envelopes) == 0 {
		return err
	}
	if err := r.take(tx, sh); err != nil {
		return err
	}
	var b pathtree.Batch
	for _, e := range envelopes {
		a, err := open(e, sh.bucket.UUID)
		if err != nil {
			return fmt.Errorf("%w: %w", errRecount, err)
		}
		b.Versions = append(b.Versions, a.batch.Versions...)
		b.Records = append(b.Records, a.batch.Records...)
	}
	if _, err := r.tree.ImportBucket(tx, sh.bucket.ID, b); err != nil {
		return fmt.Errorf("%w: %w", errRecount, err)
	}
	return nil
}

// newlyCounted returns the envelopes that are accepted now and were not before,
// in the order in which they came.
func newlyCounted(tx *schema.Tx, bucket int64, before, now *identity.Membership) (envelopes [][]byte, err error) {
	marks, err := readMarks(tx, bucket)
	if err != nil {
		return nil, err
	}
	any := false
	for _, m := range marks {
		any = any || !before.Accepts(m.Author, m.Stream, m.Seq) && now.Accepts(m.Author, m.Stream, 1)
	}
	if !any {
		return nil, nil
	}
	s := tx.Stmt(`SELECT node.key, stream, seq, envelope FROM sync_change JOIN node ON node.id = author WHERE +bucket = ? ORDER BY arrived`)
	s.BindInt64(1, bucket)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		m := Mark{Seq: uint64(s.ColumnInt64(2))}
		s.ColumnBytes(0, m.Author[:])
		s.ColumnBytes(1, m.Stream[:])
		if before.Accepts(m.Author, m.Stream, m.Seq) || !now.Accepts(m.Author, m.Stream, m.Seq) {
			continue
		}
		e := schema.Bytes(s, 3)
		envelopes = append(envelopes, e)
	}
	return envelopes, nil
}
