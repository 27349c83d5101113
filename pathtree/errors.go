package pathtree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// Error says which operation failed on what. Err is or wraps a syscall.Errno
// wherever one fits, so that errors.Is(err, fs.ErrNotExist) and the like work.
type Error struct {
	Op   string
	Path string // a name, a path or "#ino"; may hold any bytes
	Err  error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + strconv.Quote(e.Path) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// fail wraps err, unless it is nil.
func fail(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Path: path, Err: err}
}

func failIno(op string, ino Ino, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Path: ino.String(), Err: err}
}

// errnoOf maps sentinels that are no syscall.Errno themselves.
var errnoOf = []struct {
	sentinel error
	errno    syscall.Errno
}{
	{fs.ErrNotExist, syscall.ENOENT},
	{fs.ErrExist, syscall.EEXIST},
	{fs.ErrPermission, syscall.EACCES},
	{fs.ErrInvalid, syscall.EINVAL},
	{fs.ErrClosed, syscall.EBADF},
	{os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
	{context.Canceled, syscall.EINTR},
	{errors.ErrUnsupported, syscall.EOPNOTSUPP},
}

// Errno is the one table from errors to error numbers: 0 for nil, the
// syscall.Errno that err wraps, or EIO. Never ENOSYS, after which the kernel
// stops sending an operation.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if errno == 0 || errno == syscall.ENOSYS {
			return syscall.EIO
		}
		return errno
	}
	for _, e := range errnoOf {
		if errors.Is(err, e.sentinel) {
			return e.errno
		}
	}
	return syscall.EIO
}
