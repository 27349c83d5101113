package blobstore

import (
	"context"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// guardBatch is how many contents the members of a bucket are asked about at once.
const guardBatch = 256

// Guarded is content that no version here names any more, and a version of another
// member of a bucket may.
type Guarded struct {
	Hash  Hash
	Size  int64     // bytes
	Since time.Time // when the last version here went that named it
}

// MayCollect is asked whether contents may go that only Guard keeps, in the bucket
// with that uuid: since another member keeps each for now, or none wants it. It may
// ask the network and so runs in no transaction.
type MayCollect func(ctx context.Context, bucket [16]byte, list []Guarded) ([]bool, error)

// Guard keeps h, if it is here or a write session began on it, from GC until
// CollectGuarded removes it: whoever drops the last version of a shared bucket here
// that names it calls it in the same transaction.
func Guard(tx *schema.Tx, bucket int64, h Hash) error {
	q := tx.Stmt(`INSERT INTO guard (hash, bucket, since)
		SELECT hash, ?2, ?3 FROM blob WHERE hash = ?1 AND (state IN (?4, ?5) OR ` + begunOn + `)
		ON CONFLICT (hash, bucket) DO UPDATE SET since = excluded.since`)
	q.BindBytes(1, h[:])
	q.BindInt64(2, bucket)
	q.BindInt64(3, now())
	q.BindInt64(4, stateGood)
	q.BindInt64(5, stateSuspect)
	_, err := q.Step()
	return err
}

// HeldBack counts the contents that nothing here names and Guard keeps.
func HeldBack(tx *schema.Tx) (blobs, bytes int64, err error) {
	q := tx.Stmt(`SELECT count(*), coalesce(sum(size), 0) FROM blob
		WHERE hash IN (SELECT hash FROM guard) AND state <> ? AND ` + unnamed)
	q.BindInt64(1, stateAbsent)
	_, err = q.Step()
	return q.ColumnInt64(0), q.ColumnInt64(1), err
}

// CollectGuarded removes what GC does not because of Guard, as far as may allows
// it, and returns how much that was. Grace is that of GCOptions. While may is asked
// the contents are about to leave (see Hold); what is promised to another meanwhile,
// or named again, stays.
func (s *Store) CollectGuarded(ctx context.Context, grace time.Duration, may MayCollect) (blobs, bytes int64, err error) {
	all, err := s.guarded(cutoff(grace))
	for len(all) > 0 && err == nil {
		if err := ctx.Err(); err != nil {
			return blobs, bytes, err
		}
		n := 1
		for n < min(len(all), guardBatch) && all[n].bucket == all[0].bucket {
			n++
		}
		var gone []condemned
		gone, err = s.collectBatch(ctx, all[:n], may)
		for _, c := range gone {
			blobs, bytes = blobs+1, bytes+c.size
		}
		all = all[n:]
	}
	return blobs, bytes, err
}

// guard is a row of table guard.
type guard struct {
	Guarded
	bucket int64
	uuid   [16]byte
}

// guarded lists what only guards keep, by bucket, and forgets guards of what neither
// is here nor has to be brought for a write session.
func (s *Store) guarded(before int64) (list []guard, err error) {
	err = s.db.Write(func(tx *schema.Tx) error {
		list = nil
		q := tx.Stmt("DELETE FROM guard WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.hash = guard.hash AND (state <> ? OR " + begunOn + "))")
		q.BindInt64(1, stateAbsent)
		if _, err := q.Step(); err != nil {
			return err
		}
		q = tx.Stmt(`SELECT blob.hash, size, since, bucket, uuid FROM guard g JOIN blob ON blob.hash = g.hash JOIN bucket k ON k.id = g.bucket
			WHERE blob.created < ? AND ` + unused + ` ORDER BY bucket, blob.hash`)
		q.BindInt64(1, before)
		q.BindInt64(2, now())
		for err := range schema.Rows(q) {
			if err != nil {
				return err
			}
			g := guard{Guarded{Size: q.ColumnInt64(1), Since: time.Unix(0, q.ColumnInt64(2))}, q.ColumnInt64(3), [16]byte{}}
			q.ColumnBytes(0, g.Hash[:])
			q.ColumnBytes(4, g.uuid[:])
			list = append(list, g)
		}
		return nil
	})
	return list, err
}

// collectBatch removes those of some contents of one bucket that may go.
func (s *Store) collectBatch(ctx context.Context, batch []guard, may MayCollect) ([]condemned, error) {
	list := make([]Guarded, len(batch))
	err := s.db.Write(func(tx *schema.Tx) error {
		for i, g := range batch {
			list[i] = g.Guarded
			if err := s.Lease(tx, g.Hash, leavingOwner, time.Now().Add(leavingFor)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = s.db.Commit() // for the processes that answer Hold
	}
	if err != nil {
		return nil, err
	}
	ok, asked := may(ctx, batch[0].uuid, list)
	gone, err := s.sweepWhat(func(tx *schema.Tx) (dead []condemned, err error) {
		for i, g := range batch {
			free, err := s.stayOrLeave(tx, g, asked == nil && ok[i])
			if err != nil {
				return nil, err
			}
			if free {
				dead = append(dead, condemned{hash: g.Hash, size: g.Size})
			}
		}
		return dead, nil
	})
	if err == nil {
		err = asked
	}
	return gone, err
}

// stayOrLeave ends the leaving of a content and, with leave, its guard, unless the
// leaving took too long, or the content has been promised meanwhile.
func (s *Store) stayOrLeave(tx *schema.Tx, g guard, leave bool) (free bool, err error) {
	leaving, err := leased(tx, g.Hash, leavingOwner)
	if err == nil {
		err = s.Unlease(tx, g.Hash, leavingOwner)
	}
	if err != nil || !leave || !leaving {
		return false, err
	}
	if held, err := leased(tx, g.Hash, holdOwner); held || err != nil {
		return false, err
	}
	q := tx.Stmt("DELETE FROM guard WHERE hash = ? AND bucket = ?")
	q.BindBytes(1, g.Hash[:])
	q.BindInt64(2, g.bucket)
	_, err = q.Step()
	return true, err
}
