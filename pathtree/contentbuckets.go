package pathtree

import (
	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// BucketsWith returns the uuids of the shared buckets of which some version has
// the content h, or had it until it was pruned here, also while a write session goes on
// that began on it: those whose readers may have
// its bytes, and under which other nodes can be asked for them.
func (t *Tree) BucketsWith(tx *schema.Tx, h blobstore.Hash) (uuids [][16]byte, err error) {
	s := tx.Stmt(`SELECT k.uuid FROM inode i JOIN branch b ON b.id = i.branch JOIN bucket k ON k.id = b.bucket
		WHERE i.hash = ?1 AND k.shared = 1
		UNION SELECT k.uuid FROM aside a JOIN branch b ON b.id = a.branch JOIN bucket k ON k.id = b.bucket
		WHERE a.hash = ?1 AND k.shared = 1
		UNION SELECT k.uuid FROM guard g JOIN bucket k ON k.id = g.bucket WHERE g.hash = ?1`)
	s.BindBytes(1, h[:])
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var u [16]byte
		s.ColumnBytes(0, u[:])
		uuids = append(uuids, u)
	}
	return uuids, nil
}

// Named reports of each content whether a version in a bucket, one that no row
// shows too, or an open write session names it.
func (t *Tree) Named(tx *schema.Tx, bucket int64, hashes []blobstore.Hash) ([]bool, error) {
	named := make([]bool, len(hashes))
	aside, err := asideContents(tx, bucket)
	for i, h := range hashes {
		if err != nil {
			return nil, err
		}
		if named[i] = aside[h]; !named[i] {
			named[i], err = shownIn(tx, bucket, h)
		}
		if !named[i] && err == nil {
			named[i], err = openIn(tx, bucket, h)
		}
	}
	return named, err
}

// shownIn reports whether a row of a bucket's versions names h.
func shownIn(tx *schema.Tx, bucket int64, h blobstore.Hash) (bool, error) {
	s := tx.Stmt("SELECT EXISTS (SELECT 1 FROM inode i JOIN branch b ON b.id = i.branch WHERE i.hash = ? AND b.bucket = ?)")
	s.BindBytes(1, h[:])
	s.BindInt64(2, bucket)
	_, err := s.Step()
	return s.ColumnInt64(0) != 0, err
}

// openIn reports whether an open write session in a bucket began on h.
func openIn(tx *schema.Tx, bucket int64, h blobstore.Hash) (bool, error) {
	s := tx.Stmt("SELECT EXISTS (SELECT 1 FROM write_session w JOIN branch b ON b.id = w.branch WHERE w.base = ? AND b.bucket = ?)")
	s.BindBytes(1, h[:])
	s.BindInt64(2, bucket)
	_, err := s.Step()
	return s.ColumnInt64(0) != 0, err
}

// asideContents returns what the versions of a bucket name that no row shows.
func asideContents(tx *schema.Tx, bucket int64) (map[blobstore.Hash]bool, error) {
	s := tx.Stmt("SELECT body FROM aside WHERE kind = ? AND branch IN (SELECT id FROM branch WHERE bucket = ?)")
	s.BindInt64(1, int64(InodeVersion))
	s.BindInt64(2, bucket)
	var all map[blobstore.Hash]bool
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		v, err := decodeVersion(schema.Bytes(s, 0))
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = map[blobstore.Hash]bool{}
		}
		if v.Inode != nil {
			all[v.Inode.Hash] = true
		}
	}
	return all, nil
}
