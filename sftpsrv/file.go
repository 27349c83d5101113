package sftpsrv

import (
	"cmp"
	"context"
	"io"
	"math"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
	"github.com/alkdev/alkfs/writesession"
)

// openFile is an open file of a session.
type openFile struct {
	*writesession.File
	s         *session
	view      *pathtree.View
	writable  bool
	changes   bool // its close publishes; so for a truncating open too
	appending bool
	wrote     atomic.Bool
}

// allowed checks the grants as they are now, for the branch as it is named now.
func (f *openFile) allowed(want access.Level) error {
	has, err := f.s.level(f.view)
	if err == nil && has < want {
		err = errDenied
	}
	return err
}

func (f *openFile) readAt(p []byte, off int64) (int, error) {
	if err := f.allowed(access.Read); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	n, err := f.File.ReadAt(p, off)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// readerOf reads an open file with its session's rights.
type readerOf struct{ *openFile }

func (r readerOf) ReadAt(p []byte, off int64) (int, error) { return r.readAt(p, off) }

// mayWrite returns an error unless off can be written to.
func (f *openFile) mayWrite(off uint64) error {
	if !f.writable {
		return errDenied
	}
	if err := f.allowed(access.Write); err != nil {
		return err
	}
	if off > math.MaxInt64 && !f.appending {
		return syscall.EFBIG
	}
	return nil
}

func (f *openFile) write(p []byte, off uint64) error {
	err := f.mayWrite(off)
	switch {
	case err != nil:
	case f.appending:
		_, err = f.File.Append(p)
	default:
		_, err = f.File.WriteAt(p, int64(off))
	}
	return f.written(err)
}

// written notes that f was changed, which takes its set-id bits away: who may
// write here is nobody on the machines that mount it.
func (f *openFile) written(err error) error {
	if err == nil && f.wrote.CompareAndSwap(false, true) {
		f.File.ClearSetID()
	}
	return err
}

// writeNow is write if it has nothing to wait for.
func (f *openFile) writeNow(p []byte, off uint64) (done bool, err error) {
	if f.appending {
		return false, nil
	}
	if err := f.mayWrite(off); err != nil {
		return true, err
	}
	if done, err = f.File.TryWriteAt(p, int64(off)); done {
		err = f.written(err)
	}
	return done, err
}

// inode returns the file as this session sees it, whatever its names are now.
func (f *openFile) inode() (in pathtree.Inode, err error) {
	if err := f.allowed(access.Read); err != nil {
		return in, err
	}
	err = f.s.c.DB.Read(func(tx *schema.Tx) error {
		in, err = f.view.Inode(tx, f.File.Ino())
		return err
	})
	return f.s.c.Sessions.Overlay(f.view, in), err
}

// close ends f, when all requests about it are done.
func (f *openFile) close() error {
	defer f.s.forget(f)
	if !f.File.Dirty() || !f.changes && f.allowed(access.Write) == nil {
		// What is unpublished came through another handle of this session.
		return f.File.Close()
	}
	return f.publish()
}

// preserve ends f when its connection has ended.
func (f *openFile) preserve() {
	defer f.s.forget(f)
	if err := f.File.Preserve(); err != nil {
		f.s.c.Logger.Warn("what was written to a file was lost with its connection", "ino", f.File.Ino(), "error", err)
	}
}

// publish makes the file what was written, for everybody. When it fails the
// writes stay as an orphaned session. A connection that ends meanwhile does not
// stop it: the client asked for it.
func (f *openFile) publish() error {
	if err := f.allowed(access.Write); err != nil {
		f.File.Preserve()
		return err
	}
	if _, err := f.File.Publish(context.Background()); err != nil {
		f.File.Preserve()
		return err
	}
	if err := f.File.Close(); err != nil {
		return err
	}
	return f.s.c.DB.Commit()
}

func truncate(f *writesession.File, size uint64) error {
	if size > math.MaxInt64 {
		return syscall.EFBIG
	}
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	f.ClearSetID()
	return nil
}

// open opens or makes the file at p as an SSH_FXP_OPEN with these flags asks.
// Cutting off what an existing file holds is left to finish.
func (s *session) open(p string, flags uint32, a attrs) (obj any, finish func() error, err error) {
	if err := s.reserve(); err != nil {
		return nil, nil, err
	}
	w, made, err := s.findForOpen(p, flags, a)
	if err != nil {
		s.unreserve()
		return nil, nil, err
	}
	file, err := s.c.Sessions.OpenInode(w.view, w.in)
	if err != nil {
		s.unreserve()
		return nil, nil, err
	}
	f := &openFile{
		File: file, s: s, view: w.view,
		writable:  flags&(openWrite|openAppend) != 0,
		appending: flags&openAppend != 0,
		changes:   flags&(openWrite|openAppend|openTrunc) != 0,
	}
	s.keep(f)
	if made {
		file.Made(w.parent.Ino, w.base)
	}
	if flags&openTrunc != 0 && !made {
		finish = f.empty
	}
	return f, finish, nil
}

// empty makes f empty, or ends it.
func (f *openFile) empty() error {
	if f.File.Inode().Size == 0 {
		return nil
	}
	err := f.written(f.File.Truncate(0))
	if err != nil {
		f.File.Close()
		f.s.forget(f)
	}
	return err
}

func (s *session) findForOpen(p string, flags uint32, a attrs) (w place, made bool, err error) {
	run := s.look
	if flags&openCreate != 0 {
		run = s.change
	}
	err = run(func(tx *schema.Tx, r *access.Rights) error {
		exclusive := flags&(openCreate|openExcl) == openCreate|openExcl
		if w, err = s.find(tx, r, p, !exclusive); err != nil {
			return err
		}
		if flags&(openWrite|openAppend|openTrunc) != 0 && w.level != access.Write && (w.exists || w.view != nil) {
			return errDenied
		}
		switch {
		case w.exists && exclusive:
			return syscall.EEXIST
		case w.exists && w.in.IsDir():
			return syscall.EISDIR
		case w.exists && !w.in.IsRegular():
			return syscall.EOPNOTSUPP
		case w.exists:
			return nil
		case flags&openCreate == 0:
			return errNoFile
		}
		if err := w.changeable(); err != nil {
			return err
		}
		mode := uint32(0o644)
		if a.flags&attrMode != 0 {
			mode = a.mode & 0o1777
		}
		made = true
		w.in, err = w.view.Create(tx, w.parent.Ino, w.base, pathtree.NewInode{
			Mode: unix.S_IFREG | mode, UID: s.uid(), GID: s.gid(),
		})
		return err
	})
	return w, made, err
}

// Files belong to whoever runs the server: its users are not the host's.
func (s *session) uid() uint32 { return uint32(os.Geteuid()) }
func (s *session) gid() uint32 { return uint32(os.Getegid()) }

// setstat sets attributes by path. The size, and times of a file that is open,
// are set in the file's turn.
func (s *session) setstat(p string, a attrs, follow bool) (rest, error) {
	var w place
	inTurn := false
	err := s.change(func(tx *schema.Tx, r *access.Rights) (err error) {
		if w, err = s.find(tx, r, p, follow); err != nil {
			return err
		}
		switch {
		case !w.exists:
			return errNoFile
		case w.level != access.Write || w.view == nil:
			return errDenied
		case a.flags&attrSize != 0 && !w.in.IsRegular():
			return syscall.EINVAL
		}
		inTurn = a.flags&attrSize != 0 || a.flags&attrTimes != 0 && s.fileAt(w.view, w.in.Ino) != nil
		if inTurn {
			return nil
		}
		return setAttrs(tx, w.view, w.in, a)
	})
	if err != nil || !inTurn {
		return rest{}, err
	}
	f, err := s.c.Sessions.OpenInode(w.view, w.in)
	if err != nil {
		return rest{}, err
	}
	return rest{f, func() error {
		err := s.setOpen(f, w.view, a)
		if e := f.Close(); err == nil {
			err = e
		}
		return err
	}}, nil
}

// setOpen sets everything in a. Times hold although the session publishes later.
func (s *session) setOpen(f *writesession.File, v *pathtree.View, a attrs) error {
	if a.flags&attrSize != 0 {
		if err := truncate(f, a.size); err != nil {
			return err
		}
	}
	if a.flags&attrTimes != 0 {
		_, mtime := a.times()
		f.SetMtime(mtime)
	}
	return s.change(func(tx *schema.Tx, r *access.Rights) error {
		if has, err := s.levelIn(tx, r, v); err != nil || has != access.Write {
			return cmp.Or(err, error(errDenied))
		}
		in, err := v.Inode(tx, f.Ino())
		if err != nil {
			return err
		}
		return setAttrs(tx, v, in, a)
	})
}

// unchanged is an owner or group that is to stay, as in chown(2).
const unchanged = math.MaxUint32

// setAttrs sets everything in a but the size. Owners are what a user says, as
// modes are: who may write to a branch may do all with it that the server may.
// But no remote user makes a file set-id, and a new owner takes that away.
// Setting what is so already is no change.
func setAttrs(tx *schema.Tx, v *pathtree.View, in pathtree.Inode, a attrs) error {
	var set pathtree.SetAttr
	if a.flags&attrOwner != 0 && a.uid != in.UID && a.uid != unchanged {
		set.UID = &a.uid
	}
	if a.flags&attrOwner != 0 && a.gid != in.GID && a.gid != unchanged {
		set.GID = &a.gid
	}
	if a.flags&attrMode == 0 && (set.UID != nil || set.GID != nil) {
		a.flags, a.mode = a.flags|attrMode, in.Mode
	}
	if a.flags&attrMode != 0 && !in.IsSymlink() {
		mode := a.mode & 0o1777
		if in.IsDir() {
			mode = a.mode & 0o3777
		}
		if mode != in.Mode&0o7777 {
			set.Mode = &mode
		}
	}
	if a.flags&attrTimes != 0 {
		atime, mtime := a.times()
		set.Atime, set.Mtime = &atime, &mtime
	}
	if set == (pathtree.SetAttr{}) {
		return nil
	}
	_, err := v.SetAttr(tx, in.Ino, set)
	return err
}

// times returns the times in ns since 1970.
func (a attrs) times() (atime, mtime int64) {
	return int64(a.atime) * int64(time.Second), int64(a.mtime) * int64(time.Second)
}
