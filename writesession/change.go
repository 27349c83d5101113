package writesession

import (
	"context"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
)

// WriteAt is io.WriterAt. The bytes are seen at once by all who have f open,
// and by others after the next publish.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	f.change.Lock()
	defer f.release()
	n, err := f.write(p, off)
	f.refuse(err)
	return n, f.fail("write", err)
}

// Append writes p at the end of the file, whatever else is written meanwhile,
// and returns where that was.
func (f *File) Append(p []byte) (off int64, err error) {
	f.change.Lock()
	defer f.release()
	off = f.mu.content.size
	_, err = f.write(p, off)
	f.refuse(err)
	return off, f.fail("append", err)
}

// TryWriteAt is WriteAt if that need not wait for another change of f, for a
// blob, or for a look at who else writes the file. Otherwise it does nothing
// and reports false.
func (f *File) TryWriteAt(p []byte, off int64) (done bool, err error) {
	if !f.change.TryLock() {
		return false, nil
	}
	defer f.release()
	if !f.ready(max(off+int64(len(p)), f.mu.content.size)) {
		return false, nil
	}
	_, err = f.write(p, off)
	f.refuse(err)
	return true, f.fail("write", err)
}

// ready reports whether begin(size) has nothing to wait for. change must be
// held.
func (f *File) ready(size int64) bool {
	if !f.mu.dirty && f.s.isExclusive(f.view) {
		return false
	}
	c := &f.mu.content
	return (c.inMem || c.staging != nil || c.size == 0 || size > f.s.opts.MemoryMax) && !f.unfolded()
}

// refuse notes that the disk did not take a write, so that what is there of it
// does not become the file's content by the close that follows; the next change
// that succeeds takes that back. change must be held.
func (f *File) refuse(err error) {
	f.refused = nil
	if f.mu.dirty && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO)) {
		f.refused = err
	}
}

// write stores p at off. change must be held.
func (f *File) write(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	if err := checkRange(off, end); err != nil || len(p) == 0 {
		return 0, err
	}
	if err := f.room(end); err != nil {
		return 0, err
	}
	if err := f.begin(max(end, f.mu.content.size)); err != nil {
		return 0, err
	}
	c := &f.mu.content
	if c.inMem {
		f.mu.Lock()
		if end > c.size {
			c.grow(end)
		}
		copy(c.buf[off:], p)
		f.touch()
		f.mu.Unlock()
		return len(p), nil
	}
	n, err := f.put(off, end, func(st *blobstore.Staging, at span) (int64, error) {
		n, err := st.WriteAt(p[at.off-off:at.end-off], at.off)
		return int64(n), err
	})
	return int(n), err
}

// grow extends c, which is in memory, to size with zeros.
func (c *content) grow(size int64) {
	if n := int64(len(c.buf)); size <= int64(cap(c.buf)) {
		c.buf = c.buf[:size]
		clear(c.buf[n:])
	} else {
		room := size
		if n > 0 {
			room = max(size, 2*n)
		}
		buf := make([]byte, size, room)
		copy(buf, c.buf)
		c.buf = buf
	}
	c.size = size
}

func checkRange(off, end int64) error {
	if off < 0 {
		return syscall.EINVAL
	}
	if end < off || end > MaxSize {
		return syscall.EFBIG
	}
	return nil
}

// begin makes the content ready to be changed at a size of up to size: in
// memory when it is small, otherwise with a staging file. It opens the session
// when f is clean. change must be held.
func (f *File) begin(size int64) error {
	if err := f.mayChange(); err != nil {
		return err
	}
	c := &f.mu.content
	switch {
	case c.inMem && size <= f.s.opts.MemoryMax, c.staging != nil:
		return nil
	case c.inMem:
		return f.spill()
	case size <= f.s.opts.MemoryMax:
		return f.load(c.size)
	default:
		return f.stage()
	}
}

// mayChange checks that f can be changed, and claims the inode where only one
// writer is allowed.
func (f *File) mayChange() error {
	if f.mu.dirty {
		return f.fold()
	}
	if f.view.ReadOnly() || f.s.owner == nil {
		return syscall.EROFS
	}
	if f.row.id == 0 && f.s.isExclusive(f.view) {
		return f.claim()
	}
	return nil
}

// load brings the first size bytes of the content into memory; the rest is
// cut off. change must be held.
func (f *File) load(size int64) error {
	c := content{size: size, inMem: true}
	if size > 0 {
		c.buf = make([]byte, size)
		if err := f.fill(c.buf); err != nil {
			return err
		}
	}
	f.mu.Lock()
	old := f.setContent(c)
	f.mu.Unlock()
	f.row.full = true
	f.discard(old)
	return nil
}

