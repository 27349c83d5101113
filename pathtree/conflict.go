package pathtree

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
