package pathtree

import (
	"cmp"
	"maps"
	"slices"

	"github.com/alkdev/alkfs/blobstore"
)

// plan decides for each node that their side changed what becomes of it.
type plan struct {
	*nodes
	opts      MergeOptions
	branch    string // name of their branch, for copies
	news      *candidates
	conflicts []Conflict
	texts     []*node
	evicted   map[edge]bool // ours, to make room for theirs
	given     map[edge]bool // names made up for copies
	newIno    func() (Ino, error)
}

// touched returns the nodes of which their side wrote a version that the base
// does not contain.
func (p *plan) touched(c *candidates) error {
	p.news = c
	edges := slices.SortedFunc(maps.Keys(c.edges), compareEdges)
	for _, e := range edges {
		was, err := p.b.lookup(p.tx, e)
		if err != nil {
			return err
		}
		is, err := p.t.lookup(p.tx, e)
		if err != nil {
			return err
		}
		if was == is {
			continue
		}
		if err := p.touch(was, is); err != nil {
			return err
		}
	}
	for _, i := range slices.Sorted(maps.Keys(c.inodes)) {
		if err := p.touch(i, i); err != nil {
			return err
		}
	}
	return nil
}

// touch makes the nodes of a base inode and of one of theirs, where alive.
func (p *plan) touch(was, is Ino) error {
	if ok, err := alive(p.tx, p.b, was); err != nil {
		return err
	} else if ok {
		if _, err := p.ofBase(was); err != nil {
			return err
		}
	}
	if ok, err := alive(p.tx, p.t, is); err != nil || !ok {
		return err
	}
	_, err := p.ofTheirs(is)
	return err
}

// decideAll decides nodes until none is new; deciding can ask for more.
func (p *plan) decideAll() error {
	for k := 0; k < len(p.all); k++ {
		if err := p.decide(p.all[k]); err != nil {
			return err
		}
	}
	return nil
}

// views are the three inodes of a node; nil where it is not there.
type views struct{ b, o, t *Inode }

