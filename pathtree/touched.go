package pathtree

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

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
	inodes   map[inodeAt]schema.Stamp // with new versions there, from when on
	suspects map[int64]*suspects      // what may be wrong at a head
	links    map[inodeAt]schema.Stamp // names of which may have come or gone in that view, from when on
}

// headState is what the head of a branch showed.
type headState struct {
	edges  map[edge]dentryRow
	inodes map[Ino]*inodeRow // nil: none
	xattrs map[thing][]byte  // nil: none
}

func newTouched() touched {
	return touched{
		seen: map[int64][]reach{}, heads: map[int64]*headState{},
		suspects: map[int64]*suspects{}, inodes: map[inodeAt]schema.Stamp{}, links: map[inodeAt]schema.Stamp{},
	}
}

func (t *touched) head(branch int64) *headState {
	h := t.heads[branch]
	if h == nil {
		h = &headState{edges: map[edge]dentryRow{}, inodes: map[Ino]*inodeRow{}, xattrs: map[thing][]byte{}}
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
			if err = t.noteEdge(x, r.branch, edge{p.Parent, p.Name}); err == nil {
				err = t.noteLinks(x, r.branch, p)
			}
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
	ch, err := x.chain(branch)
	if err != nil {
		return err
	}
	now := t.head(branch).edges[edge{p.Parent, p.Name}]
	targets := []Ino{p.Ino, now.ino}
	for _, s := range []schema.Stamp{p.at.stamp - 1, p.at.stamp} {
		then := slices.Clone(ch)
		for k := range then {
			then[k].bound = min(then[k].bound, s)
		}
		was, _, err := findDentry(x.tx, then, p.Parent, p.Name)
		if err != nil {
			return err
		}
		targets = append(targets, was.ino)
	}
	t.suspect(branch).edge(edge{p.Parent, p.Name}, targets...)
	for _, i := range targets {
		if i != 0 {
			t.noteCount(branch, p.Parent, i, p.at.stamp)
		}
	}
	return nil
}

// noteCount notes that i may have won or lost a name in dir.
func (t *touched) noteCount(branch int64, dir, i Ino, s schema.Stamp) {
	from(t.links, inodeAt{branch, i}, s)
	if isDirIno(i) {
		from(t.links, inodeAt{branch, dir}, s)
	}
}

func (t *touched) noteEdge(x *exchange, branch int64, e edge) error {
	h := t.head(branch)
	if _, ok := h.edges[e]; ok {
		return nil
	}
	ch, err := x.chain(branch)
	if err != nil {
		return err
	}
	h.edges[e], _, err = findDentry(x.tx, ch, e.parent, e.name)
	return err
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
		c := edgeChange{edge: at, was: e.head.edges[at]}
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
	for _, p := range written {
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

// recountOne counts the names of an inode in one view: for the row that its
// head shows, and for older rows of the branch as of their end.
func (m *importer) recountOne(branch int64, i Ino, since schema.Stamp) error {
	ch, err := m.chain(branch)
	if err != nil {
		return err
	}
	if err := m.recountPast(branch, ch, i, since); err != nil {
		return err
	}
	r, err := m.inode(branch, i)
	if r == nil || err != nil {
		return err
	}
	n, err := m.countLinks(ch, i)
	if err != nil {
		return err
	}
	live := ch.hasLive()
	if r.Nlink == n {
		return nil
	}
	if err := m.noteInode(m.exchange, branch, i); err != nil {
		return err
	}
	// Where the row is another branch's, or another's count is what a live view
	// shows, the count has a row of its own.
	if r.Branch == branch && (!live || r.groups&groupLinks != 0) {
		return m.setLinks(r, n)
	}
	r.Branch, r.node, r.groups, r.Nlink = branch, derivedNode, groupLinks, n
	if err := m.tally.before(branch, i, r.Stamp); err != nil {
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

// setLinks sets the count of a row in place.
func (m *importer) setLinks(r *inodeRow, n uint32) error {
	if err := m.tally.before(r.Branch, r.Ino, r.Stamp); err != nil {
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

// recountPast corrects rows of the branch that were superseded after since.
func (m *importer) recountPast(branch int64, ch chain, i Ino, since schema.Stamp) error {
	s := m.tx.Stmt("SELECT " + inodeColumns + ` FROM inode WHERE ino = ?1 AND branch = ?2 AND node < 2000000000
		AND stamp >= coalesce((SELECT max(stamp) FROM inode WHERE ino = ?1 AND branch = ?2 AND stamp < ?3 AND node < 2000000000), 0)
		ORDER BY stamp`)
	s.BindInt64(1, int64(i))
	s.BindInt64(2, branch)
	s.BindInt64(3, int64(since))
	var rows []inodeRow
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		var r inodeRow
		scanInode(s, &r)
		rows = append(rows, r)
	}
	for k := 0; k+1 < len(rows); k++ {
		then := slices.Clone(ch)
		for j := range then {
			then[j].bound = min(then[j].bound, rows[k+1].Stamp-1)
		}
		n, err := m.countLinks(then, i)
		if err != nil {
			return err
		}
		if n != rows[k].Nlink {
			if err := m.setLinks(&rows[k], n); err != nil {
				return err
			}
		}
	}
	return nil
}

// countLinks counts the names of an inode; of a directory that has one, two
// and its subdirectories.
func (m *importer) countLinks(ch chain, i Ino) (n uint32, err error) {
	v := &View{tree: m.t, bucket: m.bucket, chain: ch, live: ch.hasLive()}
	if i == m.bucket.Root {
		n = 1
	} else if err := v.places(m.tx, i, func(name) bool { n++; return !isDirIno(i) }); err != nil {
		return 0, err
	}
	if !isDirIno(i) || n == 0 {
		return n, nil
	}
	d, err := v.scanDir(m.tx, i, "")
	if err != nil {
		return 0, err
	}
	for n = 2; ; {
		e, ok, err := d.next()
		if err != nil || !ok {
			return n, err
		}
		if e.Kind == unix.S_IFDIR {
			n++
		}
	}
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
	if err := m.tally.before(branch, i, first); err != nil {
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
