package pathtree

import (
	"maps"
	"slices"
	"strconv"

	"github.com/alkdev/alkfs/schema"
)

// occupied reports whether something is in a directory that has no entry.
func (f *fixer) occupied(d Ino) (bool, error) {
	if known, err := f.knows(d); !known || err != nil {
		return false, err
	}
	s := f.m.tx.Stmt("SELECT DISTINCT name FROM dentry WHERE parent = ? AND ino IS NOT NULL AND node <> 2000000001")
	s.BindInt64(1, int64(d))
	var names []string
	for err := range schema.Rows(s) {
		if err != nil {
			return false, err
		}
		names = append(names, s.ColumnText(0))
	}
	for _, n := range names {
		e := edge{d, n}
		r, err := findRaw(f.m.exchange, f.ch, e)
		if err != nil {
			return false, err
		}
		if r.ino == 0 {
			continue
		}
		if known, err := f.knows(r.ino); err != nil {
			return false, err
		} else if !known {
			continue
		}
		if !isDirIno(r.ino) {
			return true, nil
		}
		if s, err := f.seat(r.ino); err != nil {
			return false, err
		} else if s != nil && s.edge == e {
			return true, nil
		}
	}
	return false, nil
}

// astray reports whether d has come to be in a directory that is not known, and
// was in one that is.
func (f *fixer) astray(d, in Ino) (bool, error) {
	for _, i := range []Ino{d, in} {
		if known, err := f.knows(i); err != nil || known != (i == d) {
			return false, err
		}
	}
	past, err := f.past(d)
	if err != nil {
		return false, err
	}
	for _, s := range past {
		if fits, err := f.fits(d, s.parent); fits || err != nil {
			return fits, err
		}
	}
	return false, nil
}

// rehouse finds places for lost directories, in rounds: the directory that one
// is put back in may be lost itself.
func (f *fixer) rehouse(lost map[Ino]bool, dirs []Ino) error {
	done := map[Ino]bool{}
	for round := slices.Sorted(maps.Keys(only(lost))); len(round) > 0; {
		next := map[Ino]bool{}
		for _, d := range round {
			if done[d] {
				continue
			}
			done[d] = true
			if known, err := f.knows(d); err != nil {
				return err
			} else if !known {
				continue
			}
			p, err := f.place(d)
			if err != nil {
				return err
			}
			if up, err := f.parent(p); err != nil {
				return err
			} else if p != f.root() && up == 0 && !done[p] {
				next[p] = true
			}
		}
		round = slices.Sorted(maps.Keys(next))
	}
	return f.remember(dirs, done)
}

func only(m map[Ino]bool) map[Ino]bool {
	maps.DeleteFunc(m, func(_ Ino, yes bool) bool { return !yes })
	return m
}

// place puts a lost directory back and returns in which.
func (f *fixer) place(d Ino) (Ino, error) {
	past, err := f.past(d)
	if err != nil {
		return 0, err
	}
	at := edge{f.root(), d.String()[1:]}
	if len(past) > 0 {
		at.name = past[0].name
	}
	for _, s := range past {
		if fits, err := f.fits(d, s.parent); err != nil {
			return 0, err
		} else if fits {
			at = s.edge
			break
		}
	}
	for n := 0; ; n++ {
		e := at
		if n > 0 {
			e.name = suffixed(at.name, conflictMark+shortHash(strconv.FormatUint(uint64(d), 16), n))
		}
		free, err := f.free(e)
		if err != nil {
			return 0, err
		}
		if free {
			f.over[e], f.put[d] = d, e
			return e.parent, nil
		}
	}
}

// past returns the entries that d had and has no longer, newest first.
func (f *fixer) past(d Ino) ([]seat, error) {
	s := f.m.tx.Stmt("SELECT branch, stamp, node, parent, name FROM dentry WHERE ino = ? AND node <> 2000000001")
	s.BindInt64(1, int64(d))
	type row struct {
		version
		edge
	}
	var rows []row
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		r := row{columnVersion(s), edge{Ino(s.ColumnInt64(3)), s.ColumnText(4)}}
		if f.ch.sees(r.branch, r.stamp) {
			rows = append(rows, r)
		}
	}
	var undone edge
	if f.cut[d] {
		es, err := f.seats(d)
		if err != nil {
			return nil, err
		}
		undone = es[0].edge
	}
	var es []seat
	for _, r := range rows {
		id, err := f.id(r.version)
		if err != nil {
			return nil, err
		}
		if r.edge != undone {
			es = append(es, seat{r.edge, id})
		}
	}
	sortSeats(es)
	return es, nil
}

// fits reports whether d can be in p: a directory that is known and not below d.
func (f *fixer) fits(d, p Ino) (bool, error) {
	if known, err := f.knows(p); !known || err != nil {
		return false, err
	}
	seen := map[Ino]bool{}
	for p != 0 && p != f.root() {
		if p == d || seen[p] {
			return false, nil
		}
		seen[p] = true
		var err error
		if p, err = f.parent(p); err != nil {
			return false, err
		}
	}
	return true, nil
}

// free reports whether nothing is at e.
func (f *fixer) free(e edge) (bool, error) {
	if i, ok := f.over[e]; ok {
		return i == 0, nil
	}
	r, err := findRaw(f.m.exchange, f.ch, e)
	return r.ino == 0, err
}

// remember notes which directories must be looked at again.
func (f *fixer) remember(dirs []Ino, lost map[Ino]bool) error {
	stray := maps.Clone(lost)
	for _, d := range dirs {
		es, err := f.seats(d)
		if err != nil {
			return err
		}
		if len(es) > 1 || f.cut[d] {
			stray[d] = true
		}
	}
	for _, d := range dirs {
		if stray[d] {
			continue
		}
		s := f.m.tx.Stmt("DELETE FROM stray WHERE branch = ? AND ino = ?")
		s.BindInt64(1, f.branch)
		s.BindInt64(2, int64(d))
		if err := run(s); err != nil {
			return err
		}
	}
	for d := range stray {
		s := f.m.tx.Stmt("INSERT OR IGNORE INTO stray (branch, ino) VALUES (?, ?)")
		s.BindInt64(1, f.branch)
		s.BindInt64(2, int64(d))
		if err := run(s); err != nil {
			return err
		}
	}
	return nil
}
