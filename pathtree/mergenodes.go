package pathtree

import (
	"cmp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// node is one thing as the three sides of a merge know it: the base, ours (the
// destination) and theirs (the source). Mostly it has one inode number on all
// of them. It has several where a program replaced a file by a new one of the
// same name, as editors do, or where both sides made the same name.
type node struct {
	b, o, t Ino // 0: not there on that side

	fate    fate
	want    []edge // where it is to be, when fate is placed
	target  Ino    // inode it is to have
	state   *Inode // what it is to be; nil: as it is
	groups  int    // of state
	xattrs  map[string]*string
	text    []byte                     // content to store, merged from both sides
	copies  []copied                   // their version, to be put beside ours
	skipped bool                       // their side of it is left out by decision
	left    bool                       // it stays where we have it, by decision
	decided bool                       // decide has been here
	yielded bool                       // it made room for another of theirs
	crossed bool                       // it was part of a cycle
	told    [DirectoriesCross + 1]bool // conflicts reported, by kind
}

// fate is what becomes of a node's names in the destination.
type fate uint8

const (
	stays   fate = iota // nothing
	placed              // it gets the names in want
	removed             // it loses all its names
)

// copied is a copy of their inode, to be put at e.
type copied struct {
	e   edge
	t   Ino
	ino Ino // number of the copy
}

// nodes finds which inodes of the three sides belong together.
type nodes struct {
	tx      *schema.Tx
	b, o, t *viewSide
	succO   map[Ino]Ino // of a base inode: what it is on our side
	succT   map[Ino]Ino
	taken   map[side]map[Ino]Ino // the other way: base inode that an inode stands for
	origins map[side]map[Ino]Ino // results of origin
	byB     map[Ino]*node
	byT     map[Ino]*node // nodes that the base does not have
	byO     map[Ino]*node // those of byT that we have too
	all     []*node       // in the order in which they were asked for
}

func newNodes(tx *schema.Tx, bases []*View, ours, theirs *View) *nodes {
	n := &nodes{
		tx: tx, b: newViewSide(bases[0]), o: newViewSide(ours), t: newViewSide(theirs),
		succO: map[Ino]Ino{}, succT: map[Ino]Ino{}, byB: map[Ino]*node{}, byT: map[Ino]*node{}, byO: map[Ino]*node{},
	}
	n.b.more = bases[1:]
	n.taken = map[side]map[Ino]Ino{n.o: {}, n.t: {}}
	n.origins = map[side]map[Ino]Ino{n.o: {}, n.t: {}}
	return n
}

// successor returns what stands on side s for the base inode i: i itself while
// it has a name there, else a new thing of the same type at the same place.
func (n *nodes) successor(s *viewSide, i Ino) (Ino, error) {
	memo := n.succO
	if s == n.t {
		memo = n.succT
	}
	if j, ok := memo[i]; ok {
		return j, nil
	}
	if ok, err := alive(n.tx, s, i); ok || err != nil {
		memo[i] = i
		return i, err
	}
	memo[i] = 0
	was, err := n.b.inode(n.tx, i)
	if was == nil || err != nil {
		return 0, err
	}
	es, err := sortedEdges(n.tx, n.b, i)
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		dir, err := n.successor(s, e.parent)
		if dir == 0 || err != nil {
			return 0, err
		}
		j, err := s.lookup(n.tx, edge{dir, e.name})
		if j == 0 || err != nil {
			return 0, err
		}
		if known, err := alive(n.tx, n.b, j); known || err != nil {
			return 0, err
		}
		in, err := s.inode(n.tx, j)
		if err != nil {
			return 0, err
		}
		if in.Mode&unix.S_IFMT == was.Mode&unix.S_IFMT && n.taken[s][j] == 0 {
			n.taken[s][j], memo[i] = i, j
			return j, nil
		}
	}
	return 0, nil
}

// origin returns the base inode that inode j of side s stands for, 0 if none.
func (n *nodes) origin(s *viewSide, j Ino) (Ino, error) {
	if ok, err := alive(n.tx, n.b, j); ok || err != nil {
		return j, err
	}
	if i := n.taken[s][j]; i != 0 {
		return i, nil
	}
	if i, ok := n.origins[s][j]; ok {
		return i, nil
	}
	i, err := n.findOrigin(s, j)
	n.origins[s][j] = i
	return i, err
}

func (n *nodes) findOrigin(s *viewSide, j Ino) (Ino, error) {
	es, err := sortedEdges(n.tx, s, j)
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		dir, err := n.origin(s, e.parent)
		if err != nil {
			return 0, err
		}
		if dir == 0 {
			continue
		}
		i, err := n.b.lookup(n.tx, edge{dir, e.name})
		if err != nil {
			return 0, err
		}
		if i == 0 {
			continue
		}
		if k, err := n.successor(s, i); k == j || err != nil {
			return i, err
		}
	}
	return 0, nil
}

