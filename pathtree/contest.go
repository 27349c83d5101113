package pathtree

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Contests: things of which a branch has versions whose authors did not know of
// each other. Each version names the one it replaced (Prev) and perhaps others
// (Settles); those that none names are the heads. Two heads need not exclude
// each other: equal content, a chmod beside a write, a directory's times. The
// next version that somebody writes who sees them settles those that do not.

// member is one version of a contested thing.
type member struct {
	at    version
	id    VersionID
	prev  version
	above []VersionID // what it replaces
	v     Version
}

// contest is a thing with all of its versions on a branch, by ID.
type contest struct {
	thingAt
	all []member
}

// loadContest returns the versions of a thing on a branch.
func (x *exchange) loadContest(t thingAt) (*contest, error) {
	c := &contest{thingAt: t}
	var err error
	switch t.kind {
	case DentryVersion:
		s := x.tx.Stmt(`SELECT branch, stamp, node, ino, kind FROM dentry
			WHERE parent = ? AND name = ? AND branch = ? AND node < 2000000000`)
		s.BindInt64(1, int64(t.ino))
		bindName(s, 2, t.name)
		s.BindInt64(3, t.branch)
		for err := range schema.Rows(s) {
			if err != nil {
				return nil, err
			}
			c.all = append(c.all, member{at: columnVersion(s), v: Version{
				Kind: t.kind, Parent: t.ino, Name: t.name, Ino: Ino(s.ColumnInt64(3)), FileType: uint32(s.ColumnInt64(4)) << 12,
			}})
		}
	case InodeVersion:
		s := x.tx.Stmt("SELECT " + inodeColumns + " FROM inode WHERE ino = ? AND branch = ? AND node < 2000000000")
		s.BindInt64(1, int64(t.ino))
		s.BindInt64(2, t.branch)
		for err := range schema.Rows(s) {
			if err != nil {
				return nil, err
			}
			var r inodeRow
			scanInode(s, &r)
			c.all = append(c.all, member{at: r.version(), v: Version{Kind: t.kind, Ino: t.ino, Home: r.Home, Inode: toInode(&r)}})
		}
	default:
		s := x.tx.Stmt("SELECT branch, stamp, node, value FROM xattr WHERE ino = ? AND name = ? AND branch = ? AND node < 2000000000")
		s.BindInt64(1, int64(t.ino))
		bindName(s, 2, t.name)
		s.BindInt64(3, t.branch)
		for err := range schema.Rows(s) {
			if err != nil {
				return nil, err
			}
			c.all = append(c.all, member{at: columnVersion(s), v: Version{Kind: t.kind, Ino: t.ino, Name: t.name, Value: columnValue(s, 3)}})
		}
	}
	asides, err := x.asides(t.thing, t.branch, 0)
	if err != nil {
		return nil, err
	}
	for _, a := range asides {
		c.all = append(c.all, member{at: a.version, v: a.v})
	}
	return c, x.sortContest(c)
}

// sortContest adds what each version replaced.
func (x *exchange) sortContest(c *contest) error {
	for k := range c.all {
		var err error
		if c.all[k].id, err = x.id(c.all[k].at); err != nil {
			return err
		}
	}
	slices.SortFunc(c.all, func(a, b member) int { return a.id.Compare(b.id) })
	for k := range c.all {
		m := &c.all[k]
		p, known, err := x.explicitPrev(c.thing, m.at)
		if err != nil {
			return err
		}
		if !known && k > 0 {
			p = c.all[k-1].at
		}
		m.prev = p
		if m.above, err = x.settles(c.thing, m.at); err != nil {
			return err
		}
		if p.stamp != 0 {
			id, err := x.id(p)
			if err != nil {
				return err
			}
			m.above = append(m.above, id)
		}
	}
	return nil
}

// index returns the place of a version, -1 when it is not kept.
func (c *contest) index(id VersionID) int {
	k, ok := slices.BinarySearchFunc(c.all, id, func(m member, id VersionID) int { return m.id.Compare(id) })
	if !ok {
		return -1
	}
	return k
}

