package pathtree

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Restore makes path (a file, a directory with everything below it, or "" for
// the whole tree) in v as it is in from, and returns what it changed, sorted by
// path. Directories above path that are missing are made as they are in from;
// a path that from does not have is removed; ENOENT when neither has it. What
// was moved out of path since stays where it is, and path gets a copy of it.
// Times are restored with the rest. The state before stays in history, so that
// a restore can be undone by another. The cost is that of the changes between
// the two views, and of what must be copied.
func (t *Tree) Restore(tx *schema.Tx, v *View, path string, from *View) ([]Change, error) {
	t.moved.Add(1)
	changes, err := t.restore(tx, v, path, from)
	return changes, fail("restore", path, err)
}

func (t *Tree) restore(tx *schema.Tx, v *View, path string, from *View) ([]Change, error) {
	if v.bucket.ID != from.bucket.ID {
		return nil, syscall.EXDEV
	}
	c, err := v.begin(tx)
	if err != nil {
		return nil, err
	}
	cand, err := collect(tx, v.chain, from.chain)
	if err != nil {
		return nil, err
	}
	r := restorer{
		tx: tx, now: newViewSide(v), then: newViewSide(from),
		inNow: map[Ino]bool{}, inThen: map[Ino]bool{}, copies: map[Ino]Ino{},
	}
	r.edit = newEdit(r.now)
	if err := r.run(cand, path); err != nil {
		return nil, err
	}
	changes, err := r.edit.changes(tx)
	if err != nil || r.edit.empty() {
		return changes, err
	}
	if err := r.edit.apply(&c); err != nil {
		return nil, err
	}
	if err := t.seal(tx, v.branch.ID, c.at.stamp); err != nil {
		return nil, err
	}
	return changes, c.event(notify.Event{Op: notify.OpRestore, Name: []byte(path)})
}

// restorer works out the edit that a restore is.
type restorer struct {
	tx        *schema.Tx
	now, then *viewSide
	edit      *edit
	top       Ino          // what path leads to then; 0: nothing
	topNow    Ino          // and now
	inNow     map[Ino]bool // directories: whether at or below path, now
	inThen    map[Ino]bool // and then
	copies    map[Ino]Ino  // inodes of then that are elsewhere now, and their copies
}

func (r *restorer) run(c *candidates, path string) error {
	place, err := r.find(path)
	if err != nil {
		return err
	}
	r.inThen[r.top], r.inNow[r.topNow] = r.top != 0, r.topNow != 0
	r.inThen[r.then.root()], r.inNow[r.now.root()] = r.top == r.then.root(), r.topNow == r.now.root()
	for _, e := range slices.SortedFunc(maps.Keys(c.edges), compareEdges) {
		if err := r.edge(e); err != nil {
			return err
		}
	}
	if place.parent != 0 {
		r.edit.set(place, r.top)
	}
	if err := r.copyMoved(); err != nil {
		return err
	}
	for i := range c.inodes {
		if err := r.inode(i); err != nil {
			return err
		}
	}
	for i := range r.edit.byIno { // what comes back may have no version of its own since
		if err := r.inode(i); err != nil {
			return err
		}
	}
	return r.clear()
}

// find resolves path on both sides and returns the edge to set; none for the
// root. Directories above it that are missing now are put back.
func (r *restorer) find(path string) (edge, error) {
	names := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	r.top, r.topNow = r.then.root(), r.now.root()
	var at edge
	for k, name := range names {
		if name == "." || name == ".." {
			return edge{}, syscall.EINVAL
		}
		at = edge{r.topNow, name}
		var err error
		if r.top != 0 {
			if r.top, err = r.then.lookup(r.tx, edge{r.top, name}); err != nil {
				return edge{}, err
			}
		}
		if r.topNow, err = r.now.lookup(r.tx, at); err != nil {
			return edge{}, err
		}
		if r.top == 0 && r.topNow == 0 {
			return edge{}, syscall.ENOENT
		}
		if k < len(names)-1 {
			if err := r.above(at); err != nil {
				return edge{}, err
			}
		}
	}
	return at, nil
}

// above makes sure that there is a directory at e, on the way to the path.
func (r *restorer) above(e edge) error {
	if r.topNow != 0 {
		in, err := r.now.inode(r.tx, r.topNow)
		if err == nil && !in.IsDir() {
			err = syscall.ENOTDIR
		}
		return err
	}
	in, err := r.then.inode(r.tx, r.top)
	if err != nil {
		return err
	}
	if !in.IsDir() {
		return syscall.ENOTDIR
	}
	dir := *in
	if ok, err := alive(r.tx, r.now, r.top); err != nil {
		return err
	} else if ok { // it is elsewhere now: a new one
		if dir.Ino, err = r.now.v.newDirIno(r.tx, e.parent, e.name); err != nil {
			return err
		}
	}
	r.edit.put(dir, groupAll)
	r.edit.set(e, dir.Ino)
	r.topNow = dir.Ino
	return nil
}

// below reports whether a directory is at or below the path on a side.
func (r *restorer) below(s *viewSide, memo map[Ino]bool, dir Ino) (bool, error) {
	var way []Ino
	in := false
	for at := dir; ; {
		if known, ok := memo[at]; ok {
			in = known
			break
		}
		way = append(way, at)
		memo[at] = false // ends a cycle
		es, err := s.edges(r.tx, at)
		if err != nil {
			return false, err
		}
		if len(es) == 0 {
			break
		}
		at = es[0].parent
	}
	for _, d := range way {
		memo[d] = in
	}
	return in, nil
}

// edge sets an edge below the path as it was then.
func (r *restorer) edge(e edge) error {
	then, err := r.below(r.then, r.inThen, e.parent)
	if err != nil {
		return err
	}
	now, err := r.below(r.now, r.inNow, e.parent)
	if err != nil || !then && !now {
		return err
	}
	var want Ino
	if then {
		if want, err = r.then.lookup(r.tx, e); err != nil {
			return err
		}
	}
	has, err := r.now.lookup(r.tx, e)
	if err == nil && has != want {
		r.edit.set(e, want)
	}
	return err
}

// copyMoved replaces by copies what comes back to the path but is elsewhere
// now, outside of it, and stays there.
func (r *restorer) copyMoved() error {
	for _, i := range slices.Sorted(maps.Keys(r.edit.byIno)) {
		for _, e := range slices.SortedFunc(maps.Keys(r.edit.byIno[i]), compareEdges) {
			elsewhere, err := r.elsewhere(i)
			if err != nil {
				return err
			}
			if !elsewhere {
				continue
			}
			if err := r.copyTo(e, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// elsewhere reports whether i keeps a name outside of the path.
func (r *restorer) elsewhere(i Ino) (bool, error) {
	es, err := r.now.edges(r.tx, i)
	if err != nil {
		return false, err
	}
	for _, e := range es {
		if _, set := r.edit.to[e]; set {
			continue
		}
		in, err := r.below(r.now, r.inNow, e.parent)
		if err != nil {
			return false, err
		}
		if in {
			continue
		}
		// A hard link that was outside of the path then, too, stays one.
		was, err := r.then.lookup(r.tx, e)
		if err != nil {
			return false, err
		}
		if in, err = r.below(r.then, r.inThen, e.parent); in || err != nil || was != i {
			return err == nil, err
		}
	}
	return false, nil
}

// copyTo puts a copy of the inode i of then, with everything below, at e.
func (r *restorer) copyTo(e edge, i Ino) error {
	in, err := r.then.inode(r.tx, i)
	if err != nil {
		return err
	}
	if c := r.copies[i]; c != 0 && !in.IsDir() {
		r.edit.set(e, c)
		return nil
	}
	cp := *in
	cp.Home = e.parent
	if in.IsDir() {
		cp.Ino, err = r.freshDir(e)
	} else {
		cp.Ino, err = r.now.v.tree.newFileIno(r.tx)
	}
	if err != nil {
		return err
	}
	r.copies[i] = cp.Ino
	r.edit.put(cp, groupAll)
	r.edit.set(e, cp.Ino)
	xs, err := r.then.xattrs(r.tx, i)
	if err != nil {
		return err
	}
	for name, value := range xs {
		r.edit.setXattr(cp.Ino, name, &value)
	}
	if !in.IsDir() {
		return nil
	}
	for name := range r.edit.byDir[i] { // where the directory is now, nothing changes
		r.edit.unset(edge{i, name})
	}
	entries, err := r.then.list(r.tx, i)
	if err != nil {
		return err
	}
	for _, x := range entries {
		elsewhere, err := r.elsewhere(x.Ino)
		if err != nil {
			return err
		}
		if elsewhere || x.IsDir() {
			err = r.copyTo(edge{cp.Ino, x.Name}, x.Ino)
		} else {
			r.edit.set(edge{cp.Ino, x.Name}, x.Ino)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freshDir returns a number for a directory at e that is not in use on either
// side.
func (r *restorer) freshDir(e edge) (Ino, error) {
	for n := uint64(0); ; n++ {
		i := dirIno(r.now.v.bucket.UUID, e.parent, e.name, n)
		a, err := r.now.inode(r.tx, i)
		if err != nil {
			return 0, err
		}
		b, err := r.then.inode(r.tx, i)
		if err != nil {
			return 0, err
		}
		if a == nil && b == nil && r.edit.states[i] == nil {
			return i, nil
		}
	}
}

// inode gives an inode that is below the path afterwards the state it had.
func (r *restorer) inode(i Ino) error {
	was, err := r.then.inode(r.tx, i)
	if was == nil || err != nil {
		return err
	}
	if in, err := r.placedIn(i); err != nil || !in {
		return err
	}
	is, err := r.now.inode(r.tx, i)
	if err != nil {
		return err
	}
	groups := groupAll
	if is != nil {
		groups = 0
		if !sameContent(is, was) || is.Mtime != was.Mtime {
			groups |= groupContent
		}
		if is.Mode != was.Mode || is.UID != was.UID || is.GID != was.GID || groups != 0 && is.Atime != was.Atime {
			groups |= groupAttrs
		}
	}
	if groups != 0 {
		r.edit.put(*was, groups)
	}
	xs, err := r.then.xattrs(r.tx, i)
	if err != nil {
		return err
	}
	have, err := r.now.xattrs(r.tx, i)
	if err != nil {
		return err
	}
	for name, value := range xattrChanges(have, xs) {
		r.edit.setXattr(i, name, value)
	}
	return nil
}

// placedIn reports whether i is, then, at or below the path, and not replaced
// by a copy.
func (r *restorer) placedIn(i Ino) (bool, error) {
	if r.copies[i] != 0 {
		return false, nil
	}
	if i == r.top {
		return true, nil
	}
	es, err := r.then.edges(r.tx, i)
	if err != nil {
		return false, err
	}
	for _, e := range es {
		if in, err := r.below(r.then, r.inThen, e.parent); in || err != nil {
			return in, err
		}
	}
	return false, nil
}

// clear removes what is left in directories that lose their place.
func (r *restorer) clear() error {
	for {
		var gone []Ino
		for e, to := range r.edit.to {
			has, err := r.now.lookup(r.tx, e)
			if err != nil {
				return err
			}
			if has == 0 || has == to {
				continue
			}
			es, err := r.edit.edges(r.tx, has)
			if err != nil {
				return err
			}
			if in, err := r.now.inode(r.tx, has); err != nil {
				return err
			} else if in.IsDir() && len(es) == 0 {
				gone = append(gone, has)
			}
		}
		more := false
		for _, dir := range gone {
			left, err := r.edit.list(r.tx, dir)
			if err != nil {
				return err
			}
			for _, e := range left {
				r.edit.set(edge{dir, e.Name}, 0)
				more = true
			}
		}
		if !more {
			return nil
		}
	}
}
