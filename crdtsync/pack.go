package crdtsync

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// A pack is all that is kept of a bucket, in pieces: the records first, and the branches
// of which none counts, to which others wrote; then the versions. A piece is deflated CBOR.

// Bounds of a piece.
const (
	pieceVersions = 4096    // versions and records
	pieceBytes    = 1 << 20 // before it is deflated, and one version more
	maxPiece      = 8 << 20 // before it is deflated
)

type piece struct {
	Records [][]byte   `cbor:"1,keyasint,omitempty"` // wireRecord
	Docs    []pieceDoc `cbor:"2,keyasint,omitempty"`
	Void    [][]byte   `cbor:"3,keyasint,omitempty"` // wireRecord: branches of which no record counts
}

// pieceDoc holds versions that belong into one document.
type pieceDoc struct {
	Branch [16]byte `cbor:"1,keyasint"`
	Dir    uint64   `cbor:"2,keyasint"`
	Kinds  []byte   `cbor:"3,keyasint"`
	Values [][]byte `cbor:"4,keyasint"` // wireVersion, whose IDs all name their node
}

// packer cuts a pack into pieces.
type packer struct {
	piece
	most     int // versions and records in a piece
	n, size  int
	versions int64
	done     func(encoded []byte) error
}

func (p *packer) records(all, void []pathtree.BucketRecord) error {
	add := func(to *[][]byte, r *pathtree.BucketRecord) error {
		e, err := encodeRecord(r, pathtree.NodeKey{})
		if err != nil {
			return err
		}
		*to = append(*to, e.Value)
		return p.added(len(e.Value))
	}
	for i := range void {
		if err := add(&p.Void, &void[i]); err != nil {
			return err
		}
	}
	for i := range all {
		if err := add(&p.Records, &all[i]); err != nil {
			return err
		}
	}
	return p.cut()
}

// added ends a piece that has enough.
func (p *packer) added(size int) error {
	if p.n, p.size = p.n+1, p.size+size; p.n < p.most && p.size < pieceBytes {
		return nil
	}
	return p.cut()
}

func (p *packer) version(v *pathtree.Version) error {
	e, err := encodeVersion(v, pathtree.NodeKey{})
	if err != nil {
		return err
	}
	if k := len(p.Docs) - 1; k < 0 || p.Docs[k].Branch != v.Branch || p.Docs[k].Dir != uint64(v.Dir()) {
		p.Docs = append(p.Docs, pieceDoc{Branch: v.Branch, Dir: uint64(v.Dir())})
	}
	d := &p.Docs[len(p.Docs)-1]
	d.Kinds = append(d.Kinds, e.Key[0])
	d.Values = append(d.Values, e.Value)
	p.versions++
	return p.added(len(e.Value))
}

// cut ends a piece.
func (p *packer) cut() error {
	if p.n == 0 {
		return nil
	}
	b, err := encMode.Marshal(&p.piece)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.DefaultCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	p.piece, p.n, p.size = piece{}, 0, 0
	return p.done(buf.Bytes())
}

// errPack says that a pack holds what no pack of ours does.
var errPack = errors.New("the pack of a compaction is not one of ours")

func inflate(encoded []byte) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(encoded)), maxPiece+1))
	if err == nil && len(raw) > maxPiece {
		err = fmt.Errorf("a piece of more than %d bytes", maxPiece)
	}
	return raw, err
}

// packed is what is in a piece.
type packed struct {
	pathtree.Batch
	void []pathtree.BucketRecord
}

// ofBucket reports whether anything there is about the bucket.
func (b *packed) ofBucket() bool { return len(b.Records)+len(b.void) > 0 }

func openPiece(encoded []byte) (b packed, err error) {
	raw, err := inflate(encoded)
	if err != nil {
		return b, fmt.Errorf("%w: %w", errPack, err)
	}
	var p piece
	if err := decMode.Unmarshal(raw, &p); err != nil {
		return b, fmt.Errorf("%w: %w", errPack, err)
	}
	if b.Records, err = readRecords(p.Records); err == nil {
		b.void, err = readRecords(p.Void)
	}
	if err != nil {
		return b, err
	}
	for _, d := range p.Docs {
		if len(d.Kinds) != len(d.Values) {
			return b, errPack
		}
		for i, k := range d.Kinds {
			v, err := readVersion(k, d.Values[i], identity.Document{Branch: d.Branch, Dir: d.Dir}, pathtree.NodeKey{})
			if errors.Is(err, errUnknownKind) {
				continue
			}
			if err != nil {
				return b, fmt.Errorf("%w: %w", errPack, err)
			}
			b.Versions = append(b.Versions, v)
		}
	}
	return b, nil
}

