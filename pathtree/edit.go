package pathtree

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// edit is a set of changes laid over a view: a side of its own, and, applied,
// new versions of the view's branch, all of one stamp. Unlike a sequence of
// operations it needs no order: names can be swapped and directories moved
// around each other.
type edit struct {
	old    *viewSide
	to     map[edge]Ino          // what an edge leads to; 0: nothing
	byIno  map[Ino]map[edge]bool // edges in to by the inode they lead to
	byDir  map[Ino]map[string]Ino
	states map[Ino]*inodeState
	attrs  map[Ino]map[string]*string // xattrs; nil: removed
	// Edges and inodes to write a version of even where it says what was there
	// before.
	affirmed       map[edge]bool
	affirmedInodes []Ino
}

// inodeState is an inode as it is to be; Nlink and Ctime are worked out.
type inodeState struct {
	Inode
	groups int
}

func newEdit(old *viewSide) *edit {
	return &edit{
		old: old, to: map[edge]Ino{}, byIno: map[Ino]map[edge]bool{}, byDir: map[Ino]map[string]Ino{},
		states: map[Ino]*inodeState{}, attrs: map[Ino]map[string]*string{}, affirmed: map[edge]bool{},
	}
}

// set makes e lead to i, or nowhere when i is 0.
func (d *edit) set(e edge, i Ino) {
	if was := d.to[e]; was != 0 {
		delete(d.byIno[was], e)
	}
	d.to[e] = i
	if d.byDir[e.parent] == nil {
		d.byDir[e.parent] = map[string]Ino{}
	}
	d.byDir[e.parent][e.name] = i
	if i != 0 {
		if d.byIno[i] == nil {
			d.byIno[i] = map[edge]bool{}
		}
		d.byIno[i][e] = true
	}
}

// unset forgets what set said about e.
func (d *edit) unset(e edge) {
	if i := d.to[e]; i != 0 {
		delete(d.byIno[i], e)
	}
	delete(d.to, e)
	delete(d.byDir[e.parent], e.name)
}

// put gives an inode the state in, of which groups are new.
func (d *edit) put(in Inode, groups int) {
	if s := d.states[in.Ino]; s != nil {
		groups |= s.groups
	}
	d.states[in.Ino] = &inodeState{in, groups}
}

// setXattr sets an extended attribute, or removes it when value is nil.
func (d *edit) setXattr(i Ino, name string, value *string) {
	if d.attrs[i] == nil {
		d.attrs[i] = map[string]*string{}
	}
	d.attrs[i][name] = value
}

func (d *edit) root() Ino { return d.old.root() }

func (d *edit) lookup(tx *schema.Tx, e edge) (Ino, error) {
	if i, ok := d.to[e]; ok {
		return i, nil
	}
	return d.old.lookup(tx, e)
}

func (d *edit) inode(tx *schema.Tx, i Ino) (*Inode, error) {
	if s := d.states[i]; s != nil {
		return &s.Inode, nil
	}
	return d.old.inode(tx, i)
}

func (d *edit) edges(tx *schema.Tx, i Ino) ([]edge, error) {
	old, err := d.old.edges(tx, i)
	if err != nil {
		return nil, err
	}
	var es []edge
	for _, e := range old {
		if _, ok := d.to[e]; !ok {
			es = append(es, e)
		}
	}
	for e := range d.byIno[i] {
		es = append(es, e)
	}
	return es, nil
}

func (d *edit) xattrs(tx *schema.Tx, i Ino) (map[string]string, error) {
	m, err := d.old.xattrs(tx, i)
	if err != nil || len(d.attrs[i]) == 0 {
		return m, err
	}
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	for k, v := range d.attrs[i] {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = *v
		}
	}
	return m, nil
}

