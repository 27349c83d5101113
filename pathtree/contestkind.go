package pathtree

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/notify"
)

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
// content written where another deleted the file; none while the inode is not known.
func (x *exchange) inodeConflict(c *contest, f *SyncConflict) ([]int, error) {
	if in, err := x.inode(c.branch, c.ino); in == nil || err != nil {
		return nil, err // decided anew when it comes
	}
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
	if named, err := x.named(c.branch, c.ino); named || err != nil {
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

// named reports whether the head of a branch has a name for an inode, before repair.
func (x *exchange) named(branch int64, i Ino) (bool, error) {
	ch, err := x.chain(branch)
	if err != nil {
		return false, err
	}
	es, err := x.everNamed(i)
	for _, e := range es {
		if r, err := findRaw(x, ch, e); r.ino == i || err != nil {
			return err == nil, err
		}
	}
	return false, err
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
				s.Hash, s.Size, s.Target, s.Mode, s.UID, s.GID = in.Hash, in.Size, in.Target, in.Mode, in.UID, in.GID
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
		s.Ino, s.Hash, s.Size, s.Target, s.Mode, s.UID, s.GID = c.ino, in.Hash, in.Size, in.Target, in.Mode, in.UID, in.GID
		s.Gone = in.Groups&(groupContent|groupAttrs) == 0
	default:
		s.Ino, s.Gone, s.Value = c.ino, m.v.Value == nil, string(m.v.Value)
	}
	return s, nil
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
	at, path := edge{parent: f.Ino}, ""
	switch {
	case f.Thing == DentryVersion:
		at.name = f.Name
	case f.Thing == InodeVersion && f.Kind == DeleteConflict:
		at, err = x.placeOfRemoved(v, f.Ino)
	}
	if err == nil {
		path, err = v.path(x.tx, at.parent)
	}
	switch e := Errno(err); {
	case e == unix.ENOENT || e == unix.ELOOP:
		return "", nil
	case err != nil:
		return "", err
	case at.name != "":
		path = join(path, at.name)
	}
	return path, nil
}
