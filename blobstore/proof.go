package blobstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"lukechampine.com/blake3/guts"
)

// Range is the groups [First, First+Count) of a content.
type Range struct{ First, Count int64 }

// End returns the group after the last.
func (r Range) End() int64 { return r.First + r.Count }

// MaxSlice is the greatest number of groups in one Slice: a block of 64 MiB,
// which is sensible only where it is all zeros.
const MaxSlice = blockGroups

// FrameGroups is the number of groups, 1 MiB, in the slices to send: proofs are
// smallest when slices start at multiples of it.
const FrameGroups = spanGroups

// MaxProof is the greatest length in bytes of a proof of FrameGroups groups:
// they lie in at most two subtrees of spanGroups, each below a path of parents.
const MaxProof = (2*(spanGroups-1) + 2*48) * parentSize

// ErrProof says that parents or bytes from elsewhere are not those of the
// content: whoever sent them is wrong.
var ErrProof = errors.New("does not match the hash")

// Groups returns the number of groups of a content of size bytes.
func Groups(size int64) int64 { return groupCount(size) }

// GroupsOf returns the range of groups that hold the bytes [off, off+n).
func GroupsOf(off, n int64) Range {
	first := off / GroupSize
	return Range{first, groupCount(off+n) - first}
}

// valid checks a range that a stranger may have made.
func (r Range) valid(size int64) error {
	n := groupCount(size)
	if r.First < 0 || r.Count <= 0 || r.Count > MaxSlice || r.First > n-r.Count {
		return fmt.Errorf("groups %d+%d of %d: %w", r.First, r.Count, n, ErrProof)
	}
	return nil
}

// proven is what a proof says of the groups of a range.
type proven struct {
	r    Range
	cvs  []cv
	zero []bool // the group lies in a block of zeros, and has no cv here
}

// proofWalk goes from the hash down to the groups of r, in pre-order, along
// the parents that proof lists.
type proofWalk struct {
	r      Range
	proof  []byte // what is left of it
	out    proven
	parent func(index, n int64, p []byte) error // takes each parent, of n groups, that was right; may be nil
}

// checkProof checks that proof is the parents of r in a content of size bytes,
// no more and no less. A proof is the parents, in pre-order, that have a group
// of r below them, without those inside a block of zeros (see zero.go), of
// which everybody knows what they are.
func checkProof(h Hash, size int64, r Range, proof []byte, parent func(index, n int64, p []byte) error) (proven, error) {
	if err := r.valid(size); err != nil {
		return proven{}, err
	}
	w := proofWalk{r: r, proof: proof, parent: parent, out: proven{r, make([]cv, r.Count), make([]bool, r.Count)}}
	if err := w.node(0, groupCount(size), 0, hashCV(h), guts.FlagRoot); err != nil {
		return proven{}, err
	}
	if len(w.proof) != 0 {
		return proven{}, fmt.Errorf("%d bytes too many in a proof: %w", len(w.proof), ErrProof)
	}
	return w.out, nil
}

// node checks the subtree of n groups from first on, whose chaining value is
// want and whose parent is number index of the outboard.
func (w *proofWalk) node(first, n, index int64, want cv, flags uint32) error {
	if n == 1 {
		w.out.cvs[first-w.r.First] = want
		return nil
	}
	if isZeroNode(first, n, want) {
		for g := max(first, w.r.First); g < min(first+n, w.r.End()); g++ {
			w.out.zero[g-w.r.First] = true
		}
		return nil
	}
	if len(w.proof) < parentSize {
		return fmt.Errorf("a proof ends early: %w", ErrProof)
	}
	p := w.proof[:parentSize]
	w.proof = w.proof[parentSize:]
	left, right := parentOf(p)
	if parentCV(&left, &right, flags) != want {
		return fmt.Errorf("parent %d: %w", index, ErrProof)
	}
	if w.parent != nil {
		if err := w.parent(index, n, p); err != nil {
			return err
		}
	}
	mid := leftGroups(n)
	if w.r.First < first+mid {
		if err := w.node(first, mid, index+1, left, 0); err != nil {
			return err
		}
	}
	if w.r.End() > first+mid {
		return w.node(first+mid, n-mid, index+mid, right, 0)
	}
	return nil
}

// isZeroNode reports whether a subtree is a block of zeros.
func isZeroNode(first, n int64, c cv) bool {
	if n != blockGroups {
		return false
	}
	zero, known := zeroBlock(first / blockGroups)
	return known && zero == c
}

