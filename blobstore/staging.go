package blobstore

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Staging is a file being made. Methods may be called at once except Seal and
// Discard, of which one ends it. The process that has it open holds an flock on
// the file.
type Staging struct {
	s    *Store
	name string
	f    *os.File

	// mu guards what is known of the groups. It is not held during I/O: a
	// write makes its groups unknown before and after it changes the file, and
	// whoever hashes a group meanwhile finds its busy bit gone.
	mu struct {
		sync.Mutex
		spans   map[int64]*stageSpan
		next    int64 // where the sequential writer goes on
		from    int64 // first byte of what it wrote and that is not given to the hashers
		running int   // hashers at work on this file
		ended   bool
		taken   bool  // chaining values were taken from other blobs, unseen
		named   bool  // its names are on the disk
		failed  error // of an fsync, after which none can be trusted
	}
	idle sync.Cond // running fell to 0
}

// stageSpan is what is known of a span's groups.
type stageSpan struct {
	known uint64 // cvs that are right
	busy  uint64 // being hashed, and not written to since
	cvs   [spanGroups]cv
}

// batch is how much of a sequential write goes to the hashers at once, in bytes.
const batch = 16 * GroupSize

// ErrBusy says that another process has the staging file open.
var ErrBusy = fmt.Errorf("staging file is in use (%w)", syscall.EBUSY)

// NewStaging makes an empty staging file.
func (s *Store) NewStaging() (*Staging, error) {
	for {
		name := randomName()
		f, err := s.fs.create(s.stagingPath(name))
		if err != nil {
			return nil, fmt.Errorf("staging: %w", err)
		}
		st, err := s.staging(name, f)
		if errors.Is(err, ErrBusy) || errors.Is(err, os.ErrNotExist) { // a collection took it for an orphan
			continue
		}
		return st, err
	}
}

// OpenStaging opens the staging file of a process that is gone. The error is
// ErrBusy when it is not.
func (s *Store) OpenStaging(name string) (*Staging, error) {
	if name == "" || filepath.Base(name) != name {
		return nil, fmt.Errorf("staging file %q: %w", name, syscall.EINVAL)
	}
	f, err := os.OpenFile(s.stagingPath(name), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("staging: %w", err)
	}
	return s.staging(name, f)
}

func (s *Store) staging(name string, f *os.File) (*Staging, error) {
	if err := lockStaging(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("staging file %s: %w", name, err)
	}
	st := &Staging{s: s, name: name, f: f}
	st.mu.spans = make(map[int64]*stageSpan)
	st.idle.L = &st.mu.Mutex
	return st, nil
}

// lockStaging takes the flock that says whose f is (LOCK_EX), or that somebody
// looks whether it is anybody's (LOCK_SH).
func lockStaging(f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrBusy
	}
	if err != nil {
		return os.NewSyscallError("flock", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Nlink == 0 {
		return os.ErrNotExist
	}
	return nil
}

// Name returns the name of the file in staging/.
func (st *Staging) Name() string { return st.name }

// File returns the open file. Who writes to it directly calls Changed.
func (st *Staging) File() *os.File { return st.f }

// Changed says that [off, off+n) was written through File.
func (st *Staging) Changed(off, n int64) { st.dirty(off, n) }

// WriteAt is io.WriterAt.
func (st *Staging) WriteAt(p []byte, off int64) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	st.dirty(off, int64(len(p)))
	for n < len(p) && err == nil {
		var k int
		k, err = st.f.WriteAt(p[n:min(n+maxWrite, len(p))], off+int64(n))
		n += k
	}
	st.wrote(off, int64(n))
	return n, err
}

// maxWrite is how many bytes go to the page cache at once. The kernel takes
// memory in pieces as large as the write; the larger they are, the more likely
// they are such as it has not used for long, which is slow to come by in a
// virtual machine whose host takes free memory back.
const maxWrite = 256 << 10

// ReadAt is io.ReaderAt, over what was written.
func (st *Staging) ReadAt(p []byte, off int64) (int, error) { return st.f.ReadAt(p, off) }

// Link gives the file a second name in staging/.
func (st *Staging) Link(name string) error {
	st.mu.Lock()
	st.mu.named = false
	st.mu.Unlock()
	return os.Link(st.s.stagingPath(st.name), st.s.stagingPath(name))
}

// Sync returns when what was written is on the disk, under its names.
func (st *Staging) Sync() error {
	st.mu.Lock()
	named, err := st.mu.named, st.mu.failed
	st.mu.Unlock()
	if err == nil {
		if err = st.s.fs.sync(st.f); err != nil {
			st.mu.Lock()
			st.mu.failed = err
			st.mu.Unlock()
		}
	}
	if err == nil && !named {
		err = st.s.fs.syncDir(filepath.Join(st.s.dir, "staging"))
	}
	if err != nil {
		return fmt.Errorf("staging file %s: %w", st.name, err)
	}
	st.mu.Lock()
	st.mu.named = true
	st.mu.Unlock()
	return nil
}

