package pathtree

import (
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// fit turns the decisions into an edit of our side. Where they do not fit
// together (a name given twice, a directory that would go with something in
// it, one that is gone, a cycle) it decides again and starts over: each time
// something more is settled, so that it ends.
func (p *plan) fit() (*edit, error) {
	for {
		if err := p.decideAll(); err != nil {
			return nil, err
		}
		d, again, err := p.build()
		if err != nil {
			return nil, err
		}
		for _, check := range []func(*edit) (bool, error){p.checkRemoved, p.checkParents, p.checkCycles} {
			if again {
				break
			}
			if again, err = check(d); err != nil {
				return nil, err
			}
		}
		if !again {
			return d, nil
		}
	}
}

// build lays the decisions over our side: first what goes, then what comes.
func (p *plan) build() (d *edit, again bool, err error) {
	d = newEdit(p.o)
	for _, x := range p.all {
		if x.o == 0 || x.fate == stays {
			continue
		}
		es, err := p.o.edges(p.tx, x.o)
		if err != nil {
			return nil, false, err
		}
		for _, e := range es {
			if x.fate == removed || x.target != x.o || !slices.Contains(x.want, e) {
				d.set(e, 0)
			}
		}
	}
	for e := range p.evicted {
		d.set(e, 0)
	}
	for _, x := range p.all {
		if x.fate == placed {
			moved, err := p.placeNode(d, x)
			if err != nil {
				return nil, false, err
			}
			again = again || moved
		}
		if x.state != nil {
			in := *x.state
			in.Ino = x.target
			d.put(in, x.groups)
		}
		for name, value := range x.xattrs {
			d.setXattr(x.target, name, value)
		}
	}
	if !again {
		err = p.placeCopies(d)
	}
	return d, again, err
}

// placeNode gives x its names. It reports whether one of them is taken, and
// x or what has the name was decided anew.
func (p *plan) placeNode(d *edit, x *node) (again bool, err error) {
	for k, e := range x.want {
		has, err := d.lookup(p.tx, e)
		if err != nil {
			return false, err
		}
		switch has {
		case x.target:
			continue
		case 0:
			d.set(e, x.target)
			continue
		}
		if err := p.nameTaken(x, k, has); err != nil {
			return false, err
		}
		return true, nil
	}
	return false, nil
}

// nameTaken decides who gets x.want[k], which has has.
func (p *plan) nameTaken(x *node, k int, has Ino) error {
	holder, err := p.ofOurs(has)
	if err != nil {
		return err
	}
	if holder == nil {
		if known, err := alive(p.tx, p.t, has); err != nil {
			return err
		} else if known { // both are theirs and new: they have different names there
			if holder, err = p.ofTheirs(has); err != nil {
				return err
			}
		}
	}
	if holder == nil || !holder.anyTold() {
		kind := NameTaken
		if x.b == 0 && (holder == nil || holder.b == 0) {
			kind = BothAdded
		}
		if err := p.conflictAt(x, kind, has); err != nil {
			return err
		}
	}
	e := x.want[k]
	switch {
	case p.opts.Strategy == Both:
		name, err := p.freeName(e)
		if err != nil {
			return err
		}
		x.want = slices.Clone(x.want)
		x.want[k] = name
	case p.opts.Strategy == Theirs && holder != nil && holder.t != 0 && holder != x && !holder.yielded:
		holder.yielded = true
		holder.skipped = false
		holder.fate = placed
		holder.want, err = p.places(p.t, holder.t)
		return err
	case p.opts.Strategy == Theirs && !p.evicted[e]:
		p.evicted[e] = true
	default:
		return p.leave(x)
	}
	return nil
}

// leave makes x stay as it is on our side.
func (p *plan) leave(x *node) (err error) {
	x.left = true
	if x.o == 0 {
		x.fate, x.skipped, x.state, x.xattrs, x.copies = stays, true, nil, nil, nil
		return nil
	}
	ours, err := p.places(p.o, x.o)
	if err != nil {
		return err
	}
	if x.target == x.o {
		x.fate = stays
	} else {
		x.fate = placed
	}
	x.want = ours
	return nil
}

// freeName returns NAME.BRANCH in the directory of e, made unique.
func (p *plan) freeName(e edge) (edge, error) {
	for n := 1; ; n++ {
		suffix := "." + p.branch
		if n > 1 {
			suffix = fmt.Sprintf(".%s.%d", p.branch, n)
		}
		suffix = cut(suffix, NameMax/2)
		f := edge{e.parent, cut(e.name, NameMax-len(suffix)) + suffix}
		if p.given[f] {
			continue
		}
		for _, s := range []*viewSide{p.o, p.t} {
			if i, err := s.lookup(p.tx, f); err != nil {
				return edge{}, err
			} else if i != 0 {
				f.name = ""
			}
		}
		if f.name != "" {
			p.given[f] = true
			return f, nil
		}
	}
}

// cut shortens s to n bytes, between characters where it is UTF-8.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for valid := utf8.ValidString(s); valid && !utf8.RuneStart(s[n]); {
		n--
	}
	return s[:n]
}

