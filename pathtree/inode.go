package pathtree

import (
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Ino is an inode number: 63 bits, the same on every node and every branch,
// never below 2.
type Ino uint64

func (i Ino) String() string { return "#" + strconv.FormatUint(uint64(i), 10) }

// Entry is a name in a directory.
type Entry struct {
	Name string // bytes, not necessarily UTF-8
	Ino  Ino
	Kind uint32 // S_IFMT bits
}

// IsDir reports whether e names a directory.
func (e Entry) IsDir() bool { return e.Kind == unix.S_IFDIR }

// Inode is what a view sees of an inode. It is a copy.
type Inode struct {
	Ino                        Ino
	Mode                       uint32 // st_mode, type bits included
	UID, GID                   uint32
	Rdev, Nlink                uint32
	Size                       int64 // bytes; of a symlink the length of Target
	Hash                       blobstore.Hash
	Target                     string // of a symlink
	Atime, Mtime, Ctime, Btime int64  // ns since 1970
	Home                       Ino    // directory it was made in
	Stamp                      schema.Stamp
	Branch                     int64 // where the version was found
}

// IsDir reports whether i is a directory.
func (i Inode) IsDir() bool { return i.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular reports whether i is a regular file.
func (i Inode) IsRegular() bool { return i.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink reports whether i is a symbolic link.
func (i Inode) IsSymlink() bool { return i.Mode&unix.S_IFMT == unix.S_IFLNK }

// ModTime returns Mtime as a time.
func (i Inode) ModTime() time.Time { return time.Unix(0, i.Mtime) }

// FileMode returns Mode in the form of package fs.
func (i Inode) FileMode() fs.FileMode {
	m := fs.FileMode(i.Mode & 0o777)
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	if i.Mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if i.Mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if i.Mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// NewInode describes an inode to make.
type NewInode struct {
	Mode     uint32 // st_mode, type bits included; no type means a regular file
	UID, GID uint32
	Rdev     uint32
	Target   string         // of a symlink
	Hash     blobstore.Hash // content of a regular file, already in the blob store
	Size     int64          // bytes
	Mtime    int64          // ns since 1970; 0: now
}
