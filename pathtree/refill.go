package pathtree

import (
	"cmp"
	"maps"
	"slices"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// authored is a version of an inode as its author wrote it, and where it is.
type authored struct {
	*inodeRow
	id     VersionID
	inRow  bool      // of table inode, complete
	aside  *Version  // put aside
	before *inodeRow // as it is in the table
	v      *Version  // new
}

// refill writes the new versions of inodes, and completes the rows after them,
// on every branch that sees them.
func (m *importer) refill() error {
	todo := slices.SortedFunc(maps.Keys(m.inodes), func(a, b inodeAt) int {
		return cmp.Or(cmp.Compare(a.branch, b.branch), cmp.Compare(a.ino, b.ino))
	})
	for _, k := range todo {
		since := m.inodes[k]
		if err := m.tally.before(k.branch, k.ino, since); err != nil {
			return err
		}
		for _, r := range m.seen[k.branch] {
			if r.bound < since {
				continue
			}
			if err := m.dropDerived(r.branch, k.ino); err != nil {
				return err
			}
			var err error
			if r.branch == k.branch {
				err = m.refillOn(r.branch, k.ino, since, m.pending[k])
			} else {
				err = m.refillOn(r.branch, k.ino, 0, nil)
			}
			if err != nil {
				return err
			}
		}
	}
	clear(m.pending)
	return nil
}

// refillOn completes the versions of an inode on one branch from since on.
func (m *importer) refillOn(branch int64, i Ino, since schema.Stamp, news []*Version) error {
	vs, err := m.authoredFrom(branch, i, since, news)
	if err != nil || len(vs) == 0 {
		return err
	}
	state, err := m.stateBefore(branch, i, since)
	if err != nil {
		return err
	}
	for k := range vs {
		a := &vs[k]
		var have int
		if state != nil {
			a.take(state)
			have = groupContent | groupAttrs
			if !a.inRow { // else it is counted, by names as of its time
				a.Nlink = state.Nlink
			}
		}
		if n, ok := m.taken[rowOf{thing{InodeVersion, i, ""}, a.version()}]; ok && !a.inRow {
			a.Nlink = n
		}
		// A row that is there is complete, though what it came from may be pruned.
		whole := a.inRow || (have|a.groups)&(groupContent|groupAttrs) == groupContent|groupAttrs
		if whole {
			state = a.inodeRow
		}
		tied := k+1 < len(vs) && vs[k+1].Stamp == a.Stamp
		if err := m.write(a, whole && !tied); err != nil {
			return err
		}
	}
	return m.promoteXattrs(i)
}

// authoredFrom returns the versions of an inode on a branch, by ID.
func (m *importer) authoredFrom(branch int64, i Ino, since schema.Stamp, news []*Version) ([]authored, error) {
	s := m.tx.Stmt("SELECT " + inodeColumns + ` FROM inode WHERE ino = ? AND branch = ? AND stamp >= ? AND node < 2000000000 ORDER BY stamp`)
	s.BindInt64(1, int64(i))
	s.BindInt64(2, branch)
	s.BindInt64(3, int64(since))
	var vs []authored
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var r inodeRow
		scanInode(s, &r)
		was := r
		vs = append(vs, authored{inodeRow: &r, inRow: true, before: &was})
	}
	if m.anyAside {
		asides, err := m.asides(thing{InodeVersion, i, ""}, branch, since)
		if err != nil {
			return nil, err
		}
		for k := range asides {
			vs = append(vs, authored{inodeRow: fromInode(&asides[k].v, asides[k].version), aside: &asides[k].v})
		}
	}
	for _, v := range news {
		at, err := m.place(branch, v.ID)
		if err != nil {
			return nil, err
		}
		vs = append(vs, authored{inodeRow: fromInode(v, at), v: v})
	}
	for k := range vs {
		var err error
		if vs[k].id, err = m.id(vs[k].version()); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(vs, func(a, b authored) int { return a.id.Compare(b.id) })
	return vs, nil
}

// stateBefore returns what an inode was on a branch before a stamp, nil when
// that is not known.
func (m *importer) stateBefore(branch int64, i Ino, since schema.Stamp) (*inodeRow, error) {
	ch, err := m.chain(branch)
	if err != nil {
		return nil, err
	}
	s := m.tx.Stmt("SELECT " + inodeColumns + ` FROM inode WHERE ino = ? AND branch = ? AND stamp < ? AND node < 2000000000
		ORDER BY stamp DESC LIMIT 1`)
	s.BindInt64(1, int64(i))
	s.BindInt64(2, branch)
	s.BindInt64(3, int64(since))
	var r inodeRow
	ok, err := s.Step()
	if err != nil {
		return nil, err
	}
	if ok {
		scanInode(s, &r)
		return &r, nil
	}
	r, ok, err = findInode(m.tx, ch[1:], ch.hasLive(), i)
	if !ok || err != nil {
		return nil, err
	}
	return &r, nil
}

// write puts a version into the table or aside.
func (m *importer) write(a *authored, show bool) error {
	th := thing{InodeVersion, a.Ino, ""}
	if !show {
		switch {
		case a.aside != nil:
			return nil
		case a.inRow:
			if err := deleteInode(m.tx, a.Ino, a.version()); err != nil {
				return err
			}
			a.v = &Version{Kind: InodeVersion, Ino: a.Ino, Home: a.Home, Inode: toInode(a.inodeRow)}
		}
		m.anyAside = true
		return m.putAside(a.v, a.version())
	}
	switch {
	case a.inRow && *a.before == *a.inodeRow:
		return nil
	case a.inRow:
		if err := deleteInode(m.tx, a.Ino, a.version()); err != nil {
			return err
		}
	case a.aside != nil:
		if err := m.dropAside(th, a.version()); err != nil {
			return err
		}
	}
	if err := blobstore.Expect(m.tx, a.Hash, a.Size); err != nil { // its bytes come when they are read
		return err
	}
	if !a.inRow {
		from(m.links, inodeAt{a.Branch, a.Ino}, a.Stamp)
	}
	return insertInode(m.tx, a.inodeRow)
}

// promoteXattrs writes the attributes that waited for the inode to come.
func (m *importer) promoteXattrs(i Ino) error {
	if !m.anyAside {
		return nil
	}
	if home, err := m.home(i); home == 0 || err != nil {
		return err
	}
	s := m.tx.Stmt("SELECT branch, stamp, node, body FROM aside WHERE kind = 3 AND ino = ? ORDER BY name, branch, stamp")
	s.BindInt64(1, int64(i))
	var found []arrival
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		v, err := decodeVersion(columnValue(s, 3))
		if err != nil {
			return err
		}
		found = append(found, arrival{&v, columnVersion(s)})
	}
	for _, p := range found {
		if rival, ok, err := m.rival(p.thing(), p.at); err != nil {
			return err
		} else if ok {
			if w, err := m.later(p.at, rival); err != nil || w == rival {
				return err
			}
		}
		if err := m.dropAside(p.thing(), p.at); err != nil {
			return err
		}
		if err := m.addXattr(p); err != nil {
			return err
		}
	}
	return nil
}
