package pathtree

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"

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
	for len(m.forked) > 0 { // a file that loses a conflict copy, or wins one, is judged after that
		todo := slices.SortedFunc(maps.Keys(m.forked), func(a, b thingAt) int {
			return cmp.Or(cmp.Compare(a.branch, b.branch), compareThings(a.thing, b.thing))
		})
		clear(m.forked)
		for _, t := range todo {
			if err := m.judge(t); err != nil {
				return err
			}
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
