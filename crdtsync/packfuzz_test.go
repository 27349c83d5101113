package crdtsync

import (
	"crypto/ed25519"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// FuzzPieces has pieces of packs come that are anything: those that can be read hold
// what can be written again.
func FuzzPieces(f *testing.F) {
	for _, data := range somePieces(f) {
		f.Add(data)
	}
	f.Add([]byte("no piece"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := openPiece(data)
		if err != nil {
			return
		}
		for i := range b.Versions {
			_ = b.Versions[i].Check()
		}
		if err := (sums{}).addPacked(b); err != nil {
			t.Error(err)
		}
	})
}

// somePieces returns a piece of each kind.
func somePieces(f *testing.F) (all [][]byte) {
	for _, p := range []piece{
		{Records: [][]byte{{0xa0}}},
		{Docs: []pieceDoc{{Dir: 1, Kinds: []byte{kindInode, kindDentry}, Values: [][]byte{{0xa0}, {0xa0}}}}},
		{Docs: []pieceDoc{{Dir: 1, Kinds: []byte{kindXattr}}}},
	} {
		q := packer{piece: p, n: 1, most: pieceVersions, done: func(b []byte) error { all = append(all, b); return nil }}
		if err := q.cut(); err != nil {
			f.Fatal(err)
		}
	}
	return all
}

// FuzzCompaction has records of compactions come that are anything: what opens is signed,
// and says the same when it is encoded again.
func FuzzCompaction(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	c := identity.Compaction{Gen: 1, Pieces: [][32]byte{{1}}, Ends: []identity.End{{Seq: 1}}}
	b, err := c.Seal(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := identity.OpenCompaction(data)
		if err != nil {
			return
		}
		if c.Gen == 0 || len(c.Pieces) == 0 || !c.Covers(&c) || c.Body() == c.Hash() {
			t.Errorf("taken in: %+v", c)
		}
	})
}
