package pathtree

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Repair: what versions of different nodes say together need not be a tree. Of
// each branch the head is repaired, and only that, by rows of the overlay:
// dentries of derivedNode at MaxStamp, which win at the head and which no fork,
// snapshot or time sees. They are a function of the versions that the branch
// sees, computed anew whenever one of those it depends on changes, and are
// neither exported nor kept when a local change writes the name.
//
//   - An entry whose inode is not known is not shown.
//   - Of several entries of a directory the newest counts, by ID.
//   - Of a cycle the newest entry is undone.
//   - A directory without an entry that has something in it (deleted on one
//     node while another put a file there), or whose entry was undone, goes back
//     to where it was last, and so do the directories above; under another name
//     where that one is taken, and in the root where there is no such place.
//
// Rejected: versions written by whoever repairs. Two nodes that know different
// parts would repair differently, and then each other's repairs.

// fixer repairs the head of one branch.
type fixer struct {
	m      *importer
	branch int64
	ch     chain
	over   map[edge]Ino // what the overlay must say; 0: nothing is there
	chosen map[Ino]*seat
	edges  map[Ino][]seat
	cut    map[Ino]bool
	put    map[Ino]edge
	known  map[Ino]bool
}

// seat is an entry of a directory.
type seat struct {
	edge
	id VersionID
}

// findRaw is findDentry without the overlay.
func findRaw(x *exchange, ch chain, e edge) (r dentryRow, err error) {
	s := x.tx.Stmt(selectDentry)
	s.BindInt64(1, int64(e.parent))
	s.BindBytes(2, []byte(e.name))
	w := startWalk(s, ch, 3)
	for {
		ok, err := w.next()
		if !ok || err != nil {
			return dentryRow{}, err
		}
		r = dentryRow{columnVersion(s), Ino(s.ColumnInt64(3)), uint32(s.ColumnInt64(4)) << 12}
		if r.node != derivedNode {
			return r, nil
		}
	}
}

// repair repairs the heads that may need it, parents before children.
func (m *importer) repair() error {
	for _, id := range m.forks {
		if err := m.suspectFork(id); err != nil {
			return err
		}
	}
	if err := m.arrivals(); err != nil {
		return err
	}
	for len(m.suspects) > 0 { // one that follows another comes to be suspected on the way
		branch := slices.Min(slices.Collect(maps.Keys(m.suspects)))
		sp := m.suspects[branch]
		delete(m.suspects, branch)
		if err := m.repairHead(branch, sp); err != nil {
			return err
		}
	}
	return nil
}

// suspectFork suspects what changed after a new branch was forked: it may see
// what is no longer so, and no longer broken, at the head of its parent.
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
		s := m.tx.Stmt("SELECT parent, name, ino FROM dentry WHERE branch = ? AND stamp > ? AND node <> 2000000001")
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
			for _, i := range []Ino{f.ino, was.ino} {
				if i != 0 {
					m.noteCount(id, f.parent, i, schema.MaxStamp)
				}
			}
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

func (m *importer) repairHead(branch int64, sp *suspects) error {
	ch, err := m.chain(branch)
	if err != nil {
		return err
	}
	f := &fixer{
		m: m, branch: branch, ch: ch, over: map[edge]Ino{}, chosen: map[Ino]*seat{}, edges: map[Ino][]seat{},
		cut: map[Ino]bool{}, put: map[Ino]edge{}, known: map[Ino]bool{},
	}
	own, all, err := f.overlay()
	if err != nil {
		return err
	}
	dirs, err := f.strays()
	if err != nil {
		return err
	}
	for i := range sp.dirs {
		dirs[i] = true
	}
	for e := range all {
		sp.edges[e] = true
		r, err := findRaw(m.exchange, ch, e)
		if err != nil {
			return err
		}
		sp.edge(e, all[e], r.ino)
		for _, i := range []Ino{e.parent, all[e], r.ino} {
			if isDirIno(i) {
				dirs[i] = true
			}
		}
	}
	for e := range sp.edges {
		r, err := findRaw(m.exchange, ch, e)
		if err != nil {
			return err
		}
		if r.ino != 0 {
			if known, err := f.knows(r.ino); err != nil {
				return err
			} else if !known {
				f.over[e] = 0
			}
		}
	}
	if err := f.structure(dirs); err != nil {
		return err
	}
	return f.write(own, all)
}