// known returns, for a version, which others it replaced, directly or not.
func (c *contest) known(k int) []bool {
	seen := make([]bool, len(c.all))
	for todo := []int{k}; len(todo) > 0; {
		j := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, id := range c.all[j].above {
			if i := c.index(id); i >= 0 && !seen[i] {
				seen[i] = true
				todo = append(todo, i)
			}
		}
	}
	return seen
}

// maximal returns the versions of a kind that no other of that kind replaced, by ID.
func (c *contest) maximal(of func(*member) bool) (max []int) {
	replaced := make([]bool, len(c.all))
	for k := range c.all {
		if !of(&c.all[k]) {
			continue
		}
		for j, yes := range c.known(k) {
			replaced[j] = replaced[j] || yes
		}
	}
	for k := range c.all {
		if of(&c.all[k]) && !replaced[k] {
			max = append(max, k)
		}
	}
	return max
}

func anyMember(*member) bool { return true }

// contests judges the things whose versions may be concurrent.
func (m *importer) contests() error {
	if err := m.contestsOf(); err != nil {
		return err
	}
	todo := slices.SortedFunc(maps.Keys(m.forked), func(a, b thingAt) int {
		return cmp.Or(cmp.Compare(a.branch, b.branch), compareThings(a.thing, b.thing))
	})
	clear(m.forked)
	for _, t := range todo {
		if err := m.judge(t); err != nil {
			return err
		}
	}
	return nil
}

// contestsOf adds the contested things that what is touched may decide, or
// decide otherwise.
func (m *importer) contestsOf() error {
	s := m.tx.Stmt("SELECT EXISTS (SELECT 1 FROM contest)")
	if _, err := s.Step(); err != nil || s.ColumnInt64(0) == 0 {
		return err
	}
	for _, a := range m.added {
		for _, r := range m.seen[a.at.branch] {
			if r.bound < a.at.stamp {
				continue
			}
			if err := m.contestsNear(thingAt{r.branch, a.thing()}); err != nil {
				return err
			}
		}
	}
	for at := range m.links { // whether a file was deleted is decided by its names
		if err := m.ifContested(thingAt{at.branch, thing{kind: InodeVersion, ino: at.ino}}); err != nil {
			return err
		}
	}
	return nil
}

// contestsNear adds the contests about a thing that has changed: its own, those
// of names that it has, and those of names that it is a conflict copy of.
func (m *importer) contestsNear(t thingAt) error {
	if err := m.ifContested(t); err != nil {
		return err
	}
	if t.kind != DentryVersion {
		es, err := m.everNamed(t.ino)
		if err != nil {
			return err
		}
		for _, e := range es {
			if err := m.ifContested(thingAt{t.branch, thing{DentryVersion, e.parent, e.name}}); err != nil {
				return err
			}
		}
		return nil
	}
	base, ok := copyOf(t.name)
	if !ok {
		return nil
	}
	s := m.tx.Stmt("SELECT name FROM contest WHERE kind = 1 AND ino = ? AND branch = ?")
	s.BindInt64(1, int64(t.ino))
	s.BindInt64(2, t.branch)
	names, err := columnTexts(s)
	for _, n := range names {
		if strings.HasPrefix(n, base) {
			m.forked[thingAt{t.branch, thing{DentryVersion, t.ino, n}}] = true
		}
	}
	return err
}

func (m *importer) ifContested(t thingAt) error {
	n, err := m.contested(t)
	if n >= 0 {
		m.forked[t] = true
	}
	return err
}

