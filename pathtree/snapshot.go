package pathtree

import (
	"syscall"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/notify"
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

const selectSnapshot = `SELECT id, bucket, branch, name, stamp, message, created FROM snapshot `

func scanSnapshot(s *sqlite.Stmt) Snapshot {
	return Snapshot{
		ID: s.ColumnInt64(0), Bucket: s.ColumnInt64(1), Branch: s.ColumnInt64(2), Name: s.ColumnText(3),
		Stamp: schema.Stamp(s.ColumnInt64(4)), Message: s.ColumnText(5), Created: time.Unix(0, s.ColumnInt64(6)),
	}
}

// CreateSnapshot names the present state of a branch. EEXIST when the bucket
// has a snapshot of that name.
func (t *Tree) CreateSnapshot(tx *schema.Tx, branch int64, name, message string) (Snapshot, error) {
	n, err := t.createSnapshot(tx, branch, name, message)
	return n, fail("create snapshot", name, err)
}

func (t *Tree) createSnapshot(tx *schema.Tx, branch int64, name, message string) (Snapshot, error) {
	if err := checkLabel(name); err != nil {
		return Snapshot{}, err
	}
	b, err := t.existing(tx, branch)
	if err == nil {
		err = t.here(tx, b)
	}
	if err != nil {
		return Snapshot{}, err
	}
	if _, err := t.Snapshot(tx, b.Bucket, name); Errno(err) != syscall.ENOENT {
		return Snapshot{}, orExists(err)
	}
	n := Snapshot{
		ID: tx.NextIno(), Bucket: b.Bucket, Branch: branch, Name: name,
		Stamp: tx.NextStamp(), Message: message, Created: time.Now(),
	}
	if err := t.seal(tx, branch, n.Stamp); err != nil {
		return Snapshot{}, err
	}
	s := tx.Stmt(`INSERT INTO snapshot (id, bucket, branch, name, stamp, message, created) VALUES (?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, n.ID)
	s.BindInt64(2, n.Bucket)
	s.BindInt64(3, n.Branch)
	s.BindText(4, name)
	s.BindInt64(5, int64(n.Stamp))
	s.BindText(6, message)
	s.BindInt64(7, n.Created.UnixNano())
	if err := run(s); err != nil {
		return Snapshot{}, err
	}
	return n, snapshotEvent(tx, n, n.Stamp)
}

func snapshotEvent(tx *schema.Tx, n Snapshot, stamp schema.Stamp) error {
	return notify.Append(tx, &notify.Event{
		Stamp: stamp, Node: schema.LocalNode, Bucket: n.Bucket, Branch: n.Branch,
		Op: notify.OpSnapshot, Name: []byte(n.Name), Ref: n.ID,
	})
}

// Snapshot returns the snapshot of that name, ENOENT without one.
func (t *Tree) Snapshot(tx *schema.Tx, bucket int64, name string) (Snapshot, error) {
	s := tx.Stmt(selectSnapshot + `WHERE bucket = ? AND name = ?`)
	s.BindInt64(1, bucket)
	s.BindText(2, name)
	n, err := oneSnapshot(s)
	return n, fail("snapshot", name, err)
}

func oneSnapshot(s *sqlite.Stmt) (Snapshot, error) {
	ok, err := s.Step()
	if err != nil {
		return Snapshot{}, err
	}
	if !ok {
		return Snapshot{}, syscall.ENOENT
	}
	return scanSnapshot(s), nil
}

// Snapshots returns the snapshots of a bucket by name.
func (t *Tree) Snapshots(tx *schema.Tx, bucket int64) ([]Snapshot, error) {
	s := tx.Stmt(selectSnapshot + `WHERE bucket = ? ORDER BY name`)
	s.BindInt64(1, bucket)
	var all []Snapshot
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, scanSnapshot(s))
	}
}

// RemoveSnapshot forgets a snapshot; pruning removes what nobody else sees.
func (t *Tree) RemoveSnapshot(tx *schema.Tx, id int64) error {
	s := tx.Stmt(selectSnapshot + `WHERE id = ?`)
	s.BindInt64(1, id)
	n, err := oneSnapshot(s)
	if err != nil {
		return fail("remove snapshot", n.Name, err)
	}
	s = tx.Stmt(`DELETE FROM snapshot WHERE id = ?`)
	s.BindInt64(1, id)
	if err := run(s); err != nil {
		return fail("remove snapshot", n.Name, err)
	}
	return snapshotEvent(tx, n, tx.NextStamp())
}
