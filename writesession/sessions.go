package writesession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// MaxSize is the greatest size of a file, in bytes: changes beyond it fail
// with EFBIG.
const MaxSize = 1 << 44

// Options configures New; the zero value is ready for use.
type Options struct {
	Logger *slog.Logger // default: discard
	// MemoryMax is the size in bytes to which a file being written is kept in
	// memory; a longer one goes to a staging file. Default 128 KiB.
	MemoryMax int64
	// PersistAfter is how long a change may be in this process's memory alone
	// before it is recorded for recovery after a crash. Default 500 ms.
	PersistAfter time.Duration
}

// Sessions are the open files of this process. Safe for concurrent use.
type Sessions struct {
	db    *schema.DB
	tree  *pathtree.Tree
	blobs *blobstore.Store
	opts  Options
	log   *slog.Logger
	owner *owner // nil when the store is read-only

	// mu guards files, inUse.held, File.next and File.refs. Nothing else is
	// locked, and no I/O done, while it is held.
	mu struct {
		sync.Mutex
		files  map[pathtree.Ino]*File // one chain per inode, a File per surface and branch
		closed bool
	}
	inUse    inUse
	policies atomic.Pointer[policies]

	stop  context.CancelFunc
	wg    sync.WaitGroup
	stats counters
}

var errClosed = fmt.Errorf("the store is closed: %w", syscall.EBADF)

// New returns the sessions of db. Sessions that dead processes left behind are
// published when an fsync of theirs was answered, and otherwise kept for List.
func New(ctx context.Context, db *schema.DB, tree *pathtree.Tree, blobs *blobstore.Store, o Options) (*Sessions, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MemoryMax == 0 {
		o.MemoryMax = 128 << 10
	}
	if o.PersistAfter == 0 {
		o.PersistAfter = 500 * time.Millisecond
	}
	s := &Sessions{db: db, tree: tree, blobs: blobs, opts: o, log: o.Logger}
	s.mu.files = make(map[pathtree.Ino]*File)
	bg, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	if db.ReadOnly() {
		return s, nil
	}
	err := s.Policies()
	if err != nil {
		return nil, fmt.Errorf("sessions: %w", err)
	}
	if s.owner, err = newOwner(db.Dir()); err != nil {
		return nil, fmt.Errorf("sessions: %w", err)
	}
	if s.inUse, err = openInUse(db.Dir()); err != nil {
		s.owner.release()
		return nil, fmt.Errorf("sessions: %w", err)
	}
	if err := s.takeOver(ctx); err != nil {
		s.inUse.close()
		s.owner.release()
		return nil, fmt.Errorf("sessions: %w", err)
	}
	s.wg.Go(func() { s.background(bg) })
	return s, nil
}

// Close publishes what is open and unpublished. What cannot be published
// before ctx ends stays as a session for a later process to recover, and is
// an error. Files can no longer be opened; open ones can still be read.
func (s *Sessions) Close(ctx context.Context) error {
	s.mu.Lock()
	closed := s.mu.closed
	s.mu.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.stop()
	s.wg.Wait()
	var errs []error
	for _, f := range s.open(func(*File) bool { return true }) {
		if err := f.finish(ctx); err != nil {
			errs = append(errs, err)
			f.change.Lock()
			f.leave()
			f.release()
		}
	}
	if s.owner != nil {
		errs = append(errs, s.db.Commit())
		s.inUse.close()
		s.owner.release()
	}
	return errors.Join(errs...)
}

// Open opens a regular file of v. All who open one inode through views of one
// branch and origin share a File; each must Close it.
func (s *Sessions) Open(v *pathtree.View, ino pathtree.Ino) (*File, error) {
	var in pathtree.Inode
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		in, err = v.Inode(tx, ino)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.OpenInode(v, in)
}