// judge decides about one thing: whether it is contested, whether its versions
// exclude each other, and which conflict copies there are.
func (m *importer) judge(t thingAt) error {
	c, err := m.loadContest(t)
	if err != nil {
		return err
	}
	heads := c.maximal(anyMember)
	found, err := m.conflictOf(c)
	if err != nil {
		return err
	}
	if t.kind == DentryVersion {
		if err := m.copies(c, heads); err != nil {
			return err
		}
	}
	was, err := m.contested(t)
	if err != nil {
		return err
	}
	if len(heads) <= 1 && found == nil {
		if was < 0 {
			return nil
		}
		s := m.tx.Stmt("DELETE FROM contest WHERE kind = ? AND ino = ? AND name = ? AND branch = ?")
		bindThing(s, 1, t.thing)
		s.BindInt64(4, t.branch)
		return run(s)
	}
	s := m.tx.Stmt("INSERT OR REPLACE INTO contest (kind, ino, name, branch, conflict) VALUES (?, ?, ?, ?, ?)")
	bindThing(s, 1, t.thing)
	s.BindInt64(4, t.branch)
	s.BindBool(5, found != nil)
	if err := run(s); err != nil {
		return err
	}
	if found == nil || was == 1 {
		return nil
	}
	m.conflicts = append(m.conflicts, t)
	return nil
}

// contested returns 1 for a conflict, 0 for a thing with several heads, -1 for
// any other.
func (x *exchange) contested(t thingAt) (int, error) {
	s := x.tx.Stmt("SELECT conflict FROM contest WHERE kind = ? AND ino = ? AND name = ? AND branch = ?")
	bindThing(s, 1, t.thing)
	s.BindInt64(4, t.branch)
	ok, err := s.Step()
	if !ok {
		return -1, err
	}
	return int(s.ColumnInt64(0)), nil
}

// conflictOf returns what is in conflict about a thing, nil without one. Path is
// left out.
func (x *exchange) conflictOf(c *contest) (*SyncConflict, error) {
	if len(c.all) < 2 {
		return nil, nil
	}
	f := &SyncConflict{Branch: c.branch, Thing: c.kind, Ino: c.ino, Name: c.name}
	var sides []int
	var err error
	switch c.kind {
	case DentryVersion:
		sides, err = x.nameConflict(c, f)
	case InodeVersion:
		sides, err = x.inodeConflict(c, f)
	default:
		sides = distinct(c, c.maximal(anyMember), func(a, b *member) bool { return sameVersion(&a.v, &b.v) })
		f.Kind = AttributeConflict
	}
	if err != nil || len(sides) < 2 {
		return nil, err
	}
	for k := len(sides) - 1; k >= 0; k-- {
		s, err := x.side(c, sides[k])
		if err != nil {
			return nil, err
		}
		if k == len(sides)-1 {
			f.Shown = s
		} else {
			f.Others = append(f.Others, s)
		}
	}
	return f, nil
}

// distinct keeps, of versions by ID, the last one and those that differ from
// all after them.
func distinct(c *contest, ks []int, same func(a, b *member) bool) (kept []int) {
	for i, k := range ks {
		if !slices.ContainsFunc(ks[i+1:], func(j int) bool { return same(&c.all[k], &c.all[j]) }) {
			kept = append(kept, k)
		}
	}
	return kept
}

// inodeConflict finds versions that set the same group to different values, and
// content written where another deleted the file.
func (x *exchange) inodeConflict(c *contest, f *SyncConflict) ([]int, error) {
	if !isDirIno(c.ino) {
		content := c.maximal(func(m *member) bool { return m.v.Inode.Groups&groupContent != 0 })
		if lost, err := x.deleted(c, content); err != nil || lost != nil {
			f.Kind = DeleteConflict
			return lost, err
		}
		sides := distinct(c, content, func(a, b *member) bool {
			return a.v.Inode.Hash == b.v.Inode.Hash && a.v.Inode.Size == b.v.Inode.Size && a.v.Inode.Target == b.v.Inode.Target
		})
		if len(sides) > 1 {
			f.Kind = ContentConflict
			return sides, nil
		}
	}
	attrs := c.maximal(func(m *member) bool { return m.v.Inode.Groups&groupAttrs != 0 })
	f.Kind = AttributeConflict
	return distinct(c, attrs, func(a, b *member) bool {
		return a.v.Inode.Mode == b.v.Inode.Mode && a.v.Inode.UID == b.v.Inode.UID && a.v.Inode.GID == b.v.Inode.GID
	}), nil
}

