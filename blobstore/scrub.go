package blobstore

import (
	"context"
	"errors"

	"github.com/alkdev/alkfs/schema"
)

// ScrubOptions configures Scrub.
type ScrubOptions struct {
	After int64             // where the last Scrub stopped; 0: the beginning
	Bytes int64             // of content after which to stop; 0: at the end
	Pause func(bytes int64) // called after every stretch of hashing, and may sleep; may be nil
}

// Scrub hashes content again, from the blob after o.After on, until it has seen
// o.Bytes or all of it, and returns where it stopped, 0 at the end. Damage is
// dealt with as Check does. When ctx ends, what was seen counts.
func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (next int64, rep CheckReport, err error) {
	c := &checker{s: s, o: CheckOptions{Deep: true}}
	seen := int64(0)
	c.o.Progress = func(done, _ int64) {
		if o.Pause != nil {
			o.Pause(done - seen)
		}
		seen = done
	}
	for next = o.After; ; {
		rows, err := s.rowsAfter(next, 64)
		if err != nil || len(rows) == 0 {
			return 0, c.rep, err
		}
		for _, r := range rows {
			if err := ctx.Err(); err != nil {
				return next, c.rep, err
			}
			if err := c.check(ctx, r); err != nil {
				c.rep.Blobs, c.rep.Bytes = c.rep.Blobs-1, c.rep.Bytes-r.size // not seen whole
				return next, c.rep, err
			}
			next = r.id
			if o.Bytes > 0 && c.rep.Bytes >= o.Bytes {
				return next, c.rep, nil
			}
		}
	}
}

// Contents returns how many blobs are here and how many bytes they hold.
func (s *Store) Contents() (blobs, bytes int64, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT count(*), coalesce(sum(size), 0) FROM blob WHERE state <> ?")
		q.BindInt64(1, stateAbsent)
		if _, err := q.Step(); err != nil {
			return err
		}
		blobs, bytes = q.ColumnInt64(0), q.ColumnInt64(1)
		return nil
	})
	return blobs, bytes, err
}

// SyncAll syncs what no process has synced yet, as after the death of one, and
// returns how many blobs that was. It goes on after an error and returns the
// first.
func (s *Store) SyncAll(ctx context.Context) (n int, first error) {
	rows, err := s.unsyncedRows("AND state <> 1")
	if err != nil {
		return 0, err
	}
	for len(rows) > 0 {
		k := min(len(rows), manyFiles-1) // each by itself, not the whole file system
		good, err := s.syncContents(ctx, rows[:k])
		n += len(good)
		if e := s.markSynced(good); err == nil {
			err = e
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			return n, errors.Join(first, ctx.Err())
		}
		rows = rows[k:]
	}
	return n, first
}
