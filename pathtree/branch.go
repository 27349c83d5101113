package pathtree

import (
	"fmt"
	"syscall"
	"time"

	"github.com/google/uuid"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Branch is a line of change in a bucket.
type Branch struct {
	ID      int64    // greater than the parent's, never used again
	UUID    [16]byte // the same on every node
	Bucket  int64
	Name    string
	Parent  int64        // 0: none
	Fork    schema.Stamp // bound on the parent; 0 when live
	Live    bool         // keeps following the parent
	Sealed  schema.Stamp // greatest stamp that a fork, snapshot or merge can see
	Created time.Time
	Deleted schema.Stamp // 0: not deleted
	Keep    Keeping      // whether this node has its versions
}

// Origin is where a branch starts.
type Origin struct {
	Branch int64        // 0: nothing, for the first branch of a bucket
	At     schema.Stamp // 0: now
	Live   bool         // keep following Branch; At must be 0
}

const selectBranch = `SELECT id, uuid, bucket, name, coalesce(parent, 0), coalesce(fork, 0), live, sealed,
	created, coalesce(deleted, 0), keep FROM branch `

func scanBranch(s *sqlite.Stmt) (b Branch) {
	b.ID = s.ColumnInt64(0)
	s.ColumnBytes(1, b.UUID[:])
	b.Bucket = s.ColumnInt64(2)
	b.Name = s.ColumnText(3)
	b.Parent = s.ColumnInt64(4)
	b.Fork = schema.Stamp(s.ColumnInt64(5))
	b.Live = s.ColumnInt64(6) != 0
	b.Sealed = schema.Stamp(s.ColumnInt64(7))
	b.Created = time.Unix(0, s.ColumnInt64(8))
	b.Deleted = schema.Stamp(s.ColumnInt64(9))
	b.Keep = Keeping(s.ColumnInt64(10))
	return b
}

// CreateBranch makes a branch. Its cost depends neither on the size of the
// tree nor on the number of branches. EEXIST when there is one of that name.
func (t *Tree) CreateBranch(tx *schema.Tx, bucket int64, name string, from Origin) (Branch, error) {
	b, err := t.createBranch(tx, bucket, name, from)
	return b, fail("create branch", name, err)
}

func (t *Tree) createBranch(tx *schema.Tx, bucket int64, name string, from Origin) (Branch, error) {
	if err := checkLabel(name); err != nil {
		return Branch{}, err
	}
	if _, err := t.Branch(tx, bucket, name); Errno(err) != syscall.ENOENT {
		return Branch{}, orExists(err)
	}
	now := tx.NextStamp()
	b := Branch{
		ID: tx.NextIno(), UUID: uuid.New(), Bucket: bucket, Name: name,
		Parent: from.Branch, Live: from.Live, Created: time.Now(),
	}
	switch {
	case from.Branch == 0:
		if from.At != 0 || from.Live {
			return Branch{}, syscall.EINVAL
		}
	case from.Live:
		if from.At != 0 {
			return Branch{}, syscall.EINVAL
		}
	default:
		b.Fork = now
		if from.At > 0 {
			b.Fork = min(from.At, now)
		}
		if err := t.seal(tx, from.Branch, b.Fork); err != nil {
			return Branch{}, err
		}
	}
	if from.Branch != 0 {
		parent, err := t.BranchByID(tx, from.Branch)
		if err != nil {
			return Branch{}, err
		}
		if parent.Bucket != bucket {
			return Branch{}, syscall.EXDEV
		}
		if err := t.here(tx, parent); err != nil {
			return Branch{}, err
		}
	}
	s := tx.Stmt(`INSERT INTO branch (id, uuid, bucket, name, parent, fork, live, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, b.ID)
	s.BindBytes(2, b.UUID[:])
	s.BindInt64(3, bucket)
	s.BindText(4, name)
	bindNonZero(s, 5, b.Parent)
	bindNonZero(s, 6, int64(b.Fork))
	s.BindBool(7, b.Live)
	s.BindInt64(8, b.Created.UnixNano())
	if err := run(s); err != nil {
		return Branch{}, err
	}
	return b, branchEvent(tx, b, now)
}

func bindNonZero(s *sqlite.Stmt, param int, v int64) {
	if v == 0 {
		s.BindNull(param)
		return
	}
	s.BindInt64(param, v)
}

func branchEvent(tx *schema.Tx, b Branch, stamp schema.Stamp) error {
	return notify.Append(tx, &notify.Event{
		Stamp: stamp, Node: schema.LocalNode, Bucket: b.Bucket, Branch: b.ID,
		Op: notify.OpBranch, Name: []byte(b.Name), Ref: b.ID,
	})
}

// seal records that somebody sees branch as of at, so that no version up to
// there is overwritten in place any more. A branch that follows its parent
// shows that one's versions too.
func (t *Tree) seal(tx *schema.Tx, branch int64, at schema.Stamp) error {
	for branch != 0 {
		s := tx.Stmt(`UPDATE branch SET sealed = max(sealed, ?) WHERE id = ?
			RETURNING CASE WHEN live THEN parent ELSE 0 END`)
		s.BindInt64(1, int64(at))
		s.BindInt64(2, branch)
		ok, err := s.Step()
		if err != nil {
			return err
		}
		if !ok {
			return syscall.ENOENT
		}
		branch = s.ColumnInt64(0)
	}
	return nil
}

// Branch returns the branch of that name, ENOENT without one.
func (t *Tree) Branch(tx *schema.Tx, bucket int64, name string) (Branch, error) {
	s := tx.Stmt(selectBranch + `WHERE bucket = ? AND name = ? AND deleted IS NULL`)
	s.BindInt64(1, bucket)
	s.BindText(2, name)
	b, err := oneBranch(s)
	return b, fail("branch", name, err)
}

// BranchByID returns a branch, deleted ones included.
func (t *Tree) BranchByID(tx *schema.Tx, id int64) (Branch, error) {
	s := tx.Stmt(selectBranch + `WHERE id = ?`)
	s.BindInt64(1, id)
	b, err := oneBranch(s)
	if err != nil {
		return b, fail("branch", fmt.Sprint(id), err)
	}
	return b, nil
}

func oneBranch(s *sqlite.Stmt) (Branch, error) {
	ok, err := s.Step()
	if err != nil {
		return Branch{}, err
	}
	if !ok {
		return Branch{}, syscall.ENOENT
	}
	return scanBranch(s), nil
}

// Branches returns the branches of a bucket by name.
func (t *Tree) Branches(tx *schema.Tx, bucket int64) ([]Branch, error) {
	s := tx.Stmt(selectBranch + `WHERE bucket = ? AND deleted IS NULL ORDER BY name`)
	s.BindInt64(1, bucket)
	var all []Branch
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, scanBranch(s))
	}
}

// RenameBranch gives a branch another name. EEXIST when there is one.
func (t *Tree) RenameBranch(tx *schema.Tx, id int64, name string) error {
	t.moved.Add(1)
	return fail("rename branch", name, t.renameBranch(tx, id, name))
}

func (t *Tree) renameBranch(tx *schema.Tx, id int64, name string) error {
	if err := checkLabel(name); err != nil {
		return err
	}
	b, err := t.existing(tx, id)
	if err != nil || b.Name == name {
		return err
	}
	if _, err := t.Branch(tx, b.Bucket, name); Errno(err) != syscall.ENOENT {
		return orExists(err)
	}
	s := tx.Stmt(`UPDATE branch SET name = ? WHERE id = ?`)
	s.BindText(1, name)
	s.BindInt64(2, id)
	if err := run(s); err != nil {
		return err
	}
	b.Name = name
	return branchEvent(tx, b, tx.NextStamp())
}

// existing is BranchByID without the deleted ones.
func (t *Tree) existing(tx *schema.Tx, id int64) (Branch, error) {
	b, err := t.BranchByID(tx, id)
	if err == nil && b.Deleted != 0 {
		err = syscall.ENOENT
	}
	return b, err
}

// RemoveBranch marks a branch deleted. Branches made from it keep seeing what
// they saw; pruning removes what nobody sees. Views of it can be read but no
// longer changed (ESTALE).
func (t *Tree) RemoveBranch(tx *schema.Tx, id int64) error {
	t.moved.Add(1)
	b, err := t.existing(tx, id)
	if err != nil {
		return fail("remove branch", b.Name, err)
	}
	stamp := tx.NextStamp()
	s := tx.Stmt(`UPDATE branch SET deleted = ? WHERE id = ?`)
	s.BindInt64(1, int64(stamp))
	s.BindInt64(2, id)
	if err := run(s); err != nil {
		return fail("remove branch", b.Name, err)
	}
	if err := forgetBranch(tx, b); err != nil {
		return fail("remove branch", b.Name, err)
	}
	return branchEvent(tx, b, stamp)
}
