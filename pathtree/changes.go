package pathtree

import (
	"strings"

	"github.com/alkdev/alkfs/schema"
)

// edge is a place for a name: a directory and a name in it.
type edge struct {
	parent Ino
	name   string
}

// candidates are the edges and inodes (for their xattrs too) that may differ
// between two sides. What is not among them is the same on both.
type candidates struct {
	edges  map[edge]struct{}
	inodes map[Ino]struct{}
}

func newCandidates() *candidates {
	return &candidates{edges: map[edge]struct{}{}, inodes: map[Ino]struct{}{}}
}

// collect finds the candidates between two chains: the versions that one of
// them sees past what the other does. A nearer branch that hides a farther one
// needs no thought, since the nearer version is then among them.
func collect(tx *schema.Tx, a, b chain) (*candidates, error) {
	c := newCandidates()
	bound := make(map[int64]schema.Stamp, len(b))
	for _, l := range b {
		bound[l.branch] = l.bound
	}
	for _, l := range a {
		lo, hi := l.bound, bound[l.branch] // 0 where b does not have the branch
		delete(bound, l.branch)
		if err := c.add(tx, l.branch, min(lo, hi), max(lo, hi)); err != nil {
			return nil, err
		}
	}
	for branch, hi := range bound {
		if err := c.add(tx, branch, 0, hi); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// add adds what was written on branch after lo and up to hi.
func (c *candidates) add(tx *schema.Tx, branch int64, lo, hi schema.Stamp) error {
	if lo == hi {
		return nil
	}
	s := tx.Stmt("SELECT parent, name FROM dentry WHERE branch = ? AND stamp > ? AND stamp <= ?")
	bindVersion(s, 1, version{branch, lo, int64(hi)})
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		c.edges[edge{Ino(s.ColumnInt64(0)), s.ColumnText(1)}] = struct{}{}
	}
	for _, q := range [...]string{
		"SELECT ino FROM inode WHERE branch = ? AND stamp > ? AND stamp <= ?",
		"SELECT ino FROM xattr WHERE branch = ? AND stamp > ? AND stamp <= ?",
	} {
		s := tx.Stmt(q)
		bindVersion(s, 1, version{branch, lo, int64(hi)})
		for err := range schema.Rows(s) {
			if err != nil {
				return err
			}
			c.inodes[Ino(s.ColumnInt64(0))] = struct{}{}
		}
	}
	return nil
}

// side is one state of a tree, as diff, merge and restore look at it.
type side interface {
	root() Ino
	lookup(tx *schema.Tx, e edge) (Ino, error)               // 0: no such name
	inode(tx *schema.Tx, i Ino) (*Inode, error)              // nil: no such inode; not to be changed
	edges(tx *schema.Tx, i Ino) ([]edge, error)              // every name of i, in no order
	xattrs(tx *schema.Tx, i Ino) (map[string]string, error)  // not to be changed
	list(tx *schema.Tx, dir Ino) ([]Entry, error)            // by name
	dirPath(tx *schema.Tx, dir Ino) (path string, err error) // errNoPath when it cannot be reached
}

// pathOf returns the path of an edge.
func pathOf(tx *schema.Tx, s side, e edge) (string, error) {
	dir, err := s.dirPath(tx, e.parent)
	return join(dir, e.name), err
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (dir == "" || rest == "" || rest[0] == '/')
}
