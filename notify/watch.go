package notify

import (
	"context"
	"errors"
	"iter"
	"sort"

	"github.com/alkdev/alkfs/schema"
)

// ErrFellBehind is given to a consumer that asks for events no longer kept.
var ErrFellBehind = errors.New("events after that point were already pruned: look at the current state and follow from there")

// batch bounds how many events one read of Watch takes.
const batch = 512

// Since returns at most limit events after seq, oldest first.
func Since(tx *schema.Tx, seq int64, limit int) ([]Event, error) {
	first, err := edge(tx, "SELECT min(seq) FROM event")
	if err != nil {
		return nil, err
	}
	if seq > 0 && seq+1 < first {
		return nil, ErrFellBehind
	}
	s := tx.Stmt(`SELECT seq, stamp, node, bucket, branch, origin, op, ino, parent, name, old, new, size, ref
		FROM event WHERE seq > ? ORDER BY seq LIMIT ?`)
	s.BindInt64(1, seq)
	s.BindInt64(2, int64(limit))
	var events []Event
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return events, err
		}
		events = append(events, scan(s))
	}
}

// Last returns the sequence number of the newest event, 0 when there is none.
func Last(tx *schema.Tx) (int64, error) { return edge(tx, "SELECT max(seq) FROM event") }

// Before returns the number of the newest event that was made before the stamp,
// so that what follows it is what happened since: 0 when all of it is kept, and
// ErrFellBehind when events as old as that are not. Sequence numbers are dense and
// stamps rise with them, so it looks at few.
func Before(tx *schema.Tx, stamp schema.Stamp) (int64, error) {
	first, err := edge(tx, "SELECT min(seq) FROM event")
	if err != nil || first == 0 {
		return 0, err
	}
	last, err := Last(tx)
	if err != nil {
		return 0, err
	}
	s := tx.Stmt("SELECT stamp FROM event WHERE seq = ?")
	younger := func(seq int64) bool {
		if err != nil {
			return true
		}
		_ = s.Reset()
		s.BindInt64(1, seq)
		var ok bool
		ok, err = s.Step()
		return err == nil && (!ok || schema.Stamp(s.ColumnInt64(0)) >= stamp)
	}
	n := sort.Search(int(last-first+1), func(i int) bool { return younger(first + int64(i)) })
	switch {
	case err != nil:
		return 0, err
	case n == 0 && first > 1:
		return 0, ErrFellBehind
	}
	return first + int64(n) - 1, nil
}

func edge(tx *schema.Tx, query string) (int64, error) {
	s := tx.Stmt(query)
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	return s.ColumnInt64(0), nil
}

// Watch yields the events after seq as they are committed, by any process,
// until ctx ends or an error is yielded. A slow consumer holds up nobody.
func Watch(ctx context.Context, db *schema.DB, seq int64) iter.Seq2[Event, error] {
	return watch(ctx, db, seq, func() bool { return true })
}

// watch is Watch that calls pause when all events it has read were taken, and
// ends when that returns false.
func watch(ctx context.Context, db *schema.DB, seq int64, pause func() bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			gen := db.Generation()
			events, err := committed(db, seq)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
				seq = e.Seq
			}
			if len(events) > 0 {
				if !pause() {
					return
				}
				continue
			}
			if _, err := db.Wait(ctx, gen); err != nil {
				yield(Event{}, err)
				return
			}
		}
	}
}

// committed reads events that can no longer be lost: a consumer must not act
// on a change whose commit may still fail.
func committed(db *schema.DB, seq int64) (events []Event, err error) {
	if err := db.Commit(); err != nil {
		return nil, err
	}
	err = db.Read(func(tx *schema.Tx) (err error) {
		events, err = Since(tx, seq, batch)
		return err
	})
	return events, err
}

// Prune removes events with a stamp before the given one, except the newest,
// at most limit of them, and returns how many.
func Prune(tx *schema.Tx, before schema.Stamp, limit int) (int, error) {
	s := tx.Stmt(`DELETE FROM event WHERE seq IN (
		SELECT seq FROM event WHERE stamp < ? AND seq < (SELECT max(seq) FROM event) ORDER BY seq LIMIT ?)`)
	s.BindInt64(1, int64(before))
	s.BindInt64(2, int64(limit))
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	return tx.Conn().Changes(), nil
}