// fill reads the start of the content. change must be held.
func (f *File) fill(p []byte) error {
	for {
		f.mu.RLock() // a reader may be opening the base
		err := f.mu.content.readAt(p, 0)
		f.mu.RUnlock()
		if !f.again(context.Background(), &err, 0, int64(len(p))) {
			return err
		}
	}
}

// stage adds a staging file to content that has none. change must be held.
func (f *File) stage() error {
	if f.mu.content.staging != nil {
		return nil
	}
	st, err := f.s.blobs.NewStaging()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.mu.content.staging = st
	f.mu.Unlock()
	f.row.full = true
	return nil
}

// spill moves content in memory to a staging file. change must be held.
func (f *File) spill() error {
	st, err := f.s.blobs.NewStaging()
	if err != nil {
		return err
	}
	c := &f.mu.content
	if _, err := st.WriteAt(c.buf, 0); err != nil {
		st.Discard()
		return err
	}
	f.mu.Lock()
	f.setContent(content{size: c.size, staging: st})
	f.mu.Unlock()
	f.row.full = true
	return nil
}

// touch marks f as changed now. change and mu must be held.
func (f *File) touch() {
	t := now()
	f.mu.mtime, f.mu.changed, f.mu.dirty = t, t, true
	f.row.stale = true
	if f.since.Load() == 0 {
		f.since.Store(t)
	}
}

// Truncate cuts the file to size, or extends it with a hole.
func (f *File) Truncate(size int64) error {
	if err := checkRange(size, size); err != nil {
		return f.fail("truncate", err)
	}
	f.change.Lock()
	defer f.release()
	err := f.truncate(size)
	f.refuse(err)
	return f.fail("truncate", err)
}

// truncate is Truncate with change held.
func (f *File) truncate(size int64) error {
	if err := f.mayChange(); err != nil {
		return err
	}
	if err := f.room(size); err != nil {
		return err
	}
	c := &f.mu.content
	switch {
	case size == 0 && !c.inMem, size < c.size && !c.inMem && c.staging == nil && size <= f.s.opts.MemoryMax:
		if err := f.load(size); err != nil {
			return err
		}
	case c.inMem && size > f.s.opts.MemoryMax:
		if err := f.spill(); err != nil {
			return err
		}
	}
	if c.staging != nil {
		if err := f.cut(size); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !c.inMem:
		c.resize(size)
	case size > c.size:
		c.grow(size)
	default:
		c.buf, c.size = c.buf[:size], size
	}
	f.touch()
	return nil
}

// Allocate is fallocate(2) for mode 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE and
// ZERO_RANGE; other modes fail with EOPNOTSUPP. Room on the disk is reserved
// only for files too long for memory.
func (f *File) Allocate(mode uint32, off, n int64) error {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	if off < 0 || n <= 0 {
		return f.fail("fallocate", syscall.EINVAL)
	}
	end := off + n
	if err := checkRange(off, end); err != nil {
		return f.fail("fallocate", err)
	}
	f.change.Lock()
	defer f.release()
	var err error
	switch mode {
	case 0:
		if err = f.reach(end); err == nil {
			err = f.reserve(off, n)
		}
	case keep:
		if err = f.mayChange(); err == nil {
			err = f.reserve(off, n)
		}
	case unix.FALLOC_FL_PUNCH_HOLE | keep, unix.FALLOC_FL_ZERO_RANGE | keep:
		err = f.zero(off, min(end, f.mu.content.size))
	case unix.FALLOC_FL_ZERO_RANGE:
		if err = f.reach(end); err == nil {
			err = f.zero(off, end)
		}
	default:
		err = syscall.EOPNOTSUPP
	}
	return f.fail("fallocate", err)
}

// reach extends the file to end when it is shorter.
func (f *File) reach(end int64) error {
	if end <= f.mu.content.size {
		return f.mayChange()
	}
	return f.truncate(end)
}

// reserve asks for room on the disk for [off, off+n).
func (f *File) reserve(off, n int64) error {
	c := &f.mu.content
	if c.inMem || off+n <= f.s.opts.MemoryMax {
		return nil
	}
	if c.staging == nil {
		if !f.mu.dirty {
			return nil // what is published has its room
		}
		if err := f.stage(); err != nil {
			return err
		}
	}
	err := unix.Fallocate(int(c.staging.File().Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err == unix.EOPNOTSUPP {
		err = nil // a promise the disk's file system does not make
	}
	return err
}

// zero makes [off, end), which is within the file, read as zeros, as a hole
// where it is staged. change must be held.
func (f *File) zero(off, end int64) error {
	if off >= end {
		return f.mayChange()
	}
	if err := f.begin(f.mu.content.size); err != nil {
		return err
	}
	if c := &f.mu.content; c.inMem {
		f.mu.Lock()
		defer f.mu.Unlock()
		clear(c.buf[off:end])
		f.touch()
		return nil
	}
	_, err := f.put(off, end, punch)
	return err
}
