package writesession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// File is one regular file as one surface sees it, with what that surface
// changed and has not published. Safe for concurrent use.
type File struct {
	s    *Sessions
	view *pathtree.View
	ino  pathtree.Ino
	next *File // chain of the same inode; guarded by s.mu
	refs int   // guarded by s.mu

	// change is held by whoever changes the content, from the first look to
	// the end and across all I/O: write, truncate, publish, sync, abort.
	// Readers do not take it. It comes before mu and before Sessions.mu.
	change sync.Mutex

	// mu guards what readers need. It is locked for writing only by a holder
	// of change, who may therefore read it without, and only while memory is
	// updated; a reader holds it over its one read of the content. Readers write
	// content.blob and handed, so these are read with mu held by all.
	mu struct {
		sync.RWMutex
		inode      pathtree.Inode // newest known; what is published
		content    content
		dirty      bool
		mtime      int64 // ns; of the last change, or as set after it
		changed    int64 // ns; of the last change
		clearSetID bool
	}

	attrs Attrs                          // guarded by change; nil: none
	later atomic.Pointer[pathtree.Inode] // from Observe, to be applied under change
	since atomic.Int64                   // ns; first change that no row records; 0: none
	due   atomic.Int64                   // ns; when a deferred flush publishes; 0: none
	row   row                            // guarded by change
	cost  cost                           // guarded by change
	roomy int64                          // bytes; the quota has room for the file up to that size; guarded by change

	losses  int64             // DB.Losses at the last look at what is published; guarded by change
	made    place             // guarded by change
	refused error             // of the last change, when the disk did not take it; guarded by change
	kept    []*blobstore.Blob // given out by ReadOnlyBlob, no longer the base; guarded by mu
}

func newFile(s *Sessions, v *pathtree.View, in pathtree.Inode) *File {
	f := &File{s: s, view: v, ino: in.Ino, losses: s.db.Losses()}
	f.mu.inode = in
	f.mu.content = clean(in.Hash, in.Size)
	return f
}

// Ino returns the inode number.
func (f *File) Ino() pathtree.Ino { return f.ino }

// Dirty reports whether there are changes to publish.
func (f *File) Dirty() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.mu.dirty
}

// Inode returns the newest version that f was told of, by open, publish,
// Refresh or Observe, with size, times and cleared set-id bits of what is not
// published laid over it. Its Hash is that of the published content.
func (f *File) Inode() pathtree.Inode {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.overlay(f.mu.inode)
}

// Published returns the newest published version that f was told of. Unlike
// Inode it can be given to Sessions.OpenInode.
func (f *File) Published() pathtree.Inode {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.mu.inode
}

// overlay lays the open session over in. mu must be held.
func (f *File) overlay(in pathtree.Inode) pathtree.Inode {
	if !f.mu.dirty {
		return in
	}
	in.Size, in.Mtime, in.Ctime = f.mu.content.size, f.mu.mtime, max(in.Ctime+1, f.mu.changed) // as publish will have it
	if f.mu.clearSetID {
		in.Mode &^= setIDBits(in.Mode)
	}
	return in
}

// setIDBits returns the bits that a write by an unprivileged process clears.
func setIDBits(mode uint32) uint32 {
	if mode&unix.S_IXGRP != 0 {
		return unix.S_ISUID | unix.S_ISGID
	}
	return unix.S_ISUID
}

// ReadOnlyBlob returns the blob of a clean File, for passthrough. It stays
// open, and keeps its content, until f is closed.
func (f *File) ReadOnlyBlob() (*blobstore.Blob, bool) {
	for {
		f.mu.RLock()
		c := &f.mu.content
		ok := !f.mu.dirty && !c.base.IsZero()
		opened := c.blob != nil
		f.mu.RUnlock()
		if !ok {
			return nil, false
		}
		if !opened && f.openBase() != nil {
			return nil, false
		}
		f.mu.Lock()
		if b := c.blob; b != nil && !f.mu.dirty {
			c.handed = true
			f.mu.Unlock()
			return b, true
		}
		f.mu.Unlock()
	}
}

// ReadAt is io.ReaderAt over what is published with this surface's changes
// laid over it.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	return f.ReadAtContext(context.Background(), p, off)
}

// ReadAtContext is ReadAt that stops waiting for bytes from other nodes when ctx
// ends.
func (f *File) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, f.fail("read", syscall.EINVAL)
	}
	for {
		n, err := f.readAt(p, off)
		if f.again(ctx, &err, off, int64(len(p))) {
			continue
		}
		if err != nil && err != io.EOF {
			err = f.fail("read", err)
		}
		return n, err
	}
}

