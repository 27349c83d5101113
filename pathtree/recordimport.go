package pathtree

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// AdoptBucket makes the local side of a bucket of other nodes, empty and named
// name: its branches come with an import. EEXIST when there is one of that name
// or identity.
func (t *Tree) AdoptBucket(tx *schema.Tx, uuid [16]byte, name string) (Bucket, error) {
	b, err := t.adoptBucket(tx, uuid, name)
	return b, fail("adopt bucket", name, err)
}

func (t *Tree) adoptBucket(tx *schema.Tx, uuid [16]byte, name string) (Bucket, error) {
	if err := checkLabel(name); err != nil {
		return Bucket{}, err
	}
	if _, err := t.Bucket(tx, name); Errno(err) != syscall.ENOENT {
		return Bucket{}, orExists(err)
	}
	if _, err := t.BucketByUUID(tx, uuid); Errno(err) != syscall.ENOENT {
		return Bucket{}, orExists(err)
	}
	b := Bucket{ID: tx.NextIno(), UUID: uuid, Name: name, Root: dirIno(uuid, 0, "", 0), Created: time.Now()}
	if err := insertBucket(tx, b); err != nil {
		return Bucket{}, err
	}
	s := tx.Stmt("UPDATE bucket SET shared = 1 WHERE id = ?")
	s.BindInt64(1, b.ID)
	if err := run(s); err != nil {
		return Bucket{}, err
	}
	return b, notify.Append(tx, &notify.Event{
		Stamp: tx.NextStamp(), Node: schema.LocalNode, Bucket: b.ID,
		Op: notify.OpBucket, Ino: uint64(b.Root), Name: []byte(name), Ref: b.ID,
	})
}

// applyRecords takes over what is news about the bucket. Branches and snapshots
// that this node made and nobody was told of get their records first, so that
// the names of all are known.
func (m *importer) applyRecords(rs []BucketRecord) error {
	if _, err := m.newRecords(); err != nil {
		return err
	}
	return m.takeRecords(rs)
}

func (m *importer) takeRecords(rs []BucketRecord) error {
	rs = slices.Clone(rs)
	slices.SortFunc(rs, func(a, b BucketRecord) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.ID.Compare(b.ID))
	})
	renamed := false
	err := m.eachRecord(rs, func(r *BucketRecord) error {
		news, err := m.applyRecord(r)
		if err != nil {
			return err
		}
		if !news {
			m.result.Known++
			return nil
		}
		m.result.New++
		renamed = true
		m.tx.ObserveStamp(max(r.ID.Stamp, r.Fork, r.At))
		return nil
	})
	if err != nil || !renamed {
		return err
	}
	clear(m.byUUID)
	return m.applyNames()
}

// eachRecord calls do with records, in their order but that those come later that are
// about a branch which another of them makes known.
func (m *importer) eachRecord(rs []BucketRecord, do func(r *BucketRecord) error) error {
	for len(rs) > 0 {
		var waiting []BucketRecord
		var missing error
		for k := range rs {
			err := do(&rs[k])
			if errors.Is(err, ErrUnknownBranch) {
				waiting, missing = append(waiting, rs[k]), cmp.Or(missing, err)
				continue
			}
			if err != nil {
				return err
			}
		}
		if len(waiting) == len(rs) {
			return missing
		}
		rs = waiting
	}
	return nil
}

// applyRecord reports whether r is news. The branches it is about must be known.
func (m *importer) applyRecord(r *BucketRecord) (news bool, err error) {
	old, known, err := m.record(r.Kind, r.key())
	if err != nil {
		return false, err
	}
	forged := &VersionError{ID: r.ID, What: r.Kind.String(), Err: ErrForged}
	if known {
		if r.Kind == BranchRecord && (old.Parent != r.Parent || old.Fork != r.Fork || old.Live != r.Live) ||
			r.Kind == SnapshotRecord && (old.Parent != r.Parent || old.At != r.At) {
			return false, forged
		}
		switch c := old.ID.Compare(r.ID); {
		case c == 0 && !sameRecord(&old, r):
			return false, forged
		case c >= 0:
			return false, nil
		}
	}
	apply := map[RecordKind]func(*BucketRecord) error{
		BranchRecord: m.applyBranch, BranchGoneRecord: m.applyBranchGone, SnapshotRecord: m.applySnapshot,
		SnapshotGoneRecord: m.applySnapshotGone, MergeRecord: m.applyMerge, PolicyRecord: m.applyPolicy,
	}
	if err := apply[r.Kind](r); err != nil {
		return false, err
	}
	return true, m.putRecord(r)
}

