package crdtsync

import (
	"fmt"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// nextArrival returns the number that the next change gets, whole or not.
func nextArrival(tx *schema.Tx) (int64, error) {
	s := tx.Stmt(`SELECT 1 + max(coalesce((SELECT max(arrived) FROM sync_change), 0), coalesce((SELECT max(arrived) FROM sync_stub), 0))`)
	_, err := s.Step()
	return s.ColumnInt64(0), err
}

// stubRow is a row of sync_stub.
type stubRow struct {
	arrived, branch int64
	author, source  int64
	identity.Envelope
}

// insertStub adds e under a number, 0 for the next.
func insertStub(tx *schema.Tx, bucket int64, r *stubRow) (err error) {
	if r.arrived == 0 {
		if r.arrived, err = nextArrival(tx); err != nil {
			return err
		}
	}
	s := tx.Stmt(`INSERT INTO sync_stub (arrived, bucket, author, stream, seq, branch, source, dir, gen, hash, prev, sig)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, r.arrived)
	s.BindInt64(2, bucket)
	s.BindInt64(3, r.author)
	s.BindBytes(4, r.Stream[:])
	s.BindInt64(5, int64(r.Seq))
	s.BindInt64(6, r.branch)
	s.BindInt64(7, r.source)
	s.BindInt64(8, int64(r.Dir))
	s.BindInt64(9, int64(r.Gen))
	s.BindBytes(10, r.Raw)
	s.BindBytes(11, r.Prev[:])
	s.BindBytes(12, r.Sig)
	_, err = s.Step()
	return err
}

const selectStub = `SELECT t.arrived, t.branch, t.author, t.source, a.key, t.stream, t.seq, k.uuid, b.uuid, t.dir, t.gen, t.hash, t.prev, t.sig
	FROM sync_stub t JOIN node a ON a.id = t.author JOIN branch b ON b.id = t.branch JOIN bucket k ON k.id = t.bucket `

func scanStub(s *sqlite.Stmt) (r stubRow) {
	r.arrived, r.branch, r.author, r.source = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)
	e := &r.Envelope
	e.Form = identity.Stub
	s.ColumnBytes(4, e.Author[:])
	s.ColumnBytes(5, e.Stream[:])
	e.Seq = uint64(s.ColumnInt64(6))
	s.ColumnBytes(7, e.Bucket[:])
	s.ColumnBytes(8, e.Branch[:])
	e.Dir, e.Gen = uint64(s.ColumnInt64(9)), uint32(s.ColumnInt64(10))
	e.Raw = schema.Bytes(s, 11)
	s.ColumnBytes(12, e.Prev[:])
	e.Sig = schema.Bytes(s, 13)
	return r
}

// findStub returns the stub of a change; false when there is none.
func findStub(tx *schema.Tx, bucket, author int64, stream identity.Stream, seq uint64) (r stubRow, ok bool, err error) {
	s := tx.Stmt(selectStub + `WHERE t.bucket = ? AND t.author = ? AND t.stream = ? AND t.seq = ?`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, author)
	s.BindBytes(3, stream[:])
	s.BindInt64(4, int64(seq))
	if ok, err = s.Step(); err != nil || !ok {
		return r, false, err
	}
	return scanStub(s), true, nil
}

func deleteStub(tx *schema.Tx, arrived int64) error {
	s := tx.Stmt(`DELETE FROM sync_stub WHERE arrived = ?`)
	s.BindInt64(1, arrived)
	_, err := s.Step()
	return err
}

// wantedStubs counts the stubs of branches of a bucket that are kept, or of one branch:
// those of changes that count, and so are to be here whole, and those of others. What
// a node wrote that was shut out need not be anywhere, but may yet come to count.
func (r *Replica) wantedStubs(tx *schema.Tx, sh shared, branch int64) (n, void int64, err error) {
	if any, err := count(tx, `SELECT EXISTS (SELECT 1 FROM sync_stub WHERE bucket = ?)`, sh.bucket.ID); err != nil || any == 0 {
		return 0, 0, err
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return 0, 0, err
	}
	s := tx.Stmt(`SELECT a.key, t.stream, t.seq FROM branch b JOIN sync_stub t ON t.branch = b.id JOIN node a ON a.id = t.author
		WHERE b.bucket = ?1 AND b.keep IN (0, 2) AND (b.id = ?2 OR ?2 = 0)`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindInt64(2, branch)
	for err := range schema.Rows(s) {
		if err != nil {
			return 0, 0, err
		}
		var at stream
		s.ColumnBytes(0, at.author[:])
		s.ColumnBytes(1, at.stream[:])
		if m.Accepts(at.author, at.stream, uint64(s.ColumnInt64(2))) {
			n++
		} else {
			void++
		}
	}
	return n, void, nil
}

func hasStubs(tx *schema.Tx, branch int64) (bool, error) {
	n, err := count(tx, `SELECT EXISTS (SELECT 1 FROM sync_stub WHERE branch = ?)`, branch)
	return n != 0, err
}

// storeStub adds a change by its stub. Of a branch that is to be here, and of which
// nothing is yet, nothing is shown until it is whole.
func (r *Replica) storeStub(tx *schema.Tx, sh shared, source, author int64, e *identity.Envelope) error {
	b, ok, err := findBranch(tx, sh.bucket.ID, e.Branch)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: a stub of a branch that is not known here", errLater)
	}
	stub, ok := e.Stub()
	if !ok {
		return fmt.Errorf("%w: a change that was signed whole", errLater)
	}
	if err := insertStub(tx, sh.bucket.ID, &stubRow{branch: b.id, author: author, source: source, Envelope: stub}); err != nil {
		return err
	}
	if err := moveStream(tx, &change{bucket: sh.bucket.ID, author: author, stream: e.Stream, seq: e.Seq, last: e.Hash()}); err != nil {
		return err
	}
	if b.keep != kept {
		return nil
	}
	if some, err := hasSome(tx, sh, b.id, e.Branch); err != nil || some {
		return err
	}
	return r.setKeep(tx, sh, b.id, coming)
}

// stubsSince returns stubs of a bucket by number, at least one if there is one.
func stubsSince(tx *schema.Tx, bucket, after, upto int64, maxBytes int) (all []Stored, err error) {
	s := tx.Stmt(selectStub + `WHERE t.bucket = +?1 AND t.arrived > ?2 AND t.arrived <= ?3 ORDER BY t.arrived`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, after)
	s.BindInt64(3, upto)
	var sources []int64
	for size := 0; size < maxBytes; {
		ok, err := s.Step()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		r := scanStub(s)
		c := Stored{Arrived: r.arrived, Author: r.Author, Stream: r.Stream, Seq: r.Seq}
		if c.Envelope, err = r.Encode(); err != nil {
			return nil, err
		}
		size += len(c.Envelope)
		all, sources = append(all, c), append(sources, r.source)
	}
	for i := range all {
		s := tx.Stmt(`SELECT key FROM node WHERE id = ?`)
		s.BindInt64(1, sources[i])
		if _, err := s.Step(); err != nil {
			return nil, err
		}
		s.ColumnBytes(0, all[i].Source[:])
	}
	return all, nil
}

// encodedStub returns the stub of a number; nil when there is none.
func encodedStub(tx *schema.Tx, arrived int64) ([]byte, error) {
	s := tx.Stmt(selectStub + `WHERE t.arrived = ?`)
	s.BindInt64(1, arrived)
	ok, err := s.Step()
	if err != nil || !ok {
		return nil, err
	}
	r := scanStub(s)
	return r.Encode()
}
