package writesession

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
)

// content says where the bytes of an open file are: all of them in memory, or
// each in the base blob or the staging file. Byte i is the base's when it lies
// within the base and not in own, and the overlay's when it lies in over
// (overlay.go); all others are the staging file's, at the same offset, and zero
// where there is no staging file or it has a hole. So appending needs no
// bookkeeping, and bytes cut off never come back.
type content struct {
	size  int64 // bytes
	inMem bool
	buf   []byte // all of it, when inMem

	base     blobstore.Hash // zero: none
	baseSize int64
	own      spans // within [0, baseSize)
	staging  *blobstore.Staging
	over     spans // within what an fsync recorded
	overlay  *blobstore.Staging

	blob   *blobstore.Blob // the base, once opened
	handed bool            // blob was given out and must stay open until Close
}

// errBaseClosed says that blob must be opened first.
var errBaseClosed = errors.New("base not open")

// clean makes c the content of the blob h.
func clean(h blobstore.Hash, size int64) content {
	c := content{size: size, base: h, baseSize: size}
	if h.IsZero() {
		c.baseSize = 0
	}
	return c
}

// whole reports whether c is exactly the base, so that there is nothing to store.
func (c *content) whole() bool {
	return !c.inMem && c.staging == nil && c.size == c.baseSize && len(c.own) == 0
}

// source returns which file byte off is in, nil for none, or whether it is the
// base's, and up to where that holds.
func (c *content) source(off int64) (fromBase bool, st *blobstore.Staging, end int64) {
	over, end := c.over.run(off)
	switch {
	case over:
		return false, c.overlay, end
	case off >= c.baseSize:
		return false, c.staging, end
	}
	own, stop := c.own.run(off)
	return !own, c.staging, min(end, stop, c.baseSize)
}

// readAt fills p with the bytes at off; all of them must be within size. It
// does not wait for bytes of the base that are on another node: see File.bring.
func (c *content) readAt(p []byte, off int64) error {
	if c.inMem {
		copy(p, c.buf[off:])
		return nil
	}
	for len(p) > 0 {
		fromBase, st, end := c.source(off)
		q := p[:min(int64(len(p)), end-off)]
		var err error
		if fromBase {
			err = c.readBase(q, off)
		} else {
			err = readStaging(st, q, off)
		}
		if err != nil {
			return err
		}
		p, off = p[len(q):], off+int64(len(q))
	}
	return nil
}

func (c *content) readBase(p []byte, off int64) error {
	if c.blob == nil {
		return errBaseClosed
	}
	n, err := c.blob.ReadHere(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

// readStaging fills p from st, which may be nil, with zeros beyond its end.
func readStaging(st *blobstore.Staging, p []byte, off int64) error {
	if st == nil {
		clear(p)
		return nil
	}
	n, err := st.ReadAt(p, off)
	if n < len(p) && err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	return nil
}

// overwritten records that [off, end) is in the staging file now, or zero.
func (c *content) overwritten(off, end int64) {
	c.own.add(off, min(end, c.baseSize))
	c.size = max(c.size, end)
}

// resize cuts or extends c, which is not in memory, to size.
func (c *content) resize(size int64) {
	if size < c.size {
		c.own.add(size, c.baseSize)
	}
	c.size = size
}

// seek finds the next data or hole at or after off, which is within size.
// Content in memory has no holes, and there is one at the end of every file.
func (c *content) seek(off int64, whence int) (int64, error) {
	for off < c.size && !c.inMem {
		fromBase, st, end := c.source(off)
		end = min(end, c.size)
		next := end
		var err error
		switch {
		case fromBase && c.blob == nil:
			return 0, errBaseClosed
		case fromBase && c.blob.File() == nil:
			next = off
			if whence == unix.SEEK_HOLE {
				next = end
			}
		case fromBase:
			next, err = seekFile(c.blob.File(), off, end, whence)
		case st != nil:
			next, err = seekFile(st.File(), off, end, whence)
		case whence == unix.SEEK_HOLE:
			next = off
		}
		if err != nil || next < end {
			return next, err
		}
		off = end
	}
	if off < c.size && whence == unix.SEEK_DATA {
		return off, nil
	}
	if whence == unix.SEEK_DATA {
		return 0, unix.ENXIO
	}
	return c.size, nil
}

// seekFile finds data or a hole of a file in [off, end); end when there is none.
func seekFile(f *os.File, off, end int64, whence int) (next int64, err error) {
	conn, err := f.SyscallConn() // not Fd: the file may be closed meanwhile
	if err != nil {
		return 0, err
	}
	if e := conn.Control(func(fd uintptr) { next, err = unix.Seek(int(fd), off, whence) }); e != nil {
		return 0, e
	}
	if err == unix.ENXIO { // at or beyond the end of the file
		if whence == unix.SEEK_HOLE {
			return off, nil
		}
		return end, nil
	}
	return min(next, end), err
}