func sameRecord(a, b *BucketRecord) bool {
	p, errA := json.Marshal(a)
	q, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(p) == string(q)
}

// event records an event about the bucket.
func (m *importer) recordEvent(r *BucketRecord, op notify.Op, branch int64, name string, ref int64) error {
	node, err := m.exchange.node(r.ID.Node)
	if err != nil {
		return err
	}
	return notify.Append(m.tx, &notify.Event{
		Stamp: r.ID.Stamp, Node: node, Bucket: m.bucket.ID, Branch: branch, Op: op, Name: []byte(name), Ref: ref,
	})
}

// interim is a name that nothing else has.
func interim(id int64) string { return fmt.Sprintf("\x00%d", id) }

func (m *importer) applyBranch(r *BucketRecord) error {
	b, err := m.branch(r.UUID)
	switch {
	case errors.Is(err, ErrUnknownBranch):
		return m.addBranch(r, true)
	case err == nil && b.Deleted == uncounted:
		err = m.countBranch(b, r)
	}
	if err != nil {
		return err
	}
	return m.recordEvent(r, notify.OpBranch, b.ID, b.Name, b.ID)
}

// addBranch makes the branch of a record, which counts or does not.
func (m *importer) addBranch(r *BucketRecord, counts bool) error {
	var parent int64
	if r.Parent != ([16]byte{}) {
		b, err := m.branch(r.Parent)
		if err != nil {
			return err
		}
		parent = b.ID
		if !r.Live {
			if err := m.t.seal(m.tx, parent, r.Fork); err != nil {
				return err
			}
		}
	}
	id := m.tx.NextIno()
	name, deleted := r.Name, uncounted
	if counts {
		var err error
		if deleted, err = m.deleted(r.UUID); err != nil {
			return err
		}
		name = interim(id)
	}
	s := m.tx.Stmt(`INSERT INTO branch (id, uuid, bucket, name, parent, fork, live, created, deleted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, id)
	s.BindBytes(2, r.UUID[:])
	s.BindInt64(3, m.bucket.ID)
	s.BindText(4, name)
	bindNonZero(s, 5, parent)
	bindNonZero(s, 6, int64(r.Fork))
	s.BindBool(7, r.Live)
	s.BindInt64(8, r.Created)
	bindNonZero(s, 9, int64(deleted))
	if err := run(s); err != nil || !counts {
		return err
	}
	m.forks = append(m.forks, id)
	return m.recordEvent(r, notify.OpBranch, id, r.Name, id)
}

// deleted returns when a branch was deleted, by its record; 0 without one.
func (m *importer) deleted(branch [16]byte) (schema.Stamp, error) {
	g, _, err := m.record(BranchGoneRecord, branch[:])
	return g.At, err
}

func (m *importer) applyBranchGone(r *BucketRecord) error {
	b, err := m.branch(r.UUID)
	if errors.Is(err, ErrUnknownBranch) || err == nil && b.Deleted == uncounted {
		return nil // it comes, or comes to count, and is gone at once
	}
	if err == nil {
		err = forgetBranch(m.tx, b)
	}
	if err != nil {
		return err
	}
	s := m.tx.Stmt("UPDATE branch SET deleted = ? WHERE id = ?")
	s.BindInt64(1, int64(r.At))
	s.BindInt64(2, b.ID)
	if err := run(s); err != nil {
		return err
	}
	return m.recordEvent(r, notify.OpBranch, b.ID, b.Name, b.ID)
}

func (m *importer) applySnapshot(r *BucketRecord) error {
	b, err := m.branch(r.Parent)
	if err != nil {
		return err
	}
	if _, gone, err := m.record(SnapshotGoneRecord, r.UUID[:]); err != nil || gone {
		return err
	}
	if err := m.t.seal(m.tx, b.ID, r.At); err != nil {
		return err
	}
	id := m.tx.NextIno()
	s := m.tx.Stmt(`INSERT INTO snapshot (id, bucket, branch, name, stamp, message, created, uuid) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, id)
	s.BindInt64(2, m.bucket.ID)
	s.BindInt64(3, b.ID)
	s.BindText(4, interim(id))
	s.BindInt64(5, int64(r.At))
	s.BindText(6, r.Message)
	s.BindInt64(7, r.Created)
	s.BindBytes(8, r.UUID[:])
	if err := run(s); err != nil {
		return err
	}
	return m.recordEvent(r, notify.OpSnapshot, b.ID, r.Name, id)
}