// placeCopies puts their versions beside ours.
func (p *plan) placeCopies(d *edit) error {
	for _, x := range p.all {
		for k := range x.copies {
			c := &x.copies[k]
			has, err := d.lookup(p.tx, c.e)
			if err != nil {
				return err
			}
			if has != 0 {
				if c.e, err = p.freeName(c.e); err != nil {
					return err
				}
			}
			in, err := p.t.inode(p.tx, c.t)
			if err != nil {
				return err
			}
			xs, err := p.t.xattrs(p.tx, c.t)
			if err != nil {
				return err
			}
			cp := *in
			cp.Ino, cp.Nlink, cp.Home = c.ino, 0, c.e.parent
			d.put(cp, groupAll)
			d.set(c.e, c.ino)
			for name, value := range xs {
				d.setXattr(c.ino, name, &value)
			}
		}
	}
	return nil
}

// checkRemoved finds directories that go although something is left in them.
func (p *plan) checkRemoved(d *edit) (again bool, err error) {
	var gone []Ino // ours, that lose their names
	for _, x := range p.all {
		if x.fate == removed && x.o != 0 {
			gone = append(gone, x.o)
		}
	}
	nodesOf := map[Ino]*node{}
	for _, x := range p.all {
		if x.fate == removed {
			nodesOf[x.o] = x
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(p.evicted), compareEdges) {
		i, err := p.o.lookup(p.tx, e)
		if err != nil {
			return false, err
		}
		if es, err := d.edges(p.tx, i); err != nil {
			return false, err
		} else if i != 0 && len(es) == 0 && nodesOf[i] == nil {
			gone = append(gone, i)
		}
	}
	for _, dir := range gone {
		in, err := p.o.inode(p.tx, dir)
		if err != nil {
			return false, err
		}
		if !in.IsDir() {
			continue
		}
		left, err := d.list(p.tx, dir)
		if err != nil {
			return false, err
		}
		if len(left) == 0 {
			continue
		}
		again = true
		if err := p.leftIn(nodesOf[dir], dir, left); err != nil {
			return false, err
		}
	}
	return again, nil
}

// leftIn decides about a directory of ours that was to go, and what is left in
// it. x is its node, nil for one that must make room.
func (p *plan) leftIn(x *node, dir Ino, left []Entry) error {
	if x == nil {
		return p.evict(dir, left)
	}
	var ours, decided bool
	for _, e := range left {
		c, err := p.ofOurs(e.Ino)
		if err != nil {
			return err
		}
		switch {
		case c == nil:
			ours = true
		case !c.decided:
			decided = true // by decideAll, next
		case !c.anyTold():
			ours = true
		}
	}
	if decided {
		return nil
	}
	if ours {
		if err := p.conflict(x, DeletedByThem); err != nil {
			return err
		}
		if p.opts.Strategy == Theirs {
			return p.evict(dir, left)
		}
	}
	x.told[DeletedByThem] = true // what is above stays too, for the same reason
	return p.leave(x)
}

// evict makes what is left in a directory of ours go with it: to where they
// have it, if they do and it is not there that it cannot be.
func (p *plan) evict(dir Ino, left []Entry) error {
	for _, l := range left {
		x, err := p.ofOurs(l.Ino)
		switch {
		case err != nil:
			return err
		case x != nil && !x.decided: // by decideAll, next
			continue
		case x != nil && x.t != 0 && !x.yielded:
			x.yielded, x.skipped, x.fate = true, false, placed
			if x.want, err = p.places(p.t, x.t); err != nil {
				return err
			}
			continue
		}
		p.evicted[edge{dir, l.Name}] = true
		if x != nil && x.fate == placed {
			x.left, x.fate, x.state, x.xattrs = true, stays, nil, nil
			x.skipped = x.o == 0
		}
	}
	return nil
}

// checkParents finds names in directories that we do not have.
func (p *plan) checkParents(d *edit) (again bool, err error) {
	for _, x := range p.all {
		if x.fate != placed {
			continue
		}
		for _, e := range x.want {
			if ok, err := alive(p.tx, d, e.parent); err != nil {
				return false, err
			} else if ok {
				continue
			}
			again = true
			if err := p.needs(x, e.parent); err != nil {
				return false, err
			}
			break
		}
	}
	return again, nil
}

// needs decides about x, which is to be in the directory dir that we deleted or
// that was left out.
func (p *plan) needs(x *node, dir Ino) error {
	if ok, err := alive(p.tx, p.t, dir); err != nil {
		return err
	} else if !ok {
		return p.leave(x)
	}
	parent, err := p.ofTheirs(dir)
	if err != nil {
		return err
	}
	if parent.o != 0 || parent.skipped || parent.fate == placed {
		return p.leave(x)
	}
	v, err := p.views(parent)
	if err != nil {
		return err
	}
	parent.decided = true
	if x.b != 0 && x.o == 0 && x.told[DeletedByUs] {
		parent.told[DeletedByUs] = true // told by way of x
	}
	return p.deletedByUs(parent, v)
}

// checkCycles finds directories that would be inside themselves.
func (p *plan) checkCycles(d *edit) (again bool, err error) {
	for _, x := range p.all {
		if x.fate != placed || x.state != nil && !x.state.IsDir() {
			continue
		}
		cycle, err := p.cycle(d, x.target)
		if err != nil {
			return false, err
		}
		if len(cycle) == 0 {
			continue
		}
		if err := p.conflict(x, DirectoriesCross); err != nil {
			return false, err
		}
		if p.opts.Strategy != Theirs || x.crossed {
			return true, p.leave(x)
		}
		x.crossed = true
		for _, i := range cycle {
			y, err := p.ofOurs(i)
			if err != nil {
				return false, err
			}
			if y == nil || y.t == 0 {
				continue
			}
			y.decided, y.fate = true, placed
			if y.want, err = p.places(p.t, y.t); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return false, nil
}

// cycle returns the directories between dir and itself going up, nil when that
// way leads to the root.
func (p *plan) cycle(d *edit, dir Ino) ([]Ino, error) {
	var way []Ino
	seen := map[Ino]bool{}
	for at := dir; at != d.root(); {
		if seen[at] {
			return way, nil
		}
		seen[at] = true
		way = append(way, at)
		es, err := d.edges(p.tx, at)
		if err != nil || len(es) == 0 {
			return nil, err
		}
		at = es[0].parent
	}
	return nil, nil
}

// anyTold reports whether a conflict of x was reported.
func (x *node) anyTold() bool { return x.told != [len(x.told)]bool{} }

// conflictAt reports that has has the name that x is to have.
func (p *plan) conflictAt(x *node, kind ConflictKind, has Ino) error {
	if x.anyTold() {
		return nil
	}
	if err := p.conflict(x, kind); err != nil {
		return err
	}
	c := &p.conflicts[len(p.conflicts)-1]
	if c.Ours != nil {
		return nil
	}
	in, err := p.o.inode(p.tx, has)
	if err != nil || in == nil {
		return err
	}
	c.Ours = copyInode(in)
	c.OurPath, err = firstPath(p.tx, p.o, has)
	return err
}