// deleted returns the versions with content that whoever removed the last name
// of a file did not know, and that removal as the last one; nil when there are
// none or the file has a name.
func (x *exchange) deleted(c *contest, content []int) ([]int, error) {
	if len(c.maximal(anyMember)) < 2 {
		return nil, nil
	}
	ch, err := x.chain(c.branch)
	if err != nil {
		return nil, err
	}
	v := &View{tree: x.t, bucket: x.bucket, chain: ch, live: ch.hasLive()}
	if _, err := v.place(x.tx, c.ino); Errno(err) != unix.ENOENT {
		return nil, err
	}
	removals := c.maximal(func(m *member) bool { return m.v.Inode.Groups&groupLinks != 0 })
	if len(removals) == 0 {
		return nil, nil
	}
	l := removals[len(removals)-1]
	knew := c.known(l)
	var lost []int
	for _, k := range content {
		if k != l && !knew[k] && !c.known(k)[l] {
			lost = append(lost, k)
		}
	}
	if len(lost) == 0 {
		return nil, nil
	}
	return append(lost, l), nil
}

// nameConflict finds heads of an entry that lead to different things.
func (x *exchange) nameConflict(c *contest, f *SyncConflict) ([]int, error) {
	heads := c.maximal(anyMember)
	if len(heads) < 2 {
		return nil, nil
	}
	win := &c.all[heads[len(heads)-1]]
	var sides []int
	for _, k := range heads[:len(heads)-1] {
		h := &c.all[k]
		if h.v.Ino == 0 || h.v.Ino == win.v.Ino {
			continue
		}
		if win.v.Ino != 0 {
			if same, err := x.sameThing(c.branch, h.v.Ino, win.v.Ino); err != nil {
				return nil, err
			} else if same {
				continue
			}
		}
		sides = append(sides, k)
		made, err := x.made(c, h)
		switch {
		case err != nil:
			return nil, err
		case win.v.Ino == 0:
			f.Kind = DeleteConflict
		case made:
			f.Kind = NameConflict
		default:
			f.Kind = cmp.Or(f.Kind, ContentConflict)
		}
	}
	if len(sides) == 0 {
		return nil, nil
	}
	return append(sides, heads[len(heads)-1]), nil
}

// made reports whether the author of an entry saw nothing there.
func (x *exchange) made(c *contest, h *member) (bool, error) {
	if h.prev.stamp != 0 {
		id, err := x.id(h.prev)
		if err != nil {
			return false, err
		}
		k := c.index(id)
		return k >= 0 && c.all[k].v.Ino == 0, nil
	}
	ch, err := x.chain(c.branch)
	if err != nil {
		return false, err
	}
	then := slices.Clone(ch[1:])
	for k := range then {
		then[k].bound = min(then[k].bound, h.at.stamp-1)
	}
	r, err := findRaw(x, then, edge{c.ino, c.name})
	return r.ino == 0, err
}

// sameThing reports whether two files are alike: whatever the one that is not
// shown has was content of the other as well.
func (x *exchange) sameThing(branch int64, lost, shown Ino) (bool, error) {
	if isDirIno(lost) || isDirIno(shown) {
		return false, nil
	}
	a, err := x.inode(branch, lost)
	if a == nil || err != nil {
		return a == nil, err // nothing to show; decided anew when it comes
	}
	c, err := x.loadContest(thingAt{branch, thing{InodeVersion, shown, ""}})
	if err != nil {
		return false, err
	}
	b, err := x.inode(branch, shown)
	if err != nil {
		return false, err
	}
	if b != nil && kindOf(&a.Inode) == kindOf(&b.Inode) && sameContent(&a.Inode, &b.Inode) {
		return true, nil
	}
	in := toInode(&inodeRow{Inode: a.Inode, groups: groupAll})
	for k := range c.all {
		o := c.all[k].v.Inode
		if o.Groups&groupContent != 0 && o.Mode&unix.S_IFMT == in.Mode&unix.S_IFMT && o.Rdev == in.Rdev &&
			o.Hash == in.Hash && o.Size == in.Size && o.Target == in.Target {
			return true, nil
		}
	}
	return false, nil
}

