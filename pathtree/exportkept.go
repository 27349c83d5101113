package pathtree

import (
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// ExportKept returns the records of the bucket, and its branches of which none counts
// (VoidBranches), and yields its versions, of every node, that are kept: what a replica
// can be made from. What this node wrote and ExportBucket has yet to return is not
// among them. It may run on a snapshot, holds one version at a time, and yields those
// of a directory's entries together. v is only valid during the call.
func (t *Tree) ExportKept(tx *schema.Tx, bucket int64, records func(all, void []BucketRecord) error, yield func(v *Version) error) error {
	return fail("export", "", t.exportKept(tx, bucket, records, yield))
}

func (t *Tree) exportKept(tx *schema.Tx, bucket int64, records func(all, void []BucketRecord) error, yield func(v *Version) error) error {
	x, err := t.newExchange(tx, bucket)
	if err != nil {
		return err
	}
	all, _, _, err := x.splitRecords()
	if err != nil {
		return err
	}
	void, err := t.VoidBranches(tx, bucket)
	if err != nil {
		return err
	}
	if err := records(all, void); err != nil {
		return err
	}
	ids, err := x.branchIDs()
	if err != nil {
		return err
	}
	exported := map[int64]schema.Stamp{}
	for _, id := range ids {
		if _, err := x.uuid(id); err != nil {
			return err
		}
		s := tx.Stmt("SELECT exported FROM branch WHERE id = ?")
		s.BindInt64(1, id)
		if _, err := s.Step(); err != nil {
			return err
		}
		exported[id] = schema.Stamp(s.ColumnInt64(0))
	}
	told := func(v Version, at version) error {
		after, ours := exported[at.branch]
		if !ours || at.node == schema.LocalNode && at.stamp > after {
			return nil
		}
		if err := x.finish(&v, at); err != nil {
			return err
		}
		if err := x.bridge(&v, at); err != nil {
			return err
		}
		return yield(&v)
	}
	for _, k := range keptTables {
		s := tx.Stmt(k.query)
		for err := range schema.Rows(s) {
			if err != nil {
				return err
			}
			v, at, err := k.scan(s)
			if err != nil {
				return err
			}
			if err := told(v, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// bridge has v name the version before it where the one that it replaced was pruned:
// what is older would seem not to have been replaced.
func (x *exchange) bridge(v *Version, at version) error {
	th := v.thing()
	p, explicit, err := x.explicitPrev(th, at)
	if err != nil || !explicit || p.stamp == 0 {
		return err
	}
	t := rowTables[th.kind]
	s := x.tx.Stmt("SELECT EXISTS (SELECT 1 FROM " + t.table + " WHERE " + t.key + ` AND branch = ?3 AND stamp = ?4 AND node = ?5)
		OR EXISTS (SELECT 1 FROM aside WHERE kind = ?6 AND ino = ?1 AND name = ?2 AND branch = ?3 AND stamp = ?4 AND node = ?5)`)
	s.BindInt64(1, int64(th.ino))
	bindName(s, 2, th.name)
	bindVersion(s, 3, p)
	s.BindInt64(6, int64(th.kind))
	if _, err := s.Step(); err != nil || s.ColumnInt64(0) != 0 {
		return err
	}
	before, _, err := x.neighbours(th, at)
	if err != nil {
		return err
	}
	v.Prev, err = x.id(before)
	return err
}

// keptTables reads the tables of versions, each in the order of its key: names after
// what they name.
var keptTables = [...]struct {
	query string
	scan  func(s *sqlite.Stmt) (Version, version, error)
}{
	{"SELECT " + inodeColumns + " FROM inode WHERE node < 2000000000", scanInodeVersion},
	{"SELECT branch, stamp, node, ino, name, value FROM xattr WHERE node < 2000000000", scanXattrVersion},
	{"SELECT branch, stamp, node, parent, name, ino, kind FROM dentry WHERE node < 2000000000", scanDentryVersion},
	{"SELECT branch, stamp, node, body FROM aside WHERE node < 2000000000", scanAsideVersion},
}
