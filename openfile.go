package alkfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// File is a file open for reading and writing. What is written is seen through
// every File of the same file in this process, and by everybody else once
// Publish, Sync or Close has returned. ReadAt and WriteAt are
// safe for concurrent use.
type File struct {
	f      *writesession.File
	name   string
	pos    int64 // of Read, Write and Seek, which are not for concurrent use
	flag   int
	closed bool
}

// Create opens name for reading and writing, making it with mode 0666 or
// emptying it.
func (v *View) Create(name string) (*File, error) {
	return v.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// OpenFile opens name with the flags of package os: O_RDONLY, O_WRONLY, O_RDWR,
// O_CREATE, O_EXCL, O_TRUNC, O_APPEND. perm is the mode of a new file, as it is.
func (v *View) OpenFile(name string, flag int, perm fs.FileMode) (*File, error) {
	in, err := v.openInode(name, flag, perm)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	f, err := v.store.sessions.OpenInode(v.v, in)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if flag&os.O_TRUNC != 0 && writable(flag) {
		if err := f.Truncate(0); err != nil {
			f.Abort()
			return nil, pathError("open", name, errors.Join(err, f.Close()))
		}
	}
	return &File{f: f, name: name, flag: flag}, nil
}

func writable(flag int) bool { return flag&(os.O_WRONLY|os.O_RDWR) != 0 }

func (v *View) openInode(name string, flag int, perm fs.FileMode) (in pathtree.Inode, err error) {
	if !validPath(name) {
		return in, fs.ErrInvalid
	}
	find := func(tx *schema.Tx) error {
		in, err = v.find(tx, name, flag&os.O_EXCL == 0)
		switch {
		case err != nil:
			return err
		case flag&os.O_EXCL != 0 && flag&os.O_CREATE != 0:
			return syscall.EEXIST
		case in.IsDir():
			return syscall.EISDIR
		case !in.IsRegular():
			return syscall.ENXIO
		}
		return nil
	}
	if writable(flag) && v.ReadOnly() {
		return in, syscall.EROFS
	}
	if flag&os.O_CREATE == 0 {
		return in, v.store.db.Read(find)
	}
	return in, v.store.db.Write(func(tx *schema.Tx) error {
		if err := find(tx); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		parent, base, err := v.parent(tx, name)
		if err == nil {
			in, err = v.v.Create(tx, parent, base, newInode(unix.S_IFREG|unixPerm(perm)))
		}
		return err
	})
}

// Name returns the name that f was opened with.
func (f *File) Name() string { return f.name }

// Stat describes f with what was written so far.
func (f *File) Stat() (fs.FileInfo, error) { return fileInfo{base(f.name), f.f.Inode()}, nil }

// Read reads from the current position.
func (f *File) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = pathError("read", f.name, err)
	}
	return n, err
}

// Write writes at the current position, or with O_APPEND at the end.
func (f *File) Write(p []byte) (int, error) {
	if err := f.mayWrite(); err != nil {
		return 0, err
	}
	if f.flag&os.O_APPEND != 0 {
		off, err := f.f.Append(p)
		if err != nil {
			return 0, pathError("write", f.name, err)
		}
		f.pos = off + int64(len(p))
		return len(p), nil
	}
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.mayWrite(); err != nil {
		return 0, err
	}
	n, err := f.f.WriteAt(p, off)
	return n, pathError("write", f.name, err)
}

func (f *File) mayWrite() error {
	if !writable(f.flag) {
		return pathError("write", f.name, syscall.EBADF)
	}
	return nil
}

// Seek implements io.Seeker.
func (f *File) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.pos
	case io.SeekEnd:
		off += f.f.Inode().Size
	}
	if off < 0 {
		return f.pos, pathError("seek", f.name, syscall.EINVAL)
	}
	f.pos = off
	return off, nil
}

// Truncate sets the size in bytes.
func (f *File) Truncate(size int64) error {
	if err := f.mayWrite(); err != nil {
		return err
	}
	return pathError("truncate", f.name, f.f.Truncate(size))
}

// Publish makes what was written the content that everybody sees.
func (f *File) Publish(ctx context.Context) error {
	_, err := f.f.Publish(ctx)
	return pathError("publish", f.name, err)
}

// Sync publishes, and returns when the content survives a power cut.
func (f *File) Sync(ctx context.Context) error {
	if err := f.Publish(ctx); err != nil {
		return err
	}
	return pathError("sync", f.name, f.f.Sync(ctx))
}

// Abort drops what was written since the last publish, through any File of the
// same file in this process.
func (f *File) Abort() { f.f.Abort() }

// Close publishes what is unpublished, unless another File of this process has
// the same file open, and releases f.
func (f *File) Close() error {
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	return pathError("close", f.name, f.f.Close())
}
