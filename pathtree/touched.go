package pathtree

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

type inodeAt struct {
	branch int64
	ino    Ino
}

// touched is what an import changes, and how it looked before.
type touched struct {
	seen     map[int64][]reach // by branch with new versions: who sees them
	forks    []int64           // branches that are new
	heads    map[int64]*headState
	inodes   map[inodeAt]schema.Stamp    // with new versions there, from when on
	suspects map[int64]*suspects         // what may be wrong at a head
	links    map[inodeAt]schema.Stamp    // names of which may have come or gone in that view, from when on
	subs     map[inodeAt]map[string]bool // names of a directory that led to one or lead to one
	anew     map[inodeAt]bool            // directories whose count before may not have been right
}

// headState is what the head of a branch showed.
type headState struct {
	edges  map[edge]*trace
	inodes map[Ino]*inodeRow // nil: none
	xattrs map[thing][]byte  // nil: none
}

func newTouched() touched {
	return touched{
		seen: map[int64][]reach{}, heads: map[int64]*headState{},
		suspects: map[int64]*suspects{}, inodes: map[inodeAt]schema.Stamp{}, links: map[inodeAt]schema.Stamp{},
		subs: map[inodeAt]map[string]bool{}, anew: map[inodeAt]bool{},
	}
}

func (t *touched) head(branch int64) *headState {
	h := t.heads[branch]
	if h == nil {
		h = &headState{edges: map[edge]*trace{}, inodes: map[Ino]*inodeRow{}, xattrs: map[thing][]byte{}}
		t.heads[branch] = h
	}
	return h
}

// from lowers a stamp in a map.
func from[K comparable](m map[K]schema.Stamp, k K, s schema.Stamp) {
	if old, ok := m[k]; !ok || s < old {
		m[k] = s
	}
}

