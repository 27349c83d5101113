package pathtree

import (
	"errors"
	"fmt"
	"slices"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// uncounted is Branch.Deleted of a branch of which no record counts. It is to all as
// one that was removed: what others wrote to it is kept, and shows in branches that
// were forked from it. It is before every stamp.
const uncounted schema.Stamp = 1

// NoteBranches makes known the branches that records are about which do not count: the
// versions of others on them can then be imported, and branches that descend from them.
// They are as removed until a record comes that does. Of other records it takes nothing.
func (t *Tree) NoteBranches(tx *schema.Tx, bucket int64, rs []BucketRecord) error {
	t.moved.Add(1)
	return fail("note", "", t.noteBranches(tx, bucket, rs))
}

func (t *Tree) noteBranches(tx *schema.Tx, bucket int64, rs []BucketRecord) error {
	m, err := t.newImport(tx, bucket)
	if err != nil {
		return err
	}
	rs = slices.DeleteFunc(slices.Clone(rs), func(r BucketRecord) bool { return r.Kind != BranchRecord || r.Check() != nil })
	return m.eachRecord(rs, func(r *BucketRecord) error {
		if _, err := m.branch(r.UUID); !errors.Is(err, ErrUnknownBranch) {
			return err
		}
		return m.addBranch(r, false)
	})
}

// VoidBranches returns the branches of which no record counts, as NoteBranches takes
// them.
func (t *Tree) VoidBranches(tx *schema.Tx, bucket int64) (all []BucketRecord, err error) {
	s := tx.Stmt(`SELECT b.uuid, b.name, coalesce(b.fork, 0), b.live, b.created, p.uuid FROM branch b LEFT JOIN branch p ON p.id = b.parent
		WHERE b.bucket = ? AND b.deleted = ? ORDER BY b.id`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, int64(uncounted))
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, fail("list", "", err)
		}
		r := BucketRecord{
			Kind: BranchRecord, ID: VersionID{Stamp: uncounted}, Name: s.ColumnText(1),
			Fork: schema.Stamp(s.ColumnInt64(2)), Live: s.ColumnBool(3), Created: s.ColumnInt64(4),
		}
		s.ColumnBytes(0, r.UUID[:])
		s.ColumnBytes(5, r.Parent[:])
		all = append(all, r)
	}
	return all, nil
}

// RetractRecords takes back records that ImportBucket brought. Others are those that
// count of the same things, at least: of these the newest then counts. Without one
//
//   - a branch is as one that was removed, and its name is free;
//   - a branch or snapshot that was deleted is there again, with what pruning has left
//     of it;
//   - a snapshot, or what is known of a merge, is gone;
//   - the bucket has no policy.
//
// Those that are not here are passed over. As before an import, export first, in the
// same transaction.
func (t *Tree) RetractRecords(tx *schema.Tx, bucket int64, gone, others []BucketRecord) error {
	t.moved.Add(1)
	return fail("retract", "", t.retractRecords(tx, bucket, gone, others))
}

func (t *Tree) retractRecords(tx *schema.Tx, bucket int64, gone, others []BucketRecord) error {
	m, err := t.newImport(tx, bucket)
	if err != nil {
		return err
	}
	for k := range gone {
		r, here, err := m.record(gone[k].Kind, gone[k].key())
		if err != nil {
			return err
		}
		if !here || r.ID != gone[k].ID {
			continue // another was newer
		}
		if err := m.withdrawRecord(&r); err != nil {
			return fmt.Errorf("%v %v: %w", r.Kind, r.ID, err)
		}
	}
	clear(m.byUUID)
	if err := m.takeRecords(others); err != nil {
		return err
	}
	clear(m.byUUID)
	if err := m.applyNames(); err != nil {
		return err
	}
	return m.finishRecords()
}

// withdrawRecord undoes a record that was the newest about its thing.
func (m *importer) withdrawRecord(r *BucketRecord) error {
	s := m.tx.Stmt("DELETE FROM record WHERE bucket = ? AND kind = ? AND key = ?")
	s.BindInt64(1, m.bucket.ID)
	s.BindInt64(2, int64(r.Kind))
	s.BindBytes(3, r.key())
	if err := run(s); err != nil {
		return err
	}
	switch r.Kind {
	case BranchRecord:
		b, err := m.branch(r.UUID)
		if err != nil {
			return err
		}
		if err := m.setDeleted(b, r.Name, uncounted); err != nil {
			return err
		}
		return m.recordEvent(r, notify.OpBranch, b.ID, b.Name, b.ID)
	case BranchGoneRecord:
		b, err := m.branch(r.UUID)
		if errors.Is(err, ErrUnknownBranch) || err == nil && b.Deleted == uncounted {
			return nil
		}
		if err == nil {
			err = m.showBranch(b)
		}
		if err != nil {
			return err
		}
		return m.recordEvent(r, notify.OpBranch, b.ID, b.Name, b.ID)
	case SnapshotRecord:
		return m.applySnapshotGone(r)
	case SnapshotGoneRecord:
		o, known, err := m.record(SnapshotRecord, r.key())
		if err != nil || !known {
			return err
		}
		return m.applySnapshot(&o)
	case MergeRecord:
		return m.forgetMerge(r)
	}
	return m.applyPolicy(&BucketRecord{Kind: PolicyRecord, ID: r.ID})
}

// countBranch shows a branch of which a record has come to count.
func (m *importer) countBranch(b Branch, r *BucketRecord) error {
	var parent [16]byte
	if b.Parent != 0 {
		var err error
		if parent, err = m.uuid(b.Parent); err != nil {
			return err
		}
	}
	if parent != r.Parent || b.Fork != r.Fork || b.Live != r.Live {
		return &VersionError{ID: r.ID, What: r.Kind.String(), Err: ErrForged}
	}
	return m.showBranch(b)
}

// showBranch has a branch be there again unless its record says that it was deleted.
func (m *importer) showBranch(b Branch) error {
	at, err := m.deleted(b.UUID)
	if err != nil {
		return err
	}
	m.forks = append(m.forks, b.ID)
	return m.setDeleted(b, interim(b.ID), at)
}

func (m *importer) setDeleted(b Branch, name string, at schema.Stamp) error {
	s := m.tx.Stmt("UPDATE branch SET name = ?, deleted = ? WHERE id = ?")
	s.BindText(1, name)
	bindNonZero(s, 2, int64(at))
	s.BindInt64(3, b.ID)
	delete(m.byUUID, b.UUID)
	m.revived = true
	return run(s)
}

func (m *importer) forgetMerge(r *BucketRecord) error {
	src, dst, err := m.merged(r)
	if err != nil {
		return err
	}
	s := m.tx.Stmt("DELETE FROM merge WHERE src = ? AND src_stamp = ? AND dst = ? AND dst_stamp = ?")
	s.BindInt64(1, src.ID)
	s.BindInt64(2, int64(r.Fork))
	s.BindInt64(3, dst.ID)
	s.BindInt64(4, int64(r.At))
	return run(s)
}

// finishRecords makes agree with the versions and records what follows from them.
func (m *importer) finishRecords() error {
	if err := m.settle(); err != nil || !m.policy && !m.revived {
		return err
	}
	if err := m.t.setQuota(m.tx, m.bucket.ID, m.bucket.Policy); err != nil || !m.revived || !m.bucket.Policy.limited() {
		return err
	}
	return recount(m.tx, m.bucket.ID)
}
