package pathtree

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Keeping says whether a node has the versions of a branch. The numbers are stored.
type Keeping uint8

const (
	Kept    Keeping = 0 // they are here as far as anybody told
	NotKept Keeping = 1 // none is: it shows nothing, and what comes to it derives nothing
	Coming  Keeping = 2 // some are; it shows nothing until the others are here
	Leaving Keeping = 3 // they are here until another node is known to have them
)

func (k Keeping) String() string {
	return [...]string{"kept", "not kept", "coming", "leaving"}[min(k, Leaving)]
}

// Wanted reports whether the versions are to be here.
func (k Keeping) Wanted() bool { return k == Kept || k == Coming }

// ErrNotKept is wrapped by the errors for branches of which this node does not have
// the versions, or not all.
var ErrNotKept = errors.New("not kept on this machine")

// NotKeptError says which branch is not here. It is an ErrNotKept and EREMOTE.
type NotKeptError struct {
	Bucket, Branch string
	Keep           Keeping
}

func (e *NotKeptError) Error() string {
	if e.Keep == Coming {
		return fmt.Sprintf("branch %s of bucket %s is still coming: `alkfs sync branches %s` says how much of it is here", e.Branch, e.Bucket, e.Bucket)
	}
	return fmt.Sprintf("branch %s of bucket %s is not kept on this machine; `alkfs sync branches %s %s` fetches it", e.Branch, e.Bucket, e.Bucket, e.Branch)
}

func (e *NotKeptError) Unwrap() []error { return []error{ErrNotKept, syscall.EREMOTE} }

// Shown returns the branches of a bucket that can be shown, by name: those that are here
// with all from which they descend.
func (t *Tree) Shown(tx *schema.Tx, bucket int64) (all []Branch, err error) {
	branches, err := t.Branches(tx, bucket)
	for _, b := range branches {
		if err == nil {
			err = t.here(tx, b)
		}
		if errors.Is(err, ErrNotKept) {
			err = nil
			continue
		}
		all = append(all, b)
	}
	return all, err
}

// here returns a *NotKeptError unless b can be shown: it is here, and all from which
// it descends.
func (t *Tree) here(tx *schema.Tx, b Branch) error {
	some := b.Keep != Kept
	if !some && b.Parent != 0 {
		s := tx.Stmt("SELECT EXISTS (SELECT 1 FROM branch WHERE bucket = ? AND keep <> 0 AND keep = 2)")
		s.BindInt64(1, b.Bucket)
		if _, err := s.Step(); err != nil {
			return err
		}
		some = s.ColumnInt64(0) != 0
	}
	for some && b.Keep == Kept && b.Parent != 0 {
		var err error
		if b, err = t.BranchByID(tx, b.Parent); err != nil {
			return err
		}
	}
	if b.Keep == Kept {
		return nil
	}
	bucket, err := t.bucketByID(tx, b.Bucket)
	if err != nil {
		return err
	}
	return &NotKeptError{bucket.Name, b.Name, b.Keep}
}

// SetKeep says whether the versions of branches are here. Those that were NotKept and
// are to be kept show from then on what comes; import, in the same transaction, what
// is here already.
func (t *Tree) SetKeep(tx *schema.Tx, bucket int64, keep map[int64]Keeping) error {
	t.moved.Add(1)
	return fail("keep", "", t.setKeep(tx, bucket, keep))
}

func (t *Tree) setKeep(tx *schema.Tx, bucket int64, keep map[int64]Keeping) error {
	var forks []int64
	for id, k := range keep {
		b, err := t.BranchByID(tx, id)
		if err != nil {
			return err
		}
		if b.Keep == NotKept && k != NotKept {
			forks = append(forks, id)
		}
		s := tx.Stmt("UPDATE branch SET keep = ? WHERE id = ?")
		s.BindInt64(1, int64(k))
		s.BindInt64(2, id)
		if err := run(s); err != nil {
			return err
		}
		if err := branchEvent(tx, b, tx.NextStamp()); err != nil {
			return err
		}
	}
	if len(forks) == 0 {
		return nil
	}
	m, err := t.newImport(tx, bucket)
	if err != nil {
		return err
	}
	return m.settleLocal(nil, forks)
}

// DropVersions removes all versions of a branch, which becomes NotKept. Nothing kept
// may descend from it. Content that they were the last to name here is guarded, as
// when they are pruned: a version of another node's may name it, and the bytes may be
// here alone.
func (t *Tree) DropVersions(tx *schema.Tx, branch int64) error {
	t.moved.Add(1)
	return fail("drop", "", t.dropVersions(tx, branch))
}

func (t *Tree) dropVersions(tx *schema.Tx, branch int64) error {
	b, err := t.BranchByID(tx, branch)
	if err != nil {
		return err
	}
	if b.Deleted == 0 {
		if err := forgetBranch(tx, b); err != nil {
			return err
		}
	}
	hashes, err := contentsOf(tx, branch)
	if err != nil {
		return err
	}
	for _, table := range []string{"dentry", "inode", "xattr", "aside", "lineage", "settled", "contest", "stray"} {
		s := tx.Stmt("DELETE FROM " + table + " WHERE branch = ?")
		s.BindInt64(1, branch)
		if err := run(s); err != nil {
			return err
		}
	}
	s := tx.Stmt("UPDATE branch SET keep = 1 WHERE id = ?")
	s.BindInt64(1, branch)
	if err := run(s); err != nil {
		return err
	}
	named, err := t.Named(tx, b.Bucket, hashes)
	if err != nil {
		return err
	}
	for i, h := range hashes {
		if named[i] {
			continue
		}
		if err := blobstore.Guard(tx, b.Bucket, h); err != nil {
			return err
		}
	}
	return branchEvent(tx, b, tx.NextStamp())
}

// contentsOf returns what the versions of a branch name, those that no row shows too.
func contentsOf(tx *schema.Tx, branch int64) (hashes []blobstore.Hash, err error) {
	s := tx.Stmt("SELECT DISTINCT hash FROM inode WHERE branch = ? AND hash IS NOT NULL")
	s.BindInt64(1, branch)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var h blobstore.Hash
		s.ColumnBytes(0, h[:])
		hashes = append(hashes, h)
	}
	s = tx.Stmt("SELECT body FROM aside WHERE branch = ? AND kind = ?")
	s.BindInt64(1, branch)
	s.BindInt64(2, int64(InodeVersion))
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		v, err := decodeVersion(schema.Bytes(s, 0))
		if err != nil {
			return nil, err
		}
		if v.Inode != nil && !v.Inode.Hash.IsZero() {
			hashes = append(hashes, v.Inode.Hash)
		}
	}
	return hashes, nil
}

// Holds returns why the versions of a branch cannot leave: something here is open on
// it. Empty when they can.
func (t *Tree) Holds(tx *schema.Tx, branch int64) (why []string, err error) {
	for _, h := range []struct{ query, why string }{
		{"SELECT count(*) FROM write_session WHERE branch = ?", "%d files are being written on it (`alkfs sessions`)"},
		{"SELECT count(*) FROM sync_keep WHERE branch = ?", "%d pins or policies are of it (`alkfs pin ls`, `alkfs sync policy`)"},
	} {
		s := tx.Stmt(h.query)
		s.BindInt64(1, branch)
		if _, err := s.Step(); err != nil {
			return nil, err
		}
		if n := s.ColumnInt64(0); n > 0 {
			why = append(why, fmt.Sprintf(h.why, n))
		}
	}
	return why, nil
}