// side describes a version.
func (x *exchange) side(c *contest, k int) (s ConflictSide, err error) {
	m := &c.all[k]
	s.ID = m.id
	switch c.kind {
	case DentryVersion:
		s.Ino, s.Gone = m.v.Ino, m.v.Ino == 0
		if !s.Gone {
			in, err := x.inode(c.branch, m.v.Ino)
			if err != nil {
				return s, err
			}
			if in != nil {
				s.Hash, s.Size, s.Mode = in.Hash, in.Size, in.Mode
			}
			made, err := x.made(c, m)
			if err != nil {
				return s, err
			}
			if made && k < len(c.all)-1 {
				s.Copy = copyName(c.name, m.id)
			}
		}
	case InodeVersion:
		in := m.v.Inode
		s.Ino, s.Mode, s.Hash, s.Size = c.ino, in.Mode, in.Hash, in.Size
		s.Gone = in.Groups&(groupContent|groupAttrs) == 0
	default:
		s.Ino, s.Gone = c.ino, m.v.Value == nil
	}
	return s, nil
}

// copyName is where the loser of a name is shown.
func copyName(name string, id VersionID) string {
	return suffixed(name, conflictMark+shortHash(id.Node.String(), int(id.Stamp)))
}

// copyOf undoes copyName, so far as the name was not cut.
func copyOf(name string) (string, bool) {
	k := len(name) - len(conflictMark) - 8
	if k <= 0 || name[k:k+len(conflictMark)] != conflictMark {
		return "", false
	}
	return name[:k], true
}

// copies shows what lost a name that it was made under, beside it. The row is of
// the stamp of the version that hid it first, so that a fork in between shows it
// once. A version that somebody wrote at the copy's name counts instead.
func (m *importer) copies(c *contest, heads []int) error {
	want := map[string]dentryRow{}
	shown := map[Ino]bool{}
	for _, k := range slices.Backward(heads[:max(0, len(heads)-1)]) {
		h, win := &c.all[k], &c.all[len(c.all)-1]
		if h.v.Ino == 0 || h.v.Ino == win.v.Ino {
			continue
		}
		if made, err := m.made(c, h); err != nil {
			return err
		} else if !made {
			continue
		}
		if win.v.Ino != 0 {
			if same, err := m.sameThing(c.branch, h.v.Ino, win.v.Ino); err != nil {
				return err
			} else if same {
				continue
			}
		}
		name := copyName(c.name, h.id)
		if touched, err := m.writtenSince(c.branch, edge{c.ino, name}, h.at.stamp); err != nil {
			return err
		} else if touched {
			continue
		}
		if shown[h.v.Ino] {
			continue // one directory, made by several
		}
		shown[h.v.Ino] = true
		want[name] = dentryRow{version{c.branch, c.all[k+1].at.stamp, copyNode}, h.v.Ino, h.v.FileType}
	}
	for k := range c.all { // of any version, once a head, there may be a copy
		if err := m.setCopy(c, copyName(c.name, c.all[k].id), want); err != nil {
			return err
		}
	}
	return nil
}

// writtenSince reports whether somebody wrote a version of e after s.
func (x *exchange) writtenSince(branch int64, e edge, s schema.Stamp) (bool, error) {
	q := x.tx.Stmt("SELECT 1 FROM dentry WHERE parent = ? AND name = ? AND branch = ? AND stamp > ? AND node < 2000000000")
	q.BindInt64(1, int64(e.parent))
	q.BindBytes(2, []byte(e.name))
	q.BindInt64(3, branch)
	q.BindInt64(4, int64(s))
	return q.Step()
}

