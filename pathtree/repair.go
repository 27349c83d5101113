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
//   - A directory that was moved into one that is not known stays where it was.
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
		if lost[d] || d == f.root() {
			continue
		}
		if len(es) > 0 {
			if lost[d], err = f.astray(d, es[0].parent); err != nil {
				return err
			} else if lost[d] {
				f.over[es[0].edge] = 0
			}
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
		was, err := m.noteEdge(m.exchange, r.branch, e, schema.MaxStamp)
		if err != nil {
			return err
		}
		raw, err := findRaw(m.exchange, f.ch, e)
		if err != nil {
			return err
		}
		targets := []Ino{i, was.at(schema.MaxStamp).ino, raw.ino}
		m.noteCount(r.branch, e, schema.MaxStamp, targets...)
		if r.branch != f.branch {
			m.suspect(r.branch).edge(e, targets...)
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
