package writesession

import (
	"io"
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
)

// copyChunk is how many bytes are copied through memory at once.
const copyChunk = 256 << 10

// CopyRange copies up to n bytes from src to dst, as copy_file_range(2), and
// returns how many; fewer only at the end of src. Where dst has nothing but
// what it took from the same src, a copy to the same offset shares the content
// by its hash and moves no bytes. Ranges of one File must not overlap.
func CopyRange(dst *File, dstOff int64, src *File, srcOff, n int64) (int64, error) {
	if srcOff < 0 || dstOff < 0 || n < 0 {
		return 0, dst.fail("copy to", syscall.EINVAL)
	}
	if src == dst && srcOff < dstOff+n && dstOff < srcOff+n {
		return 0, dst.fail("copy to", syscall.EINVAL)
	}
	dst.change.Lock()
	defer dst.release()
	src.mu.RLock()
	from := src.mu.content
	shared := !src.mu.dirty && from.base == src.mu.inode.Hash && !from.base.IsZero()
	src.mu.RUnlock()
	if n = min(n, from.size-srcOff); n <= 0 {
		return 0, nil
	}
	if err := checkRange(dstOff, dstOff+n); err != nil {
		return 0, dst.fail("copy to", err)
	}
	if err := dst.mayChange(); err != nil {
		return 0, dst.fail("copy to", err)
	}
	if shared && src.s == dst.s && srcOff == dstOff && dst.share(from.base, from.baseSize, dstOff, n) {
		return n, nil
	}
	var err error
	if shared && dstOff+n > dst.s.opts.MemoryMax {
		n, err = dst.copyBlob(dstOff, from.base, from.baseSize, srcOff, n)
	} else {
		n, err = dst.copyBytes(dstOff, src, srcOff, n)
	}
	dst.refuse(err)
	return n, dst.fail("copy to", err)
}

// share makes [off, off+n) of f that of the blob h, at the same offset, when f
// is empty or has nothing but parts of h. change must be held.
func (f *File) share(h blobstore.Hash, size, off, n int64) bool {
	c := &f.mu.content
	next := clean(h, size)
	switch {
	case c.size == 0:
		next.own = spans{{0, size}}
	case c.inMem || c.staging != nil || c.base != h:
		return false
	default:
		next.own = append(spans(nil), c.own...)
	}
	next.size = max(c.size, off+n)
	next.own.remove(off, off+n)
	f.mu.Lock()
	old := f.setContent(next)
	f.touch()
	f.mu.Unlock()
	f.row.full = true
	f.discard(old)
	f.s.stats.shared.Add(1)
	return true
}

// copyBlob copies from the blob h into the staging file. change must be held.
func (f *File) copyBlob(off int64, h blobstore.Hash, size, from, n int64) (int64, error) {
	b, err := f.s.blobs.Open(h, size)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	if err := f.begin(max(off+n, f.mu.content.size)); err != nil {
		return 0, err
	}
	return f.put(off, off+n, func(st *blobstore.Staging, at span) (int64, error) {
		return st.CopyRange(b, b.File(), from+at.off-off, at.off, at.len())
	})
}

// copyBytes copies through memory. change must be held.
func (f *File) copyBytes(off int64, src *File, from, n int64) (done int64, err error) {
	p := make([]byte, min(n, copyChunk))
	for done < n {
		m, err := src.ReadAt(p[:min(n-done, copyChunk)], from+done)
		if err != nil && err != io.EOF || m == 0 {
			return done, ignoreEOF(err)
		}
		m, err = f.write(p[:m], off+done)
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
