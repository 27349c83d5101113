package blobstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A partial content is three files in partial/: the bytes, with holes where
// they are missing, its outboard, and the .have file that says which groups are
// there: a header of one page, then a bit per group. A bit is set after the
// bytes it stands for and their parents are written. The header names the run
// of the machine: after another boot nothing it says is believed before it is
// hashed.
//
// Locks are those of open file descriptions (fcntl(2), F_OFD_SETLK) on the
// .have file, so that they end with the process: byte 0 while the three files
// are made, adopted or removed; byte 1, shared, while they are in use; a byte of
// the bitmap by whoever is fetching its eight groups, the only one to change it.
const (
	haveExt   = ".have"
	haveMagic = "alkfs partial 1\n"
	bitmapAt  = 4096

	lockHeader = 0
	lockUse    = 1
)

// partialFiles is the open files of a partial content.
type partialFiles struct {
	have, data, out *os.File
}

// partialPath returns the path of the bytes of a partial content. The size is
// part of the name, as the size that somebody claims need not be the right one.
func (s *Store) partialPath(h Hash, size int64) string {
	return filepath.Join(s.dir, "partial", h.String()+"-"+strconv.FormatInt(size, 10))
}

// parsePartial is the inverse for the name of a .have file.
func parsePartial(name string) (h Hash, size int64, ok bool) {
	name, ok = strings.CutSuffix(name, haveExt)
	if !ok {
		return h, 0, false
	}
	hex, digits, ok := strings.Cut(name, "-")
	h, err := ParseHash(hex)
	size, e := strconv.ParseInt(digits, 10, 64)
	return h, size, ok && err == nil && e == nil && size > 0
}

// tryLock takes or, with F_UNLCK, gives back a lock on [from, to) of a .have
// file, and reports whether it could.
func tryLock(f *os.File, kind int16, from, to int64) (bool, error) {
	l := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: from, Len: to - from}
	err := ignoringEINTR(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l) })
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("fcntl", err)
}

// lockWait takes an exclusive lock on the header, which nobody holds for long.
func lockWait(ctx context.Context, f *os.File) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		ok, err := tryLock(f, unix.F_WRLCK, lockHeader, lockHeader+1)
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func unlockHeader(f *os.File) { _, _ = tryLock(f, unix.F_UNLCK, lockHeader, lockHeader+1) }

// openPartial opens the files of p or makes them. recheck says that another run
// of the machine wrote them. The header is locked when it returns without error.
func (p *Partial) openPartial(ctx context.Context) (files partialFiles, recheck bool, err error) {
	path := p.s.partialPath(p.hash, p.size)
	for {
		f, err := os.OpenFile(path+haveExt, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			if err = p.s.fs.mkdir(filepath.Dir(path)); err == nil || errors.Is(err, fs.ErrExist) {
				continue
			}
		}
		if err != nil {
			return files, false, err
		}
		if err := lockWait(ctx, f); err != nil {
			f.Close()
			return files, false, err
		}
		if gone, err := unlinked(f); err != nil || gone {
			f.Close()
			if err != nil {
				return files, false, err
			}
			continue
		}
		files.have = f
		if recheck, err = p.openBeside(&files, path); err != nil {
			files.close()
		}
		return files, recheck, err
	}
}

func unlinked(f *os.File) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Nlink == 0, os.NewSyscallError("fstat", err)
}

func (p *Partial) openBeside(files *partialFiles, path string) (recheck bool, err error) {
	if ok, err := tryLock(files.have, unix.F_RDLCK, lockUse, lockUse+1); err != nil || !ok {
		return false, errors.Join(err, syscall.EBUSY) // nobody takes that one for long without the header's
	}
	if files.data, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return false, err
	}
	if files.out, err = os.OpenFile(path+outboardExt, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return false, err
	}
	head := make([]byte, bitmapAt)
	if _, err := files.have.ReadAt(head, 0); err != nil && err != io.EOF {
		return false, err
	}
	fi, err := files.data.Stat()
	if err != nil {
		return false, err
	}
	want := p.header()
	same := fi.Size() == p.size && bytes.Equal(head[:len(haveMagic)+40], want[:len(haveMagic)+40])
	if !same { // new, or its bytes were moved away by a process that died then
		return false, p.makeAnew(files, want)
	}
	return !bytes.Equal(head, want), nil
}

// makeAnew empties the files; the header comes last. A new file is left alone: what
// was truncated to nothing ext4 writes to the disk when it is closed.
func (p *Partial) makeAnew(files *partialFiles, header []byte) error {
	for _, f := range []*os.File{files.have, files.data, files.out} {
		fi, err := f.Stat()
		if err == nil && fi.Size() != 0 {
			err = f.Truncate(0)
		}
		if err != nil {
			return err
		}
	}
	if err := files.data.Truncate(p.size); err != nil {
		return err
	}
	if err := files.have.Truncate(bitmapAt + p.bitmapLen()); err != nil {
		return err
	}
	_, err := files.have.WriteAt(header, 0)
	return err
}

// header returns the first page of the .have file.
func (p *Partial) header() []byte {
	head := make([]byte, bitmapAt)
	n := copy(head, haveMagic)
	n += copy(head[n:], p.hash[:])
	binary.LittleEndian.PutUint64(head[n:], uint64(p.size))
	copy(head[n+8:], bootID())
	return head
}

func (p *Partial) bitmapLen() int64 { return (p.groups + 7) / 8 }

func (files *partialFiles) close() {
	for _, f := range []*os.File{files.have, files.data, files.out} {
		if f != nil {
			f.Close()
		}
	}
	*files = partialFiles{}
}

// removePartial removes the files of a partial content, with the header locked.
// The .have file goes last: without it the others are nobody's.
func (s *Store) removePartial(h Hash, size int64) error {
	path := s.partialPath(h, size)
	for _, ext := range []string{"", outboardExt, haveExt} {
		if err := s.fs.remove(path + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("partial content: %w", err)
		}
	}
	return nil
}