func (d *edit) list(tx *schema.Tx, dir Ino) ([]Entry, error) {
	old, err := d.old.list(tx, dir)
	if err != nil || len(d.byDir[dir]) == 0 {
		return old, err
	}
	var es []Entry
	for _, e := range old {
		if _, ok := d.byDir[dir][e.Name]; !ok {
			es = append(es, e)
		}
	}
	for name, i := range d.byDir[dir] {
		if i == 0 {
			continue
		}
		in, err := d.inode(tx, i)
		if err != nil {
			return nil, err
		}
		es = append(es, Entry{Name: name, Ino: i, Kind: in.Mode & unix.S_IFMT})
	}
	slices.SortFunc(es, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return es, nil
}

func (d *edit) dirPath(tx *schema.Tx, dir Ino) (string, error) { return climb(tx, d, dir) }

// changes returns what the edit does, as Diff would list it.
func (d *edit) changes(tx *schema.Tx) ([]Change, error) {
	c := newCandidates()
	for e := range d.to {
		c.edges[e] = struct{}{}
	}
	for i := range d.states {
		c.inodes[i] = struct{}{}
	}
	for i := range d.attrs {
		c.inodes[i] = struct{}{}
	}
	df := differ{tx: tx, a: d.old, b: d}
	return df.run(c)
}

// empty reports whether there is nothing to apply.
func (d *edit) empty() bool { return len(d.to)+len(d.states)+len(d.attrs) == 0 }

// applier writes an edit as versions of one change.
type applier struct {
	*edit
	c     *change
	names map[Ino]int  // by inode: names won less names lost
	subs  map[Ino]int  // by directory: subdirectories won less lost
	dirs  map[Ino]bool // directories whose entries change
	moves []edgeMove
}

// edgeMove is an edge that comes to lead to another inode.
type edgeMove struct {
	edge
	path     string // for the order of events
	old, new Ino
	kind     uint32
}

// apply writes the edit with c. Nothing that was there is overwritten in
// place, so that the state before stays in history.
func (d *edit) apply(c *change) error {
	c.sealed = c.at.stamp
	a := applier{edit: d, c: c, names: map[Ino]int{}, subs: map[Ino]int{}, dirs: map[Ino]bool{}}
	if err := a.count(); err != nil {
		return err
	}
	if err := c.inTotal(a.writeInodes); err != nil {
		return err
	}
	if err := a.writeXattrs(); err != nil {
		return err
	}
	for _, m := range a.moves {
		if err := deleteDentry(c.tx, m.parent, m.name, version{c.at.branch, schema.MaxStamp, derivedNode}); err != nil {
			return err
		}
		if err := insertDentry(c.tx, m.parent, m.name, c.at, m.new, m.kind); err != nil {
			return err
		}
	}
	if err := a.writeAffirmed(); err != nil {
		return err
	}
	return a.events()
}

func (a *applier) writeAffirmed() error {
	for _, e := range slices.SortedFunc(maps.Keys(a.affirmed), compareEdges) {
		cur, _, err := findDentry(a.c.tx, a.c.v.chain, e.parent, e.name)
		if err == nil && cur.node == derivedNode {
			err = deleteDentry(a.c.tx, e.parent, e.name, cur.version)
		}
		if err == nil {
			err = insertDentry(a.c.tx, e.parent, e.name, a.c.at, cur.ino, cur.kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// count finds the edges that change and what that does to link counts.
func (a *applier) count() error {
	for e, new := range a.to {
		old, err := a.old.lookup(a.c.tx, e)
		if err != nil {
			return err
		}
		if old == new {
			continue
		}
		delete(a.affirmed, e)
		m := edgeMove{edge: e, old: old, new: new}
		if old != 0 {
			if err := a.link(a.old, e, old, -1, nil); err != nil {
				return err
			}
		}
		if new != 0 {
			if err := a.link(a.edit, e, new, 1, &m.kind); err != nil {
				return err
			}
		}
		a.dirs[e.parent] = true
		if m.path, err = pathOf(a.c.tx, a.edit, e); err != nil {
			if m.path, err = pathOf(a.c.tx, a.old, e); err != nil {
				return err
			}
		}
		a.moves = append(a.moves, m)
	}
	slices.SortFunc(a.moves, func(x, y edgeMove) int {
		return cmp.Or(strings.Compare(x.path, y.path), cmp.Compare(x.parent, y.parent))
	})
	return nil
}

func (a *applier) link(s side, e edge, i Ino, n int, kind *uint32) error {
	in, err := s.inode(a.c.tx, i)
	if err != nil {
		return err
	}
	a.names[i] += n
	if in.IsDir() {
		a.subs[e.parent] += n
	}
	if kind != nil {
		*kind = in.Mode & unix.S_IFMT
	}
	return nil
}

// writeInodes writes a version of each inode whose state, link count or
// entries change.
func (a *applier) writeInodes() error {
	touched := map[Ino]int{}
	for _, i := range a.affirmedInodes {
		touched[i] = 0
	}
	for i, s := range a.states {
		touched[i] = s.groups
	}
	for i, n := range a.names {
		if n != 0 {
			touched[i] |= groupLinks
		}
	}
	for i := range a.dirs {
		touched[i] |= groupContent
		if a.subs[i] != 0 {
			touched[i] |= groupLinks
		}
	}
	for _, i := range slices.Sorted(maps.Keys(touched)) {
		if err := a.writeInode(i, touched[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) writeInode(i Ino, groups int) error {
	in, err := a.inode(a.c.tx, i)
	if err != nil {
		return err
	}
	r := inodeRow{Inode: *in, groups: groups}
	was, err := a.old.inode(a.c.tx, i)
	if err != nil {
		return err
	}
	links := a.names[i]
	if was != nil {
		links += int(was.Nlink)
	} else {
		r.groups = groupAll
	}
	if in.IsDir() {
		switch lived := was != nil && was.Nlink > 0; {
		case lived && a.names[i] < 0:
			links = 0
		case lived:
			links = int(was.Nlink) + a.subs[i]
		default:
			links = 2 + a.subs[i]
		}
	}
	r.Nlink = uint32(max(links, 0))
	r.Ctime = a.c.now
	if s := a.states[i]; a.dirs[i] && (s == nil || s.groups&groupContent == 0) {
		r.Mtime = a.c.now
	}
	if err := a.c.charge(was, &r.Inode); err != nil {
		return err
	}
	r.Branch, r.Stamp, r.node = a.c.at.branch, a.c.at.stamp, a.c.at.node
	return a.c.insert(&r, false)
}

func (a *applier) writeXattrs() error {
	for _, i := range slices.Sorted(maps.Keys(a.attrs)) {
		for _, name := range slices.Sorted(maps.Keys(a.attrs[i])) {
			var value []byte
			if v := a.attrs[i][name]; v != nil {
				value = append([]byte{}, *v...)
			}
			if err := putXattr(a.c.tx, i, name, a.c.at, value); err != nil {
				return err
			}
			if err := a.c.event(notify.Event{Op: notify.OpXattr, Ino: uint64(i), Name: []byte(name)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// events tells of removals from the leaves up, then of what came from the root
// down, then of new content and attributes.
func (a *applier) events() error {
	lost, won := map[Ino][]edgeMove{}, map[Ino][]edgeMove{}
	for _, m := range a.moves {
		if m.old != 0 {
			lost[m.old] = append(lost[m.old], m)
		}
		if m.new != 0 {
			won[m.new] = append(won[m.new], m)
		}
	}
	renamed := func(i Ino) bool { return len(lost[i]) == 1 && len(won[i]) == 1 }
	for _, m := range slices.Backward(a.moves) {
		if m.old == 0 || renamed(m.old) {
			continue
		}
		in, err := a.old.inode(a.c.tx, m.old)
		if err != nil {
			return err
		}
		err = a.c.event(notify.Event{
			Op: notify.OpRemove, Ino: uint64(m.old), Parent: uint64(m.parent), Name: []byte(m.name),
			Old: hashBytes(in.Hash), Size: in.Size,
		})
		if err != nil {
			return err
		}
	}
	for _, m := range a.moves {
		if m.new == 0 {
			continue
		}
		if err := a.eventWon(m, renamed(m.new), lost[m.new]); err != nil {
			return err
		}
	}
	return a.stateEvents()
}

func (a *applier) eventWon(m edgeMove, renamed bool, lost []edgeMove) error {
	was, err := a.old.inode(a.c.tx, m.new)
	if err != nil {
		return err
	}
	in, err := a.inode(a.c.tx, m.new)
	if err != nil {
		return err
	}
	e := notify.Event{Op: notify.OpLink, Ino: uint64(m.new), Parent: uint64(m.parent), Name: []byte(m.name), Size: in.Size}
	switch {
	case renamed:
		e.Op, e.Ref, e.Old = notify.OpRename, int64(lost[0].parent), []byte(lost[0].name)
	case was == nil || was.Nlink == 0:
		e.Op, e.New = notify.OpCreate, hashBytes(in.Hash)
	}
	return a.c.event(e)
}

func (a *applier) stateEvents() error {
	for _, i := range slices.Sorted(maps.Keys(a.states)) {
		s := a.states[i]
		was, err := a.old.inode(a.c.tx, i)
		if err != nil {
			return err
		}
		if was == nil || was.Nlink == 0 {
			continue // its creation was told
		}
		if s.groups&groupContent != 0 && s.IsRegular() {
			err := a.c.event(notify.Event{
				Op: notify.OpContent, Ino: uint64(i), Old: hashBytes(was.Hash), New: hashBytes(s.Hash), Size: s.Size,
			})
			if err != nil {
				return err
			}
		}
		if s.groups&groupAttrs != 0 {
			if err := a.c.event(notify.Event{Op: notify.OpAttr, Ino: uint64(i), Size: s.Size}); err != nil {
				return err
			}
		}
	}
	return nil
}
