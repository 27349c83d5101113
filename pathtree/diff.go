package pathtree

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// ChangeKind is the leading property of a Change.
type ChangeKind uint8

const (
	Added        ChangeKind = iota + 1 // a name that was not there
	Deleted                            // a name that is gone
	Modified                           // other content
	Renamed                            // the same inode at another path; its content may differ too
	ModeChanged                        // other mode, owner or group, same content
	TypeChanged                        // the name now is another type of thing
	XattrChanged                       // other extended attributes, everything else the same
)

var changeNames = [...]string{
	Added: "added", Deleted: "deleted", Modified: "modified", Renamed: "renamed",
	ModeChanged: "mode changed", TypeChanged: "type changed", XattrChanged: "xattr changed",
}

func (k ChangeKind) String() string { return changeNames[k] }

// Change is one difference between two views. Paths are from the root, without
// a leading slash, and hold any bytes.
type Change struct {
	Kind    ChangeKind
	Path    string // in the second view; of a deleted name in the first
	OldPath string // in the first view where it differs from Path: the name or a directory above it was renamed
	Old     *Inode // in the first view; nil when added
	New     *Inode // in the second view; nil when deleted
	// What differs between Old and New, where both are there.
	Content, Attributes, Xattrs bool
}

// Diff returns what one must change to get from a to b, sorted by Path. Only
// end states count: what was changed and changed back is not listed, nor are
// times. A renamed directory is one change, and what is below it is listed only
// where it differs otherwise. under restricts the list to one directory or
// file (0: everything). The cost is that of the versions written on either side
// since the two views last were the same, not that of the tree. Views of
// different buckets have nothing in common: EXDEV.
func (t *Tree) Diff(tx *schema.Tx, a, b *View, under Ino) ([]Change, error) {
	if a.bucket.ID != b.bucket.ID {
		return nil, fail("diff", a.bucket.Name+" "+b.bucket.Name, syscall.EXDEV)
	}
	c, err := collect(tx, a.chain, b.chain)
	if err != nil {
		return nil, fail("diff", b.branch.Name, err)
	}
	d := differ{tx: tx, a: newViewSide(a), b: newViewSide(b)}
	changes, err := d.run(c)
	if err == nil && under != 0 && under != b.Root() {
		changes, err = d.under(changes, under)
	}
	return changes, fail("diff", b.branch.Name, err)
}

// differ compares two sides where they may differ.
type differ struct {
	tx      *schema.Tx
	a, b    side
	moved   map[edge]struct{} // edges that do not lead to the same inode on both sides
	gone    map[Ino][]spot    // by inode: places it no longer has
	come    map[Ino][]spot    // by inode: places it did not have
	changes []Change
}

// spot is an edge with its path.
type spot struct {
	edge
	path string
}

func (d *differ) run(c *candidates) ([]Change, error) {
	d.moved, d.gone, d.come = map[edge]struct{}{}, map[Ino][]spot{}, map[Ino][]spot{}
	if err := d.addUnseen(c); err != nil {
		return nil, err
	}
	for e := range c.edges {
		if err := d.edge(e); err != nil {
			return nil, err
		}
	}
	for i := range c.inodes {
		if err := d.kept(i); err != nil {
			return nil, err
		}
	}
	if err := d.pair(); err != nil {
		return nil, err
	}
	slices.SortFunc(d.changes, func(x, y Change) int {
		return cmp.Or(strings.Compare(x.Path, y.Path), cmp.Compare(x.Kind, y.Kind))
	})
	return d.changes, nil
}

// addUnseen adds the edges of inodes that only one side can see: a view of the
// past may see a name before the version of its inode.
func (d *differ) addUnseen(c *candidates) error {
	for i := range c.inodes {
		old, err := d.a.inode(d.tx, i)
		if err != nil {
			return err
		}
		new, err := d.b.inode(d.tx, i)
		if err != nil {
			return err
		}
		if (old == nil) == (new == nil) {
			continue
		}
		for _, s := range [...]side{d.a, d.b} {
			es, err := s.edges(d.tx, i)
			if err != nil {
				return err
			}
			for _, e := range es {
				c.edges[e] = struct{}{}
			}
		}
	}
	return nil
}

// edge notes what e leads to on either side when that differs.
func (d *differ) edge(e edge) error {
	old, err := d.a.lookup(d.tx, e)
	if err != nil {
		return err
	}
	new, err := d.b.lookup(d.tx, e)
	if err != nil || old == new {
		return err
	}
	d.moved[e] = struct{}{}
	if err := note(d.tx, d.a, e, old, d.gone); err != nil {
		return err
	}
	return note(d.tx, d.b, e, new, d.come)
}

func note(tx *schema.Tx, s side, e edge, i Ino, in map[Ino][]spot) error {
	if i == 0 {
		return nil
	}
	path, err := pathOf(tx, s, e)
	if errors.Is(err, errNoPath) {
		return nil
	}
	in[i] = append(in[i], spot{e, path})
	return err
}

