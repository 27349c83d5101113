package blobstore

import (
	_ "embed"
	"unsafe"
)

// blockGroups is the number of groups in a block, the 64 MiB for which we know
// what zeros hash to. A chaining value depends on its position, so there is one
// per block.
const (
	blockGroups = 4096
	blockSize   = blockGroups * GroupSize
	zeroBlocks  = 1024 // in the table: 64 GiB
)

//go:generate go test -run TestZeroTable -write-zero-table
//go:embed zero.bin
var zeroTable string

// zeroBlock returns the chaining value of block i when it is all zeros.
func zeroBlock(i int64) (c cv, known bool) {
	if i >= zeroBlocks || len(zeroTable) != zeroBlocks*32 {
		return cv{}, false
	}
	copy((*[32]byte)(unsafe.Pointer(&c))[:], zeroTable[i*32:])
	return c, true
}

var zeroGroup [GroupSize]byte

// allZero reports whether p holds nothing but zeros.
func allZero(p []byte) bool {
	for len(p) > GroupSize {
		if string(p[:GroupSize]) != string(zeroGroup[:]) {
			return false
		}
		p = p[GroupSize:]
	}
	return string(p) == string(zeroGroup[:len(p)])
}
