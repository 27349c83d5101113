package schema

import (
	"errors"
	"fmt"
	"net/url"
	"syscall"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
)

// describe turns SQLite's result codes into errors a caller can test and a
// person can act on.
func describe(err error) error {
	if err == nil {
		return nil
	}
	var known syscall.Errno
	if errors.As(err, &known) {
		return err
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull:
		return fmt.Errorf("%w (%w)", err, syscall.ENOSPC)
	case sqlite.ResultCorrupt:
		return fmt.Errorf("%w (%v)", ErrDamaged, err)
	case sqlite.ResultNotADB:
		return fmt.Errorf("%w (%v)", ErrNotAStore, err)
	case sqlite.ResultReadOnly:
		return fmt.Errorf("%w (%v, %w)", ErrReadOnly, err, syscall.EROFS)
	case sqlite.ResultBusy:
		return fmt.Errorf("%w (%w)", err, syscall.EBUSY)
	case sqlite.ResultCantOpen:
		return fmt.Errorf("cannot open the database: is this a store, and may you read it? (%w)", err)
	}
	return err
}

// onFullDisk says so where SQLite speaks of an I/O error because the disk has no
// room for the files it opens a database with.
func onFullDisk(dir string, err error) error {
	var st unix.Statfs_t
	if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultIOErr || unix.Statfs(dir, &st) != nil || int64(st.Bavail)*st.Bsize >= 64<<10 {
		return err
	}
	return fmt.Errorf("%w: make some room first (%v)", syscall.ENOSPC, err)
}

// urlPath spells a file name inside an SQLite URI.
type urlPath struct{ path string }

func (u *urlPath) String() string { return (&url.URL{Path: u.path}).EscapedPath() }
