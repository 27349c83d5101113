package sftpsrv

import (
	"errors"
	"io"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/writesession"
)

// Status codes of version 3 (section 7).
const (
	statusOK          = 0
	statusEOF         = 1
	statusNoFile      = 2
	statusDenied      = 3
	statusFailure     = 4
	statusBadMessage  = 5
	statusUnsupported = 8
)

// status is an error as a client sees it: a code and a text that names nothing
// of the store. pkg/sftp finds the code by unwrapping.
type status struct {
	code int
	text string
}

func (s status) Error() string { return s.text }

func (s status) Unwrap() error {
	switch s.code {
	case statusEOF:
		return sftp.ErrSSHFxEOF
	case statusNoFile:
		return sftp.ErrSSHFxNoSuchFile
	case statusDenied:
		return sftp.ErrSSHFxPermissionDenied
	case statusBadMessage:
		return sftp.ErrSSHFxBadMessage
	case statusUnsupported:
		return sftp.ErrSSHFxOpUnsupported
	}
	return sftp.ErrSSHFxFailure
}

var (
	errNoFile      = status{statusNoFile, "No such file"}
	errDenied      = status{statusDenied, "Permission denied"}
	errBadMessage  = status{statusBadMessage, "Bad message"}
	errUnsupported = status{statusUnsupported, "Operation unsupported"}
	errBadHandle   = status{statusFailure, "Bad file descriptor"}
)

// statusOf maps every error to what is sent. Version 3 has few codes; the text
// tells the rest to those who show it.
func statusOf(err error) status {
	var s status
	switch {
	case err == nil:
		return status{statusOK, "Success"}
	case errors.As(err, &s):
		return s
	case errors.Is(err, io.EOF):
		return status{statusEOF, "End of file"}
	}
	var writer *writesession.WriterError
	if errors.As(err, &writer) {
		return status{statusFailure, writer.Discreet()}
	}
	errno := pathtree.Errno(err)
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP:
		return errNoFile
	case syscall.EACCES, syscall.EPERM, syscall.EROFS:
		return errDenied
	}
	return status{statusFailure, errno.Error()}
}

// reply is statusOf for handlers of pkg/sftp, whose success is nil.
func reply(err error) error {
	if err == nil {
		return nil
	}
	return statusOf(err)
}
