package pathtree

// affirm makes the edit say again what stays on our side against what the
// source has to say, whether that was a conflict or not. The newest version
// that a branch has heard of then is the one that counts there, so that two
// branches that have heard of the same versions show the same. Otherwise each
// could keep its own, and a merge, which looks only at news, would not see it.
func (p *plan) affirm(d *edit) error {
	for _, x := range p.all {
		if x.left || x.anyTold() {
			if err := p.affirmNode(d, x); err != nil {
				return err
			}
		}
	}
	for e := range p.news.edges {
		if err := p.affirmEdge(d, e); err != nil {
			return err
		}
	}
	for i := range p.news.inodes {
		if err := p.affirmInode(d, i); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) affirmNode(d *edit, x *node) error {
	if x.o != 0 {
		d.affirmedInodes = append(d.affirmedInodes, x.o)
	}
	for _, s := range []struct {
		side *viewSide
		ino  Ino
	}{{p.b, x.b}, {p.o, x.o}, {p.t, x.t}} {
		if s.ino == 0 {
			continue
		}
		es, err := p.places(s.side, s.ino)
		if err != nil {
			return err
		}
		for _, e := range es {
			d.affirmed[e] = true
		}
	}
	return nil
}

// affirmEdge affirms what e comes to lead to, unless that is what it leads to
// on their side.
func (p *plan) affirmEdge(d *edit, e edge) error {
	theirs, err := p.t.lookup(p.tx, e)
	if err != nil {
		return err
	}
	for _, s := range []*viewSide{p.t, p.b} {
		if known, err := alive(p.tx, s, e.parent); err != nil {
			return err
		} else if !known {
			continue
		}
		if e, err = p.inOurs(s, e); err != nil {
			return err
		}
		break
	}
	is, err := d.lookup(p.tx, e)
	if err != nil || is == theirs {
		return err
	}
	if theirs != 0 && is != 0 {
		if ok, err := alive(p.tx, p.t, theirs); err != nil {
			return err
		} else if ok {
			x, err := p.ofTheirs(theirs)
			if err != nil {
				return err
			}
			// A directory of another number stays what it is: a merge back
			// would not bring the numbers together, as it does with files.
			if in, err := d.inode(p.tx, is); err != nil || is == x.o && in.IsDir() {
				return err
			}
		}
	}
	d.affirmed[e] = true
	return nil
}

// affirmInode affirms what their inode i is on our side, unless it comes to be
// as it is there.
func (p *plan) affirmInode(d *edit, i Ino) error {
	is := i
	there, err := alive(p.tx, p.t, i)
	if err != nil {
		return err
	}
	if there {
		x, err := p.ofTheirs(i)
		if err != nil {
			return err
		}
		is = x.target
	}
	if here, err := alive(p.tx, d, is); err != nil || !here {
		return err
	}
	if there {
		ours, err := d.inode(p.tx, is)
		if err != nil {
			return err
		}
		theirs, err := p.t.inode(p.tx, i)
		if err != nil {
			return err
		}
		diff, err := compareInodes(p.tx, d, p.t, ours, theirs)
		if err != nil || !diff.any() {
			return err
		}
	}
	d.affirmedInodes = append(d.affirmedInodes, is)
	return nil
}