// OpenInode is Open for a caller that has just read the inode from v.
func (s *Sessions) OpenInode(v *pathtree.View, in pathtree.Inode) (*File, error) {
	if !in.IsRegular() {
		errno := syscall.EINVAL
		if in.IsDir() {
			errno = syscall.EISDIR
		}
		return nil, &pathtree.Error{Op: "open", Path: in.Ino.String(), Err: errno}
	}
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	if f := s.find(v, in.Ino); f != nil {
		f.refs++
		s.mu.Unlock()
		f.Observe(in)
		return f, nil
	}
	f := newFile(s, v, in)
	f.refs = 1
	f.next = s.mu.files[in.Ino]
	s.mu.files[in.Ino] = f
	s.mu.Unlock()
	return f, nil
}

// find returns the File of ino on v's surface and branch, or nil. Read-only
// views share a File only with themselves. mu must be held.
func (s *Sessions) find(v *pathtree.View, ino pathtree.Ino) *File {
	for f := s.mu.files[ino]; f != nil; f = f.next {
		if f.view == v || !v.ReadOnly() && !f.view.ReadOnly() &&
			f.view.Origin() == v.Origin() && f.view.Branch().ID == v.Branch().ID {
			return f
		}
	}
	return nil
}

// forget takes f, which nobody has open, off its chain. It reports false when
// somebody opened it again.
func (s *Sessions) forget(f *File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.refs > 0 {
		return false
	}
	var prev *File
	for g := s.mu.files[f.ino]; g != nil; prev, g = g, g.next {
		switch {
		case g != f:
			continue
		case prev != nil:
			prev.next = f.next
		case f.next != nil:
			s.mu.files[f.ino] = f.next
		default:
			delete(s.mu.files, f.ino)
			s.letGo(f.ino)
		}
		f.next = nil
		return true
	}
	return false
}

// open returns the open files that match.
func (s *Sessions) open(match func(*File) bool) (files []*File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.mu.files {
		for ; f != nil; f = f.next {
			if match(f) {
				files = append(files, f)
			}
		}
	}
	return files
}

// Refresh tells that somebody else changed ino: clean Files of it take what
// is now published, when it returns. Dirty ones keep theirs; the last to publish
// wins. It waits for changes of theirs that are under way.
func (s *Sessions) Refresh(branch int64, ino pathtree.Ino) {
	s.mu.Lock()
	var files []*File
	for f := s.mu.files[ino]; f != nil; f = f.next {
		if !f.view.ReadOnly() { // another branch may be following this one
			files = append(files, f)
		}
	}
	s.mu.Unlock()
	for _, f := range files {
		var in pathtree.Inode
		err := s.db.Read(func(tx *schema.Tx) (err error) {
			in, err = f.view.Inode(tx, ino)
			return err
		})
		if err == nil { // else it is gone, and who has it open keeps it
			f.later.Store(&in)
			f.change.Lock() // wait for who holds it: the caller says next that the new content can be read
			f.release()
		}
	}
}

// Lost tells that writes which the database acknowledged are lost after all;
// it is for schema.DB.OnLost and returns at once. Open files go back to what
// the database has, and what they had published and still hold becomes
// unpublished again.
func (s *Sessions) Lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	s.wg.Go(func() {
		for _, f := range s.open(func(f *File) bool { return !f.view.ReadOnly() }) {
			f.reread()
		}
	})
}

// Overlay returns in with what v's surface has changed and not published laid
// over it: size, times and cleared set-id bits. It is for stat of a file that
// may be open.
func (s *Sessions) Overlay(v *pathtree.View, in pathtree.Inode) pathtree.Inode {
	s.mu.Lock()
	f := s.find(v, in.Ino)
	s.mu.Unlock()
	if f == nil {
		return in
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.overlay(in)
}

// Stats counts what this process did.
type Stats struct {
	Open      int64 // files open now
	Publishes int64
	Bytes     int64 // of published content
	Shared    int64 // copies made by hash alone
	Deferred  int64 // flushes that left the publish for later
	Saved     int64 // sessions recorded for recovery
}

type counters struct{ publishes, bytes, shared, deferred, saved atomic.Int64 }

// Stats returns the counts since New.
func (s *Sessions) Stats() Stats {
	n := int64(len(s.open(func(*File) bool { return true })))
	c := &s.stats
	return Stats{n, c.publishes.Load(), c.bytes.Load(), c.shared.Load(), c.deferred.Load(), c.saved.Load()}
}