// ofBase returns the node of a base inode.
func (n *nodes) ofBase(i Ino) (*node, error) {
	if x := n.byB[i]; x != nil {
		return x, nil
	}
	o, err := n.successor(n.o, i)
	if err != nil {
		return nil, err
	}
	t, err := n.successor(n.t, i)
	if err != nil {
		return nil, err
	}
	x := &node{b: i, o: o, t: t, target: cmp.Or(o, t)}
	n.byB[i] = x
	n.all = append(n.all, x)
	return x, nil
}

// ofTheirs returns the node of an inode that is alive on their side.
func (n *nodes) ofTheirs(j Ino) (*node, error) {
	if i, err := n.origin(n.t, j); err != nil {
		return nil, err
	} else if i != 0 {
		return n.ofBase(i)
	}
	if x := n.byT[j]; x != nil {
		return x, nil
	}
	x := &node{t: j}
	var err error
	if x.o, err = n.sameAdded(j); err != nil {
		return nil, err
	}
	x.target = cmp.Or(x.o, x.t)
	n.byT[j] = x
	if x.o != 0 {
		n.byO[x.o] = x
	}
	n.all = append(n.all, x)
	return x, nil
}

// sameAdded returns our inode that was made as theirs, j, was: the same inode,
// or a new one of the same type at the same place.
func (n *nodes) sameAdded(j Ino) (Ino, error) {
	if ok, err := alive(n.tx, n.o, j); ok || err != nil {
		return j, err
	}
	in, err := n.t.inode(n.tx, j)
	if err != nil {
		return 0, err
	}
	es, err := sortedEdges(n.tx, n.t, j)
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		dir, err := n.ofTheirs(e.parent)
		if err != nil {
			return 0, err
		}
		if dir.o == 0 {
			continue
		}
		k, err := n.o.lookup(n.tx, edge{dir.o, e.name})
		if err != nil {
			return 0, err
		}
		if k == 0 {
			continue
		}
		theirs, err := alive(n.tx, n.t, k)
		if err != nil || theirs {
			return 0, err
		}
		i, err := n.origin(n.o, k)
		if err != nil || i != 0 {
			return 0, err
		}
		ours, err := n.o.inode(n.tx, k)
		if err != nil {
			return 0, err
		}
		if ours.Mode&unix.S_IFMT == in.Mode&unix.S_IFMT {
			return k, nil
		}
	}
	return 0, nil
}

// ofOurs returns the node of an inode that is alive on our side; nil when the
// others do not know it.
func (n *nodes) ofOurs(k Ino) (*node, error) {
	if i, err := n.origin(n.o, k); err != nil {
		return nil, err
	} else if i != 0 {
		return n.ofBase(i)
	}
	if ok, err := alive(n.tx, n.t, k); err != nil {
		return nil, err
	} else if ok {
		return n.ofTheirs(k)
	}
	return n.byO[k], nil
}

// inOurs translates an edge of the base or of their side to where it is, or
// would be, on ours.
func (n *nodes) inOurs(s *viewSide, e edge) (edge, error) {
	known := true
	var err error
	if s == n.b { // several bases can have a name in a directory that is gone
		known, err = alive(n.tx, n.b, e.parent)
		if !known && err == nil {
			s = n.t
			known, err = alive(n.tx, n.t, e.parent)
		}
	}
	if !known || err != nil {
		return e, err
	}
	var dir *node
	if s == n.b {
		dir, err = n.ofBase(e.parent)
	} else {
		dir, err = n.ofTheirs(e.parent)
	}
	if err != nil {
		return edge{}, err
	}
	return edge{cmp.Or(dir.target, dir.b), e.name}, nil
}

// places returns the edges of i on side s, translated and sorted.
func (n *nodes) places(s *viewSide, i Ino) ([]edge, error) {
	es, err := s.edges(n.tx, i)
	if err != nil || s == n.o {
		return sortEdges(es), err
	}
	ours := make([]edge, len(es))
	for k, e := range es {
		if ours[k], err = n.inOurs(s, e); err != nil {
			return nil, err
		}
	}
	return sortEdges(ours), nil
}

func sortedEdges(tx *schema.Tx, s side, i Ino) ([]edge, error) {
	es, err := s.edges(tx, i)
	return sortEdges(es), err
}

// sortEdges returns a sorted copy.
func sortEdges(es []edge) []edge {
	es = slices.Clone(es)
	slices.SortFunc(es, compareEdges)
	return es
}

func compareEdges(a, b edge) int {
	return cmp.Or(cmp.Compare(a.parent, b.parent), strings.Compare(a.name, b.name))
}
