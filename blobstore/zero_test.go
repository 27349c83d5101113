package blobstore

import (
	"flag"
	"os"
	"testing"
)

var writeZeroTable = flag.Bool("write-zero-table", false, "write zero.bin")

func TestZeroTable(t *testing.T) {
	// Hashing all 64 GiB takes long: a few blocks stand for the others.
	blocks := []int64{0, 1, 1023}
	if *writeZeroTable {
		blocks = blocks[:0]
		for i := range int64(zeroBlocks) {
			blocks = append(blocks, i)
		}
	}
	var table []byte
	for _, block := range blocks {
		cvs := make([]cv, blockGroups)
		for i := range cvs {
			cvs[i] = groupCV(zeroGroup[:], block*blockGroups+int64(i))
		}
		c := foldOut(cvs, nil, 0)
		h := cvHash(&c)
		table = append(table, h[:]...)
		if have, known := zeroBlock(block); !*writeZeroTable && (!known || have != c) {
			t.Errorf("block %d: zero.bin has %x, want %x", block, have, c)
		}
	}
	if *writeZeroTable {
		if err := os.WriteFile("zero.bin", table, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
