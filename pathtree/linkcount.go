package pathtree

import (
	"cmp"
	"maps"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// recount makes the link counts of what was touched true.
func (m *importer) recount() error {
	for len(m.links) > 0 {
		todo := slices.SortedFunc(maps.Keys(m.links), func(a, b inodeAt) int {
			return cmp.Or(cmp.Compare(a.branch, b.branch), cmp.Compare(a.ino, b.ino))
		})
		links := m.links
		m.links = map[inodeAt]schema.Stamp{}
		for _, k := range todo {
			if err := m.recountOne(k.branch, k.ino, links[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

// recountOne makes true the link counts of an inode in one view: of the row that
// its head shows, and of older rows of the branch as of their end.
func (m *importer) recountOne(branch int64, i Ino, since schema.Stamp) error {
	c, err := m.newCounter(branch, i)
	if err != nil {
		return err
	}
	rows, err := m.rowsFrom(branch, i, since)
	if err != nil {
		return err
	}
	for k := 0; k+1 < len(rows); k++ {
		n, err := c.past(&rows[k], rows[k+1].Stamp-1)
		if err != nil {
			return err
		}
		if n != rows[k].Nlink {
			if err := m.setLinks(&rows[k], n); err != nil {
				return err
			}
		}
	}
	r, err := m.inode(branch, i)
	if r == nil || err != nil {
		return err
	}
	n, err := c.head()
	if err != nil || n == r.Nlink {
		return err
	}
	// Where the row is another branch's, or another's count is what a live view
	// shows, the count has a row of its own.
	if r.Branch == branch && (!c.ch.hasLive() || r.groups&groupLinks != 0) {
		return m.setLinks(r, n)
	}
	r.Branch, r.node, r.groups, r.Nlink = branch, derivedNode, groupLinks, n
	if err := m.beforeCount(branch, i, r.Stamp); err != nil {
		return err
	}
	if err := m.dropDerived(branch, i); err != nil {
		return err
	}
	if err := insertInode(m.tx, r); err != nil {
		return err
	}
	m.anyDerived = true
	return m.recountBelow(r)
}

// beforeCount is called before a row has another link count, or comes or goes for
// the sake of one. It notes what all that see it show.
func (m *importer) beforeCount(branch int64, i Ino, stamp schema.Stamp) error {
	if err := m.tally.before(branch, i, stamp); err != nil {
		return err
	}
	all, err := m.reach(branch, stamp)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := m.noteInode(m.exchange, r.branch, i); err != nil {
			return err
		}
	}
	return nil
}

// setLinks sets the count of a row in place.
func (m *importer) setLinks(r *inodeRow, n uint32) error {
	if err := m.beforeCount(r.Branch, r.Ino, r.Stamp); err != nil {
		return err
	}
	s := m.tx.Stmt("UPDATE inode SET nlink = ? WHERE ino = ? AND branch = ? AND stamp = ? AND node = ?")
	s.BindInt64(1, int64(n))
	s.BindInt64(2, int64(r.Ino))
	bindVersion(s, 3, r.version())
	if err := run(s); err != nil {
		return err
	}
	return m.recountBelow(r)
}

// recountBelow has the branches that see a row count for themselves.
func (m *importer) recountBelow(r *inodeRow) error {
	all, err := m.reach(r.Branch, r.Stamp)
	if err != nil {
		return err
	}
	for _, c := range all[1:] {
		from(m.links, inodeAt{c.branch, r.Ino}, schema.MaxStamp)
	}
	return nil
}

// rowsFrom returns the rows of an inode on a branch from since on, and the one before.
func (m *importer) rowsFrom(branch int64, i Ino, since schema.Stamp) (rows []inodeRow, err error) {
	s := m.tx.Stmt("SELECT " + inodeColumns + ` FROM inode WHERE ino = ?1 AND branch = ?2 AND node < 2000000000
		AND stamp >= coalesce((SELECT max(stamp) FROM inode WHERE ino = ?1 AND branch = ?2 AND stamp < ?3 AND node < 2000000000), 0)
		ORDER BY stamp`)
	s.BindInt64(1, int64(i))
	s.BindInt64(2, branch)
	s.BindInt64(3, int64(since))
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var r inodeRow
		scanInode(s, &r)
		rows = append(rows, r)
	}
	return rows, nil
}

// dropDerived removes the row that holds an inode's link count in a view.
func (m *importer) dropDerived(branch int64, i Ino) error {
	if !m.anyDerived {
		return nil
	}
	s := m.tx.Stmt("SELECT min(stamp) FROM inode WHERE ino = ? AND branch = ? AND node >= 2000000000")
	s.BindInt64(1, int64(i))
	s.BindInt64(2, branch)
	if _, err := s.Step(); err != nil || s.ColumnType(0) == sqlite.TypeNull {
		return err
	}
	first := schema.Stamp(s.ColumnInt64(0))
	if err := m.beforeCount(branch, i, first); err != nil {
		return err
	}
	s = m.tx.Stmt("DELETE FROM inode WHERE ino = ? AND branch = ? AND node >= 2000000000")
	s.BindInt64(1, int64(i))
	s.BindInt64(2, branch)
	if err := run(s); err != nil {
		return err
	}
	return m.recountBelow(&inodeRow{Inode: Inode{Ino: i, Branch: branch, Stamp: first}})
}
