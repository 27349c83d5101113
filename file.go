package alkfs

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
)

// Inode is what FileInfo.Sys returns for a file in a View.
type Inode = pathtree.Inode

// fileInfo describes an inode under a name.
type fileInfo struct {
	name string
	in   pathtree.Inode
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.in.Size }
func (i fileInfo) Mode() fs.FileMode  { return i.in.FileMode() }
func (i fileInfo) ModTime() time.Time { return i.in.ModTime() }
func (i fileInfo) IsDir() bool        { return i.in.IsDir() }
func (i fileInfo) Sys() any           { return i.in }

// blobFile is a regular file open for reading: its blob as of the open.
type blobFile struct {
	path string
	info fileInfo
	blob *blobstore.Blob
	*io.SectionReader
	closed bool
}

// blobReader reads a blob until ctx ends.
type blobReader struct {
	ctx  context.Context
	blob *blobstore.Blob
}

func (r blobReader) ReadAt(p []byte, off int64) (int, error) {
	return r.blob.ReadAtContext(r.ctx, p, off)
}

func (f *blobFile) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *blobFile) Read(p []byte) (int, error) {
	if f.closed {
		return 0, pathError("read", f.path, fs.ErrClosed)
	}
	n, err := f.SectionReader.Read(p)
	if err != nil && err != io.EOF {
		err = pathError("read", f.path, err)
	}
	return n, err
}

// WriteTo implements io.WriterTo with a large buffer.
func (f *blobFile) WriteTo(w io.Writer) (n int64, err error) {
	buf := make([]byte, min(max(f.info.in.Size, 1), copyBuffer))
	return io.CopyBuffer(w, struct{ io.Reader }{f}, buf)
}

func (f *blobFile) Close() error {
	if f.closed {
		return pathError("close", f.path, fs.ErrClosed)
	}
	f.closed = true
	return f.blob.Close()
}

// dirFile is a directory open for reading.
type dirFile struct {
	view   *View
	path   string
	info   fileInfo
	rest   []fs.DirEntry
	listed bool
	closed bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }

func (d *dirFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: fs.ErrInvalid}
}

func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, pathError("readdir", d.path, fs.ErrClosed)
	}
	if !d.listed {
		list, err := d.view.ReadDir(d.path)
		if err != nil {
			return nil, err
		}
		d.rest, d.listed = list, true
	}
	if n <= 0 || n > len(d.rest) {
		if n > 0 && len(d.rest) == 0 {
			return nil, io.EOF
		}
		n = len(d.rest)
	}
	list := d.rest[:n:n]
	d.rest = d.rest[n:]
	return list, nil
}

func (d *dirFile) Close() error {
	if d.closed {
		return pathError("close", d.path, fs.ErrClosed)
	}
	d.closed = true
	return nil
}
