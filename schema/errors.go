package schema

import (
	"errors"
	"fmt"
	"net/url"
	"syscall"

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

// urlPath spells a file name inside an SQLite URI.
type urlPath struct{ path string }

func (u *urlPath) String() string { return (&url.URL{Path: u.path}).EscapedPath() }
