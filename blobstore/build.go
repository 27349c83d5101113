package blobstore

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"

	"lukechampine.com/blake3/guts"
)

// spanGroups is the number of groups in a span, 1 MiB. A content of one span
// has no outboard; otherwise the parents of a span are together in it.
const (
	spanGroups = 64
	spanSize   = spanGroups * GroupSize
)

// build hashes a content in parallel and makes its outboard.
type build struct {
	src    *os.File
	size   int64
	groups int64
	dense  bool
	data   []extent    // where src is no hole, unless dense
	out    io.WriterAt // takes the outboard; may be nil
	// known copies to cvs the chaining values it has of a span, and says which
	// as a bit set; may be nil.
	known    func(span int64, cvs []cv) uint64
	progress func(bytes int64) // may be nil

	mu struct {
		sync.Mutex
		blocks map[int64]*blockBuild
		err    error
	}
	blockCVs []cv
	hashed   atomic.Int64
}

type blockBuild struct {
	cvs  []cv
	left int64 // spans not hashed yet
}

// run returns the hash of the content.
func (b *build) run(ctx context.Context) (Hash, error) {
	b.groups = groupCount(b.size)
	var err error
	if b.data, b.dense, err = dataExtents(b.src, b.size); err != nil {
		return Hash{}, err
	}
	switch b.groups {
	case 0:
		return Hash{}, nil
	case 1:
		p := make([]byte, b.size)
		if err := readFull(b.src, p, 0); err != nil {
			return Hash{}, err
		}
		return Sum(p), nil
	}
	blocks := (b.groups + blockGroups - 1) / blockGroups
	b.blockCVs = make([]cv, blocks)
	b.mu.blocks = make(map[int64]*blockBuild)
	b.hashSpans(ctx)
	if b.mu.err != nil {
		return Hash{}, b.mu.err
	}
	if err := ctx.Err(); err != nil {
		return Hash{}, err
	}
	if blocks == 1 {
		return cvHash(&b.blockCVs[0]), nil
	}
	root, err := b.top(0, blocks, 0, guts.FlagRoot)
	return cvHash(&root), err
}

