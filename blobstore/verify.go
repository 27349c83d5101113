package blobstore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"lukechampine.com/blake3/guts"
)

// blobFile is the open file of a blob and what is verified of it, shared by all
// handles.
type blobFile struct {
	s    *Store
	hash Hash
	size int64
	f    *os.File
	refs int           // Store.mu
	idle *list.Element // Store.mu; when refs is 0

	spans []atomic.Pointer[span]

	// mu guards the outboard and loading from it; it is held during that I/O,
	// which happens once per span.
	mu  sync.Mutex
	out io.ReaderAt // nil: not opened yet
}

// span is what is known of 64 groups: their chaining values, checked against
// the hash, and which of them the file's bytes were found to match.
type span struct {
	verified atomic.Uint64
	zero     bool // all zeros, by the chaining value of a block above; no cvs
	cvs      []cv
}

// done stands for a span all of whose groups are verified.
var done = &span{}

func newBlobFile(s *Store, h Hash, size int64, f *os.File) *blobFile {
	groups := groupCount(size)
	return &blobFile{s: s, hash: h, size: size, f: f, spans: make([]atomic.Pointer[span], (groups+spanGroups-1)/spanGroups)}
}

func (b *blobFile) close() {
	b.f.Close()
	if c, ok := b.out.(io.Closer); ok {
		c.Close()
	}
}

func (b *blobFile) groups() int64 { return groupCount(b.size) }

// inSpan returns how many groups span i has.
func (b *blobFile) inSpan(i int64) int64 { return min(spanGroups, b.groups()-i*spanGroups) }

// readAt reads len(p) bytes, all of them inside the content.
func (b *blobFile) readAt(p []byte, off int64) (n int, err error) {
	if b.verified(off, off+int64(len(p))) {
		return len(p), b.pread(p, off)
	}
	for len(p) > 0 {
		i := off / spanSize
		part := p[:b.step(off, int64(len(p)))]
		if err := b.readSpan(i, part, off); err != nil {
			return n, err
		}
		n += len(part)
		off += int64(len(part))
		p = p[len(part):]
	}
	return n, nil
}

// verified reports whether all groups of [from, to) are.
func (b *blobFile) verified(from, to int64) bool {
	for i := from / spanSize; i*spanSize < to; i++ {
		sp := b.spans[i].Load()
		if sp == done {
			continue
		}
		if sp == nil {
			return false
		}
		want := groupMask(max(from-i*spanSize, 0), min(to-i*spanSize, spanSize))
		if sp.verified.Load()&want != want {
			return false
		}
	}
	return true
}

// groupMask returns the bits of the groups that [from, to) of a span touches.
func groupMask(from, to int64) uint64 {
	first, end := from/GroupSize, (to+GroupSize-1)/GroupSize
	return (^uint64(0) >> (64 - (end - first))) << first
}

func (b *blobFile) pread(p []byte, off int64) error {
	err := readFull(b.f, p, off)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return b.damaged("its file ends early")
	}
	return err
}

// step returns how many of n bytes at off to read at once: none of another
// span, and of many not the whole groups with those in part.
func (b *blobFile) step(off, n int64) int64 {
	const many = 4 * GroupSize
	n = min(n, spanSize-off%spanSize)
	switch before := off % GroupSize; {
	case n <= many:
	case before != 0:
		n = GroupSize - before
	case off+n < b.size:
		n -= n % GroupSize
	}
	return n
}

// readSpan reads p, which lies inside span i, and verifies the groups it
// touches.
func (b *blobFile) readSpan(i int64, p []byte, off int64) error {
	sp := b.spans[i].Load()
	if sp == nil {
		var err error
		if len(b.spans) == 1 {
			return b.readWhole(p, off)
		}
		if sp, err = b.load(i); err != nil {
			return err
		}
	}
	end := off + int64(len(p))
	from, to := off/GroupSize*GroupSize, min((end+GroupSize-1)/GroupSize*GroupSize, b.size)
	if sp == done || from == off && to == end {
		return b.readGroups(sp, p, off)
	}
	// Of groups at the ends, more than p is needed: one read brings it all.
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	if err := b.readGroups(sp, buf[:to-from], from); err != nil {
		return err
	}
	copy(p, buf[off-from:])
	return nil
}

// readGroups reads p, whole groups of a span unless that is done, and verifies
// what is not verified yet.
func (b *blobFile) readGroups(sp *span, p []byte, off int64) error {
	if err := b.pread(p, off); err != nil || sp == done {
		return err
	}
	for g := off / GroupSize; len(p) > 0; g++ {
		group := p[:min(GroupSize, len(p))]
		p = p[len(group):]
		if sp.verified.Load()&(1<<(g%spanGroups)) != 0 {
			continue
		}
		if err := b.check(sp, g, group); err != nil {
			return err
		}
	}
	return nil
}

// check verifies the bytes of group g.
func (b *blobFile) check(sp *span, g int64, p []byte) error {
	in := g % spanGroups
	ok := false
	if sp.zero {
		ok = allZero(p)
	} else {
		ok = groupCV(p, g) == sp.cvs[in]
	}
	if !ok {
		return b.damaged(fmt.Sprintf("bytes %d to %d do not match", g*GroupSize, g*GroupSize+int64(len(p))))
	}
	b.s.counts.verified.Add(1)
	i := g / spanGroups
	all := ^uint64(0) >> (64 - b.inSpan(i))
	if sp.verified.Or(1<<in)|1<<in == all {
		b.spans[i].Store(done)
	}
	return nil
}

// readWhole verifies a content of one span, which has no outboard, and copies
// what was asked for.
func (b *blobFile) readWhole(p []byte, off int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	whole := buf[:b.size]
	if err := b.pread(whole, 0); err != nil {
		return err
	}
	if Sum(whole) != b.hash {
		return b.damaged("its bytes do not match")
	}
	b.s.counts.verified.Add(b.groups())
	b.spans[0].Store(done)
	copy(p, whole[off:])
	return nil
}

