package crdtsync

import (
	"bytes"
	"slices"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// findNode returns the local number of a node, 0 when it has none.
func findNode(tx *schema.Tx, k identity.Key) (id int64, err error) {
	s := tx.Stmt(`SELECT id FROM node WHERE key = ?`)
	s.BindBytes(1, k[:])
	ok, err := s.Step()
	if err != nil || !ok {
		return 0, err
	}
	return s.ColumnInt64(0), nil
}

// nodeID is findNode, and gives a number.
func nodeID(tx *schema.Tx, k identity.Key) (id int64, err error) {
	if id, err = findNode(tx, k); err != nil || id != 0 {
		return id, err
	}
	s := tx.Stmt(`INSERT INTO node (key) VALUES (?) RETURNING id`)
	s.BindBytes(1, k[:])
	if _, err = s.Step(); err != nil {
		return 0, err
	}
	id = s.ColumnInt64(0)
	_, err = s.Step()
	return id, err
}

// doc is a row of sync_doc.
type doc struct {
	id    int64
	name  identity.Document
	heads []gate.Hash
	full  bool
}

const selectDoc = `SELECT id, gen, heads, full FROM sync_doc WHERE bucket = ? AND branch = ? AND dir = ? AND gen >= ? ORDER BY gen DESC`

// findDoc returns the row of document d of the local bucket; false when there
// is none. With newest, it is of the greatest generation from d.Gen on.
func findDoc(tx *schema.Tx, bucket int64, d identity.Document, newest bool) (r doc, ok bool, err error) {
	s := tx.Stmt(selectDoc)
	s.BindInt64(1, bucket)
	s.BindBytes(2, d.Branch[:])
	s.BindInt64(3, int64(d.Dir))
	s.BindInt64(4, int64(d.Gen))
	for {
		if ok, err = s.Step(); err != nil || !ok {
			return r, false, err
		}
		if newest || uint32(s.ColumnInt64(1)) == d.Gen {
			break
		}
	}
	r = doc{id: s.ColumnInt64(0), name: d, full: s.ColumnInt64(3) != 0}
	r.name.Gen = uint32(s.ColumnInt64(1))
	r.heads = hashes(schema.Bytes(s, 2))
	return r, true, nil
}

// hashes decodes hashes that are one after the other.
func hashes(b []byte) (all []gate.Hash) {
	for h := range slices.Chunk(b, len(gate.Hash{})) {
		all = append(all, gate.Hash(h))
	}
	return all
}

// makeDoc is findDoc, and adds the row where there is none.
func makeDoc(tx *schema.Tx, bucket int64, d identity.Document, newest bool) (doc, error) {
	r, ok, err := findDoc(tx, bucket, d, newest)
	if err != nil || ok {
		return r, err
	}
	s := tx.Stmt(`INSERT INTO sync_doc (bucket, branch, dir, gen, heads) VALUES (?, ?, ?, ?, x'') RETURNING id`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, d.Branch[:])
	s.BindInt64(3, int64(d.Dir))
	s.BindInt64(4, int64(d.Gen))
	if _, err := s.Step(); err != nil {
		return r, err
	}
	r = doc{id: s.ColumnInt64(0), name: d}
	_, err = s.Step()
	return r, err
}

// change is a row of sync_change, but for its document.
type change struct {
	arrived  int64 // 0: the next
	bucket   int64
	author   int64
	stream   identity.Stream
	seq      uint64
	hash     gate.Hash
	docseq   uint64
	maxop    uint64
	source   int64
	envelope []byte
	last     [32]byte // Hash of the envelope
	closed   bool     // the document's generation is: it is not on top of anything there
}

// insertChange adds c as the newest, with the heads and the stream it moves.
func insertChange(tx *schema.Tx, c *change, d doc, deps []gate.Hash) error {
	if err := placeChange(tx, c, d, deps); err != nil {
		return err
	}
	return moveStream(tx, c)
}

// placeChange is insertChange without the stream. It gives c a number unless it has
// one.
func placeChange(tx *schema.Tx, c *change, d doc, deps []gate.Hash) (err error) {
	if c.arrived == 0 {
		if c.arrived, err = nextArrival(tx); err != nil {
			return err
		}
	}
	s := tx.Stmt(`INSERT INTO sync_change (bucket, author, stream, seq, doc, hash, docseq, maxop, source, envelope, arrived)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(11, c.arrived)
	s.BindInt64(1, c.bucket)
	s.BindInt64(2, c.author)
	s.BindBytes(3, c.stream[:])
	s.BindInt64(4, int64(c.seq))
	s.BindInt64(5, d.id)
	s.BindBytes(6, c.hash[:])
	s.BindInt64(7, int64(c.docseq))
	s.BindInt64(8, int64(c.maxop))
	s.BindInt64(9, c.source)
	s.BindBytes(10, c.envelope)
	if _, err := s.Step(); err != nil {
		return err
	}
	if c.closed {
		return nil
	}
	heads := slices.DeleteFunc(slices.Clone(d.heads), func(h gate.Hash) bool { return slices.Contains(deps, h) })
	heads = append(heads, c.hash)
	slices.SortFunc(heads, compareHashes)
	var b []byte
	for _, h := range heads {
		b = append(b, h[:]...)
	}
	s = tx.Stmt(`UPDATE sync_doc SET heads = ? WHERE id = ?`)
	s.BindBytes(1, b)
	s.BindInt64(2, d.id)
	_, err = s.Step()
	return err
}

// moveStream notes that a stream has come as far as c.
func moveStream(tx *schema.Tx, c *change) error {
	s := tx.Stmt(`INSERT INTO sync_stream (bucket, author, stream, seq, last) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET seq = excluded.seq, last = excluded.last`)
	s.BindInt64(1, c.bucket)
	s.BindInt64(2, c.author)
	s.BindBytes(3, c.stream[:])
	s.BindInt64(4, int64(c.seq))
	s.BindBytes(5, c.last[:])
	_, err := s.Step()
	return err
}

func compareHashes(a, b gate.Hash) int { return bytes.Compare(a[:], b[:]) }

// streamEnd returns how far a stream has come, 0 when nothing of it has, and
// the hash of its last envelope.
func streamEnd(tx *schema.Tx, bucket, author int64, stream identity.Stream) (seq uint64, last [32]byte, err error) {
	s := tx.Stmt(`SELECT seq, last FROM sync_stream WHERE bucket = ? AND author = ? AND stream = ?`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, author)
	s.BindBytes(3, stream[:])
	ok, err := s.Step()
	if err != nil || !ok {
		return 0, last, err
	}
	s.ColumnBytes(1, last[:])
	return uint64(s.ColumnInt64(0)), last, nil
}

// opAfter returns the operation counter that a change of a document on top of deps
// has. False when one of them is not there.
func opAfter(tx *schema.Tx, d int64, deps []gate.Hash) (op uint64, ok bool, err error) {
	for _, h := range deps {
		s := tx.Stmt(`SELECT maxop FROM sync_change WHERE doc = ? AND hash = ?`)
		s.BindInt64(1, d)
		s.BindBytes(2, h[:])
		if ok, err := s.Step(); err != nil || !ok {
			return 0, false, err
		}
		op = max(op, uint64(s.ColumnInt64(0)))
	}
	return op + 1, true, nil
}

// lastIn returns the number in a document, and the hash, of the newest change there of
// the stream of c before c; 0 when there is none. It looks back through the stream
// and through the document at once, until one of them says: a stream that writes to a
// document again and again has just been there, and most documents are short.
func lastIn(tx *schema.Tx, d int64, c *change) (docseq uint64, h gate.Hash, err error) {
	back := tx.Stmt(`SELECT doc, docseq, hash FROM sync_change WHERE bucket = ? AND author = ? AND stream = ? AND seq < ? ORDER BY seq DESC`)
	back.BindInt64(1, c.bucket)
	back.BindInt64(2, c.author)
	back.BindBytes(3, c.stream[:])
	back.BindInt64(4, int64(c.seq))
	all := tx.Stmt(`SELECT author, docseq, hash, stream, seq FROM sync_change WHERE doc = ?`)
	all.BindInt64(1, d)
	defer all.Reset()
	defer back.Reset()
	for {
		ok, err := back.Step()
		if err != nil {
			return 0, h, err
		}
		if !ok {
			return 0, h, nil
		}
		if back.ColumnInt64(0) == d {
			back.ColumnBytes(2, h[:])
			return uint64(back.ColumnInt64(1)), h, nil
		}
		if ok, err = all.Step(); err != nil || !ok {
			return docseq, h, err
		}
		var stream identity.Stream
		all.ColumnBytes(3, stream[:])
		if n := uint64(all.ColumnInt64(1)); n > docseq && all.ColumnInt64(0) == c.author && stream == c.stream && all.ColumnInt64(4) < int64(c.seq) {
			docseq = n
			all.ColumnBytes(2, h[:])
		}
	}
}

// shared is a row of sync_bucket.
type shared struct {
	bucket pathtree.Bucket
	owner  identity.Key
	gen    uint32 // documents of lesser generations are closed
}

// sharedBuckets returns the buckets that are shared.
func (r *Replica) sharedBuckets(tx *schema.Tx) (all []shared, err error) {
	buckets, err := r.tree.Buckets(tx)
	if err != nil {
		return nil, err
	}
	for _, b := range buckets {
		sh, ok, err := findShared(tx, b)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, sh)
		}
	}
	return all, nil
}

func findShared(tx *schema.Tx, b pathtree.Bucket) (sh shared, ok bool, err error) {
	s := tx.Stmt(`SELECT owner, gen FROM sync_bucket WHERE bucket = ?`)
	s.BindInt64(1, b.ID)
	if ok, err = s.Step(); err != nil || !ok {
		return sh, false, err
	}
	sh = shared{bucket: b, gen: uint32(s.ColumnInt64(1))}
	s.ColumnBytes(0, sh.owner[:])
	return sh, true, nil
}
