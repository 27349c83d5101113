package pathtree

import (
	"errors"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// errNoPath says that a directory cannot be reached from the root.
var errNoPath = errors.New("not below the root")

// viewSide is a view with a memory, valid while the view does not change.
type viewSide struct {
	v      *View
	more   []*View // further merge bases: of each thing the newest version counts
	inodes map[Ino]*Inode
	names  map[Ino][]edge
	paths  map[Ino]string // of directories; absent: not known
}

func newViewSide(v *View) *viewSide {
	return &viewSide{v: v, inodes: map[Ino]*Inode{}, names: map[Ino][]edge{}, paths: map[Ino]string{v.Root(): ""}}
}

func (s *viewSide) root() Ino { return s.v.Root() }

func (s *viewSide) lookup(tx *schema.Tx, e edge) (Ino, error) {
	d, _, err := findDentry(tx, s.v.chain, e.parent, e.name)
	for _, v := range s.more {
		if err != nil {
			return 0, err
		}
		var x dentryRow
		if x, _, err = findDentry(tx, v.chain, e.parent, e.name); x.stamp > d.stamp {
			d = x
		}
	}
	if err != nil || d.ino == 0 {
		return 0, err
	}
	in, err := s.inode(tx, d.ino)
	if in == nil {
		return 0, err
	}
	return d.ino, nil
}

// absent turns an error that says "not there" into none.
func absent(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

func (s *viewSide) inode(tx *schema.Tx, i Ino) (*Inode, error) {
	if in, ok := s.inodes[i]; ok {
		return in, nil
	}
	var p *Inode
	for _, v := range append([]*View{s.v}, s.more...) {
		r, ok, err := findInode(tx, v.chain, v.live, i)
		if err != nil {
			return nil, err
		}
		if ok && (p == nil || r.Stamp > p.Stamp) {
			p = &r.Inode
		}
	}
	s.inodes[i] = p
	return p, nil
}

func (s *viewSide) edges(tx *schema.Tx, i Ino) ([]edge, error) {
	if es, ok := s.names[i]; ok {
		return es, nil
	}
	var es []edge
	for _, v := range append([]*View{s.v}, s.more...) {
		err := v.places(tx, i, func(n name) bool {
			es = append(es, edge(n))
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	if len(s.more) > 0 {
		var err error
		if es, err = s.confirm(tx, i, es); err != nil {
			return nil, err
		}
	}
	s.names[i] = es
	return es, nil
}

// confirm keeps the edges that lead to i, each once.
func (s *viewSide) confirm(tx *schema.Tx, i Ino, es []edge) (kept []edge, err error) {
	for _, e := range slices.Compact(sortEdges(es)) {
		is, err := s.lookup(tx, e)
		if err != nil {
			return nil, err
		}
		if is == i {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

// xattrs of several bases are those of the one with the newest inode: setting
// one writes a version of that.
func (s *viewSide) xattrs(tx *schema.Tx, i Ino) (map[string]string, error) {
	for _, v := range s.more {
		in, err := s.inode(tx, i)
		if err != nil {
			return nil, err
		}
		if r, ok, err := findInode(tx, v.chain, v.live, i); err != nil {
			return nil, err
		} else if ok && in.Stamp == r.Stamp && in.Branch == r.Branch {
			return newViewSide(v).xattrs(tx, i)
		}
	}
	names, err := s.v.Listxattr(tx, i)
	if err != nil || len(names) == 0 {
		return nil, absent(err)
	}
	m := make(map[string]string, len(names))
	for _, n := range names {
		v, err := s.v.Getxattr(tx, i, n)
		if err != nil {
			return nil, err
		}
		m[n] = string(v)
	}
	return m, nil
}

func (s *viewSide) list(tx *schema.Tx, dir Ino) ([]Entry, error) {
	es, err := s.v.ReadDir(tx, dir, "", 0)
	return es, absent(err)
}

func (s *viewSide) dirPath(tx *schema.Tx, dir Ino) (string, error) {
	if p, ok := s.paths[dir]; ok {
		return p, nil
	}
	p, err := climb(tx, s, dir)
	if err == nil {
		s.paths[dir] = p
	}
	return p, err
}

// climb finds the path of a directory by way of its parent.
func climb(tx *schema.Tx, s side, dir Ino) (string, error) {
	var names []string
	seen := map[Ino]bool{}
	top := ""
	for at := dir; at != s.root(); {
		if v, ok := s.(*viewSide); ok && at != dir {
			if p, ok := v.paths[at]; ok {
				top = p
				break
			}
		}
		es, err := s.edges(tx, at)
		if err != nil {
			return "", err
		}
		if len(es) == 0 || seen[at] {
			return "", errNoPath
		}
		seen[at] = true
		names, at = append(names, es[0].name), es[0].parent
	}
	for i := len(names) - 1; i >= 0; i-- {
		top = join(top, names[i])
	}
	return top, nil
}

// alive reports whether i has a place in s.
func alive(tx *schema.Tx, s side, i Ino) (bool, error) {
	if i == 0 {
		return false, nil
	}
	in, err := s.inode(tx, i)
	if in == nil || err != nil {
		return false, err
	}
	if i == s.root() {
		return true, nil
	}
	es, err := s.edges(tx, i)
	return len(es) > 0, err
}

// difference says in which respects two inodes differ.
type difference struct{ kind, content, attributes, xattrs bool }

func (d difference) any() bool { return d.kind || d.content || d.attributes || d.xattrs }

func compareInodes(tx *schema.Tx, a, b side, old, new *Inode) (d difference, err error) {
	d.kind = (old.Mode^new.Mode)&unix.S_IFMT != 0
	d.content = !sameContent(old, new)
	d.attributes = old.Mode != new.Mode || old.UID != new.UID || old.GID != new.GID
	xa, err := a.xattrs(tx, old.Ino)
	if err != nil {
		return d, err
	}
	xb, err := b.xattrs(tx, new.Ino)
	d.xattrs = !sameXattrs(xa, xb)
	return d, err
}

// sameContent compares what a read of the inode gives; directories have none.
func sameContent(a, b *Inode) bool {
	if a.IsDir() && b.IsDir() {
		return true
	}
	return a.Size == b.Size && a.Hash == b.Hash && a.Target == b.Target && a.Rdev == b.Rdev
}

func sameXattrs(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// kindOf returns the type bits of an inode.
func kindOf(in *Inode) uint32 { return in.Mode & unix.S_IFMT }
