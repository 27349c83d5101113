package blobstore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

// idleFiles is how many files stay open, with what is verified of them, after
// their last handle is closed.
const idleFiles = 256

// Blob is a handle on a content for reading. Safe for concurrent use; nothing
// may be in use when it is closed.
type Blob struct {
	hash   Hash
	size   int64
	inline []byte
	file   *blobFile // nil when inline or partial
	part   *partialBlob
}

// Open returns a handle on h, whose content is size bytes. Closing it is the
// caller's duty. Without OpenTx a collection can come between looking h up and
// opening it: then the error is ErrMissing.
func (s *Store) Open(h Hash, size int64) (*Blob, error) {
	if h.IsZero() {
		return &Blob{}, nil
	}
	if f := s.cached(h, size); f != nil {
		return &Blob{hash: h, size: size, file: f}, nil
	}
	if size > InlineMax {
		b, err := s.openFile(h, size)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
	}
	var b *Blob
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		b, err = s.OpenTx(tx, h, size)
		return err
	})
	return b, err
}

// OpenTx is Open inside a transaction.
func (s *Store) OpenTx(tx *schema.Tx, h Hash, size int64) (*Blob, error) {
	if h.IsZero() {
		return &Blob{}, nil
	}
	if f := s.cached(h, size); f != nil {
		return &Blob{hash: h, size: size, file: f}, nil
	}
	if size <= InlineMax {
		p, inline, err := s.Inline(tx, h)
		if errors.Is(err, ErrMissing) || errors.Is(err, ErrDamaged) && s.sourceNow() != nil {
			return s.openAbsent(tx, h, size)
		}
		if err != nil {
			return nil, err
		}
		if inline && int64(len(p)) != size {
			return nil, damaged(h, "its size is another")
		}
		if inline {
			return &Blob{hash: h, size: size, inline: p}, nil
		}
	}
	b, err := s.openFile(h, size)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	return s.openAbsent(tx, h, size)
}

// openAbsent returns a handle on content whose bytes are to be brought from
// elsewhere: where it is known to be there, and wherever there is a Source, in
// place of bytes that should be here.
func (s *Store) openAbsent(tx *schema.Tx, h Hash, size int64) (*Blob, error) {
	r, found, err := lookup(tx, h)
	switch {
	case err != nil:
		return nil, err
	case found && r.state == stateAbsent, s.sourceNow() != nil:
		return newPartialBlob(s.partial(h, size)), nil
	case found && r.state == stateQuarantined:
		return nil, damaged(h, "it is in quarantine")
	}
	return nil, missing(h)
}

// cached returns the open file of h with a reference added.
func (s *Store) cached(h Hash, size int64) *blobFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.mu.files[h]
	if f == nil || f.size != size {
		return nil
	}
	if f.refs == 0 {
		s.mu.idle.Remove(f.idle)
		f.idle = nil
		var st unix.Stat_t // no I/O: the inode is in memory
		if unix.Fstat(int(f.f.Fd()), &st) != nil || st.Nlink == 0 || st.Size != size {
			delete(s.mu.files, h)
			f.close()
			return nil
		}
	}
	f.refs++
	s.counts.reused.Add(1)
	return f
}

// openFile opens the file of h and caches it. The error may be fs.ErrNotExist.
func (s *Store) openFile(h Hash, size int64) (*Blob, error) {
	f, err := os.Open(s.blobPath(h))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if st.Size() != size {
		f.Close()
		s.found(h, "its file has another size")
		return nil, damaged(h, "its file has another size")
	}
	bf := newBlobFile(s, h, size, f)
	s.counts.opened.Add(1)
	s.mu.Lock()
	if other := s.mu.files[h]; other == nil {
		s.mu.files[h] = bf
	} // else somebody was faster, or holds a file since removed: this one stays our own
	bf.refs = 1
	s.mu.Unlock()
	return &Blob{hash: h, size: size, file: bf}, nil
}

