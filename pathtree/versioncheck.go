package pathtree

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// maxAhead is how far from now a stamp of another node may be.
const maxAhead = 10 * time.Minute

// settlesMax bounds how many versions one version can settle.
const settlesMax = 1024

// inoMax is the greatest inode number: 63 bits.
const inoMax = Ino(1<<63 - 1)

// isDirIno reports whether a number is one of a directory, which every number
// says of itself.
func isDirIno(i Ino) bool { return i&dirBit != 0 }

func validIno(i Ino) bool { return i >= 2 && i <= inoMax }

// Check refuses what no node writes, in so far as the version itself shows it:
// names, numbers, types, sizes, fields of groups that are not set. It wraps
// ErrInvalid. ImportBucket calls it.
func (v *Version) Check() error {
	err := v.check()
	if err != nil {
		err = &VersionError{ID: v.ID, What: v.what(), Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return err
}

// what names the thing in an error.
func (v *Version) what() string {
	switch v.Kind {
	case DentryVersion:
		return fmt.Sprintf("entry %q of %v", v.Name, v.Parent)
	case XattrVersion:
		return fmt.Sprintf("attribute %q of %v", v.Name, v.Ino)
	}
	return "inode " + v.Ino.String()
}

func (v *Version) check() error {
	if v.ID.Stamp <= 0 || v.ID.Stamp == schema.MaxStamp {
		return fmt.Errorf("stamp %d", v.ID.Stamp)
	}
	if err := v.checkLineage(); err != nil {
		return err
	}
	switch v.Kind {
	case DentryVersion:
		return v.checkDentry()
	case InodeVersion:
		return v.checkInode()
	case XattrVersion:
		return v.checkXattr()
	}
	return fmt.Errorf("kind %d", v.Kind)
}

func (v *Version) checkLineage() error {
	if !v.Prev.IsZero() && (v.Prev.Stamp <= 0 || v.Prev.Compare(v.ID) >= 0) {
		return fmt.Errorf("it follows %v, which is not before it", v.Prev)
	}
	if len(v.Settles) > settlesMax {
		return fmt.Errorf("it settles %d versions", len(v.Settles))
	}
	for i, s := range v.Settles {
		switch {
		case s.Stamp <= 0 || s.Compare(v.ID) >= 0:
			return fmt.Errorf("it settles %v, which is not before it", s)
		case i > 0 && v.Settles[i-1].Compare(s) >= 0:
			return fmt.Errorf("what it settles is not sorted")
		}
	}
	return nil
}

func (v *Version) checkDentry() error {
	if err := checkName(v.Name); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	switch {
	case v.Inode != nil || v.Value != nil || v.Home != 0:
		return fmt.Errorf("an entry with the fields of another kind")
	case !validIno(v.Parent) || !isDirIno(v.Parent):
		return fmt.Errorf("parent %v is no directory", v.Parent)
	case v.Ino == 0 && v.FileType != 0:
		return fmt.Errorf("a tombstone of type %o", v.FileType)
	case v.Ino == 0:
		return nil
	case !validIno(v.Ino):
		return fmt.Errorf("inode number %d", uint64(v.Ino))
	case v.Ino == v.Parent:
		return fmt.Errorf("a directory in itself")
	}
	return checkType(v.Ino, v.FileType)
}

// checkType refuses types that do not exist or do not fit the inode's number.
func checkType(i Ino, t uint32) error {
	switch t {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return fmt.Errorf("type %o", t)
	}
	if (t == unix.S_IFDIR) != isDirIno(i) {
		return fmt.Errorf("type %o does not fit inode number %d", t, uint64(i))
	}
	return nil
}

func (v *Version) checkInode() error {
	in := v.Inode
	switch {
	case in == nil || v.Name != "" || v.Parent != 0 || v.FileType != 0 || v.Value != nil:
		return fmt.Errorf("an inode with the fields of another kind")
	case !validIno(v.Ino):
		return fmt.Errorf("inode number %d", uint64(v.Ino))
	case !validIno(v.Home) || !isDirIno(v.Home):
		return fmt.Errorf("home %v is no directory", v.Home)
	case in.Groups&^(groupAll|groupMtime) != 0:
		return fmt.Errorf("groups %x", in.Groups)
	case in.Mode&^(unix.S_IFMT|0o7777) != 0:
		return fmt.Errorf("mode %o", in.Mode)
	}
	t := in.Mode & unix.S_IFMT
	if err := checkType(v.Ino, t); err != nil {
		return err
	}
	if t != unix.S_IFCHR && t != unix.S_IFBLK && in.Rdev != 0 {
		return fmt.Errorf("device number %d of type %o", in.Rdev, t)
	}
	return in.check(t)
}

// check looks at the fields of groups.
func (in *InodeState) check(t uint32) error {
	if in.Groups&groupAttrs == 0 && (in.Mode != t || in.UID != 0 || in.GID != 0 || in.Atime != 0) {
		return fmt.Errorf("attributes that it does not set")
	}
	if in.Groups&(groupContent|groupMtime) == 0 && in.Mtime != 0 {
		return fmt.Errorf("an mtime that it does not set")
	}
	if in.Groups&groupContent == 0 {
		if in.Size != 0 || !in.Hash.IsZero() || in.Target != "" {
			return fmt.Errorf("content that it does not set")
		}
		return nil
	}
	switch {
	case in.Size < 0:
		return fmt.Errorf("size %d", in.Size)
	case t == unix.S_IFREG && in.Hash.IsZero() != (in.Size == 0):
		return fmt.Errorf("size %d with content %v", in.Size, in.Hash)
	case t != unix.S_IFREG && !in.Hash.IsZero():
		return fmt.Errorf("content of type %o", t)
	case t != unix.S_IFLNK && in.Target != "":
		return fmt.Errorf("a link's target of type %o", t)
	case t == unix.S_IFLNK && (in.Target == "" || len(in.Target) > targetMax || slices.Contains([]byte(in.Target), 0)):
		return fmt.Errorf("a link's target of %d bytes", len(in.Target))
	case t == unix.S_IFLNK && in.Size != int64(len(in.Target)):
		return fmt.Errorf("size %d of a link of %d bytes", in.Size, len(in.Target))
	case t != unix.S_IFLNK && t != unix.S_IFREG && in.Size != 0:
		return fmt.Errorf("size %d of type %o", in.Size, t)
	}
	return nil
}

func (v *Version) checkXattr() error {
	switch {
	case v.Inode != nil || v.Parent != 0 || v.FileType != 0:
		return fmt.Errorf("an attribute with the fields of another kind")
	case !validIno(v.Ino):
		return fmt.Errorf("inode number %d", uint64(v.Ino))
	case !validIno(v.Home) || !isDirIno(v.Home):
		return fmt.Errorf("home %v is no directory", v.Home)
	case v.Name == "" || len(v.Name) > NameMax || slices.Contains([]byte(v.Name), 0):
		return fmt.Errorf("name %q", v.Name)
	case len(v.Value) > XattrMax:
		return fmt.Errorf("a value of %d bytes", len(v.Value))
	}
	return nil
}

// Check is Version.Check for records.
func (r *BucketRecord) Check() error {
	err := r.check()
	if err != nil {
		err = &VersionError{ID: r.ID, What: r.Kind.String(), Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return err
}

func (r *BucketRecord) check() error {
	if r.ID.Stamp <= 0 || r.ID.Stamp == schema.MaxStamp {
		return fmt.Errorf("stamp %d", r.ID.Stamp)
	}
	if r.Kind < BranchRecord || r.Kind > PolicyRecord {
		return fmt.Errorf("kind %d", r.Kind)
	}
	zero := [16]byte{}
	if (r.Kind == PolicyRecord) != (r.UUID == zero) {
		return fmt.Errorf("uuid %x", r.UUID)
	}
	if len(r.Message) > 64<<10 || !utf8.ValidString(r.Message) {
		return fmt.Errorf("a message of %d bytes", len(r.Message))
	}
	switch r.Kind {
	case BranchRecord:
		switch {
		case r.Parent == r.UUID:
			return fmt.Errorf("a branch that is its own parent")
		case r.Parent == zero && (r.Fork != 0 || r.Live):
			return fmt.Errorf("a fork without a parent")
		case r.Parent != zero && (r.Fork > 0) == r.Live || r.Fork < 0 || r.Fork == schema.MaxStamp:
			return fmt.Errorf("forked at %d, live %v", r.Fork, r.Live)
		}
		return checkLabel(r.Name)
	case SnapshotRecord:
		if r.At <= 0 || r.At == schema.MaxStamp {
			return fmt.Errorf("a snapshot at %d", r.At)
		}
		return checkLabel(r.Name)
	case MergeRecord:
		if r.Fork <= 0 || r.At <= 0 || r.Fork == schema.MaxStamp || r.At == schema.MaxStamp {
			return fmt.Errorf("a merge of %d at %d", r.Fork, r.At)
		}
	case PolicyRecord:
		if p := r.Policy; p.QuotaBytes < 0 || p.QuotaInodes < 0 {
			return fmt.Errorf("a quota of %d bytes and %d inodes", p.QuotaBytes, p.QuotaInodes)
		}
	}
	return nil
}
