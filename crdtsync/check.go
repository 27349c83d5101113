package crdtsync

import (
	"fmt"
	"slices"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// Check looks at the changes of all shared buckets, and reports a line for each thing
// that is not as it should be: that streams have no gaps, each change names the one
// before it, and documents are what their changes make, as far as no pack is in the
// place of changes. With deep it looks at
// signatures too, some 60 µs a change. Run it in a schema.DB.Snapshot.
func Check(tx *schema.Tx, deep bool, report func(problem string)) error {
	c := &checker{tx: tx, deep: deep, report: report}
	if err := c.streams(); err != nil {
		return fmt.Errorf("check of changes: %w", err)
	}
	if err := c.documents(); err != nil {
		return fmt.Errorf("check of documents: %w", err)
	}
	return nil
}

type checker struct {
	tx     *schema.Tx
	deep   bool
	report func(problem string)
}

// streams checks that each stream is whole from its first change on, by the hash that
// each has of the one before.
func (c *checker) streams() error {
	s := c.tx.Stmt(`SELECT k.id, k.uuid, k.name, a.id, a.key, s.stream, s.seq, s.last, s.folded
		FROM sync_stream s JOIN bucket k ON k.id = s.bucket JOIN node a ON a.id = s.author`)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		var e identity.Envelope
		var last [32]byte
		bucket, author := s.ColumnInt64(0), s.ColumnInt64(3)
		s.ColumnBytes(1, e.Bucket[:])
		s.ColumnBytes(4, e.Author[:])
		s.ColumnBytes(5, e.Stream[:])
		s.ColumnBytes(7, last[:])
		end := uint64(s.ColumnInt64(6))
		where := fmt.Sprintf("bucket %s: changes of %s, stream %x", s.ColumnText(2), e.Author.Short(), e.Stream[:4])
		if err := c.stream(bucket, author, e, end, uint64(s.ColumnInt64(8)), last, where); err != nil {
			return err
		}
	}
	n, err := count(c.tx, `SELECT count(*) FROM (SELECT bucket, author, stream FROM sync_change UNION ALL SELECT bucket, author, stream FROM sync_stub) c
		WHERE NOT EXISTS (SELECT 1 FROM sync_stream s WHERE s.bucket = c.bucket AND s.author = c.author AND s.stream = c.stream)`)
	if n > 0 {
		c.report(fmt.Sprintf("%d changes are of streams that are not known", n))
	}
	return err
}

// stream checks one stream, whose bucket, author and name e has. Up to number folded
// changes may be missing.
func (c *checker) stream(bucket, author int64, e identity.Envelope, end, folded uint64, last [32]byte, where string) error {
	s := c.tx.Stmt(`SELECT seq, envelope FROM sync_change WHERE bucket = ?1 AND author = ?2 AND stream = ?3
		UNION ALL SELECT seq, NULL FROM sync_stub WHERE bucket = ?1 AND author = ?2 AND stream = ?3 ORDER BY seq`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, author)
	s.BindBytes(3, e.Stream[:])
	var prev [32]byte
	n := uint64(0)
	chained := true // whether prev is that of number n
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		n++
		if seq := uint64(s.ColumnInt64(0)); seq != n {
			chained = false
			if before := n - 1; max(before, folded) != seq-1 && seq > folded {
				c.report(fmt.Sprintf("%s: number %d follows %d", where, seq, before))
				n, prev = seq, [32]byte{}
				continue
			}
			n = seq
		}
		got, err := c.envelope(s.ColumnLen(1) == 0, schema.Bytes(s, 1), bucket, author, e.Stream, n)
		switch {
		case err != nil:
			c.report(fmt.Sprintf("%s: number %d: %v", where, n, err))
		case got.Bucket != e.Bucket || got.Author != e.Author || got.Stream != e.Stream || got.Seq != n:
			c.report(fmt.Sprintf("%s: number %d is another change", where, n))
		case chained && got.Prev != prev:
			c.report(fmt.Sprintf("%s: number %d does not follow the one before it", where, n))
		}
		prev, chained = got.Hash(), true
	}
	if n < folded {
		n, chained = folded, false
	}
	if n != end || chained && prev != last {
		c.report(fmt.Sprintf("%s: ends at number %d or another change, not at %d as noted", where, n, end))
	}
	return nil
}