func readRecords(encoded [][]byte) (all []pathtree.BucketRecord, err error) {
	for _, b := range encoded {
		r, err := readRecord(b, pathtree.NodeKey{})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPack, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// sums is a set of what was said of a bucket, by versionSum and recordSum.
type sums map[[16]byte]bool

func (s sums) addPacked(b packed) error { return s.add(b.Batch) }

func (s sums) add(b pathtree.Batch) error {
	for i := range b.Versions {
		s[versionSum(&b.Versions[i])] = true
	}
	for i := range b.Records {
		s[recordSum(&b.Records[i])] = true
	}
	return nil
}

// versionSum identifies a version and what it says, but for its lineage, which is
// another where what it followed was pruned.
func versionSum(v *pathtree.Version) (sum [16]byte) {
	about := v.Ino
	if v.Kind == pathtree.DentryVersion {
		about = v.Parent
	}
	alone := *v
	alone.Prev, alone.Settles = pathtree.VersionID{}, nil
	e, err := encodeVersion(&alone, pathtree.NodeKey{})
	if err != nil {
		return sum // of a kind that is not known here
	}
	return [16]byte(hashOfParts(v.Branch[:], inoBytes(about), []byte(e.Key), e.Value))
}

func recordSum(r *pathtree.BucketRecord) (sum [16]byte) {
	e, err := encodeRecord(r, pathtree.NodeKey{})
	if err != nil {
		return sum
	}
	return [16]byte(hashOfParts([]byte(e.Key), e.Value))
}

func hashOfParts(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return h.Sum(nil)[:16]
}

// putPiece stores a piece.
func putPiece(tx *schema.Tx, bucket int64, data []byte) (hash [32]byte, err error) {
	hash = sha256.Sum256(data)
	s := tx.Stmt(`INSERT INTO sync_piece (bucket, hash, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, hash[:])
	s.BindBytes(3, data)
	_, err = s.Step()
	return hash, err
}

// readPiece returns a piece, nil when it is not here.
func readPiece(tx *schema.Tx, bucket int64, hash [32]byte) ([]byte, error) {
	s := tx.Stmt(`SELECT data FROM sync_piece WHERE bucket = ? AND hash = ?`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, hash[:])
	ok, err := s.Step()
	if err != nil || !ok {
		return nil, err
	}
	return schema.Bytes(s, 0), nil
}

// countPieces returns how many of the first pieces of a pack are here.
func countPieces(tx *schema.Tx, bucket int64, c *identity.Compaction) (n int, err error) {
	for _, h := range c.Pieces {
		s := tx.Stmt(`SELECT 1 FROM sync_piece WHERE bucket = ? AND hash = ?`)
		s.BindInt64(1, bucket)
		s.BindBytes(2, h[:])
		if ok, err := s.Step(); err != nil || !ok {
			return n, err
		}
		n++
	}
	return n, nil
}

// eachPiece calls f with what is in each piece of a pack, which is here.
func (r *Replica) eachPiece(ctx context.Context, bucket int64, c *identity.Compaction, f func(packed) error) error {
	for i := range c.Pieces {
		var b packed
		err := r.db.Read(func(tx *schema.Tx) (err error) {
			b, err = pieceAt(ctx, tx, bucket, c, i)
			return err
		})
		if err != nil {
			return err
		}
		if err := f(b); err != nil {
			return err
		}
	}
	return nil
}

// pieceAt returns what is in a piece of a pack, which is here.
func pieceAt(ctx context.Context, tx *schema.Tx, bucket int64, c *identity.Compaction, i int) (b packed, err error) {
	if ctx.Err() != nil {
		return b, ctx.Err()
	}
	data, err := readPiece(tx, bucket, c.Pieces[i])
	if err != nil {
		return b, err
	}
	return openPiece(data)
}
