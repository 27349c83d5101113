package pathtree

import (
	"maps"
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// suspectFork suspects what changed after a new branch was forked: it may see
// what is no longer so, and no longer broken, at the head of its parent; and what
// is repaired there, as the repair is of that head alone.
func (m *importer) suspectFork(id int64) error {
	ch, err := m.chain(id)
	if err != nil {
		return err
	}
	sp := m.suspect(id)
	for _, l := range ch[1:] {
		if l.bound == schema.MaxStamp {
			continue
		}
		s := m.tx.Stmt("SELECT parent, name, ino FROM dentry WHERE branch = ? AND stamp > ?")
		s.BindInt64(1, l.branch)
		s.BindInt64(2, int64(l.bound))
		var found []seatOf
		for err := range schema.Rows(s) {
			if err != nil {
				return err
			}
			found = append(found, seatOf{edge{Ino(s.ColumnInt64(0)), s.ColumnText(1)}, Ino(s.ColumnInt64(2))})
		}
		for _, f := range found {
			was, err := findRaw(m.exchange, ch, f.edge)
			if err != nil {
				return err
			}
			sp.edge(f.edge, f.ino, was.ino)
			m.noteCount(id, f.edge, schema.MaxStamp, f.ino, was.ino)
			m.anew[inodeAt{id, f.parent}] = true
		}
		s = m.tx.Stmt("SELECT ino FROM inode WHERE branch = ? AND stamp > ? AND node < 2000000000")
		s.BindInt64(1, l.branch)
		s.BindInt64(2, int64(l.bound))
		inos, err := columnInts(s)
		if err != nil {
			return err
		}
		for _, i := range inos {
			from(m.links, inodeAt{id, Ino(i)}, schema.MaxStamp)
			m.anew[inodeAt{id, Ino(i)}] = true
			if err := m.suspectPlaces(sp, Ino(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

type seatOf struct {
	edge
	ino Ino
}

// arrivals suspects the entries of inodes that have come to be known.
func (m *importer) arrivals() error {
	for _, branch := range slices.Sorted(maps.Keys(m.heads)) {
		for _, i := range slices.Sorted(maps.Keys(m.heads[branch].inodes)) {
			if m.heads[branch].inodes[i] != nil {
				continue
			}
			if err := m.suspectPlaces(m.suspect(branch), i); err != nil {
				return err
			}
		}
	}
	return nil
}

// suspectPlaces suspects every entry that ever named i.
func (m *importer) suspectPlaces(sp *suspects, i Ino) error {
	es, err := m.everNamed(i)
	for _, e := range es {
		sp.edge(e, i)
	}
	if isDirIno(i) {
		sp.dirs[i] = true
	}
	return err
}

// everNamed returns every edge that some version leads to i.
func (x *exchange) everNamed(i Ino) ([]edge, error) {
	s := x.tx.Stmt("SELECT DISTINCT parent, name FROM dentry WHERE ino = ? AND node <> 2000000001 ORDER BY parent, name")
	s.BindInt64(1, int64(i))
	var es []edge
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return es, err
		}
		es = append(es, edge{Ino(s.ColumnInt64(0)), s.ColumnText(1)})
	}
}

// suspects are what may be wrong at a head.
type suspects struct {
	edges map[edge]bool
	dirs  map[Ino]bool
}

func (t *touched) suspect(branch int64) *suspects {
	sp := t.suspects[branch]
	if sp == nil {
		sp = &suspects{map[edge]bool{}, map[Ino]bool{}}
		t.suspects[branch] = sp
	}
	return sp
}

// edge suspects an edge, its directory, and the directories that it leads or led to.
func (sp *suspects) edge(e edge, targets ...Ino) {
	sp.edges[e] = true
	sp.dirs[e.parent] = true
	for _, i := range targets {
		if i != 0 && isDirIno(i) {
			sp.dirs[i] = true
		}
	}
}