// overlay returns the rows of the overlay: those of the branch itself, and all
// that its head sees.
func (f *fixer) overlay() (own, all map[edge]Ino, err error) {
	own, all = map[edge]Ino{}, map[edge]Ino{}
	for k, l := range f.ch {
		if k > 0 && l.bound != schema.MaxStamp {
			continue
		}
		s := f.m.tx.Stmt("SELECT parent, name, ino FROM dentry WHERE branch = ? AND node > 2000000000")
		s.BindInt64(1, l.branch)
		for err := range schema.Rows(s) {
			if err != nil {
				return nil, nil, err
			}
			e := edge{Ino(s.ColumnInt64(0)), s.ColumnText(1)}
			if _, nearer := all[e]; !nearer {
				all[e] = Ino(s.ColumnInt64(2))
			}
			if k == 0 {
				own[e] = Ino(s.ColumnInt64(2))
			}
		}
	}
	return own, all, nil
}

// strays returns the directories that the branch or one it sees had to repair.
func (f *fixer) strays() (map[Ino]bool, error) {
	dirs := map[Ino]bool{}
	for _, l := range f.ch {
		s := f.m.tx.Stmt("SELECT ino FROM stray WHERE branch = ?")
		s.BindInt64(1, l.branch)
		inos, err := columnInts(s)
		if err != nil {
			return nil, err
		}
		for _, i := range inos {
			dirs[Ino(i)] = true
		}
	}
	return dirs, nil
}

// knows reports whether the head sees the inode.
func (f *fixer) knows(i Ino) (bool, error) {
	if k, ok := f.known[i]; ok {
		return k, nil
	}
	_, ok, err := findInode(f.m.tx, f.ch, false, i)
	f.known[i] = ok
	return ok, err
}

// seats returns the entries of a directory as they were written, newest first.
func (f *fixer) seats(d Ino) ([]seat, error) {
	if es, ok := f.edges[d]; ok {
		return es, nil
	}
	named, err := f.m.everNamed(d)
	if err != nil {
		return nil, err
	}
	var es []seat
	for _, e := range named {
		r, err := findRaw(f.m.exchange, f.ch, e)
		if err != nil {
			return nil, err
		}
		if r.ino != d {
			continue
		}
		id, err := f.id(r.version)
		if err != nil {
			return nil, err
		}
		es = append(es, seat{e, id})
	}
	sortSeats(es)
	f.edges[d] = es
	return es, nil
}

func sortSeats(es []seat) {
	slices.SortFunc(es, func(a, b seat) int {
		return cmp.Or(b.id.Compare(a.id), compareEdges(a.edge, b.edge))
	})
}

// id is that of a version; a conflict copy has a key of zeros.
func (f *fixer) id(v version) (VersionID, error) {
	if v.node == copyNode {
		return VersionID{Stamp: v.stamp}, nil
	}
	return f.m.id(v)
}

// seat returns the entry that counts, nil without one.
func (f *fixer) seat(d Ino) (*seat, error) {
	if f.cut[d] {
		return nil, nil
	}
	es, err := f.seats(d)
	if len(es) == 0 || err != nil {
		return nil, err
	}
	return &es[0], nil
}

// parent returns where a directory is, 0 when nowhere.
func (f *fixer) parent(d Ino) (Ino, error) {
	if e, ok := f.put[d]; ok {
		return e.parent, nil
	}
	s, err := f.seat(d)
	if s == nil || err != nil {
		return 0, err
	}
	return s.parent, nil
}

func (f *fixer) root() Ino { return f.m.bucket.Root }

// structure finds what must be said of directories. dirs are all that can be
// wrong.
func (f *fixer) structure(dirs map[Ino]bool) error {
	for _, d := range slices.Sorted(maps.Keys(dirs)) {
		es, err := f.seats(d)
		if err != nil {
			return err
		}
		for _, s := range es {
			dirs[s.parent] = true
		}
	}
	sorted := slices.Sorted(maps.Keys(dirs))
	for _, d := range sorted {
		if err := f.breakCycle(d); err != nil {
			return err
		}
	}
	lost := map[Ino]bool{}
	for d := range f.cut {
		lost[d] = true
	}
	for _, d := range sorted {
		es, err := f.seats(d)
		if err != nil {
			return err
		}
		for k := range es {
			if k > 0 {
				f.over[es[k].edge] = 0
			}
		}
		if lost[d] || len(es) > 0 || d == f.root() {
			continue
		}
		if lost[d], err = f.occupied(d); err != nil {
			return err
		}
	}
	for d := range f.cut {
		es, err := f.seats(d)
		if err != nil {
			return err
		}
		f.over[es[0].edge] = 0
	}
	return f.rehouse(lost, sorted)
}

