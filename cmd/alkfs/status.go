package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs"
)

// Exit statuses. They are documented (exitStatusHelp): do not change them.
const (
	statusOK          = 0
	statusError       = 1
	statusUsage       = 2
	statusNotFound    = 3
	statusConflict    = 4
	statusBusy        = 5
	statusDamaged     = 6
	statusInterrupted = 130
)

const exitStatusHelp = `alkfs ends with one of these statuses:

  0    done
  1    an error that has no status of its own; its message says what to do.
       Also "alkfs diff --exit-code" when there are differences
  2    the command line is wrong, or a question could not be asked (use --force)
  3    the store, bucket, branch, snapshot, path or session does not exist
  4    a merge has conflicts, and nothing was changed
  5    something is busy or locked: a mount in use, a file being written
  6    damage: content or the database is not what was stored
  130  interrupted (Ctrl-C); partial files were removed`

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// silentError gives an exit status without a message: everything was said.
type silentError struct{ status int }

func (e silentError) Error() string { return fmt.Sprintf("status %d", e.status) }

// hintError is an error with what to do next.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hintError{err, fmt.Sprintf(format, args...)}
}

func exitStatus(err error) int {
	var silent silentError
	var usage usageError
	var remote remoteError
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &silent):
		return silent.status
	case errors.As(err, &remote):
		return remote.Status
	case errors.As(err, &usage), errors.Is(err, alkfs.ErrBadSpec):
		return statusUsage
	case errors.Is(err, alkfs.ErrConflict):
		return statusConflict
	case alkfs.Damaged(err):
		return statusDamaged
	case errors.Is(err, fs.ErrNotExist):
		return statusNotFound
	case errors.Is(err, alkfs.ErrSyncing), errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ETXTBSY), errors.Is(err, syscall.EAGAIN):
		return statusBusy
	}
	return statusError
}

// explain returns the message for err, with what to do next on a second line.
func (a *app) explain(err error) string {
	var silent silentError
	if errors.As(err, &silent) {
		return ""
	}
	text := message(err)
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	out := "alkfs: " + strings.TrimSpace(text) + "\n"
	if hint := a.hint(err); hint != "" {
		out += "  " + strings.ReplaceAll(hint, "\n", "\n  ") + "\n"
	}
	return out
}

// message spells err, with the name in it as a terminal can show it.
func message(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		name := pe.Path
		if name == "" {
			name = "."
		}
		return strings.Replace(err.Error(), pe.Error(), fmt.Sprintf("%s %s: %v", pe.Op, quote(name), pe.Err), 1)
	}
	return err.Error()
}

// hint says what to do next, "" when there is nothing to say.
func (a *app) hint(err error) string {
	var h hintError
	var usage usageError
	var remote remoteError
	var quota *alkfs.QuotaError
	var came *alkfs.NothingCameError
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &remote):
		return remote.Hint
	case errors.As(err, &came):
		return "`" + a.selfWithStore() + " serve --sync :4747` gets it while another member is connected; `alkfs sync status` shows how it stands"
	case errors.Is(err, alkfs.ErrNotHere):
		return "its bytes are on other machines: `alkfs where SPEC` shows on which, `alkfs sync status` which are connected"
	case errors.Is(err, alkfs.ErrSyncing):
		return "one process of a store does that: end the other one first (Ctrl-C), or leave out --sync"
	case errors.Is(err, alkfs.ErrNoStore):
		return "`alkfs init` makes one, and so does `alkfs mount DIR`; another place is named with --store or ALKFS_STORE"
	case errors.As(err, &usage), errors.Is(err, alkfs.ErrBadSpec):
		if a.command != "" {
			return "see `" + a.command + " --help`"
		}
		return "see `alkfs --help`"
	case errors.As(err, &quota):
		return "remove files or branches of it, or `alkfs bucket set " + shellWord(quota.Bucket) + " --quota-bytes/--quota-inodes` sets another quota"
	case errors.Is(err, syscall.ENOSPC) && a.command == "alkfs gc":
		return "the disk of the store is full: free some space beside it, removing needs a little"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk of the store is full: free some space, or try `alkfs gc`"
	case errors.Is(err, syscall.EROFS):
		return "that view cannot be changed: leave out --at, or name a branch"
	case alkfs.Damaged(err):
		return "`alkfs fsck --deep` lists everything that is damaged"
	case errors.Is(err, fs.ErrNotExist):
		return a.notFoundHint(err)
	case errors.Is(err, syscall.EISDIR):
		return "-r takes directories too"
	}
	return ""
}

// notFoundHint guesses what a spec that was not found was meant to be.
func (a *app) notFoundHint(err error) string {
	text := err.Error()
	for _, c := range []struct{ in, hint string }{
		{"there is no bucket", "`alkfs bucket ls` lists them. A SPEC reads BUCKET/BRANCH:PATH: a path in default/main is :PATH, a branch of it is /BRANCH"},
		{"there is no branch", "`alkfs branch ls` lists them, `alkfs branch create` makes one"},
		{"there is no snapshot", "`alkfs snapshot ls` lists them"},
		{"there is no session", "`alkfs sessions ls` lists them"},
	} {
		if strings.Contains(text, c.in) {
			return c.hint
		}
	}
	return ""
}
