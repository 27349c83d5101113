package blobstore

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// CopyFrom copies the bytes [off, off+n) of b to the same place, holes as holes,
// without reading them where the kernel can do it. Whole groups keep the
// chaining values they have in b: nothing is hashed for them again, and damage
// in b does not get a new hash. Of groups copied in part the bytes are verified.
func (st *Staging) CopyFrom(b *Blob, off, n int64) error {
	if off < 0 || n < 0 || off+n > b.size {
		return syscall.EINVAL
	}
	if b.file == nil || len(b.file.spans) == 1 {
		return st.copyVerified(b, off, n)
	}
	from, to := (off+GroupSize-1)/GroupSize*GroupSize, (off+n)/GroupSize*GroupSize
	if from >= to {
		return st.copyVerified(b, off, n)
	}
	if err := st.copyVerified(b, off, from-off); err != nil {
		return err
	}
	if err := st.copyKernel(b.file.f, from, from, to-from); err != nil {
		return err
	}
	if err := st.copyVerified(b, to, off+n-to); err != nil {
		return err
	}
	return st.takeLeaves(b.file, from, to)
}

// takeLeaves takes over the chaining values of b's groups [from, to), in bytes.
func (st *Staging) takeLeaves(b *blobFile, from, to int64) error {
	var cvs [spanGroups]cv
	for i := from / spanSize; i*spanSize < to; i++ {
		mask, err := b.leaves(i, &cvs)
		if err != nil {
			return err
		}
		mask &= groupMask(max(from-i*spanSize, 0), min(to-i*spanSize, spanSize))
		if mask != 0 {
			st.put(i, mask, &cvs)
		}
	}
	return nil
}

// copyVerified copies through memory, and leaves out zeros.
func (st *Staging) copyVerified(b *Blob, off, n int64) error {
	if n == 0 {
		return nil
	}
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	for n > 0 {
		p := buf[:min(n, spanSize)]
		if got, err := b.ReadAt(p, off); got < len(p) {
			return err
		}
		if err := st.writeSparse(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		n -= int64(len(p))
	}
	return nil
}

// writeSparse writes p, with a hole for each aligned group of zeros.
func (st *Staging) writeSparse(p []byte, off int64) error {
	for len(p) > 0 {
		n := min(int64(len(p)), GroupSize-off%GroupSize)
		zero := n == GroupSize && allZero(p[:n])
		for !zero && n < int64(len(p)) && !(int64(len(p)) >= n+GroupSize && allZero(p[n:n+GroupSize])) {
			n = min(n+GroupSize, int64(len(p)))
		}
		var err error
		if zero {
			err = st.hole(off, n)
		} else {
			_, err = st.WriteAt(p[:n], off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// hole makes [off, off+n) a hole inside the file, extending it if need be.
func (st *Staging) hole(off, n int64) error {
	size, err := st.size()
	if err != nil {
		return err
	}
	if off < size {
		if err := st.Punch(off, min(n, size-off)); err != nil {
			return err
		}
	}
	if off+n > size {
		return st.Truncate(off + n)
	}
	return nil
}

// copyKernel copies data by copy_file_range and holes as holes.
func (st *Staging) copyKernel(src *os.File, srcOff, dstOff, n int64) error {
	st.dirty(dstOff, n)
	defer st.dirty(dstOff, n)
	data, dense, err := seekExtents(src, srcOff, srcOff+n)
	if err != nil {
		return err
	}
	if dense {
		data = []extent{{srcOff, srcOff + n}}
	}
	at := srcOff
	for _, e := range data {
		if e.from > at {
			if err := st.hole(dstOff+at-srcOff, e.from-at); err != nil {
				return err
			}
		}
		if err := st.copyData(src, e.from, dstOff+e.from-srcOff, e.to-e.from); err != nil {
			return err
		}
		at = e.to
	}
	if at < srcOff+n {
		return st.hole(dstOff+at-srcOff, srcOff+n-at)
	}
	return nil
}

func (st *Staging) copyData(src *os.File, srcOff, dstOff, n int64) error {
	for n > 0 {
		a, b := srcOff, dstOff
		got, err := unix.CopyFileRange(int(src.Fd()), &a, int(st.f.Fd()), &b, int(min(n, 1<<30)), 0)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			_, err = io.Copy(io.NewOffsetWriter(st.f, dstOff), io.NewSectionReader(src, srcOff, n))
			return err
		case err != nil:
			return os.NewSyscallError("copy_file_range", err)
		case got == 0:
			return io.ErrUnexpectedEOF
		}
		srcOff, dstOff, n = srcOff+int64(got), dstOff+int64(got), n-int64(got)
	}
	return nil
}

// CopyRange copies up to n bytes from srcOff of src to dstOff, and returns how
// many there were. srcFile, which may be nil, is a file with the same bytes at
// the same places; from it the kernel copies. Blobs are read through src, so
// that they are verified: give no srcFile for them.
func (st *Staging) CopyRange(src io.ReaderAt, srcFile *os.File, srcOff, dstOff, n int64) (int64, error) {
	if n <= 0 {
		return 0, nil
	}
	if srcFile != nil {
		fi, err := srcFile.Stat()
		if err != nil {
			return 0, err
		}
		if n = min(n, fi.Size()-srcOff); n <= 0 {
			return 0, nil
		}
		return n, st.copyKernel(srcFile, srcOff, dstOff, n)
	}
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	var done int64
	for done < n {
		p := buf[:min(n-done, spanSize)]
		got, err := src.ReadAt(p, srcOff+done)
		if got > 0 {
			if err := st.writeSparse(p[:got], dstOff+done); err != nil {
				return done, err
			}
			done += int64(got)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
