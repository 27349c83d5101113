package blobstore

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
	"zombiezen.com/go/sqlite"
)

// PutInline adds content of at most InlineMax bytes to the store and returns
// its hash. It does nothing when the content is there already.
func (s *Store) PutInline(tx *schema.Tx, p []byte) (Hash, error) {
	if len(p) == 0 {
		return Hash{}, nil
	}
	if len(p) > InlineMax {
		return Hash{}, fmt.Errorf("inline content of %d bytes: %w", len(p), syscall.EFBIG)
	}
	c := &inlineRow{Sum(p), bytes.Clone(p), now()}
	return c.hash, tx.Later(c)
}

// inlineRow is the row of inline content to be written.
type inlineRow struct {
	hash    Hash
	data    []byte
	created int64
}

// Apply implements schema.Change. A row that is not good gets the content anew.
func (c *inlineRow) Apply(tx *schema.Tx) error {
	q := tx.Stmt(`INSERT INTO blob (hash, size, data, synced, created) VALUES (?, ?, ?, 1, ?)
		ON CONFLICT (hash) DO UPDATE SET data = excluded.data, synced = 1, state = 0 WHERE state <> 0`)
	q.BindBytes(1, c.hash[:])
	q.BindInt64(2, int64(len(c.data)))
	q.BindBytes(3, c.data)
	q.BindInt64(4, c.created)
	_, err := q.Step()
	return err
}

// row is a row of table blob without its data.
type row struct {
	size, created int64
	inline        bool
	synced        bool
	state         int64
}

func lookup(tx *schema.Tx, h Hash) (r row, found bool, err error) {
	q := tx.Stmt("SELECT size, data IS NULL, synced, state, created FROM blob WHERE hash = ?")
	q.BindBytes(1, h[:])
	if found, err = q.Step(); found {
		r = row{
			size: q.ColumnInt64(0), inline: q.ColumnInt64(1) == 0, synced: q.ColumnInt64(2) != 0,
			state: q.ColumnInt64(3), created: q.ColumnInt64(4),
		}
	}
	return r, found, err
}

// Has reports whether the store knows h and has no reason to doubt it; its bytes
// may be elsewhere (see Here). The zero Hash is always there.
func (s *Store) Has(tx *schema.Tx, h Hash) (bool, error) {
	if h.IsZero() {
		return true, nil
	}
	r, found, err := lookup(tx, h)
	return found && r.state != stateQuarantined, err
}

// Inline returns the content of h when it is inline, in memory of the caller's,
// and false when it is a file.
func (s *Store) Inline(tx *schema.Tx, h Hash) ([]byte, bool, error) {
	if h.IsZero() {
		return nil, true, nil
	}
	q := tx.Stmt("SELECT data, state FROM blob WHERE hash = ?")
	q.BindBytes(1, h[:])
	found, err := q.Step()
	if err != nil {
		return nil, false, err
	}
	if !found || q.ColumnInt64(1) == stateAbsent {
		return nil, false, missing(h)
	}
	if q.ColumnInt64(1) == stateQuarantined {
		return nil, false, damaged(h, "it is in quarantine")
	}
	if q.ColumnType(0) == sqlite.TypeNull {
		return nil, false, nil
	}
	p := schema.Bytes(q, 0)
	if Sum(p) != h {
		s.found(h, "its row holds other bytes")
		return nil, false, damaged(h, "its row holds other bytes")
	}
	return p, true, nil
}

// AddFile adds the row of content that was sealed, with synced 0, unless there
// is a good one. It returns ErrMissing when the store does not have the bytes.
func (s *Store) AddFile(tx *schema.Tx, h Hash, size int64) error {
	if h.IsZero() {
		return nil
	}
	known, fresh := s.unseal(h)
	r, found, err := lookup(tx, h)
	if err != nil {
		return err
	}
	if found && r.state == stateGood && (r.inline || !fresh) {
		return s.dropLease(tx, h, known)
	}
	if !known {
		// Sealed by an earlier process, or an error of the caller's. GC removes
		// files inside a write transaction, so this one decides.
		if st, err := os.Stat(s.blobPath(h)); err != nil || st.Size() != size {
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return missing(h)
		}
	}
	q := tx.Stmt(`INSERT INTO blob (hash, size, synced, created) VALUES (?, ?, 0, ?)
		ON CONFLICT (hash) DO UPDATE SET size = excluded.size, data = NULL, synced = 0, state = 0, created = excluded.created`)
	created := now()
	q.BindBytes(1, h[:])
	q.BindInt64(2, size)
	q.BindInt64(3, created)
	if _, err := q.Step(); err != nil {
		return err
	}
	s.newFiles.add(h)
	return s.dropLease(tx, h, known)
}

// unseal takes back one Seal of h.
func (s *Store) unseal(h Hash) (known, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.mu.sealed[h]
	if p == nil {
		return false, false
	}
	fresh = p.fresh
	if p.n--; p.n == 0 {
		delete(s.mu.sealed, h)
	}
	return true, fresh
}

// dropLease ends Seal's lease unless another Seal of h waits for its row.
func (s *Store) dropLease(tx *schema.Tx, h Hash, known bool) error {
	s.mu.Lock()
	waits := s.mu.sealed[h] != nil
	s.mu.Unlock()
	if !known || waits {
		return nil
	}
	return s.Unlease(tx, h, s.owner)
}

// Lease keeps h from collection until the time given, for owner, who may renew
// it.
func (s *Store) Lease(tx *schema.Tx, h Hash, owner string, until time.Time) error {
	q := tx.Stmt("INSERT INTO lease (hash, owner, expires) VALUES (?, ?, ?) ON CONFLICT (hash, owner) DO UPDATE SET expires = excluded.expires")
	q.BindBytes(1, h[:])
	q.BindText(2, owner)
	q.BindInt64(3, until.UnixNano())
	_, err := q.Step()
	return err
}

// Unlease ends a lease.
func (s *Store) Unlease(tx *schema.Tx, h Hash, owner string) error {
	q := tx.Stmt("DELETE FROM lease WHERE hash = ? AND owner = ?")
	q.BindBytes(1, h[:])
	q.BindText(2, owner)
	_, err := q.Step()
	return err
}

// KeepUnsent keeps hashes from collection, in place of those that it kept for the
// bucket before: the content of changes that this node made and may not send, which no
// version names and nobody else has.
func KeepUnsent(tx *schema.Tx, bucket int64, hashes []Hash) error {
	owner := fmt.Sprint(unsentOwner, bucket)
	q := tx.Stmt("DELETE FROM lease WHERE owner = ?")
	q.BindText(1, owner)
	if _, err := q.Step(); err != nil {
		return err
	}
	for _, h := range hashes {
		q := tx.Stmt("INSERT INTO lease (hash, owner, expires) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
		q.BindBytes(1, h[:])
		q.BindText(2, owner)
		q.BindInt64(3, math.MaxInt64)
		if _, err := q.Step(); err != nil {
			return err
		}
	}
	return nil
}
