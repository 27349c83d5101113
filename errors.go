package alkfs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Errors that callers test for with errors.Is; see also ErrBadSpec and
// ErrConflict.
var (
	ErrNoStore     = fmt.Errorf("there is no store there (%w)", syscall.ENOENT) // with Options.MustExist
	ErrNewerFormat = schema.ErrNewerFormat
	ErrReadOnly    = schema.ErrReadOnly
	ErrNotHere     = blobstore.ErrNotHere // content that only other machines have, and none of them brought
)

// NothingCameError says that a bucket was joined and nothing of it has come yet.
type NothingCameError struct{ Bucket string }

func (e *NothingCameError) Error() string {
	return fmt.Sprintf("nothing of bucket %q has come from other machines yet", e.Bucket)
}

// Unwrap returns ENOENT.
func (e *NothingCameError) Unwrap() error { return syscall.ENOENT }

// QuotaError says that a bucket has reached its quota; it wraps EDQUOT.
type QuotaError = pathtree.QuotaError

// Damaged reports whether err says that the database or some content is not
// what was stored.
func Damaged(err error) bool {
	for _, e := range []error{schema.ErrDamaged, schema.ErrNotAStore, blobstore.ErrDamaged, blobstore.ErrMissing} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Errno returns the error number that err wraps, EIO when it has none.
func Errno(err error) syscall.Errno { return pathtree.Errno(err) }

// pathError wraps err as io/fs asks for; nil stays nil.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: bare(err)}
}

// bare strips the operation and path that pathtree put on err.
func bare(err error) error {
	for {
		e, ok := err.(*pathtree.Error)
		if !ok || e.Err == nil {
			return err
		}
		err = e.Err
	}
}

// nameError is about something that has a name but no path.
type nameError struct {
	text string
	err  error
}

func (e *nameError) Error() string { return e.text }
func (e *nameError) Unwrap() error { return e.err }

// named says what kind of thing an error is about; nil stays nil.
func named(kind, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &nameError{fmt.Sprintf("there is no %s %q", kind, name), err}
	case errors.Is(err, fs.ErrExist):
		return &nameError{fmt.Sprintf("there already is a %s %q", kind, name), err}
	}
	return fmt.Errorf("%s %q: %w", kind, name, bare(err))
}