// kept lists the changes of i under the names that both sides have.
func (d *differ) kept(i Ino) error {
	old, err := d.a.inode(d.tx, i)
	if old == nil || err != nil {
		return err
	}
	new, err := d.b.inode(d.tx, i)
	if new == nil || err != nil {
		return err
	}
	diff, err := compareInodes(d.tx, d.a, d.b, old, new)
	if err != nil || !diff.any() {
		return err
	}
	if i == d.b.root() {
		d.add("", "", old, new, diff, false)
		return nil
	}
	es, err := d.b.edges(d.tx, i)
	if err != nil {
		return err
	}
	for _, e := range es {
		if _, ok := d.moved[e]; ok {
			continue
		}
		from, err := pathOf(d.tx, d.a, e)
		if err == nil {
			var to string
			if to, err = pathOf(d.tx, d.b, e); err == nil {
				d.add(from, to, old, new, diff, false)
			}
		}
		if err != nil && !errors.Is(err, errNoPath) {
			return err
		}
	}
	return nil
}

// pair makes renames of places lost and won by one inode, then changes of
// places lost and won at one path, and lists the rest as deleted and added.
func (d *differ) pair() error {
	type lostSpot struct {
		spot
		ino Ino
	}
	lost := map[string]lostSpot{}
	for i, from := range d.gone {
		to := d.come[i]
		sortPlaces(from)
		sortPlaces(to)
		n := min(len(from), len(to))
		for k := range n {
			if err := d.compare(from[k].path, to[k].path, i, i, true); err != nil {
				return err
			}
		}
		for _, p := range from[n:] {
			lost[p.path] = lostSpot{p, i}
		}
		d.come[i] = to[n:]
	}
	for i, to := range d.come {
		for _, p := range to {
			old, ok := lost[p.path]
			replaced, err := d.replaces(p, old.spot, ok)
			if err != nil {
				return err
			}
			if replaced {
				delete(lost, p.path)
				if err := d.compare(p.path, p.path, old.ino, i, false); err != nil {
					return err
				}
				continue
			}
			new, err := d.b.inode(d.tx, i)
			if err != nil {
				return err
			}
			d.changes = append(d.changes, Change{Kind: Added, Path: p.path, New: copyInode(new)})
		}
	}
	for path, l := range lost {
		old, err := d.a.inode(d.tx, l.ino)
		if err != nil {
			return err
		}
		d.changes = append(d.changes, Change{Kind: Deleted, Path: path, Old: copyInode(old)})
	}
	return nil
}

// replaces reports whether what b has at new is to be compared with what a had
// at the same path, if there was something: not when either is there because
// its directory is at another path on the other side. Then the directory's
// rename says where it comes from or goes to.
func (d *differ) replaces(new, old spot, ok bool) (bool, error) {
	if !ok {
		return false, nil
	}
	was, err := pathOf(d.tx, d.a, new.edge)
	if err == nil && was != new.path {
		return false, nil
	}
	if err == nil || errors.Is(err, errNoPath) {
		var is string
		if is, err = pathOf(d.tx, d.b, old.edge); err == nil && is != old.path {
			return false, nil
		}
	}
	if errors.Is(err, errNoPath) {
		err = nil // a new directory in the place of one that went
	}
	return true, err
}

func sortPlaces(ps []spot) {
	slices.SortFunc(ps, func(a, b spot) int { return strings.Compare(a.path, b.path) })
}

// compare lists how new at path to differs from old at path from.
func (d *differ) compare(from, to string, old, new Ino, renamed bool) error {
	x, err := d.a.inode(d.tx, old)
	if err != nil {
		return err
	}
	y, err := d.b.inode(d.tx, new)
	if err != nil {
		return err
	}
	renamed = renamed && from != to // else a directory of the same path took its place
	diff, err := compareInodes(d.tx, d.a, d.b, x, y)
	if err == nil && (diff.any() || renamed) {
		d.add(from, to, x, y, diff, renamed)
	}
	return err
}

func (d *differ) add(from, to string, old, new *Inode, diff difference, renamed bool) {
	c := Change{
		Path: to, Old: copyInode(old), New: copyInode(new),
		Content: diff.content, Attributes: diff.attributes, Xattrs: diff.xattrs,
	}
	if from != to {
		c.OldPath = from
	}
	switch {
	case renamed:
		c.Kind = Renamed
	case diff.kind:
		c.Kind = TypeChanged
	case diff.content:
		c.Kind = Modified
	case diff.attributes:
		c.Kind = ModeChanged
	default:
		c.Kind = XattrChanged
	}
	d.changes = append(d.changes, c)
}

func copyInode(in *Inode) *Inode {
	if in == nil {
		return nil
	}
	c := *in
	return &c
}

// under keeps the changes of what is or was at or below dir.
func (d *differ) under(changes []Change, dir Ino) ([]Change, error) {
	var was, is []string
	for _, x := range []struct {
		s     side
		paths *[]string
	}{{d.a, &was}, {d.b, &is}} {
		es, err := x.s.edges(d.tx, dir)
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			p, err := pathOf(d.tx, x.s, e)
			if err == nil {
				*x.paths = append(*x.paths, p)
			} else if !errors.Is(err, errNoPath) {
				return nil, err
			}
		}
	}
	if len(was)+len(is) == 0 {
		return nil, failIno("diff", dir, syscall.ENOENT)
	}
	return slices.DeleteFunc(changes, func(c Change) bool {
		from := cmp.Or(c.OldPath, c.Path)
		return !(c.Old != nil && slices.ContainsFunc(was, func(d string) bool { return within(from, d) }) ||
			c.New != nil && slices.ContainsFunc(is, func(d string) bool { return within(c.Path, d) }))
	}), nil
}
