package pathtree

import (
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// ConflictKind says how two sides exclude each other.
type ConflictKind uint8

const (
	BothModified     ConflictKind = iota + 1 // content changed on both sides, differently
	BothAdded                                // the same new name, different things
	BothRenamed                              // renamed to different places
	BothChangedMode                          // mode, owner, group or an extended attribute changed on both sides, differently
	DeletedByThem                            // the source deleted what the destination changed, renamed or added to
	DeletedByUs                              // the destination deleted what the source changed, renamed or added to
	NameTaken                                // the source moved something to a name that the destination gave to another
	DirectoriesCross                         // each side moved one directory into the other
)

var conflictNames = [...]string{
	BothModified: "both modified", BothAdded: "both added", BothRenamed: "both renamed",
	BothChangedMode: "both changed attributes", DeletedByThem: "deleted by them", DeletedByUs: "deleted by us",
	NameTaken: "name taken", DirectoriesCross: "directories moved into each other",
}

func (k ConflictKind) String() string { return conflictNames[k] }

// Conflict is one place where source and destination changed the same thing in
// different ways. "Our" side is the destination, "their" side the source. A
// path is "" and an inode nil where the thing does not exist on that side.
type Conflict struct {
	Kind                         ConflictKind
	BasePath, OurPath, TheirPath string
	Base, Ours, Theirs           *Inode
}

// Path returns the path by which to name the conflict.
func (c Conflict) Path() string {
	for _, p := range []string{c.OurPath, c.TheirPath} {
		if p != "" {
			return p
		}
	}
	return c.BasePath
}

// conflict reports a conflict of x, once of each kind.
func (p *plan) conflict(x *node, kind ConflictKind) error {
	if x.told[kind] {
		return nil
	}
	x.told[kind] = true
	v, err := p.views(x)
	if err != nil {
		return err
	}
	c := Conflict{Kind: kind, Base: copyInode(v.b), Ours: copyInode(v.o), Theirs: copyInode(v.t)}
	for _, s := range []struct {
		side *viewSide
		ino  Ino
		path *string
	}{{p.b, x.b, &c.BasePath}, {p.o, x.o, &c.OurPath}, {p.t, x.t, &c.TheirPath}} {
		if s.ino != 0 {
			if *s.path, err = firstPath(p.tx, s.side, s.ino); err != nil {
				return err
			}
		}
	}
	p.conflicts = append(p.conflicts, c)
	return nil
}

// firstPath returns the first of an inode's paths, "" when it has none.
func firstPath(tx *schema.Tx, s side, i Ino) (string, error) {
	if i == s.root() {
		return "", nil
	}
	es, err := sortedEdges(tx, s, i)
	if err != nil {
		return "", err
	}
	var paths []string
	for _, e := range es {
		path, err := pathOf(tx, s, e)
		if err == nil {
			paths = append(paths, path)
		} else if err != errNoPath {
			return "", err
		}
	}
	if len(paths) == 0 {
		return "", nil
	}
	return slices.Min(paths), nil
}
