package pathtree

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// RetractVersions takes back versions of the bucket that ImportBucket brought:
// the bucket then shows what it would if they had never come. Those that are not
// here are passed over. As before an import, export first, in the same
// transaction. Events say what has changed.
//
// All versions of the things that they are of are taken out of the tables, and
// the others come in anew: how rows were completed, what came to lie between two
// versions and what was decided about concurrent ones all depends on which there
// are, and ImportBucket knows how.
func (t *Tree) RetractVersions(tx *schema.Tx, bucket int64, vs []Version) error {
	t.moved.Add(1)
	return fail("retract", "", t.retract(tx, bucket, vs))
}

func (t *Tree) retract(tx *schema.Tx, bucket int64, vs []Version) error {
	m, err := t.newImport(tx, bucket)
	if err != nil {
		return err
	}
	things, gone, err := m.retracted(vs)
	if err != nil || len(things) == 0 {
		return err
	}
	all, err := m.versionsOf(things)
	if err != nil {
		return err
	}
	if err := m.noteAll(all); err != nil {
		return err
	}
	var rest []arrival
	for _, p := range all {
		if err := m.takeOut(p); err != nil {
			return err
		}
		m.forked[thingAt{p.at.branch, p.thing()}] = true
		if !gone[rowOf{p.thing(), p.at}] {
			rest = append(rest, p)
		}
	}
	m.added = all
	for _, p := range rest {
		if err := m.addOne(p); err != nil {
			return err
		}
	}
	if err := m.refill(); err != nil {
		return err
	}
	for _, p := range all {
		if gone[rowOf{p.thing(), p.at}] {
			if err := m.withdrawn(p); err != nil {
				return err
			}
		}
	}
	return m.settle()
}

// rowOf is a version by its place in the tables.
type rowOf struct {
	thing
	at version
}

// retracted returns which of versions are here, and of what things. An inode that
// may no longer be known has its attributes with it, which wait without one.
func (m *importer) retracted(vs []Version) (things []thing, gone map[rowOf]bool, err error) {
	gone = map[rowOf]bool{}
	seen := map[thing]bool{}
	for k := range vs {
		v := &vs[k]
		b, err := m.branch(v.Branch)
		if errors.Is(err, ErrUnknownBranch) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		at, err := m.place(b.ID, v.ID)
		if err != nil {
			return nil, nil, err
		}
		if o, err := m.known(v, at); o == nil || err != nil {
			if err != nil {
				return nil, nil, err
			}
			continue
		}
		gone[rowOf{v.thing(), at}] = true
		if seen[v.thing()] {
			continue
		}
		seen[v.thing()] = true
		if v.Kind != InodeVersion {
			continue
		}
		s := m.tx.Stmt("SELECT name FROM xattr WHERE ino = ?1 UNION SELECT name FROM aside WHERE kind = 3 AND ino = ?1")
		s.BindInt64(1, int64(v.Ino))
		names, err := columnTexts(s)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range names {
			seen[thing{XattrVersion, v.Ino, n}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), compareThings), gone, nil
}

// versionsOf returns all versions of things, on every branch, by ID.
func (m *importer) versionsOf(things []thing) (all []arrival, err error) {
	branches, err := m.branchIDs()
	if err != nil {
		return nil, err
	}
	for _, b := range branches {
		if _, err := m.uuid(b); err != nil {
			return nil, err
		}
		for _, th := range things {
			c, err := m.loadContest(thingAt{b, th})
			if err != nil {
				return nil, err
			}
			for k := range c.all {
				p := arrival{&c.all[k].v, c.all[k].at}
				if err := m.finish(p.Version, p.at); err != nil {
					return nil, err
				}
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, func(a, b arrival) int {
		return cmp.Or(a.ID.Compare(b.ID), compareThings(a.thing(), b.thing()), cmp.Compare(a.at.branch, b.at.branch))
	})
	return all, nil
}

// noteAll notes what versions that are about to go and come again can change.
func (m *importer) noteAll(all []arrival) error {
	now := m.tx.NextStamp()
	least := map[int64]schema.Stamp{}
	for _, p := range all {
		from(least, p.at.branch, p.at.stamp)
	}
	for branch, since := range least {
		if err := m.seal(branch, now); err != nil {
			return err
		}
		seen, err := m.reach(branch, since)
		if err != nil {
			return err
		}
		m.seen[branch] = seen
	}
	for _, p := range all {
		if p.Kind == InodeVersion {
			if err := m.tally.before(p.at.branch, p.Ino, p.at.stamp); err != nil {
				return err
			}
		}
		if err := m.touch(m.exchange, p); err != nil {
			return err
		}
	}
	return nil
}

// takeOut removes a version from the tables.
func (m *importer) takeOut(p arrival) (err error) {
	th := p.thing()
	switch p.Kind {
	case DentryVersion:
		err = deleteDentry(m.tx, th.ino, th.name, p.at)
	case InodeVersion:
		err = m.takeOutInode(rowOf{th, p.at})
	default:
		err = deleteXattr(m.tx, th.ino, th.name, p.at)
	}
	if err == nil {
		err = m.dropAside(th, p.at)
	}
	if err == nil {
		err = m.unsetPrev(th, p.at)
	}
	if err != nil {
		return err
	}
	s := m.tx.Stmt("DELETE FROM settled WHERE kind = ? AND ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
	bindThing(s, 1, th)
	bindVersion(s, 4, p.at)
	return run(s)
}

// takeOutInode removes a row, and remembers its link count for when it comes again.
func (m *importer) takeOutInode(o rowOf) error {
	s := m.tx.Stmt("DELETE FROM inode WHERE ino = ? AND branch = ? AND stamp = ? AND node = ? RETURNING nlink")
	s.BindInt64(1, int64(o.ino))
	bindVersion(s, 2, o.at)
	ok, err := s.Step()
	if ok {
		m.taken[o] = uint32(s.ColumnInt64(0))
	}
	return err
}

// withdrawn suspects what a version that does not come again has left behind: the
// conflict copy that it had, and names of an inode that may be unknown now.
func (m *importer) withdrawn(p arrival) error {
	switch p.Kind {
	case DentryVersion:
		return m.setCopy(&contest{thingAt: thingAt{p.at.branch, p.thing()}}, copyName(p.Name, p.ID), nil)
	case InodeVersion:
		below, err := m.directoriesIn(p.Ino)
		if err != nil {
			return err
		}
		for _, r := range m.seen[p.at.branch] {
			if err := m.suspectPlaces(m.suspect(r.branch), p.Ino); err != nil {
				return err
			}
			for _, i := range below {
				m.suspect(r.branch).dirs[i] = true
			}
		}
	}
	return nil
}

// directoriesIn returns what directories were ever in a directory.
func (x *exchange) directoriesIn(d Ino) (dirs []Ino, err error) {
	s := x.tx.Stmt("SELECT DISTINCT ino FROM dentry WHERE parent = ? AND kind = 4")
	s.BindInt64(1, int64(d))
	inos, err := columnInts(s)
	for _, i := range inos {
		dirs = append(dirs, Ino(i))
	}
	return dirs, err
}
