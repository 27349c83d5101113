package blobstore

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"lukechampine.com/blake3/guts"
)

// GroupSize is the unit of hashing and verification, in bytes: 16 BLAKE3
// chunks, the leaves of our trees.
const GroupSize = 16 << 10

// cv is a BLAKE3 chaining value, the 32 bytes that stand for a subtree in its
// parent. Words are little-endian in files.
type cv = [8]uint32

// parentSize is the size of a parent in an outboard: two chaining values.
const parentSize = 64

// groupCount returns the number of groups of a content of size bytes.
func groupCount(size int64) int64 { return (size + GroupSize - 1) / GroupSize }

// groupNode hashes group i, whose bytes are p.
func groupNode(p []byte, i int64) guts.Node {
	chunk := uint64(i) * (GroupSize / guts.ChunkSize)
	if len(p) == GroupSize {
		return guts.CompressBuffer((*[GroupSize]byte)(p), GroupSize, &guts.IV, chunk, 0)
	}
	var buf [GroupSize]byte
	n := copy(buf[:], p)
	return guts.CompressBuffer(&buf, n, &guts.IV, chunk, 0)
}

// groupCV returns the chaining value of group i of a content that has more
// than one.
func groupCV(p []byte, i int64) cv { return guts.ChainingValue(groupNode(p, i)) }

func parentCV(left, right *cv, flags uint32) cv {
	return guts.ChainingValue(guts.ParentNode(*left, *right, &guts.IV, flags))
}

// cvHash returns the bytes of c. As everywhere in this package, the machine is
// taken to be little-endian where guts takes it to be.
func cvHash(c *cv) Hash { return *(*Hash)(unsafe.Pointer(c)) }

func hashCV(h Hash) (c cv) {
	copy((*Hash)(unsafe.Pointer(&c))[:], h[:])
	return c
}

// leftGroups returns how many of n > 1 groups are below the left child: the
// greatest power of two less than n.
func leftGroups(n int64) int64 { return 1 << (bits.Len64(uint64(n-1)) - 1) }

// sumTree hashes more than one group held in memory.
func sumTree(p []byte) Hash {
	n := groupCount(int64(len(p)))
	cvs := make([]cv, n)
	group := func(i int64) {
		cvs[i] = groupCV(p[i*GroupSize:min((i+1)*GroupSize, int64(len(p)))], i)
	}
	if workers := int64(runtime.GOMAXPROCS(0)); n >= 64 && workers > 1 {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range min(workers, n/16) {
			wg.Go(func() {
				for {
					from := next.Add(16) - 16
					if from >= n {
						return
					}
					for i := from; i < min(from+16, n); i++ {
						group(i)
					}
				}
			})
		}
		wg.Wait()
	} else {
		for i := range n {
			group(i)
		}
	}
	return foldRoot(cvs)
}

// foldRoot folds the chaining values of two or more groups to the hash.
func foldRoot(cvs []cv) Hash {
	c := foldOut(cvs, nil, guts.FlagRoot)
	return cvHash(&c)
}

// putParent and parentOf are the form of a parent in an outboard.
func putParent(p []byte, left, right *cv) {
	copy(p, (*Hash)(unsafe.Pointer(left))[:])
	copy(p[32:], (*Hash)(unsafe.Pointer(right))[:])
}

func parentOf(p []byte) (left, right cv) {
	copy((*Hash)(unsafe.Pointer(&left))[:], p)
	copy((*Hash)(unsafe.Pointer(&right))[:], p[32:64])
	return left, right
}