func (p *plan) views(x *node) (v views, err error) {
	for _, s := range []struct {
		side *viewSide
		ino  Ino
		in   **Inode
	}{{p.b, x.b, &v.b}, {p.o, x.o, &v.o}, {p.t, x.t, &v.t}} {
		if s.ino != 0 {
			if *s.in, err = s.side.inode(p.tx, s.ino); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

func (p *plan) decide(x *node) error {
	if x.decided {
		return nil
	}
	x.decided = true
	v, err := p.views(x)
	if err != nil {
		return err
	}
	// An entry can have come from another node before its inode did.
	if x.o != 0 && v.o == nil || x.t != 0 && v.t == nil {
		return errNotHere
	}
	if v.b == nil {
		x.b = 0
	}
	switch {
	case x.o == 0 && x.t == 0:
		return nil
	case x.t == 0 && x.b == 0:
		return nil
	case x.t == 0:
		return p.decideDeleted(x, v)
	case x.o == 0 && x.b == 0:
		return p.add(x, v)
	case x.o == 0:
		changed, err := p.changed(x.b, x.t, v.b, v.t, p.t)
		if err != nil || !changed {
			return err
		}
		return p.deletedByUs(x, v)
	}
	for _, f := range []func(*node, views) error{p.mergeContent, p.mergeAttributes, p.mergeXattrs, p.mergePlaces} {
		if err := f(x, v); err != nil {
			return err
		}
	}
	return nil
}

// changed reports whether side s changed more than times of the base inode.
func (p *plan) changed(b, i Ino, was, is *Inode, s *viewSide) (bool, error) {
	diff, err := compareInodes(p.tx, p.b, s, was, is)
	if err != nil || diff.any() {
		return true, err
	}
	from, err := p.places(p.b, b)
	if err != nil {
		return false, err
	}
	to, err := p.places(s, i)
	return !slices.Equal(from, to), err
}

// decideDeleted is for what they deleted and we have.
func (p *plan) decideDeleted(x *node, v views) error {
	changed, err := p.changed(x.b, x.o, v.b, v.o, p.o)
	if err != nil {
		return err
	}
	if changed {
		if err := p.conflict(x, DeletedByThem); err != nil {
			return err
		}
		if p.opts.Strategy != Theirs {
			return nil
		}
	}
	x.fate = removed
	return nil
}

// deletedByUs is for what we deleted and they changed, or put something in.
func (p *plan) deletedByUs(x *node, v views) error {
	if err := p.conflict(x, DeletedByUs); err != nil {
		return err
	}
	if p.opts.Strategy == Theirs || p.opts.Strategy == Both {
		return p.add(x, v)
	}
	x.skipped = true
	return nil
}

// add takes all of theirs.
func (p *plan) add(x *node, v views) (err error) {
	x.fate, x.target = placed, x.t
	x.state, x.groups = copyInode(v.t), groupAll
	if x.want, err = p.places(p.t, x.t); err != nil {
		return err
	}
	xs, err := p.t.xattrs(p.tx, x.t)
	if err != nil {
		return err
	}
	stale, err := p.o.xattrs(p.tx, x.t) // of an inode that we once had
	if err != nil {
		return err
	}
	x.xattrs = xattrChanges(stale, xs)
	return nil
}

func xattrChanges(from, to map[string]string) map[string]*string {
	m := map[string]*string{}
	for k := range from {
		if _, ok := to[k]; !ok {
			m[k] = nil
		}
	}
	for k, v := range to {
		if old, ok := from[k]; !ok || old != v {
			m[k] = &v
		}
	}
	return m
}

// edit returns the state to change, which begins as what we have.
func (x *node) edit(ours *Inode, groups int) *Inode {
	if x.state == nil {
		x.state = copyInode(ours)
	}
	x.groups |= groups
	return x.state
}

func (p *plan) mergeContent(x *node, v views) error {
	if sameContent(v.o, v.t) {
		if v.b != nil && v.o.IsRegular() && v.o.Mtime == v.b.Mtime && v.t.Mtime != v.b.Mtime {
			x.edit(v.o, groupContent).Mtime = v.t.Mtime
		}
		if x.o != x.t && x.o == x.b && !v.o.IsDir() {
			return p.takeContent(x, v) // their number
		}
		return nil
	}
	switch {
	case v.b != nil && sameContent(v.b, v.t):
		return nil
	case v.b != nil && sameContent(v.b, v.o):
		return p.takeContent(x, v)
	}
	if ok, err := p.mergeText(x, v); ok || err != nil {
		return err
	}
	kind := BothModified
	if v.b == nil {
		kind = BothAdded
	}
	if err := p.conflict(x, kind); err != nil {
		return err
	}
	switch p.opts.Strategy {
	case Theirs:
		return p.takeContent(x, v)
	case Both:
		ours, err := p.places(p.o, x.o)
		if err != nil {
			return err
		}
		return p.copyBeside(x, ours[0])
	}
	return nil
}

// takeContent gives our inode their content. Where they replaced the file and
// we did nothing to it, we do as they did, so that the numbers agree again.
func (p *plan) takeContent(x *node, v views) error {
	if x.o != x.t {
		changed := true
		if x.b != 0 {
			var err error
			if changed, err = p.changed(x.b, x.o, v.b, v.o, p.o); err != nil {
				return err
			}
		}
		if !changed || !v.o.IsRegular() {
			x.target = x.t
		}
	}
	in := x.edit(v.o, groupContent)
	in.Size, in.Hash, in.Target, in.Rdev, in.Mtime = v.t.Size, v.t.Hash, v.t.Target, v.t.Rdev, v.t.Mtime
	if x.target == x.t {
		in.Home, in.Btime = v.t.Home, v.t.Btime
	}
	return nil
}

// copyBeside plans a copy of their inode next to e.
func (p *plan) copyBeside(x *node, e edge) error {
	i, err := p.newIno()
	x.copies = append(x.copies, copied{e, x.t, i})
	return err
}

func (p *plan) mergeAttributes(x *node, v views) error {
	type field struct{ b, o, t, set *uint32 }
	base := v.b
	if base == nil {
		base = v.o
		if v.o.Mode != v.t.Mode || v.o.UID != v.t.UID || v.o.GID != v.t.GID {
			base = &Inode{Mode: ^v.o.Mode ^ v.t.Mode, UID: ^v.o.UID ^ v.t.UID, GID: ^v.o.GID ^ v.t.GID} // equals neither
		}
	}
	in := *v.o
	clash, change := false, false
	for _, f := range []field{
		{&base.Mode, &v.o.Mode, &v.t.Mode, &in.Mode},
		{&base.UID, &v.o.UID, &v.t.UID, &in.UID},
		{&base.GID, &v.o.GID, &v.t.GID, &in.GID},
	} {
		switch {
		case *f.o == *f.t || *f.b == *f.t:
		case *f.b == *f.o:
			*f.set, change = *f.t, true
		default:
			clash = true
			if p.opts.Strategy == Theirs {
				*f.set, change = *f.t, true
			}
		}
	}
	if change {
		s := x.edit(v.o, groupAttrs)
		s.Mode, s.UID, s.GID = in.Mode, in.UID, in.GID
	}
	if clash {
		return p.conflict(x, BothChangedMode)
	}
	return nil
}

func (p *plan) mergeXattrs(x *node, v views) error {
	var b map[string]string
	var err error
	if x.b != 0 {
		if b, err = p.b.xattrs(p.tx, x.b); err != nil {
			return err
		}
	}
	o, err := p.o.xattrs(p.tx, x.o)
	if err != nil {
		return err
	}
	t, err := p.t.xattrs(p.tx, x.t)
	if err != nil {
		return err
	}
	clash := false
	theirs := xattrChanges(b, t)
	ours := xattrChanges(b, o)
	for name, value := range theirs {
		if mine, ok := ours[name]; ok {
			if mine == value || mine != nil && value != nil && *mine == *value {
				continue
			}
			clash = true
			if p.opts.Strategy != Theirs {
				continue
			}
		}
		if x.xattrs == nil {
			x.xattrs = map[string]*string{}
		}
		x.xattrs[name] = value
	}
	if x.target != x.o { // all of them go along to the new number
		m := maps.Clone(o)
		if m == nil {
			m = map[string]string{}
		}
		for name, value := range x.xattrs {
			if delete(m, name); value != nil {
				m[name] = *value
			}
		}
		stale, err := p.o.xattrs(p.tx, x.target)
		if err != nil {
			return err
		}
		x.xattrs = xattrChanges(stale, m)
	}
	if clash {
		return p.conflict(x, BothChangedMode)
	}
	return nil
}

// mergePlaces merges the names of a node as a set, except that what both moved
// to different places is a conflict: a rename is not a link.
func (p *plan) mergePlaces(x *node, v views) error {
	var b []edge
	var err error
	if x.b != 0 {
		if b, err = p.places(p.b, x.b); err != nil {
			return err
		}
	}
	o, err := p.places(p.o, x.o)
	if err != nil {
		return err
	}
	t, err := p.places(p.t, x.t)
	if err != nil {
		return err
	}
	lostT, wonT := without(b, t), without(t, b)
	lostO, wonO := without(b, o), without(o, b)
	want := union(without(o, lostT), wonT)
	var clash bool
	if x.b == 0 {
		clash = len(without(o, t)) > 0 && len(without(t, o)) > 0
		want = union(o, t)
	} else {
		both := len(lostT) - len(without(lostT, lostO))
		clash = both > 0 && len(without(wonT, o)) > 0 && len(wonO) > 0
	}
	if v.o.IsDir() && len(want) > 1 {
		clash = true
	}
	if clash {
		if err := p.conflict(x, BothRenamed); err != nil {
			return err
		}
		switch {
		case p.opts.Strategy == Theirs:
			want = t
		case p.opts.Strategy == Both && !v.o.IsDir():
			for _, e := range without(wonT, o) {
				if err := p.copyBeside(x, e); err != nil {
					return err
				}
			}
			fallthrough
		default:
			want = o
		}
	}
	if len(want) == 0 {
		want = o // each removed another of its names: it is wanted all the same
	}
	if x.target != x.o || len(without(o, want))+len(without(want, o)) > 0 {
		x.fate, x.want = placed, sortEdges(want)
	}
	return nil
}

// without returns the edges of a that are not in b; both are sorted.
func without(a, b []edge) []edge {
	var rest []edge
	for _, e := range a {
		if _, ok := slices.BinarySearchFunc(b, e, compareEdges); !ok {
			rest = append(rest, e)
		}
	}
	return rest
}

// union returns the edges of both, sorted.
func union(a, b []edge) []edge {
	all := sortEdges(append(slices.Clone(a), b...))
	return slices.Compact(all)
}

// mergeText merges two edits of a text file line by line. It reports whether
// that was possible.
func (p *plan) mergeText(x *node, v views) (bool, error) {
	m := p.opts.Text
	if m == nil || v.b == nil || !v.b.IsRegular() || !v.o.IsRegular() || !v.t.IsRegular() {
		return false, nil
	}
	limit := cmp.Or(m.MaxSize, 1<<20)
	var texts [3][]byte
	for k, in := range []*Inode{v.b, v.o, v.t} {
		if in.Size > limit {
			return false, nil
		}
		if in.Size == 0 {
			continue
		}
		var err error
		if texts[k], err = m.Read(p.tx, in.Hash, in.Size); err != nil {
			return false, err
		}
	}
	merged, ok := mergeLines(texts[0], texts[1], texts[2])
	if !ok {
		return false, nil
	}
	in := x.edit(v.o, groupContent)
	in.Size, in.Hash, in.Mtime = int64(len(merged)), blobstore.Hash{}, 0
	if len(merged) > 0 {
		in.Hash = blobstore.Sum(merged)
	}
	in.Mtime = max(v.o.Mtime, v.t.Mtime)
	x.text = merged
	p.texts = append(p.texts, x)
	return true, nil
}
