package blobstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// fsOps is what changes files and directories in ways that a crash can undo.
// Tests put in one that records.
type fsOps interface {
	create(path string) (*os.File, error) // must not exist
	sync(f *os.File) error                // data and size
	syncAll(dir string) error             // the whole file system of dir
	rename(from, to string) error
	adopt(from, to string) error // rename, EEXIST when to exists
	remove(path string) error
	mkdir(path string) error
	syncDir(path string) error
}

type osFS struct{}

func (osFS) create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osFS) sync(f *os.File) error {
	return os.NewSyscallError("fdatasync", ignoringEINTR(func() error { return unix.Fdatasync(int(f.Fd())) }))
}

func (osFS) syncAll(dir string) error { return syncFS(dir) }

// syncFS is syncfs(2). On a FUSE file system, which the kernel does not tell of
// it, it fails with ENOTSUP.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type == unix.FUSE_SUPER_MAGIC {
		return fmt.Errorf("syncfs %s: %w", dir, syscall.ENOTSUP)
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

// SyncTree returns when everything below dir is on the disk.
func SyncTree(dir string) error {
	if err := syncFS(dir); !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return osFS{}.syncDir(path) // a file as well
	})
}

func (osFS) rename(from, to string) error { return os.Rename(from, to) }

func (osFS) adopt(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) { // not on this file system
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
		return err
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (osFS) remove(path string) error { return os.Remove(path) }
func (osFS) mkdir(path string) error  { return os.Mkdir(path, 0o700) }

func (osFS) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}

// Places in the store directory.
func (s *Store) blobPath(h Hash) string {
	hex := h.String()
	return filepath.Join(s.dir, "blobs", hex[:2], hex[2:])
}

func (s *Store) outboardPath(h Hash) string     { return s.blobPath(h) + outboardExt }
func (s *Store) stagingPath(name string) string { return filepath.Join(s.dir, "staging", name) }
func (s *Store) quarantinePath(h Hash) string   { return filepath.Join(s.dir, "quarantine", h.String()) }

const outboardExt = ".obao"

// intoBlobs renames, making the directory when it is not there yet.
func (s *Store) intoBlobs(rename func(from, to string) error, from, to string) error {
	err := rename(from, to)
	if errors.Is(err, os.ErrNotExist) {
		if e := s.fs.mkdir(filepath.Dir(to)); e != nil && !errors.Is(e, os.ErrExist) {
			return e
		}
		err = rename(from, to)
	}
	return err
}

// extent is a range of bytes, [from, to).
type extent struct{ from, to int64 }

// dataExtents returns the ranges of [0, size) that are not holes; dense is true
// when there are no holes worth looking for.
func dataExtents(f *os.File, size int64) (data []extent, dense bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, false, os.NewSyscallError("fstat", err)
	}
	if st.Blocks*512 >= size {
		return nil, true, nil
	}
	return seekExtents(f, 0, size)
}

func seekExtents(f *os.File, from, to int64) (data []extent, dense bool, err error) {
	for from < to {
		a, err := unix.Seek(int(f.Fd()), from, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) || err == nil && a >= to {
			break
		}
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
			return nil, true, nil
		}
		if err != nil {
			return nil, false, os.NewSyscallError("lseek", err)
		}
		b, err := unix.Seek(int(f.Fd()), a, unix.SEEK_HOLE)
		if err != nil {
			return nil, false, os.NewSyscallError("lseek", err)
		}
		data = append(data, extent{a, min(b, to)})
		from = b
	}
	return data, false, nil
}
