package sftpsrv

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"hash"
	"io"
	"math"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/sftpsrv/access"
	"github.com/alkdev/alkfs/writesession"
)

// minBlock is the smallest block check-file hashes; the draft says 256 bytes.
const minBlock = 256

var digests = map[string]func() hash.Hash{
	"md5": md5.New, "sha1": sha1.New, "sha224": sha256.New224,
	"sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New,
}

func (s *session) copyData(ctx context.Context, c copyRange) error {
	src, ok := c.src.(*openFile)
	dst, ok2 := c.dst.(*openFile)
	if !ok || !ok2 {
		return syscall.EINVAL
	}
	if err := src.allowed(access.Read); err != nil {
		return err
	}
	if err := dst.allowed(access.Write); err != nil {
		return err
	}
	if !dst.writable {
		return errDenied
	}
	size := uint64(src.File.Inode().Size)
	if c.srcOff >= size {
		return nil
	}
	if c.length == 0 || c.length > size-c.srcOff {
		c.length = size - c.srcOff
	}
	if c.dstOff > math.MaxInt64-c.length {
		return syscall.EFBIG
	}
	if src.File == dst.File && c.srcOff < c.dstOff+c.length && c.dstOff < c.srcOff+c.length {
		return syscall.EINVAL // they overlap
	}
	for done := uint64(0); done < c.length; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := writesession.CopyRange(dst.File, int64(c.dstOff+done), src.File, int64(c.srcOff+done), int64(c.length-done))
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // the source became shorter
		}
		done += uint64(n)
	}
	return nil
}

// check hashes part of an open file. The BLAKE3 of a whole file is known
// without reading it.
func (s *session) check(ctx context.Context, obj any, algorithms string, r blockRange) (string, []byte, error) {
	f, ok := obj.(*openFile)
	if !ok {
		return "", nil, syscall.EISDIR
	}
	in, err := f.inode()
	if err != nil {
		return "", nil, err
	}
	size := uint64(in.Size)
	if r.off > size || (r.block != 0 && r.block < minBlock) {
		return "", nil, syscall.EINVAL
	}
	if r.length == 0 || r.length > size-r.off {
		r.length = size - r.off
	}
	for name := range strings.SplitSeq(algorithms, ",") {
		if name == "blake3" && r.off == 0 && r.length == size && r.block == 0 && !f.File.Dirty() {
			h := in.Hash
			if h.IsZero() {
				h = blobstore.Sum(nil)
			}
			return name, h[:], nil
		}
		if newHash := digests[name]; newHash != nil {
			sums, err := sumBlocks(ctx, f, newHash(), r)
			return name, sums, err
		}
	}
	return "", nil, errUnsupported
}

func sumBlocks(ctx context.Context, f *openFile, h hash.Hash, r blockRange) ([]byte, error) {
	block := uint64(r.block)
	if block == 0 {
		block = max(r.length, 1)
	}
	if (r.length/block+1)*uint64(h.Size()) > maxData {
		return nil, syscall.EMSGSIZE
	}
	var sums []byte
	buf := make([]byte, hashRoom)
	for off, end := r.off, r.off+r.length; off < end || len(sums) == 0; off += block {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h.Reset()
		part := io.NewSectionReader(readerOf{f}, int64(off), int64(min(block, end-off)))
		if err := sumPart(ctx, h, part, buf); err != nil {
			return nil, err
		}
		sums = h.Sum(sums)
	}
	return sums, nil
}

func sumPart(ctx context.Context, h hash.Hash, r io.Reader, buf []byte) error {
	for {
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}
