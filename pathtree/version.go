package pathtree

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// NodeKey is the ed25519 public key of a node, its identity everywhere. The
// tables hold a short local number for it (table node).
type NodeKey [32]byte

// String returns the key in hexadecimal.
func (k NodeKey) String() string { return hex.EncodeToString(k[:]) }

// VersionID names a version among those of its thing on its branch. IDs are
// totally ordered, by stamp and then by the bytes of the node's key, and the
// greatest is the one that counts. The zero value names none.
type VersionID struct {
	Stamp schema.Stamp
	Node  NodeKey
}

// Compare returns -1, 0 or 1.
func (a VersionID) Compare(b VersionID) int {
	return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), bytes.Compare(a.Node[:], b.Node[:]))
}

// IsZero reports whether a names no version.
func (a VersionID) IsZero() bool { return a == VersionID{} }

func (a VersionID) String() string { return fmt.Sprintf("%d@%x", a.Stamp, a.Node[:4]) }

// VersionKind says what a version is of. The numbers are stored and travel.
type VersionKind uint8

const (
	DentryVersion VersionKind = 1
	InodeVersion  VersionKind = 2
	XattrVersion  VersionKind = 3
)

// Version is one immutable row as it travels between nodes. Its identity is
// its thing (Kind with Parent and Name, with Ino, or with Ino and Name), Branch
// and ID. Equal identities are equal versions.
type Version struct {
	Kind    VersionKind
	Branch  [16]byte // uuid
	ID      VersionID
	Prev    VersionID   // what the author saw in its place on that branch; zero: nothing
	Settles []VersionID // further versions of the thing on that branch that this one puts an end to, sorted

	Parent   Ino    // of a dentry: the directory
	Name     string // of a dentry or xattr; any bytes
	Ino      Ino    // of a dentry: what it names, 0 for a tombstone; else what it is of
	FileType uint32 // of a dentry: S_IFMT bits; 0 in a tombstone

	Home  Ino         // of an inode or xattr: the directory the inode was made in
	Inode *InodeState // of an inode
	Value []byte      // of an xattr; nil: a tombstone
}

// Dir returns the directory whose document carries the version.
func (v *Version) Dir() Ino {
	if v.Kind == DentryVersion {
		return v.Parent
	}
	return v.Home
}

// Tombstone reports whether the version says that the thing is no longer there.
func (v *Version) Tombstone() bool {
	return v.Kind == DentryVersion && v.Ino == 0 || v.Kind == XattrVersion && v.Value == nil
}

// Groups of an inode: what a version of it sets. The rest of the state is that
// of the versions before it.
const (
	GroupContent = groupContent // Size, Hash, Target, Mtime
	GroupAttrs   = groupAttrs   // permission bits of Mode, UID, GID, Atime
	GroupLinks   = groupLinks   // names were won or lost; the count itself is derived
	GroupMtime   = groupMtime   // an Mtime that was set explicitly
)

// InodeState is the part of an inode that a version carries. Fields of groups
// that it does not set are zero. The link count never travels: every node
// counts for itself.
type InodeState struct {
	Groups       int
	Mode         uint32 // type bits always; permission bits with GroupAttrs
	UID, GID     uint32
	Rdev         uint32 // always, as are Ctime and Btime
	Size         int64  // bytes
	Hash         blobstore.Hash
	Target       string
	Atime, Mtime int64 // ns since 1970
	Ctime, Btime int64 // ns since 1970
}

// Batch is what one node tells another about a bucket: a set, in no order.
type Batch struct {
	Versions []Version
	Records  []BucketRecord
	UpTo     schema.Stamp // of an export: everything that this node wrote until then has been exported
}

// Empty reports whether the batch says nothing.
func (b *Batch) Empty() bool { return len(b.Versions)+len(b.Records) == 0 }

// ImportResult says what an import did.
type ImportResult struct {
	New       int            // versions and records that were not known
	Known     int            // those that were
	Conflicts []SyncConflict // that came up; see SyncConflicts
	Contents  []ContentRef   // contents that new versions name, each once
}

// ContentRef is a content that a version names.
type ContentRef struct {
	Hash blobstore.Hash
	Size int64 // bytes
}

var (
	// ErrFuture refuses what was written more than maxAhead from now: the
	// caller holds it back.
	ErrFuture = errors.New("written in the future: check the clocks of both machines")
	// ErrUnknownBranch refuses a version of a branch whose record has not come:
	// the caller holds it back. It comes as an *UnknownBranchError.
	ErrUnknownBranch = errors.New("the branch is not known yet")
	// ErrInvalid refuses what no node writes.
	ErrInvalid = errors.New("not a valid version")
	// ErrForged refuses a version that differs from another of its identity.
	ErrForged = errors.New("another version of the same identity is known")
)

// UnknownBranchError names the branch that must come first.
type UnknownBranchError struct{ UUID [16]byte }

func (e *UnknownBranchError) Error() string {
	return fmt.Sprintf("branch %x: %v", e.UUID, ErrUnknownBranch)
}

func (e *UnknownBranchError) Unwrap() error { return ErrUnknownBranch }

// VersionError says which version or record of a batch was refused. Nothing of
// the batch was applied.
type VersionError struct {
	ID   VersionID
	What string // the thing
	Err  error
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("version %v of %s: %v", e.ID, e.What, e.Err)
}

func (e *VersionError) Unwrap() error { return e.Err }