func (f *File) readAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	c := &f.mu.content
	if off >= c.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.size-off)
	if err := c.readAt(p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// again reports whether a read of [off, off+n) that failed with *err is to be
// tried again: the base was not open, its bytes were elsewhere, or the staging
// file became a blob under it.
func (f *File) again(ctx context.Context, err *error, off, n int64) bool {
	var absent *blobstore.NotHereError
	switch {
	case *err == nil || *err == io.EOF:
		return false
	case *err == errBaseClosed:
		*err = f.openBase()
		return *err == nil
	case errors.As(*err, &absent):
		*err = f.bring(ctx, off, n)
		return *err == nil
	case errors.Is(*err, os.ErrClosed):
		runtime.Gosched()
		return true
	}
	return false
}

// openBase opens the blob of the base.
func (f *File) openBase() error {
	f.mu.RLock()
	h, size, opened := f.mu.content.base, f.mu.content.baseSize, f.mu.content.blob != nil
	f.mu.RUnlock()
	if opened || h.IsZero() {
		return nil
	}
	b, err := f.s.blobs.Open(h, size)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := &f.mu.content; c.blob == nil && c.base == h {
		c.blob = b
		return nil
	}
	return b.Close() // the base changed, or another reader was first
}

// bring brings bytes of the base that are on other nodes, holding no lock that a
// reader or an event has to wait for.
func (f *File) bring(ctx context.Context, off, n int64) error {
	f.mu.RLock()
	h, size := f.mu.content.base, f.mu.content.baseSize
	f.mu.RUnlock()
	if h.IsZero() {
		return nil // the base has gone: there is nothing to bring
	}
	b, err := f.s.blobs.Open(h, size)
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Fetch(ctx, off, n)
}

// setContent replaces the content, of which c has all but the open blob, and
// returns the old, whose files are still to be discarded. Its blob is closed
// unless c has the same base; kept, when it was given out. mu must be held.
func (f *File) setContent(c content) (old content) {
	old = f.mu.content
	switch {
	case old.blob == nil:
	case old.base == c.base:
		c.blob, c.handed = old.blob, old.handed
	case old.handed:
		f.kept = append(f.kept, old.blob)
	default:
		old.blob.Close()
	}
	f.mu.content = c
	return old
}

// Seek finds the next data (SEEK_DATA) or hole (SEEK_HOLE) at or after off.
// It fails with ENXIO where lseek(2) does.
func (f *File) Seek(off int64, whence int) (int64, error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, f.fail("seek", syscall.EINVAL)
	}
	for {
		n, err := f.seek(off, whence)
		if f.again(context.Background(), &err, off, 0) {
			continue
		}
		return n, f.fail("seek", err)
	}
}

func (f *File) seek(off int64, whence int) (int64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off < 0 || off >= f.mu.content.size {
		return 0, syscall.ENXIO
	}
	return f.mu.content.seek(off, whence)
}

// SetMtime makes ns the modification time that the next publish records and
// reports true. On a clean File it reports false: the caller sets the time
// with View.SetAttr.
func (f *File) SetMtime(ns int64) (joined bool) {
	f.change.Lock()
	defer f.release()
	if !f.mu.dirty {
		return false
	}
	f.mu.Lock()
	f.mu.mtime = ns
	f.mu.Unlock()
	f.row.stale = true
	return true
}

// Attrs are attributes of a file that its surface has changed and not recorded,
// so that they are recorded together with the content.
type Attrs interface {
	// Take returns them, nil when there are none, and forgets them. It runs
	// inside the transaction that publishes.
	Take() *pathtree.SetAttr
	// Restore takes back what Take returned: the transaction failed.
	Restore(*pathtree.SetAttr)
}

// JoinAttrs makes each publish of f record what a has.
func (f *File) JoinAttrs(a Attrs) {
	f.change.Lock()
	defer f.release()
	f.attrs = a
}

// ClearSetID makes the next publish clear suid and sgid, as a write by an
// unprivileged process does. Call it after the write.
func (f *File) ClearSetID() {
	f.change.Lock()
	defer f.release()
	f.mu.Lock()
	f.mu.clearSetID = f.mu.dirty && f.mu.inode.Mode&setIDBits(f.mu.inode.Mode) != 0
	f.mu.Unlock()
}

