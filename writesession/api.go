package writesession

import (
	"context"
	"io"
	"log/slog"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// MaxSize is the greatest size of a file, in bytes: changes beyond fail with EFBIG.
const MaxSize = 1 << 44

// Options configures New; the zero value is ready for use.
type Options struct {
	Logger *slog.Logger // default: discard
	// MemoryMax is the size in bytes to which a file being written is kept in
	// memory; a longer one goes to a staging file. Default 128 KiB.
	MemoryMax int
	// PersistAfter is how long a change may be in this process alone before it
	// is recorded for recovery after a crash. Default 500 ms.
	PersistAfter time.Duration
}

// Sessions are the open files of this process.
type Sessions struct{}

// File is an open file.
type File struct{}

// Info describes a session of any process.
type Info struct {
	ID               int64
	Owner            string
	Alive            bool // its process runs
	Branch           int64
	Ino              pathtree.Ino
	Size             int64 // bytes
	Mtime            int64 // ns since 1970
	Synced           bool  // an fsync was answered
	Created, Updated time.Time
}

func New(ctx context.Context, db *schema.DB, tree *pathtree.Tree, blobs *blobstore.Store, o Options) (*Sessions, error) {
	return &Sessions{}, nil
}
func (s *Sessions) Close(ctx context.Context) error                        { return nil }
func (s *Sessions) Open(v *pathtree.View, ino pathtree.Ino) (*File, error) { return nil, syscall.EIO }
func (s *Sessions) OpenInode(v *pathtree.View, in pathtree.Inode) (*File, error) {
	return nil, syscall.EIO
}
func (s *Sessions) Refresh(branch int64, ino pathtree.Ino)                   {}
func (s *Sessions) List(tx *schema.Tx) ([]Info, error)                       { return nil, syscall.EIO }
func (s *Sessions) Recover(ctx context.Context, id int64, w io.Writer) error { return syscall.EIO }
func (s *Sessions) Publish(ctx context.Context, id int64) (pathtree.Inode, error) {
	return pathtree.Inode{}, syscall.EIO
}
func (s *Sessions) Abort(ctx context.Context, id int64) error { return syscall.EIO }

// Overlay returns in with what v's surface has changed and not published laid
// over it: size, mtime, and cleared set-id bits. For stat of a file that is open.
func (s *Sessions) Overlay(v *pathtree.View, in pathtree.Inode) pathtree.Inode { return in }

func (f *File) Ino() pathtree.Ino { return 0 }

// Inode returns the inode as of the last open, publish, refresh or Observe,
// with the open session laid over it.
func (f *File) Inode() pathtree.Inode { return pathtree.Inode{} }

// Observe tells f of a newer version of its inode that the caller came by
// (SetAttr, Link, Unlink).
func (f *File) Observe(in pathtree.Inode) {}

func (f *File) Dirty() bool                               { return false }
func (f *File) ReadOnlyBlob() (*blobstore.Blob, bool)     { return nil, false }
func (f *File) ReadAt(p []byte, off int64) (int, error)   { return 0, syscall.EIO }
func (f *File) WriteAt(p []byte, off int64) (int, error)  { return 0, syscall.EIO }
func (f *File) Append(p []byte) (off int64, err error)    { return 0, syscall.EIO }
func (f *File) Truncate(size int64) error                 { return syscall.EIO }
func (f *File) Allocate(mode uint32, off, n int64) error  { return syscall.EIO }
func (f *File) Seek(off int64, whence int) (int64, error) { return 0, syscall.EIO }

// SetMtime makes ns the modification time that the next publish records, and
// reports true. On a clean File it reports false, and the caller sets it with
// View.SetAttr.
func (f *File) SetMtime(ns int64) (joined bool) { return false }

// ClearSetID makes the next publish clear suid and sgid, as a write by an
// unprivileged process does.
func (f *File) ClearSetID() {}

// Publish makes what was written the file's content for everybody. It does
// nothing on a clean File and on one without links.
func (f *File) Publish(ctx context.Context) (pathtree.Inode, error) {
	return pathtree.Inode{}, syscall.EIO
}

// Flush is Publish for the close of one of several descriptors: it may leave
// the publish for later when the last one was expensive and recent.
func (f *File) Flush(ctx context.Context) error { return syscall.EIO }

func (f *File) Sync(ctx context.Context) error { return syscall.EIO }
func (f *File) Abort()                         {}
func (f *File) Close() error                   { return syscall.EIO }

func CopyRange(dst *File, dstOff int64, src *File, srcOff, n int64) (int64, error) {
	return 0, syscall.EIO
}
