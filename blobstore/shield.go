package blobstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// shield is blobs/ seen through a mount of its own that is read-only and in
// nobody's tree: a file opened through it cannot be opened for writing by
// anybody who got hold of it, not even by the kernel. open_tree(2) and
// mount_setattr(2) make it, which takes Linux 5.12 and CAP_SYS_ADMIN.
type shield struct {
	once sync.Once
	dir  *os.File // O_PATH
	err  error
}

func (sh *shield) open(blobs string) (*os.File, error) {
	sh.once.Do(func() {
		const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
		fd, err := unix.OpenTree(unix.AT_FDCWD, blobs, flags)
		if err != nil {
			sh.err = os.NewSyscallError("open_tree", err)
			return
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			unix.Close(fd)
			sh.err = os.NewSyscallError("mount_setattr", err)
			return
		}
		sh.dir = os.NewFile(uintptr(fd), blobs)
	})
	return sh.dir, sh.err
}

func (sh *shield) close() {
	sh.once.Do(func() { sh.err = os.ErrClosed })
	if sh.dir != nil {
		sh.dir.Close()
	}
}

// Shielded opens the blob's file once more, through a mount that is read-only.
// A FUSE backing file made of it refuses with EROFS to be opened for writing,
// which one made of File would not: the kernel opens it anew with the flags of
// whoever opened the FUSE file. The error is EOPNOTSUPP when the blob has no
// file, ErrMissing when another has taken its place; others say that the
// kernel or the user cannot do it. The caller closes the file.
func (b *Blob) Shielded() (*os.File, error) {
	file := b.file
	if file == nil && b.part != nil {
		file = b.part.p.whole.Load()
	}
	if file == nil {
		return nil, syscall.EOPNOTSUPP
	}
	s := file.s
	dir, err := s.shield.open(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return nil, err
	}
	name := b.hash.String()
	fd, err := unix.Openat(int(dir.Fd()), name[:2]+"/"+name[2:], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, syscall.ENOENT) {
		return nil, missing(b.hash)
	}
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), name)
	var mine, opened unix.Stat_t
	err = errors.Join(unix.Fstat(int(file.f.Fd()), &mine), unix.Fstat(fd, &opened))
	if err == nil && (mine.Dev != opened.Dev || mine.Ino != opened.Ino) {
		err = missing(b.hash)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