// touch notes what a version that is about to be added can change.
func (t *touched) touch(x *exchange, p arrival) error {
	if p.Kind == InodeVersion {
		from(t.inodes, inodeAt{p.at.branch, p.Ino}, p.at.stamp)
	}
	for _, r := range t.seen[p.at.branch] {
		if r.bound < p.at.stamp {
			continue
		}
		var err error
		switch p.Kind {
		case DentryVersion:
			err = t.noteLinks(x, r.branch, p)
		case InodeVersion:
			err = t.noteInode(x, r.branch, p.Ino)
			from(t.links, inodeAt{r.branch, p.Ino}, p.at.stamp)
		case XattrVersion:
			err = t.noteXattr(x, r.branch, p.thing())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// noteLinks notes whose link counts a dentry changes: what it names, and what
// the name led to before.
func (t *touched) noteLinks(x *exchange, branch int64, p arrival) error {
	e := edge{p.Parent, p.Name}
	was, err := t.noteEdge(x, branch, e, p.at.stamp)
	if err != nil {
		return err
	}
	targets := []Ino{p.Ino, was.at(schema.MaxStamp).ino, was.at(p.at.stamp - 1).ino, was.at(p.at.stamp).ino}
	t.suspect(branch).edge(e, targets...)
	t.noteCount(branch, e, p.at.stamp, targets...)
	return nil
}

// noteCount notes that each of targets may have won or lost the name e.
func (t *touched) noteCount(branch int64, e edge, s schema.Stamp, targets ...Ino) {
	for _, i := range targets {
		if i == 0 {
			continue
		}
		from(t.links, inodeAt{branch, i}, s)
		if !isDirIno(i) {
			continue
		}
		dir := inodeAt{branch, e.parent}
		from(t.links, dir, s)
		if t.subs[dir] == nil {
			t.subs[dir] = map[string]bool{}
		}
		t.subs[dir][e.name] = true
	}
}

// noteEdge returns what a head showed of e before the import, from since on.
func (t *touched) noteEdge(x *exchange, branch int64, e edge, since schema.Stamp) (*trace, error) {
	h := t.head(branch)
	if was := h.edges[e]; was != nil {
		return was, nil
	}
	ch, err := x.chain(branch)
	if err != nil {
		return nil, err
	}
	h.edges[e], err = traceDentry(x.tx, ch, e, since)
	return h.edges[e], err
}

func (t *touched) noteInode(x *exchange, branch int64, i Ino) error {
	h := t.head(branch)
	if _, ok := h.inodes[i]; ok {
		return nil
	}
	r, err := x.inode(branch, i)
	h.inodes[i] = r
	return err
}

func (t *touched) noteXattr(x *exchange, branch int64, th thing) error {
	h := t.head(branch)
	if _, ok := h.xattrs[th]; ok {
		return nil
	}
	ch, err := x.chain(branch)
	if err != nil {
		return err
	}
	r, _, err := findXattr(x.tx, ch, th.ino, th.name)
	h.xattrs[th] = r.value
	return err
}

// inode returns what the head of a branch shows of an inode, nil when nothing.
func (x *exchange) inode(branch int64, i Ino) (*inodeRow, error) {
	ch, err := x.chain(branch)
	if err != nil {
		return nil, err
	}
	r, ok, err := findInode(x.tx, ch, ch.hasLive(), i)
	if !ok || err != nil {
		return nil, err
	}
	return &r, nil
}

// events tells what has changed to be seen at the head of each branch.
func (m *importer) events() error {
	for _, branch := range slices.Sorted(maps.Keys(m.heads)) {
		b, err := m.t.BranchByID(m.tx, branch)
		if err != nil {
			return err
		}
		if b.Deleted != 0 {
			continue
		}
		e := eventer{m: m, branch: branch, head: m.heads[branch], fresh: map[Ino]bool{}}
		if e.chain, err = m.chain(branch); err != nil {
			return err
		}
		if err := e.run(); err != nil {
			return err
		}
	}
	return nil
}

// eventer compares one head with what it was.
type eventer struct {
	m      *importer
	branch int64
	chain  chain
	head   *headState
	fresh  map[Ino]bool // whose creation is told
}

type edgeChange struct {
	edge
	was, is dentryRow
}

func (e *eventer) run() error {
	lost, won := map[Ino][]edgeChange{}, map[Ino][]edgeChange{}
	var changes []edgeChange
	for _, at := range slices.SortedFunc(maps.Keys(e.head.edges), compareEdges) {
		c := edgeChange{edge: at, was: e.head.edges[at].at(schema.MaxStamp)}
		var err error
		if c.is, _, err = findDentry(e.m.tx, e.chain, at.parent, at.name); err != nil {
			return err
		}
		if c.was.ino == c.is.ino {
			continue
		}
		changes = append(changes, c)
		lost[c.was.ino] = append(lost[c.was.ino], c)
		won[c.is.ino] = append(won[c.is.ino], c)
	}
	renamed := func(i Ino) bool { return len(lost[i]) == 1 && len(won[i]) == 1 }
	for _, c := range changes {
		if c.was.ino != 0 && !renamed(c.was.ino) {
			if err := e.removed(c); err != nil {
				return err
			}
		}
	}
	for _, c := range changes {
		if c.is.ino == 0 {
			continue
		}
		var from *edgeChange
		if renamed(c.is.ino) {
			from = &lost[c.is.ino][0]
		}
		if err := e.added(c, from); err != nil {
			return err
		}
	}
	if err := e.inodes(); err != nil {
		return err
	}
	return e.xattrs()
}

// put records an event of what the version at says, or of what was derived.
func (e *eventer) put(at version, ev notify.Event) error {
	ev.Stamp, ev.Node = at.stamp, at.node
	if at.node >= nodeLimit || at.node == schema.LocalNode || at.node == 0 {
		ev.Node = e.m.node
	}
	if ev.Stamp == schema.MaxStamp || ev.Stamp == 0 {
		ev.Stamp = e.m.tx.NextStamp()
	}
	ev.Bucket, ev.Branch = e.m.bucket.ID, e.branch
	return notify.Append(e.m.tx, &ev)
}

func (e *eventer) removed(c edgeChange) error {
	ev := notify.Event{Op: notify.OpRemove, Ino: uint64(c.was.ino), Parent: uint64(c.parent), Name: []byte(c.name)}
	in, err := e.m.inode(e.branch, c.was.ino)
	if err != nil {
		return err
	}
	if in != nil {
		ev.Old, ev.Size = hashBytes(in.Hash), in.Size
	}
	return e.put(c.is.version, ev)
}

func (e *eventer) added(c edgeChange, from *edgeChange) error {
	in, err := e.m.inode(e.branch, c.is.ino)
	if err != nil {
		return err
	}
	ev := notify.Event{Op: notify.OpLink, Ino: uint64(c.is.ino), Parent: uint64(c.parent), Name: []byte(c.name)}
	if in != nil {
		ev.New, ev.Size = hashBytes(in.Hash), in.Size
	}
	was, noted := e.head.inodes[c.is.ino]
	switch {
	case from != nil:
		ev.Op, ev.Ref, ev.Old, ev.New = notify.OpRename, int64(from.parent), []byte(from.name), nil
	case noted && (was == nil || was.Nlink == 0) && !e.fresh[c.is.ino]:
		ev.Op = notify.OpCreate
		e.fresh[c.is.ino] = true
	}
	return e.put(c.is.version, ev)
}

// inodes tells of content and attributes.
func (e *eventer) inodes() error {
	for _, i := range slices.Sorted(maps.Keys(e.head.inodes)) {
		was := e.head.inodes[i]
		is, err := e.m.inode(e.branch, i)
		if err != nil {
			return err
		}
		if is == nil || was == nil && e.fresh[i] {
			continue
		}
		if was == nil {
			was = &inodeRow{Inode: Inode{Mode: kindOf(&is.Inode)}}
		}
		if is.IsRegular() && !sameContent(&was.Inode, &is.Inode) {
			err := e.put(is.version(), notify.Event{
				Op: notify.OpContent, Ino: uint64(i), Old: hashBytes(was.Hash), New: hashBytes(is.Hash), Size: is.Size,
			})
			if err != nil {
				return err
			}
		}
		a, b := was.Inode, is.Inode
		a.Stamp, a.Branch, a.Hash, a.Size = b.Stamp, b.Branch, b.Hash, b.Size
		if a != b {
			if err := e.put(is.version(), notify.Event{Op: notify.OpAttr, Ino: uint64(i), Size: is.Size}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *eventer) xattrs() error {
	for _, th := range slices.SortedFunc(maps.Keys(e.head.xattrs), compareThings) {
		was := e.head.xattrs[th]
		r, _, err := findXattr(e.m.tx, e.chain, th.ino, th.name)
		if err != nil {
			return err
		}
		if bytes.Equal(was, r.value) && (was == nil) == (r.value == nil) {
			continue
		}
		if err := e.put(r.version, notify.Event{Op: notify.OpXattr, Ino: uint64(th.ino), Name: []byte(th.name)}); err != nil {
			return err
		}
	}
	return nil
}

// settle makes what is derived from versions agree with them.
func (m *importer) settle() error {
	if err := m.contests(); err != nil {
		return err
	}
	if err := m.repair(); err != nil {
		return err
	}
	if err := m.recount(); err != nil {
		return err
	}
	if err := m.tally.done(); err != nil {
		return err
	}
	if err := m.tellConflicts(); err != nil {
		return err
	}
	if err := m.events(); err != nil {
		return err
	}
	for c := range m.contents {
		m.result.Contents = append(m.result.Contents, c)
	}
	slices.SortFunc(m.result.Contents, func(a, b ContentRef) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return nil
}

// settleLocal makes what is derived agree with what this node itself wrote.
func (m *importer) settleLocal(written []arrival, made []int64) error {
	m.forks = made
	least := map[int64]schema.Stamp{}
	for _, p := range written {
		from(least, p.at.branch, p.at.stamp)
	}
	for branch, since := range least {
		all, err := m.reach(branch, since)
		if err != nil {
			return err
		}
		m.seen[branch] = all
	}
	byStamp := slices.Clone(written)
	slices.SortStableFunc(byStamp, func(a, b arrival) int { return cmp.Compare(a.at.stamp, b.at.stamp) })
	for _, p := range byStamp {
		if err := m.touch(m.exchange, p); err != nil {
			return err
		}
		if err := m.settleSeen(p); err != nil {
			return err
		}
	}
	m.added = written
	return m.settle()
}
