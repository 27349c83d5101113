package crdtsync

import (
	"cmp"
	"math"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// Mark says how far a stream of an author has come to a node, without gaps.
type Mark struct {
	Author identity.Key    `cbor:"1,keyasint"`
	Stream identity.Stream `cbor:"2,keyasint"`
	Seq    uint64          `cbor:"3,keyasint"`
}

// A node's marks of a bucket say exactly which changes it has, in a few bytes
// for each start of each writer: two nodes that compare them know what each
// lacks.

// Marks returns how far every stream of a bucket has come here.
func (r *Replica) Marks(uuid [16]byte) (marks []Mark, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err == nil {
			marks, err = readMarks(tx, sh.bucket.ID)
		}
		return err
	})
	return marks, err
}

func readMarks(tx *schema.Tx, bucket int64) ([]Mark, error) {
	s := tx.Stmt(`SELECT node.key, stream, seq FROM sync_stream JOIN node ON node.id = author WHERE bucket = ?`)
	s.BindInt64(1, bucket)
	return scanMarks(s)
}

// scanMarks reads marks from rows of an author's key, a stream and a number.
func scanMarks(s *sqlite.Stmt) (marks []Mark, err error) {
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		m := Mark{Seq: uint64(s.ColumnInt64(2))}
		s.ColumnBytes(0, m.Author[:])
		s.ColumnBytes(1, m.Stream[:])
		marks = append(marks, m)
	}
	return marks, nil
}

// stream is what a Mark is about.
type stream struct {
	author identity.Key
	stream identity.Stream
}

func (m Mark) stream() stream { return stream{m.Author, m.Stream} }

func byStream(marks []Mark) map[stream]uint64 {
	seq := make(map[stream]uint64, len(marks))
	for _, m := range marks {
		seq[m.stream()] = m.Seq
	}
	return seq
}

// lead counts the changes that a node with some marks has and one with others
// has not.
func lead(marks, others []Mark) (n int64) {
	have := byStream(others)
	for _, m := range marks {
		if at := have[m.stream()]; at < m.Seq {
			n += int64(min(m.Seq-at, 1<<32)) // a number that nobody checked
		}
	}
	return n
}

// Missing returns, in the order in which they came here, the numbers (arrived)
// of the changes that a node with these marks does not have, up to and
// including the newest, whose number it returns too. Those of this node's own that do
// not count, as it may no longer write, are left out: whoever knows that would drop
// it for them. None where it needs a pack first.
func (r *Replica) Missing(uuid [16]byte, theirs []Mark) (arrived []int64, newest int64, err error) {
	have := byStream(theirs)
	err = r.db.Read(func(tx *schema.Tx) error {
		arrived, newest = nil, 0
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		if newest, err = newestArrival(tx, sh.bucket.ID); err != nil {
			return err
		}
		if lacks, err := lacksFolded(tx, sh.bucket.ID, have); err != nil || lacks {
			return err // the pack comes first
		}
		ours, err := readMarks(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		members, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		for _, m := range ours {
			if m.Author == r.key {
				m.Seq = min(m.Seq, members.Counts(m.Author, m.Stream))
			}
			if at := have[m.stream()]; at < m.Seq {
				if arrived, err = appendArrived(tx, arrived, sh.bucket.ID, m, at); err != nil {
					return err
				}
			}
		}
		return nil
	})
	slices.SortFunc(arrived, func(a, b int64) int { return cmp.Compare(a, b) })
	return arrived, newest, err
}

// appendArrived appends the numbers of the changes after a number in a stream, up to
// what m says.
func appendArrived(tx *schema.Tx, to []int64, bucket int64, m Mark, after uint64) ([]int64, error) {
	author, err := nodeID(tx, m.Author)
	if err != nil {
		return to, err
	}
	s := tx.Stmt(`SELECT arrived FROM sync_change WHERE bucket = ?1 AND author = ?2 AND stream = ?3 AND seq > ?4 AND seq <= ?5
		UNION ALL SELECT arrived FROM sync_stub WHERE bucket = ?1 AND author = ?2 AND stream = ?3 AND seq > ?4 AND seq <= ?5`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, author)
	s.BindBytes(3, m.Stream[:])
	s.BindInt64(4, int64(after))
	s.BindInt64(5, int64(m.Seq))
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return to, err
		}
		to = append(to, s.ColumnInt64(0))
	}
}

func newestArrival(tx *schema.Tx, bucket int64) (int64, error) {
	return count(tx, `SELECT max(coalesce((SELECT arrived FROM sync_change WHERE +bucket = ?1 ORDER BY arrived DESC LIMIT 1), 0),
		coalesce((SELECT arrived FROM sync_stub WHERE +bucket = ?1 ORDER BY arrived DESC LIMIT 1), 0))`, bucket)
}

// Stored is a change as it is kept.
type Stored struct {
	Arrived  int64
	Author   identity.Key
	Source   identity.Key // who brought it
	Stream   identity.Stream
	Seq      uint64
	Envelope []byte
}

// Since returns the changes of a bucket that came here after the one numbered
// after, at most so many bytes of them and at least one if there is one.
func (r *Replica) Since(uuid [16]byte, after int64, maxBytes int) (all []Stored, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		upto := int64(math.MaxInt64) // what is after it, in either table, is for the next time
		s := tx.Stmt(`SELECT arrived, a.key, o.key, stream, seq, envelope FROM sync_change
			JOIN node a ON a.id = author JOIN node o ON o.id = source
			WHERE +bucket = ? AND arrived > ? ORDER BY arrived`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindInt64(2, after)
		for size := 0; ; {
			ok, err := s.Step()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			c := Stored{Arrived: s.ColumnInt64(0), Seq: uint64(s.ColumnInt64(4)), Envelope: schema.Bytes(s, 5)}
			s.ColumnBytes(1, c.Author[:])
			s.ColumnBytes(2, c.Source[:])
			s.ColumnBytes(3, c.Stream[:])
			all = append(all, c)
			if size += len(c.Envelope); size >= maxBytes {
				upto = c.Arrived
				break
			}
		}
		stubs, err := stubsSince(tx, sh.bucket.ID, after, upto, maxBytes)
		if err != nil || len(stubs) == 0 {
			return err
		}
		all = append(all, stubs...)
		slices.SortFunc(all, func(a, b Stored) int { return cmp.Compare(a.Arrived, b.Arrived) })
		for i, size := 0, 0; i < len(all); i++ {
			if size += len(all[i].Envelope); size >= maxBytes {
				all = all[:i+1]
			}
		}
		return nil
	})
	return all, err
}

// Envelopes returns changes by their numbers, in that order, until they come to
// maxBytes, and at least one.
func (r *Replica) Envelopes(arrived []int64, maxBytes int) (all [][]byte, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		size := 0
		for _, n := range arrived {
			s := tx.Stmt(`SELECT envelope FROM sync_change WHERE arrived = ?`)
			s.BindInt64(1, n)
			ok, err := s.Step()
			if err != nil {
				return err
			}
			var b []byte
			if ok {
				b = schema.Bytes(s, 0)
			} else if b, err = encodedStub(tx, n); err != nil {
				return err
			}
			all = append(all, b)
			if size += len(b); size >= maxBytes {
				return nil
			}
		}
		return nil
	})
	return all, err
}