var errOutboard = errors.New("outboard does not match")

// load reads the parents of span i and above it and checks them against the
// hash. An outboard that is missing or wrong is made anew when the content is
// right.
func (b *blobFile) load(i int64) (*span, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sp := b.spans[i].Load(); sp != nil {
		return sp, nil
	}
	sp, err := b.readParents(i)
	if errors.Is(err, errOutboard) {
		if err := b.rebuild(); err != nil {
			return nil, err
		}
		sp, err = b.readParents(i)
	}
	if err != nil {
		return nil, err
	}
	b.spans[i].Store(sp)
	return sp, nil
}

// readParents walks from the root to span i. mu must be held.
func (b *blobFile) readParents(i int64) (*span, error) {
	if err := b.openOutboard(); err != nil {
		return nil, err
	}
	n, at := b.groups(), i*spanGroups // groups below the node, and the span's place there
	first, index := int64(0), int64(0)
	want, flags := hashCV(b.hash), uint32(guts.FlagRoot)
	var p [(spanGroups - 1) * parentSize]byte
	for n > spanGroups {
		if n == blockGroups {
			if zero, known := zeroBlock(first / blockGroups); known && zero == want {
				return &span{zero: true}, nil
			}
		}
		if err := b.readOutboard(p[:parentSize], index); err != nil {
			return nil, err
		}
		left, right := parentOf(p[:])
		if parentCV(&left, &right, flags) != want {
			return nil, errOutboard
		}
		flags = 0
		if mid := leftGroups(n); at < mid {
			want, index, n = left, index+1, mid
		} else {
			want, index, n, at, first = right, index+mid, n-mid, at-mid, first+mid
		}
	}
	parents := p[:(n-1)*parentSize]
	if err := b.readOutboard(parents, index); err != nil {
		return nil, err
	}
	sp := &span{cvs: make([]cv, n)}
	if !unfold(sp.cvs, parents, want) {
		return nil, errOutboard
	}
	return sp, nil
}

func (b *blobFile) readOutboard(p []byte, index int64) error {
	err := readFull(b.out, p, index*parentSize)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errOutboard
	}
	return err
}

// unfold checks the parents of a subtree, in pre-order, against the chaining
// value of its root, and takes those of its groups from them.
func unfold(cvs []cv, parents []byte, want cv) bool {
	if len(cvs) == 1 {
		cvs[0] = want
		return true
	}
	left, right := parentOf(parents)
	if parentCV(&left, &right, 0) != want {
		return false
	}
	mid := leftGroups(int64(len(cvs)))
	return unfold(cvs[:mid], parents[parentSize:], left) && unfold(cvs[mid:], parents[mid*parentSize:], right)
}

// rebuild makes the outboard anew. mu must be held.
func (b *blobFile) rebuild() error {
	if c, ok := b.out.(io.Closer); ok {
		c.Close()
	}
	b.out = nil
	out, err := b.s.newOutboard(b.f, b.hash, b.size)
	if err == nil {
		b.out = out
		b.s.log.Warn("outboard made anew", "hash", b.hash.String())
		return nil
	}
	if errors.Is(err, ErrDamaged) {
		return b.damaged("its bytes do not match")
	}
	// Nowhere to put it, as in a read-only store: keep it in memory.
	mem := make(memory, (b.groups()-1)*parentSize)
	bd := build{src: b.f, size: b.size, out: mem}
	if h, err := bd.run(context.Background()); err != nil {
		return err
	} else if h != b.hash {
		return b.damaged("its bytes do not match")
	}
	b.out = mem
	return nil
}

// newOutboard hashes src and puts its outboard beside the blob. It returns it
// open, or ErrDamaged.
func (s *Store) newOutboard(src *os.File, h Hash, size int64) (*os.File, error) {
	if s.db.ReadOnly() {
		return nil, unix.EROFS
	}
	temp := s.stagingPath(randomName() + outboardExt)
	out, err := s.fs.create(temp)
	if err != nil {
		return nil, err
	}
	bd := build{src: src, size: size, out: out}
	got, err := bd.run(context.Background())
	if err == nil && got != h {
		err = damaged(h, "its bytes do not match")
	}
	if err == nil {
		err = s.fs.rename(temp, s.outboardPath(h))
	}
	if err != nil {
		out.Close()
		_ = s.fs.remove(temp)
		return nil, err
	}
	return out, nil
}

// memory is an outboard in memory.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (b *blobFile) damaged(what string) error {
	b.s.found(b.hash, what)
	return damaged(b.hash, what)
}

// found tells once that h is damaged, and marks its row for Check.
func (s *Store) found(h Hash, what string) {
	s.mu.Lock()
	known := s.mu.suspects[h]
	s.mu.suspects[h] = true
	s.mu.Unlock()
	if known {
		return
	}
	s.log.Error("damaged blob", "hash", h.String(), "what", what, "advice", advice)
	select {
	case s.suspect <- h:
	default: // many at once: a deep check finds the others
	}
}

// leaves copies the chaining values of span i's groups to cvs and returns which
// there are.
func (b *blobFile) leaves(i int64, cvs *[spanGroups]cv) (uint64, error) {
	b.mu.Lock()
	sp, err := b.readParents(i)
	b.mu.Unlock()
	if errors.Is(err, errOutboard) { // load makes it anew
		sp, err = b.load(i)
	}
	if err != nil || sp.zero || sp.cvs == nil {
		return 0, err
	}
	copy(cvs[:], sp.cvs)
	return ^uint64(0) >> (64 - len(sp.cvs)), nil
}