// Observe tells f of a newer version of its inode that the caller came by. A
// clean File takes its content too.
func (f *File) Observe(in pathtree.Inode) {
	f.mu.RLock()
	known := !newer(&in, &f.mu.inode)
	f.mu.RUnlock()
	if known {
		return
	}
	f.later.Store(&in)
	if f.change.TryLock() {
		f.release()
	} // else whoever holds it applies it in release
}

// newer reports whether a is a later version than b. One that was overwritten
// in place has kept its stamp.
func newer(a, b *pathtree.Inode) bool {
	return a.Stamp > b.Stamp || a.Stamp == b.Stamp && a.Ctime > b.Ctime
}

// release ends the hold of change, after applying what Observe brought.
func (f *File) release() {
	for {
		if in := f.later.Swap(nil); in != nil {
			f.apply(*in)
		}
		f.change.Unlock()
		if f.later.Load() == nil || !f.change.TryLock() {
			return
		}
	}
}

// apply makes in the published version. change must be held.
func (f *File) apply(in pathtree.Inode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !newer(&in, &f.mu.inode) {
		return
	}
	f.mu.inode = in
	if c := &f.mu.content; !f.mu.dirty && (in.Hash != c.base || in.Size != c.size) {
		f.setContent(clean(in.Hash, in.Size))
	}
}

// reread goes back to the version that the database has, if it has lost one.
func (f *File) reread() {
	f.change.Lock()
	defer f.release()
	_ = f.recall() // the next publish says so
}

// recall is reread with change held. The error says that the file itself is
// lost, or that the database cannot be read.
func (f *File) recall() error {
	if f.losses == f.s.db.Losses() {
		return nil
	}
	var in pathtree.Inode
	var losses int64
	err := f.s.db.Read(func(tx *schema.Tx) (err error) {
		losses = f.s.db.Losses()
		in, err = f.view.Inode(tx, f.ino)
		return err
	})
	if gone(err) {
		return fmt.Errorf("the file was lost, with other recent changes, when the disk failed: %w", syscall.EIO)
	}
	if err != nil {
		return err
	}
	f.losses = losses
	f.later.Store(nil)
	f.revert(in)
	return nil
}

// revert makes in, which may be older than what f knows, the published
// version. Content that f still holds and that is no longer published makes f
// dirty. change must be held.
func (f *File) revert(in pathtree.Inode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, c := f.mu.inode, &f.mu.content
	f.mu.inode = in
	if f.mu.dirty || in.Hash == old.Hash && in.Size == old.Size {
		return
	}
	if newer(&old, &in) && (c.inMem || c.size > blobstore.InlineMax) {
		f.touch()
		f.mu.mtime = old.Mtime
		f.row.full, f.row.sealed = true, !c.inMem
		return
	}
	f.setContent(clean(in.Hash, in.Size))
}

// Close ends one Open. The last one publishes what is unpublished, or drops it
// when the file has no links left. When that fails the changes are kept for
// the next Open of the file, or for a later process.
func (f *File) Close() error {
	if !f.unref() {
		return nil
	}
	return f.finish(context.Background())
}

// unref ends one Open, and reports whether it was the last and what is
// unpublished is still to be dealt with.
func (f *File) unref() bool {
	f.s.mu.Lock()
	f.refs--
	last, closed := f.refs == 0, f.s.mu.closed
	f.s.mu.Unlock()
	if last && closed { // Sessions.Close has published or kept it
		f.closeBlobs()
		return false
	}
	return last
}

// finish publishes and, when that went well, forgets f.
func (f *File) finish(ctx context.Context) error {
	f.change.Lock()
	defer f.release()
	_, err := f.publish(ctx)
	dropped := f.mu.dirty && (err == nil || gone(err))
	if dropped { // no links, or no branch: nobody can ever see it
		f.drop()
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil && !dropped {
		if e := f.save(false); e != nil {
			err = errors.Join(err, fmt.Errorf("the session is in memory only: %w", e))
		}
		return f.fail("close", err)
	}
	f.unclaim() // it may have claimed the inode and then changed nothing
	if f.s.forget(f) {
		f.closeBlobs()
	}
	return f.fail("close", err)
}

func (f *File) closeBlobs() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := &f.mu.content; c.blob != nil {
		c.blob.Close()
		c.blob = nil
	}
	for _, b := range f.kept {
		b.Close()
	}
	f.kept = nil
}

// fail wraps err, if any, with what was done to f.
func (f *File) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(*pathtree.Error); ok {
		return err
	}
	return &pathtree.Error{Op: op, Path: f.ino.String(), Err: err}
}

func now() int64 { return time.Now().UnixNano() }
