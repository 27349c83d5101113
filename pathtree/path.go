package pathtree

import (
	"slices"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// name is one place of an inode.
type name struct {
	parent Ino
	name   string
}

const selectPlaces = `SELECT parent, name FROM dentry
	WHERE ino = ? AND (parent, name) > (?, ?) ORDER BY parent, name LIMIT 1`

// places yields the places of ino in the view, by parent and name. Every
// place that any branch ever gave it is looked at.
func (v *View) places(tx *schema.Tx, ino Ino, yield func(name) bool) error {
	var at name
	for {
		s := tx.Stmt(selectPlaces)
		s.BindInt64(1, int64(ino))
		s.BindInt64(2, int64(at.parent))
		if at.name == "" {
			s.BindZeroBlob(3, 0)
		} else {
			s.BindBytes(3, []byte(at.name))
		}
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		at = name{Ino(s.ColumnInt64(0)), s.ColumnText(1)}
		r, ok, err := findDentry(tx, v.chain, at.parent, at.name)
		if err != nil {
			return err
		}
		if ok && r.ino == ino && !yield(at) {
			return nil
		}
	}
}

// place returns the first place of ino, ENOENT without one.
func (v *View) place(tx *schema.Tx, ino Ino) (at name, err error) {
	err = v.places(tx, ino, func(n name) bool { at = n; return false })
	if err == nil && at.parent == 0 {
		err = syscall.ENOENT
	}
	return at, err
}

// Parent returns the directory that dir is in; the root's is itself.
func (v *View) Parent(tx *schema.Tx, dir Ino) (Ino, error) {
	if dir == v.Root() {
		return dir, nil
	}
	at, err := v.place(tx, dir)
	return at.parent, failIno("parent of", dir, err)
}

// Path returns a path of ino from the root, without a leading slash; "" for
// the root itself. ENOENT when it has none.
func (v *View) Path(tx *schema.Tx, ino Ino) (string, error) {
	p, err := v.path(tx, ino)
	return p, failIno("path of", ino, err)
}

func (v *View) path(tx *schema.Tx, ino Ino) (string, error) {
	var names []string
	err := v.ascend(tx, ino, func(at name) bool { names = append(names, at.name); return true })
	slices.Reverse(names)
	return strings.Join(names, "/"), err
}

// ascend yields the place of ino, then that of its parent and so on up to the
// root. ELOOP when it never gets there: two branches of which one follows the
// other can each move a directory into the other's.
func (v *View) ascend(tx *schema.Tx, ino Ino, yield func(name) bool) error {
	mark := ino // Brent's way of noticing a cycle
	for n := 1; ino != v.Root(); n++ {
		at, err := v.place(tx, ino)
		if err != nil || !yield(at) {
			return err
		}
		if ino = at.parent; ino == mark {
			return syscall.ELOOP
		}
		if n&(n-1) == 0 {
			mark = ino
		}
	}
	return nil
}

// Paths returns every path of ino, one for each hard link, in no order.
func (v *View) Paths(tx *schema.Tx, ino Ino) ([]string, error) {
	paths, err := v.paths(tx, ino)
	return paths, failIno("paths of", ino, err)
}

func (v *View) paths(tx *schema.Tx, ino Ino) ([]string, error) {
	if ino == v.Root() {
		return []string{""}, nil
	}
	var places []name
	if err := v.places(tx, ino, func(n name) bool { places = append(places, n); return true }); err != nil {
		return nil, err
	}
	var paths []string
	dirs := make(map[Ino]string)
	for _, at := range places {
		dir, ok := dirs[at.parent]
		if !ok {
			var err error
			if dir, err = v.path(tx, at.parent); err != nil {
				return nil, err
			}
			if dir != "" {
				dir += "/"
			}
			dirs[at.parent] = dir
		}
		paths = append(paths, dir+at.name)
	}
	return paths, nil
}

// inside reports whether dir is top or below it.
func (v *View) inside(tx *schema.Tx, dir, top Ino) (bool, error) {
	found := dir == top
	if found {
		return true, nil
	}
	err := v.ascend(tx, dir, func(at name) bool { found = at.parent == top; return !found })
	return found, err
}
