package pathtree

import "github.com/alkdev/alkfs/blobstore"

// SyncConflictKind says how versions of different nodes exclude each other.
type SyncConflictKind uint8

const (
	ContentConflict   SyncConflictKind = iota + 1 // a file's content changed in different ways
	AttributeConflict                             // mode, owner or an extended attribute set to different values
	NameConflict                                  // one name given to different things
	DeleteConflict                                // deleted by one, changed by another
)

// SyncConflict is a thing that nodes changed without knowing of each other, in
// ways that exclude each other. What counts is the version with the greatest ID;
// the others are kept until the conflict is resolved.
type SyncConflict struct {
	Kind   SyncConflictKind
	Branch int64
	Path   string // on that branch; "" when nothing shows it
	Thing  VersionKind
	Ino    Ino    // of the file; of a name the directory
	Name   string // of a name or extended attribute
	Shown  ConflictSide
	Others []ConflictSide // greatest ID first
}

// ConflictSide is one of the versions that exclude each other.
type ConflictSide struct {
	ID   VersionID
	Gone bool // it deletes
	Ino  Ino
	Hash blobstore.Hash
	Size int64 // bytes
	Mode uint32
	Copy string // name of the conflict copy that shows it, "" without one
}