// envelope opens a change of which the envelope is b, or the stub is here.
func (c *checker) envelope(stub bool, b []byte, bucket, author int64, stream identity.Stream, seq uint64) (e identity.Envelope, err error) {
	if stub {
		r, _, err := findStub(c.tx, bucket, author, stream, seq)
		if err != nil {
			return e, err
		}
		if b, err = r.Encode(); err != nil {
			return e, err
		}
	}
	if c.deep {
		return identity.OpenEnvelope(b)
	}
	return identity.DecodeEnvelope(b)
}

// documents checks that the changes of each document are those of a document, and that
// its heads are noted. Where some branches are kept a change may have a lesser number
// than one that it follows: its stub came before that.
func (c *checker) documents() error {
	s := c.tx.Stmt(`SELECT d.id, d.branch, d.dir, d.gen, d.heads, k.uuid, k.name, d.gen < b.gen
		FROM sync_doc d JOIN bucket k ON k.id = d.bucket JOIN sync_bucket b ON b.bucket = d.bucket`)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		d := doc{id: s.ColumnInt64(0), name: identity.Document{Dir: uint64(s.ColumnInt64(2)), Gen: uint32(s.ColumnInt64(3))}}
		s.ColumnBytes(1, d.name.Branch[:])
		s.ColumnBytes(5, d.name.Bucket[:])
		where := fmt.Sprintf("bucket %s: document of directory %d in branch %x", s.ColumnText(6), d.name.Dir, d.name.Branch[:4])
		if b := schema.Bytes(s, 4); len(b)%len(gate.Hash{}) == 0 {
			d.heads = hashes(b)
		}
		if err := c.document(d, s.ColumnInt64(7) != 0, where); err != nil {
			return err
		}
	}
	return nil
}

// document checks one; of one that a compaction has closed each change by itself.
func (c *checker) document(d doc, closed bool, where string) error {
	ops := map[gate.Hash]uint64{} // the last operation of each change
	heads := map[gate.Hash]bool{}
	s := c.tx.Stmt(`SELECT hash, maxop FROM sync_change WHERE doc = ?`)
	s.BindInt64(1, d.id)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		var h gate.Hash
		s.ColumnBytes(0, h[:])
		ops[h], heads[h] = uint64(s.ColumnInt64(1)), true
	}
	seqs := map[stream]uint64{} // the last number of each
	s = c.tx.Stmt(`SELECT arrived, stream, hash, docseq, maxop, envelope FROM sync_change WHERE doc = ? ORDER BY arrived`)
	s.BindInt64(1, d.id)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		var row change
		s.ColumnBytes(1, row.stream[:])
		s.ColumnBytes(2, row.hash[:])
		row.arrived, row.docseq, row.maxop = s.ColumnInt64(0), uint64(s.ColumnInt64(3)), uint64(s.ColumnInt64(4))
		problem := ""
		e, err := identity.DecodeEnvelope(schema.Bytes(s, 5))
		var got *gate.Change
		var hash gate.Hash
		if err == nil {
			got, hash, err = gate.Decode(e.Raw)
		}
		if err != nil {
			c.report(fmt.Sprintf("%s: change %d: %v", where, row.arrived, err))
			continue
		}
		startOp := uint64(1)
		for _, h := range got.Deps {
			op, ok := ops[h]
			if !ok && !closed {
				problem = "follows a change that is not there"
			}
			startOp = max(startOp, op+1)
			delete(heads, h)
		}
		switch {
		case problem != "":
		case hash != row.hash || got.Actor != row.stream || got.MaxOp() != row.maxop || got.Seq != row.docseq:
			problem = "is not what is noted of it"
		case e.Document != d.name:
			problem = "is of another document"
		case !closed && (got.Seq != seqs[stream{e.Author, row.stream}]+1 || got.StartOp != startOp):
			problem = "is out of place"
		}
		if problem != "" {
			c.report(fmt.Sprintf("%s: change %d %s", where, row.arrived, problem))
		}
		seqs[stream{e.Author, row.stream}] = row.docseq
	}
	if closed {
		return nil
	}
	if len(heads) != len(d.heads) || slices.ContainsFunc(d.heads, func(h gate.Hash) bool { return !heads[h] }) {
		c.report(fmt.Sprintf("%s: has %d heads, and %d or others are noted", where, len(heads), len(d.heads)))
	}
	return nil
}