// readProof appends the proof of r to p, from an outboard, unchecked.
func readProof(p []byte, out io.ReaderAt, h Hash, size int64, r Range) ([]byte, error) {
	return readProofNode(p, out, r, 0, groupCount(size), 0, hashCV(h))
}

func readProofNode(p []byte, out io.ReaderAt, r Range, first, n, index int64, want cv) ([]byte, error) {
	if n == 1 || isZeroNode(first, n, want) {
		return p, nil
	}
	at, count := len(p), int64(1)
	if whole := r.First <= first && first+n <= r.End(); whole && n <= spanGroups {
		count = n - 1 // all its parents, which are together
	}
	p = slices.Grow(p, int(count)*parentSize)[:at+int(count)*parentSize]
	if err := readFull(out, p[at:], index*parentSize); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errOutboard
		}
		return p, err
	}
	if count > 1 || n == 2 {
		return p, nil
	}
	left, right := parentOf(p[at:])
	mid := leftGroups(n)
	var err error
	if r.First < first+mid {
		p, err = readProofNode(p, out, r, first, mid, index+1, left)
	}
	if err == nil && r.End() > first+mid {
		p, err = readProofNode(p, out, r, first+mid, n-mid, index+mid, right)
	}
	return p, err
}

// matches reports whether p is the bytes of group g of a content of more than
// one group.
func (v *proven) matches(g int64, p []byte) bool {
	if i := g - v.r.First; v.zero[i] {
		return allZero(p)
	} else {
		return groupCV(p, g) == v.cvs[i]
	}
}

// Proof appends to p what a stranger needs to check groups against the hash,
// and returns which: those of r up to the next multiple of FrameGroups, or, if
// zero is true, as many as are known to be zeros by it and need not be sent.
func (b *Blob) Proof(p []byte, r Range) (proof []byte, got Range, zero bool, err error) {
	got = Range{r.First, min(r.Count, FrameGroups-r.First%FrameGroups)}
	if err := got.valid(b.size); err != nil || groupCount(b.size) == 1 {
		return p, got, false, err
	}
	at := len(p)
	if p, err = b.parents(p, got); err != nil {
		return p, got, false, err
	}
	v, err := checkProof(b.hash, b.size, got, p[at:], nil)
	if err == nil && v.zero[0] { // then the whole block is, and its proof is this one
		got.Count, zero = min(r.Count, blockGroups-r.First%blockGroups), true
	}
	return p, got, zero, err
}

// parents appends the parents of r.
func (b *Blob) parents(p []byte, r Range) ([]byte, error) {
	if b.part != nil {
		return b.part.p.parents(p, r)
	}
	if b.size <= spanSize { // no outboard
		out, err := b.smallOutboard()
		if err != nil {
			return p, err
		}
		return readProof(p, out, b.hash, b.size, r)
	}
	f := b.file
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proof(p, r)
}

// smallOutboard makes the outboard of a content of one span.
func (b *Blob) smallOutboard() (memory, error) {
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	p := buf[:b.size]
	if err := readFull(b, p, 0); err != nil {
		return nil, err
	}
	cvs := make([]cv, groupCount(b.size))
	for i := range cvs {
		from := i * GroupSize
		cvs[i] = groupCV(p[from:min(from+GroupSize, len(p))], int64(i))
	}
	out := make(memory, (len(cvs)-1)*parentSize)
	foldOut(cvs, out, guts.FlagRoot)
	return out, nil
}

// proof appends the parents of r and makes an outboard anew that is missing or
// wrong. mu must be held.
func (b *blobFile) proof(p []byte, r Range) ([]byte, error) {
	at := len(p)
	for again := true; ; again = false {
		err := b.openOutboard()
		if err == nil {
			p, err = readProof(p[:at], b.out, b.hash, b.size, r)
		}
		if err == nil {
			_, err = checkProof(b.hash, b.size, r, p[at:], nil)
		}
		if err == nil || !again || !errors.Is(err, errOutboard) && !errors.Is(err, ErrProof) {
			return p, err
		}
		if err := b.rebuild(); err != nil {
			return p, err
		}
	}
}

// openOutboard opens the outboard if it is not open. mu must be held.
func (b *blobFile) openOutboard() error {
	if b.out != nil {
		return nil
	}
	f, err := os.Open(b.s.outboardPath(b.hash))
	if errors.Is(err, fs.ErrNotExist) {
		return errOutboard
	}
	if err != nil {
		return err
	}
	b.out = f
	return nil
}