func (m *importer) applySnapshotGone(r *BucketRecord) error {
	s := m.tx.Stmt("DELETE FROM snapshot WHERE uuid = ? RETURNING id, branch, name")
	s.BindBytes(1, r.UUID[:])
	ok, err := s.Step()
	if !ok || err != nil {
		return err
	}
	id, branch, name := s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnText(2)
	return m.recordEvent(r, notify.OpSnapshot, branch, name, id)
}

// merged returns the branches of a merge.
func (m *importer) merged(r *BucketRecord) (src, dst Branch, err error) {
	if dst, err = m.branch(r.UUID); err == nil {
		src, err = m.branch(r.Parent)
	}
	return src, dst, err
}

func (m *importer) applyMerge(r *BucketRecord) error {
	src, dst, err := m.merged(r)
	if err != nil {
		return err
	}
	id, err := recordMerge(m.tx, Merged{Src: src.ID, SrcStamp: r.Fork, Dst: dst.ID, DstStamp: r.At, Message: r.Message})
	if err != nil {
		return err
	}
	if err := m.t.seal(m.tx, src.ID, r.Fork); err != nil {
		return err
	}
	if err := m.t.seal(m.tx, dst.ID, r.At); err != nil {
		return err
	}
	return m.recordEvent(r, notify.OpMerge, dst.ID, r.Message, id)
}

func (m *importer) applyPolicy(r *BucketRecord) error {
	js, err := json.Marshal(r.Policy)
	if err != nil {
		return err
	}
	s := m.tx.Stmt("UPDATE bucket SET policy = ? WHERE id = ?")
	s.BindText(1, string(js))
	s.BindInt64(2, m.bucket.ID)
	if err := run(s); err != nil {
		return err
	}
	m.bucket.Policy, m.policy = r.Policy, true
	return m.recordEvent(r, notify.OpBucket, 0, m.bucket.Name, m.bucket.ID)
}

// applyNames shows branches and snapshots by the names that their records give.
func (m *importer) applyNames() error {
	rs, err := m.records()
	if err != nil {
		return err
	}
	for _, t := range []struct {
		table      string
		kind, gone RecordKind
	}{{"branch", BranchRecord, BranchGoneRecord}, {"snapshot", SnapshotRecord, SnapshotGoneRecord}} {
		if err := m.rename(t.table, displayNames(rs, t.kind, t.gone)); err != nil {
			return err
		}
	}
	return nil
}

func (m *importer) rename(table string, names map[[16]byte]string) error {
	s := m.tx.Stmt("SELECT id, uuid, name FROM " + table + " WHERE bucket = ? AND uuid IS NOT NULL ORDER BY id")
	s.BindInt64(1, m.bucket.ID)
	type change struct {
		id       int64
		old, new string
	}
	var changes []change
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		var u [16]byte
		s.ColumnBytes(1, u[:])
		c := change{s.ColumnInt64(0), s.ColumnText(2), names[u]}
		if c.new != "" && c.new != c.old {
			changes = append(changes, c)
		}
	}
	set := func(id int64, name string) error {
		s := m.tx.Stmt("UPDATE " + table + " SET name = ? WHERE id = ?")
		s.BindText(1, name)
		s.BindInt64(2, id)
		return run(s)
	}
	for _, c := range changes {
		if err := set(c.id, interim(c.id)); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := set(c.id, c.new); err != nil {
			return err
		}
		if c.old == interim(c.id) {
			continue
		}
		op, branch := notify.OpBranch, c.id
		if table == "snapshot" {
			op, branch = notify.OpSnapshot, 0
		}
		err := notify.Append(m.tx, &notify.Event{
			Stamp: m.tx.NextStamp(), Node: m.node, Bucket: m.bucket.ID, Branch: branch, Op: op, Name: []byte(c.new), Ref: c.id,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
