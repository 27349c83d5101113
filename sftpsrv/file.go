package sftpsrv

import (
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

// publishNow is the size in bytes to which a file is published within its
// close; a longer one is published beside the requests that follow.
const publishNow = 1 << 20

// openFile is an open file of a session. pkg/sftp reads from it and closes it,
// the filter does the rest.
type openFile struct {
	*writesession.File
	s         *session
	view      *pathtree.View
	writable  bool
	changes   bool // its close publishes; so for a truncating open too
	appending bool
	lost      atomic.Bool // the connection ended before the close
}

// allowed checks the grants as they are now.
func (f *openFile) allowed(want access.Level) error {
	r, err := f.s.rights()
	if err != nil {
		return err
	}
	if r.Branch(f.view.Bucket().ID, f.view.Branch().Name) < want {
		return errDenied
	}
	return nil
}

// ReadAt is called by pkg/sftp, concurrently.
func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.allowed(access.Read); err != nil {
		return 0, reply(err)
	}
	if off < 0 {
		return 0, reply(syscall.EINVAL)
	}
	n, err := f.File.ReadAt(p, off)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, reply(err)
}

// WriteAt satisfies pkg/sftp, which is never given a write: it hands writes to
// several workers, and the later of two that overlap would not always win.
func (f *openFile) WriteAt([]byte, int64) (int, error) { return 0, errUnsupported }

func (f *openFile) write(p []byte, off uint64) error {
	if !f.writable {
		return errDenied
	}
	if err := f.allowed(access.Write); err != nil {
		return err
	}
	if f.appending {
		_, err := f.File.Append(p)
		return err
	}
	if off > math.MaxInt64 {
		return syscall.EFBIG
	}
	_, err := f.File.WriteAt(p, int64(off))
	return err
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

// TransferError is called by pkg/sftp, before Close, when the connection ended
// with the file open. What was written is then no whole file, and is kept as an
// orphaned session instead of being published.
func (f *openFile) TransferError(error) { f.lost.Store(true) }

// Close is called by pkg/sftp when all reads and writes were answered.
func (f *openFile) Close() error {
	f.s.unreserve()
	switch {
	case f.lost.Load():
		return reply(f.File.Preserve())
	case !f.File.Dirty():
		return reply(f.File.Close())
	case !f.changes && f.allowed(access.Write) == nil:
		// What is unpublished came through another handle of this session.
		return reply(f.File.Close())
	case f.File.Inode().Size > publishNow:
		f.s.detach(f)
		return nil
	}
	return reply(f.publish())
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
	return f.Truncate(int64(size))
}

// open opens or makes the file at p as an SSH_FXP_OPEN with these flags asks.
func (s *session) open(p string, flags uint32, a attrs) (*openFile, error) {
	if err := s.reserve(); err != nil {
		return nil, err
	}
	w, made, err := s.findForOpen(p, flags, a)
	if err != nil {
		s.unreserve()
		return nil, err
	}
	file, err := s.c.Sessions.OpenInode(w.view, w.in)
	if err != nil {
		s.unreserve()
		return nil, err
	}
	f := &openFile{
		File: file, s: s, view: w.view,
		writable:  flags&(openWrite|openAppend) != 0,
		appending: flags&openAppend != 0,
		changes:   flags&(openWrite|openAppend|openTrunc) != 0,
	}
	if flags&openTrunc != 0 && !made && file.Inode().Size > 0 {
		if err := file.Truncate(0); err != nil {
			file.Close()
			s.unreserve()
			return nil, err
		}
	}
	s.handOut(f)
	return f, nil
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

// setstat sets attributes by path.
func (s *session) setstat(p string, a attrs, follow bool) error {
	var w place
	err := s.change(func(tx *schema.Tx, r *access.Rights) (err error) {
		if w, err = s.find(tx, r, p, follow); err != nil {
			return err
		}
		if !w.exists {
			return errNoFile
		}
		if w.level != access.Write || w.view == nil {
			return errDenied
		}
		if a.flags&attrSize != 0 {
			return nil // below, outside of the transaction
		}
		return setAttrs(tx, w.view, w.in, a)
	})
	switch {
	case err != nil:
		return err
	case a.flags&attrSize == 0:
		s.joinMtime(w.view, w.in, a)
		return nil
	}
	if err := s.resize(w, a.size); err != nil {
		return err
	}
	return s.setOpen(w.view, w.in, a)
}

// resize sets the length of a file that need not be open.
func (s *session) resize(w place, size uint64) error {
	if !w.in.IsRegular() {
		return syscall.EINVAL
	}
	f, err := s.c.Sessions.OpenInode(w.view, w.in)
	if err != nil {
		return err
	}
	if err := truncate(f, size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// setOpen sets everything in a but the size, of an inode just looked at.
func (s *session) setOpen(v *pathtree.View, in pathtree.Inode, a attrs) error {
	s.joinMtime(v, in, a)
	return s.change(func(tx *schema.Tx, r *access.Rights) error {
		if r.Branch(v.Bucket().ID, v.Branch().Name) != access.Write {
			return errDenied
		}
		return setAttrs(tx, v, in, a)
	})
}

// setAttrs sets everything in a but the size. Owners cannot be changed: the
// store's files belong to those who run it. Nor can a remote user make a file
// set-id. Setting what is so already is no change.
func setAttrs(tx *schema.Tx, v *pathtree.View, in pathtree.Inode, a attrs) error {
	var set pathtree.SetAttr
	if a.flags&attrOwner != 0 && (a.uid != in.UID || a.gid != in.GID) {
		return errDenied
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

// joinMtime makes an open session on in, if this connection has one, publish
// with that time.
func (s *session) joinMtime(v *pathtree.View, in pathtree.Inode, a attrs) {
	s.mu.Lock()
	open := s.mu.files > 0
	s.mu.Unlock()
	if !open || a.flags&attrTimes == 0 || !in.IsRegular() {
		return
	}
	_, ns := a.times()
	if f, err := s.c.Sessions.OpenInode(v, in); err == nil {
		f.SetMtime(ns)
		f.Close()
	}
}
