package crdtsync

import (
	"crypto/ed25519"
	"errors"
	"io"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
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

// FuzzPackMessages has messages about packs come that are anything, while pieces are waited
// for: a session takes them in or refuses them, and the store stays whole.
func FuzzPackMessages(f *testing.F) {
	owner, joiner := newStore(f, "owner"), newStore(f, "joiner")
	b := owner.makeBucket("team")
	owner.write(b, "file", "text")
	joiner.admit(owner, b, identity.ReadWrite)
	if _, err := owner.Compact(f.Context(), b, nil); err != nil {
		f.Fatal(err)
	}
	have, err := owner.packsOf(b)
	if err != nil {
		f.Fatal(err)
	}
	data, err := owner.piecesOf(b, have[0].c.Pieces, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	asked := want{Bucket: b, Body: have[0].body}
	for _, m := range []message{
		{Compacted: &compacted{Bucket: b, New: [][]byte{have[0].c.encoded}, Whole: [][32]byte{have[0].body}}},
		{Want: &want{Bucket: b, Body: have[0].body, From: -1}},
		{Want: &asked},
		{Pieces: &pieces{want: asked, Data: data}},
		{Pieces: &pieces{want: asked}},
	} {
		encoded, err := encMode.Marshal(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		m, err := decodeMessage(encoded)
		if err != nil {
			return
		}
		s := newSession(NewEngine(joiner.Replica, newMemNet().node("joiner", joiner.Key()), Options{}), owner.Key(), io.Discard)
		feed := newFeed()
		feed.packs.asked = &asked
		s.buckets[b] = feed
		switch {
		case m.Compacted != nil:
			err = s.gotCompacted(m.Compacted)
		case m.Want != nil:
			s.gotWant(m.Want)
		case m.Pieces != nil:
			err = s.gotPieces(m.Pieces)
		default:
			return
		}
		if err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("neither taken in nor refused: %v", err)
		}
		if err := s.exchangePacksOf(b, feed); err != nil {
			t.Error(err)
		}
		if _, err := joiner.Fold(t.Context(), b); err != nil {
			t.Error(err)
		}
		err = joiner.db.Snapshot(func(tx *schema.Tx) error {
			return Check(tx, false, func(problem string) { t.Error(problem) })
		})
		if err != nil {
			t.Error(err)
		}
	})
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