// breakCycle cuts the newest entry of the cycle that d is in or leads to.
func (f *fixer) breakCycle(d Ino) error {
	var path []Ino
	at := map[Ino]int{}
	for d != 0 && d != f.root() {
		if k, ok := at[d]; ok {
			return f.cutNewest(path[k:])
		}
		at[d] = len(path)
		path = append(path, d)
		var err error
		if d, err = f.parent(d); err != nil {
			return err
		}
	}
	return nil
}

func (f *fixer) cutNewest(cycle []Ino) error {
	var newest *seat
	var which Ino
	for _, d := range cycle {
		s, err := f.seat(d)
		if err != nil {
			return err
		}
		if newest == nil || newest.id.Compare(s.id) < 0 || newest.id == s.id && which < d {
			newest, which = s, d
		}
	}
	f.cut[which] = true
	return nil
}

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

// write makes the overlay say what it must.
func (f *fixer) write(own, all map[edge]Ino) error {
	edges := maps.Clone(f.over)
	maps.Copy(edges, all)
	for _, e := range slices.SortedFunc(maps.Keys(edges), compareEdges) {
		raw, err := findRaw(f.m.exchange, f.ch, e)
		if err != nil {
			return err
		}
		want, said := f.over[e]
		if !said {
			want = raw.ino
		}
		below := raw.ino
		if len(f.ch) > 1 { // a parent that is followed may have an overlay of its own
			if below, err = f.below(e, raw); err != nil {
				return err
			}
		}
		now, is := own[e]
		switch {
		case want == below && is:
			err = f.set(e, 0, false)
		case want != below && (!is || now != want):
			err = f.set(e, want, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// below returns what the head shows at e without the branch's own overlay.
func (f *fixer) below(e edge, raw dentryRow) (Ino, error) {
	if raw.branch == f.branch {
		return raw.ino, nil
	}
	r, _, err := findDentry(f.m.tx, f.ch[1:], e.parent, e.name)
	return r.ino, err
}

// set writes a row of the overlay, or removes it.
func (f *fixer) set(e edge, i Ino, there bool) error {
	m := f.m
	heads, err := m.reach(f.branch, schema.MaxStamp)
	if err != nil {
		return err
	}
	for _, r := range heads {
		if err := m.noteEdge(m.exchange, r.branch, e); err != nil {
			return err
		}
		was := m.head(r.branch).edges[e]
		for _, j := range []Ino{i, was.ino} {
			if j != 0 {
				m.noteCount(r.branch, e.parent, j, schema.MaxStamp)
			}
		}
		raw, err := findRaw(m.exchange, f.ch, e)
		if err != nil {
			return err
		}
		if raw.ino != 0 {
			m.noteCount(r.branch, e.parent, raw.ino, schema.MaxStamp)
		}
		if r.branch != f.branch {
			m.suspect(r.branch).edge(e, i, was.ino, raw.ino)
		}
	}
	at := version{f.branch, schema.MaxStamp, derivedNode}
	if err := deleteDentry(m.tx, e.parent, e.name, at); err != nil || !there {
		return err
	}
	kind := uint32(0)
	if i != 0 {
		in, err := m.inode(f.branch, i)
		if err != nil {
			return err
		}
		kind = kindOf(&in.Inode)
	}
	return insertDentry(m.tx, e.parent, e.name, at, i, kind)
}

// conflictMark comes between a name and what tells its conflict copies apart.
const conflictMark = ".conflict-"

// suffixed adds a suffix to a name that may be as long as names can be.
func suffixed(name, suffix string) string {
	return name[:min(len(name), NameMax-len(suffix))] + suffix
}

// shortHash returns 8 hexadecimal digits that depend on s and n, or more the
// greater n is.
func shortHash(s string, n int) string {
	h := blobstore.Sum([]byte(s + " " + strconv.Itoa(n)))
	return h.String()[:8]
}