func (m *importer) setCopy(c *contest, name string, want map[string]dentryRow) error {
	s := m.tx.Stmt("SELECT branch, stamp, node, ino, kind FROM dentry WHERE parent = ? AND name = ? AND branch = ? AND node = 2000000000")
	s.BindInt64(1, int64(c.ino))
	s.BindBytes(2, []byte(name))
	s.BindInt64(3, c.branch)
	ok, err := s.Step()
	if err != nil {
		return err
	}
	var is dentryRow
	if ok {
		is = dentryRow{columnVersion(s), Ino(s.ColumnInt64(3)), uint32(s.ColumnInt64(4)) << 12}
	}
	w := want[name]
	if is == w {
		return nil
	}
	stamp := max(is.stamp, w.stamp)
	if is.stamp != 0 && w.stamp != 0 {
		stamp = min(is.stamp, w.stamp)
	}
	all, err := m.reach(c.branch, stamp)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := m.noteEdge(m.exchange, r.branch, edge{c.ino, name}); err != nil {
			return err
		}
		m.suspect(r.branch).edge(edge{c.ino, name}, is.ino, w.ino)
		for _, i := range []Ino{is.ino, w.ino} {
			if i != 0 {
				m.noteCount(r.branch, c.ino, i, stamp)
			}
		}
	}
	if is.stamp != 0 {
		if err := deleteDentry(m.tx, c.ino, name, is.version); err != nil {
			return err
		}
	}
	if w.stamp == 0 {
		return nil
	}
	return insertDentry(m.tx, c.ino, name, w.version, w.ino, w.kind)
}

// tellConflicts records an event for each conflict that has come up.
func (m *importer) tellConflicts() error {
	for _, t := range m.conflicts {
		c, err := m.loadContest(t)
		if err != nil {
			return err
		}
		f, err := m.conflictOf(c)
		if f == nil || err != nil {
			return err
		}
		if f.Path, err = m.conflictPath(f); err != nil {
			return err
		}
		m.result.Conflicts = append(m.result.Conflicts, *f)
		e := notify.Event{
			Stamp: m.tx.NextStamp(), Node: m.node, Bucket: m.bucket.ID, Branch: t.branch,
			Op: notify.OpConflict, Ino: uint64(t.ino), Name: []byte(t.name), Ref: int64(f.Kind),
		}
		if t.kind == DentryVersion {
			e.Ino, e.Parent = uint64(f.Shown.Ino), uint64(t.ino)
		}
		if err := notify.Append(m.tx, &e); err != nil {
			return err
		}
	}
	return nil
}

// conflictPath returns where a conflict is, "" when nothing shows it.
func (x *exchange) conflictPath(f *SyncConflict) (string, error) {
	ch, err := x.chain(f.Branch)
	if err != nil {
		return "", err
	}
	v := &View{tree: x.t, bucket: x.bucket, chain: ch, live: ch.hasLive()}
	path, err := v.path(x.tx, f.Ino)
	switch e := Errno(err); {
	case e == unix.ENOENT || e == unix.ELOOP:
		return "", nil
	case err != nil:
		return "", err
	}
	if f.Thing == DentryVersion {
		path = join(path, f.Name)
	}
	return path, nil
}

// settleSeen has a version of this node settle what its author saw without a
// choice to make: heads that nothing excludes.
func (m *importer) settleSeen(p arrival) error {
	t := thingAt{p.at.branch, p.thing()}
	if n, err := m.contested(t); n < 0 || err != nil {
		return err
	}
	m.forked[t] = true
	c, err := m.loadContest(t)
	if err != nil {
		return err
	}
	k := c.index(p.ID)
	if k < 0 {
		return nil
	}
	mine := c.known(k)
	c.all = c.all[:k]
	f, err := m.conflictOf(c)
	if err != nil {
		return err
	}
	losing := map[int]bool{}
	if f != nil {
		for _, s := range f.Others {
			losing[c.index(s.ID)] = true
		}
	}
	for _, h := range c.maximal(anyMember) {
		keep := mine[h] || losing[h]
		for j, yes := range c.known(h) {
			keep = keep || yes && losing[j] && !mine[j]
		}
		if !keep {
			if err := m.setSettled(t.thing, p.at, c.all[h].at); err != nil {
				return err
			}
		}
	}
	return nil
}

func columnTexts(s *sqlite.Stmt) (all []string, err error) {
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, s.ColumnText(0))
	}
}