// hashSpans has workers take spans in turn, so that all cores are busy to the
// end; whoever hashes the last span of a block folds the block.
func (b *build) hashSpans(ctx context.Context) {
	spans := (b.groups + spanGroups - 1) / spanGroups
	var next atomic.Int64
	work := func() {
		buf := spanBuffers.Get().(*[spanSize]byte)
		defer spanBuffers.Put(buf)
		for ctx.Err() == nil {
			i := next.Add(1) - 1
			if i >= spans {
				return
			}
			if err := b.span(i, buf); err != nil {
				b.mu.Lock()
				if b.mu.err == nil {
					b.mu.err = err
				}
				b.mu.Unlock()
				return
			}
			if b.progress != nil {
				b.progress(min(spanSize, b.size-i*spanSize))
			}
		}
	}
	workers := min(spans, int64(runtime.GOMAXPROCS(0)))
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

var spanBuffers = sync.Pool{New: func() any { return new([spanSize]byte) }}

func (b *build) span(i int64, buf *[spanSize]byte) error {
	block := i / (blockGroups / spanGroups)
	if b.isZeroBlock(block) {
		if i%(blockGroups/spanGroups) == 0 {
			b.blockCVs[block], _ = zeroBlock(block)
		}
		return nil
	}
	b.mu.Lock()
	bb := b.mu.blocks[block]
	if bb == nil {
		n := min(blockGroups, b.groups-block*blockGroups)
		bb = &blockBuild{cvs: make([]cv, n), left: (n + spanGroups - 1) / spanGroups}
		b.mu.blocks[block] = bb
	}
	b.mu.Unlock()
	first := i * spanGroups
	in := first - block*blockGroups
	n := min(spanGroups, b.groups-first)
	if err := b.hashGroups(i, bb.cvs[in:in+n], buf); err != nil {
		return err
	}
	b.mu.Lock()
	bb.left--
	last := bb.left == 0
	if last {
		delete(b.mu.blocks, block)
	}
	b.mu.Unlock()
	if last {
		return b.foldBlock(block, bb.cvs)
	}
	return nil
}

func (b *build) isZeroBlock(block int64) bool {
	_, known := zeroBlock(block)
	from := block * blockSize
	return known && !b.dense && b.groups > blockGroups && from+blockSize <= b.size && !b.hasData(from, from+blockSize)
}

func (b *build) hasData(from, to int64) bool {
	if b.dense {
		return true
	}
	i := sort.Search(len(b.data), func(i int) bool { return b.data[i].to > from })
	return i < len(b.data) && b.data[i].from < to
}

// hashGroups fills cvs with the chaining values of a span's groups, reading
// runs of groups that are neither known nor holes.
func (b *build) hashGroups(span int64, cvs []cv, buf *[spanSize]byte) error {
	var known uint64
	if b.known != nil {
		known = b.known(span, cvs)
	}
	base := span * spanGroups
	for i := 0; i < len(cvs); {
		if known&(1<<i) != 0 {
			i++
			continue
		}
		from := (base + int64(i)) * GroupSize
		if to := min(from+GroupSize, b.size); !b.hasData(from, to) {
			cvs[i] = groupCV(zeroGroup[:to-from], base+int64(i))
			b.hashed.Add(1)
			i++
			continue
		}
		end := i + 1
		for end < len(cvs) && end-i < 16 && known&(1<<end) == 0 {
			end++
		}
		to := min((base+int64(end))*GroupSize, b.size)
		p := buf[:to-from]
		if err := readFull(b.src, p, from); err != nil {
			return err
		}
		b.hashed.Add(int64(end - i))
		for ; i < end; i++ {
			n := min(GroupSize, len(p))
			cvs[i] = groupCV(p[:n], base+int64(i))
			p = p[n:]
		}
	}
	return nil
}

func (b *build) foldBlock(block int64, cvs []cv) error {
	flags := uint32(0)
	if int64(len(b.blockCVs)) == 1 {
		flags = guts.FlagRoot
	}
	if b.out == nil || len(cvs) == 1 {
		b.blockCVs[block] = foldOut(cvs, nil, flags)
		return nil
	}
	out := make([]byte, (len(cvs)-1)*parentSize)
	b.blockCVs[block] = foldOut(cvs, out, flags)
	_, err := b.out.WriteAt(out, subtreeIndex(b.groups, block*blockGroups, blockGroups)*parentSize)
	return err
}

// top folds blocks [first, first+n), whose parent is number index of the
// outboard.
func (b *build) top(first, n, index int64, flags uint32) (cv, error) {
	if n == 1 {
		return b.blockCVs[first], nil
	}
	mid := leftGroups(n)
	left, err := b.top(first, mid, index+1, 0)
	if err != nil {
		return cv{}, err
	}
	right, err := b.top(first+mid, n-mid, index+mid*blockGroups, 0)
	if err != nil {
		return cv{}, err
	}
	if b.out != nil {
		var p [parentSize]byte
		putParent(p[:], &left, &right)
		if _, err := b.out.WriteAt(p[:], index*parentSize); err != nil {
			return cv{}, err
		}
	}
	return guts.ChainingValue(guts.ParentNode(left, right, &guts.IV, flags)), nil
}

// foldOut folds the chaining values of a subtree's groups and writes its
// parents to out, in pre-order, unless that is nil.
func foldOut(cvs []cv, out []byte, flags uint32) cv {
	if len(cvs) == 1 {
		return cvs[0]
	}
	mid := leftGroups(int64(len(cvs)))
	var lout, rout []byte
	if out != nil {
		lout, rout = out[parentSize:], out[mid*parentSize:]
	}
	left, right := foldOut(cvs[:mid], lout, 0), foldOut(cvs[mid:], rout, 0)
	if out != nil {
		putParent(out, &left, &right)
	}
	return guts.ChainingValue(guts.ParentNode(left, right, &guts.IV, flags))
}

// subtreeIndex returns the number, in the outboard of a content of n groups, of
// the first parent of the subtree that starts at group first, a multiple of
// unit, and has unit groups or, at the end, fewer.
func subtreeIndex(n, first, unit int64) (index int64) {
	for n > unit {
		mid := leftGroups(n)
		if first < mid {
			index, n = index+1, mid
		} else {
			index, n, first = index+mid, n-mid, first-mid
		}
	}
	return index
}

func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF || err == nil {
		return fmt.Errorf("read at %d: %w", off+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}