// release takes a reference back.
func (s *Store) release(f *blobFile) {
	var drop []*blobFile
	s.mu.Lock()
	f.refs--
	if f.refs == 0 {
		if s.mu.files[f.hash] != f {
			drop = append(drop, f)
		} else if s.mu.suspects[f.hash] {
			delete(s.mu.files, f.hash)
			drop = append(drop, f)
		} else {
			f.idle = s.mu.idle.PushFront(f)
			if s.mu.idle.Len() > idleFiles {
				old := s.mu.idle.Remove(s.mu.idle.Back()).(*blobFile)
				delete(s.mu.files, old.hash)
				drop = append(drop, old)
			}
		}
	}
	s.mu.Unlock()
	for _, f := range drop {
		f.close()
	}
}

// forget drops the cached file of h, which is going away.
func (s *Store) forget(h Hash) {
	s.mu.Lock()
	f := s.mu.files[h]
	delete(s.mu.files, h)
	idle := f != nil && f.refs == 0
	if idle {
		s.mu.idle.Remove(f.idle)
	}
	s.mu.Unlock()
	if idle {
		f.close()
	}
}

// Hash returns the hash of the content.
func (b *Blob) Hash() Hash { return b.hash }

// Size returns the size of the content in bytes.
func (b *Blob) Size() int64 { return b.size }

// File returns the blob's file, or nil when it is inline or not here as a whole.
// It is for copy_file_range and SEEK_HOLE, and never to be written.
func (b *Blob) File() *os.File {
	if b.file == nil {
		if b.part != nil {
			return b.part.file()
		}
		return nil
	}
	return b.file.f
}

// ReadAt is io.ReaderAt. Bytes that do not match the hash are not returned:
// the error is ErrDamaged, and p holds nothing of use from n on. Bytes that are
// elsewhere are brought first; ErrNotHere says that this could not be done.
func (b *Blob) ReadAt(p []byte, off int64) (n int, err error) {
	return b.readAt(context.Background(), p, off, true)
}

// ReadAtContext is ReadAt that stops waiting for bytes from elsewhere when ctx
// ends.
func (b *Blob) ReadAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	return b.readAt(ctx, p, off, true)
}

// ReadHere is ReadAt that never waits for bytes from elsewhere: the error is a
// *NotHereError when they have to be brought first, by Fetch.
func (b *Blob) ReadHere(p []byte, off int64) (n int, err error) {
	return b.readAt(context.Background(), p, off, false)
}

// Fetch brings the bytes [off, off+n), as far as the content has them, for
// somebody who waits for them.
func (b *Blob) Fetch(ctx context.Context, off, n int64) error {
	if b.part == nil || n <= 0 {
		return nil
	}
	return b.part.p.fetch(ctx, GroupsOf(off, n), Reading)
}

// readAt is ReadAt that waits, or not, until ctx ends.
func (b *Blob) readAt(ctx context.Context, p []byte, off int64, wait bool) (n int, err error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if off >= b.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > b.size-off
	if short {
		p = p[:b.size-off]
	}
	if b.file == nil {
		if b.part == nil {
			n = copy(p, b.inline[off:])
		} else if err = b.part.readAt(ctx, p, off, wait); err != nil {
			return 0, err
		} else {
			n = len(p)
		}
	} else if n, err = b.file.readAt(p, off); err != nil {
		return n, err
	}
	if short {
		err = io.EOF
	}
	return n, err
}

// Verified reports whether all of the content has been found to match since
// the blob came into the cache: then bytes read through File match as well, as
// far as the kernel's cache and the disk can be trusted from then on.
func (b *Blob) Verified() bool {
	if b.part != nil {
		f := b.part.p.whole.Load()
		return f != nil && f.verified(0, b.size)
	}
	return b.file == nil || b.file.verified(0, b.size)
}

// Verify reads what is not verified yet, and brings what is not here.
func (b *Blob) Verify(ctx context.Context) error {
	if b.part != nil {
		return b.part.verifyAll(ctx)
	}
	if b.file == nil {
		return nil
	}
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	for off := int64(0); off < b.size; off += spanSize {
		p := buf[:min(spanSize, b.size-off)]
		if b.file.verified(off, off+int64(len(p))) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := b.file.readAt(p, off); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the handle. The second Close does nothing.
func (b *Blob) Close() error {
	if f := b.file; f != nil {
		b.file = nil
		f.s.release(f)
	}
	if b.part != nil {
		b.part.close()
		b.part = nil
	}
	return nil
}
