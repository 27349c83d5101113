package pathtree

import (
	"bytes"
	"encoding/gob"
	"slices"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Lineage: which version the author of another one saw in its place. In the
// common case that is the one before it, and nothing is stored; where it is not,
// table lineage says so. A version that comes late, between two others, must
// not become the predecessor of the later one: lineage then says what that was.

// rowTables are the tables of each kind, and the condition on ino (?1) and name
// (?2) that a thing is.
var rowTables = [...]struct{ table, key string }{
	DentryVersion: {"dentry", "parent = ?1 AND name = ?2"},
	InodeVersion:  {"inode", "ino = ?1 AND ?2 IS NOT NULL"},
	XattrVersion:  {"xattr", "ino = ?1 AND name = ?2"},
}

// asides returns the versions of a thing on a branch that no row shows, in no
// order.
func (x *exchange) asides(th thing, branch int64, from schema.Stamp) ([]asideRow, error) {
	s := x.tx.Stmt("SELECT stamp, node, body FROM aside WHERE kind = ? AND ino = ? AND name = ? AND branch = ? AND stamp >= ?")
	bindThing(s, 1, th)
	s.BindInt64(4, branch)
	s.BindInt64(5, int64(from))
	var all []asideRow
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		a := asideRow{version: version{branch, schema.Stamp(s.ColumnInt64(0)), s.ColumnInt64(1)}}
		p := schema.Bytes(s, 2)
		if a.v, err = decodeVersion(p); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
}

type asideRow struct {
	version
	v Version
}

func (x *exchange) putAside(v *Version, at version) error {
	p, err := encodeVersion(v)
	if err != nil {
		return err
	}
	s := x.tx.Stmt("INSERT OR REPLACE INTO aside (kind, ino, name, branch, stamp, node, body, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
	bindThing(s, 1, v.thing())
	bindVersion(s, 4, at)
	s.BindBytes(7, p)
	s.BindNull(8)
	if v.Inode != nil {
		if err := blobstore.Expect(x.tx, v.Inode.Hash, v.Inode.Size); err != nil { // a conflict may be decided for it
			return err
		}
		bindHash(s, 8, v.Inode.Hash)
	}
	return run(s)
}

func (x *exchange) dropAside(th thing, at version) error {
	s := x.tx.Stmt("DELETE FROM aside WHERE kind = ? AND ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
	bindThing(s, 1, th)
	bindVersion(s, 4, at)
	return run(s)
}

// kept is how a version is put aside. Gob does not tell an empty value from none.
type kept struct {
	V     Version
	Empty bool
}

func encodeVersion(v *Version) ([]byte, error) {
	var buf bytes.Buffer
	err := gob.NewEncoder(&buf).Encode(kept{*v, v.Value != nil && len(v.Value) == 0})
	return buf.Bytes(), err
}

func decodeVersion(p []byte) (Version, error) {
	var k kept
	err := gob.NewDecoder(bytes.NewReader(p)).Decode(&k)
	if k.Empty {
		k.V.Value = []byte{}
	}
	return k.V, err
}

// neighbours returns the versions of a thing just before and just after at, by
// ID; zero where there is none.
func (x *exchange) neighbours(th thing, at version) (before, after version, err error) {
	id, err := x.id(at)
	if err != nil {
		return before, after, err
	}
	t := rowTables[th.kind]
	for _, q := range [...]string{
		"SELECT stamp, node FROM " + t.table + " WHERE " + t.key + " AND branch = ?3 AND stamp <= ?4 AND node < 2000000000 ORDER BY stamp DESC LIMIT 2",
		"SELECT stamp, node FROM " + t.table + " WHERE " + t.key + " AND branch = ?3 AND stamp >= ?4 AND node < 2000000000 ORDER BY stamp LIMIT 2",
		"SELECT stamp, node FROM aside WHERE ino = ?1 AND name = ?2 AND branch = ?3 AND ?4 <> 0 AND kind = ?5",
	} {
		s := x.tx.Stmt(q)
		s.BindInt64(1, int64(th.ino))
		bindName(s, 2, th.name)
		s.BindInt64(3, at.branch)
		s.BindInt64(4, int64(at.stamp))
		if s.BindParamCount() == 5 {
			s.BindInt64(5, int64(th.kind))
		}
		var found []version
		for err := range schema.Rows(s) {
			if err != nil {
				return before, after, err
			}
			found = append(found, version{at.branch, schema.Stamp(s.ColumnInt64(0)), s.ColumnInt64(1)})
		}
		for _, f := range found {
			o, err := x.id(f)
			if err != nil {
				return before, after, err
			}
			switch c := o.Compare(id); {
			case c < 0:
				if before, err = x.later(before, f); err != nil {
					return before, after, err
				}
			case c > 0:
				if after.stamp == 0 {
					after = f
				} else if l, err := x.later(after, f); err != nil {
					return before, after, err
				} else if l == after {
					after = f
				}
			}
		}
	}
	return before, after, nil
}

// later returns the later of two versions; a zero one is earlier than all.
func (x *exchange) later(a, b version) (version, error) {
	ka, err := x.id(a)
	if err != nil {
		return a, err
	}
	kb, err := x.id(b)
	if ka.Compare(kb) < 0 {
		return b, err
	}
	return a, err
}

// prev returns what the author of at saw; known is false where nothing is
// stored about it.
func (x *exchange) explicitPrev(th thing, at version) (p version, known bool, err error) {
	s := x.tx.Stmt("SELECT pstamp, pnode FROM lineage WHERE kind = ? AND ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
	bindThing(s, 1, th)
	bindVersion(s, 4, at)
	known, err = s.Step()
	if !known || err != nil {
		return p, false, err
	}
	p = version{at.branch, schema.Stamp(s.ColumnInt64(0)), s.ColumnInt64(1)}
	if p.stamp == 0 {
		p = version{}
	}
	return p, true, nil
}

// prev returns what the author of at saw in its place; zero: nothing.
func (x *exchange) prev(th thing, at version) (version, error) {
	p, known, err := x.explicitPrev(th, at)
	if known || err != nil {
		return p, err
	}
	p, _, err = x.neighbours(th, at)
	return p, err
}

func (x *exchange) setPrev(th thing, at, p version) error {
	s := x.tx.Stmt("INSERT OR REPLACE INTO lineage (kind, ino, name, branch, stamp, node, pstamp, pnode) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
	bindThing(s, 1, th)
	bindVersion(s, 4, at)
	s.BindInt64(7, int64(p.stamp))
	s.BindInt64(8, p.node)
	return run(s)
}

func (x *exchange) unsetPrev(th thing, at version) error {
	s := x.tx.Stmt("DELETE FROM lineage WHERE kind = ? AND ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
	bindThing(s, 1, th)
	bindVersion(s, 4, at)
	return run(s)
}

// settles returns what at settles besides its predecessor, sorted.
func (x *exchange) settles(th thing, at version) ([]VersionID, error) {
	s := x.tx.Stmt("SELECT sstamp, snode FROM settled WHERE kind = ? AND ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
	bindThing(s, 1, th)
	bindVersion(s, 4, at)
	var found []version
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		found = append(found, version{at.branch, schema.Stamp(s.ColumnInt64(0)), s.ColumnInt64(1)})
	}
	var ids []VersionID
	for _, f := range found {
		id, err := x.id(f)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, VersionID.Compare)
	return ids, nil
}

func (x *exchange) setSettled(th thing, at, p version) error {
	s := x.tx.Stmt("INSERT OR IGNORE INTO settled (kind, ino, name, branch, stamp, node, sstamp, snode) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
	bindThing(s, 1, th)
	bindVersion(s, 4, at)
	s.BindInt64(7, int64(p.stamp))
	s.BindInt64(8, p.node)
	return run(s)
}

// enlist records the lineage of a version that is being added, and keeps that
// of the version after it. It reports whether the thing's versions are not just
// one after the other. waits is the one added before it that is in no table yet.
func (x *exchange) enlist(v *Version, at, waits version) (forked bool, err error) {
	th := v.thing()
	before, after, err := x.neighbours(th, at)
	if err != nil {
		return false, err
	}
	if before, err = x.later(before, waits); err != nil {
		return false, err
	}
	p, err := x.place(at.branch, v.Prev)
	if err != nil {
		return false, err
	}
	if v.Prev.IsZero() {
		p = version{}
	}
	if p != before {
		forked = true
		if err := x.setPrev(th, at, p); err != nil {
			return false, err
		}
	}
	for _, s := range v.Settles {
		q, err := x.place(at.branch, s)
		if err == nil {
			err = x.setSettled(th, at, q)
		}
		if err != nil {
			return false, err
		}
		forked = true
	}
	if after.stamp == 0 {
		return forked, nil
	}
	q, known, err := x.explicitPrev(th, after)
	switch {
	case err != nil:
		return false, err
	case known && q == at: // it has come to be the one before
		return true, x.unsetPrev(th, after)
	case !known:
		return true, x.setPrev(th, after, before)
	}
	return true, nil
}