// Truncate sets the size of the file in bytes.
func (st *Staging) Truncate(size int64) error {
	st.dirtyFrom(size)
	err := st.f.Truncate(size)
	st.dirtyFrom(size)
	return err
}

// Punch makes [off, off+n) a hole. It does not change the size.
func (st *Staging) Punch(off, n int64) error {
	if n <= 0 {
		return nil
	}
	st.dirty(off, n)
	defer st.dirty(off, n)
	err := ignoringEINTR(func() error {
		return unix.Fallocate(int(st.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if !errors.Is(err, syscall.EOPNOTSUPP) {
		return os.NewSyscallError("fallocate", err)
	}
	end, err := st.size()
	if err != nil {
		return err
	}
	for end = min(end, off+n); off < end; off += GroupSize {
		if _, err := st.f.WriteAt(zeroGroup[:min(GroupSize, end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Allocated returns the disk space that the file takes, in bytes.
func (st *Staging) Allocated() int64 {
	var s unix.Stat_t
	if unix.Fstat(int(st.f.Fd()), &s) != nil {
		return 0
	}
	return s.Blocks * 512
}

func (st *Staging) size() (int64, error) {
	var s unix.Stat_t
	err := unix.Fstat(int(st.f.Fd()), &s)
	return s.Size, os.NewSyscallError("fstat", err)
}

// Discard removes the file.
func (st *Staging) Discard() error {
	st.end()
	err := st.s.fs.remove(st.s.stagingPath(st.name))
	st.f.Close()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Leave ends the use of the file and keeps it, for OpenStaging.
func (st *Staging) Leave() error {
	st.end()
	return st.f.Close()
}

// end keeps the hashers off and waits for those at work.
func (st *Staging) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.mu.ended = true
	for st.mu.running > 0 {
		st.idle.Wait()
	}
}

// dirty makes unknown the groups that [off, off+n) touches.
func (st *Staging) dirty(off, n int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dirtyLocked(off, n)
}

// dirtyLocked is dirty with mu held.
func (st *Staging) dirtyLocked(off, n int64) {
	if len(st.mu.spans) == 0 || n <= 0 {
		return
	}
	first, last := off/spanSize, (off+n-1)/spanSize
	if last-first > int64(len(st.mu.spans)) {
		for i, sp := range st.mu.spans {
			if i >= first && i <= last {
				sp.forget(max(off-i*spanSize, 0), min(off+n-i*spanSize, spanSize))
			}
		}
		return
	}
	for i := first; i <= last; i++ {
		if sp := st.mu.spans[i]; sp != nil {
			sp.forget(max(off-i*spanSize, 0), min(off+n-i*spanSize, spanSize))
		}
	}
}

func (sp *stageSpan) forget(from, to int64) {
	mask := groupMask(from, to)
	sp.known &^= mask
	sp.busy &^= mask
}

// dirtyFrom makes unknown everything from the group that holds byte off-1: it
// ends there now.
func (st *Staging) dirtyFrom(off int64) {
	off = max(off-1, 0) / GroupSize * GroupSize
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dirtyLocked(off, 1<<62-off)
	st.mu.next, st.mu.from = min(st.mu.next, off), min(st.mu.from, off)
}

// wrote is dirty after a write, and gives what a sequential writer has filled
// to the hashers.
func (st *Staging) wrote(off, n int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dirtyLocked(off, n)
	if off != st.mu.next {
		st.mu.from = (off + GroupSize - 1) / GroupSize * GroupSize
	}
	st.mu.next = off + n
	for st.mu.from+batch <= st.mu.next {
		to := (st.mu.from + batch) / spanSize * spanSize // batches do not cross spans
		if to <= st.mu.from {
			to = st.mu.from + batch
		}
		select {
		case st.s.hashing <- hashTask{st, st.mu.from, to}:
		default: // they are behind: Seal does it
		}
		st.mu.from = to
	}
}

// put notes the chaining values of groups of span i, those in mask.
func (st *Staging) put(i int64, mask uint64, cvs *[spanGroups]cv) {
	st.mu.Lock()
	defer st.mu.Unlock()
	sp := st.spanLocked(i)
	for m := mask; m != 0; m &= m - 1 {
		g := bits.TrailingZeros64(m)
		sp.cvs[g] = cvs[g]
	}
	sp.known |= mask
	st.mu.taken = true
}

// spanLocked returns span i, made if need be. mu must be held.
func (st *Staging) spanLocked(i int64) *stageSpan {
	sp := st.mu.spans[i]
	if sp == nil {
		sp = new(stageSpan)
		st.mu.spans[i] = sp
	}
	return sp
}

// known is build.known.
func (st *Staging) known(i int64, cvs []cv) uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	sp := st.mu.spans[i]
	if sp == nil {
		return 0
	}
	mask := sp.known & (^uint64(0) >> (64 - len(cvs)))
	for m := mask; m != 0; m &= m - 1 {
		g := bits.TrailingZeros64(m)
		cvs[g] = sp.cvs[g]
	}
	return mask
}

var _ interface {
	io.WriterAt
	io.ReaderAt
} = (*Staging)(nil)
