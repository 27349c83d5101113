package notify

import (
	"context"
	"fmt"
	"iter"
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Consumer is a named consumer of events, whose place is kept in the database.
type Consumer struct {
	Name   string
	Seq    int64 // newest event it is done with
	Behind int64 // events that came after
	Lost   int64 // of those, how many are no longer kept
}

// Follow yields the events that the consumer of that name is not done with, and
// then those to come, as Watch does. The first Follow of a name begins with the
// present. An event is done with when the loop asks for the next one or for more
// than there is, so whoever is killed sees again at most the batch it was in:
// at least once, in order. Two that follow by one name each see all.
func Follow(ctx context.Context, db *schema.DB, name string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		seq, err := place(db, name)
		if err != nil {
			yield(Event{}, err)
			return
		}
		saved, done := seq, seq
		save := func() error {
			if done == saved {
				return nil
			}
			saved = done
			return db.Write(func(tx *schema.Tx) error { return SetCursor(tx, name, done) })
		}
		pause := func() bool { // all that was read is done with
			if err := save(); err != nil {
				yield(Event{}, err)
				return false
			}
			return true
		}
		for e, err := range watch(ctx, db, seq, pause) {
			done = max(done, e.Seq-1)
			if !yield(e, err) {
				_ = save() // at worst the event comes again
				return
			}
			if err == nil {
				done = e.Seq
			}
		}
	}
}

// place returns where a consumer goes on; a new one is given the present.
func place(db *schema.DB, name string) (seq int64, err error) {
	if name == "" {
		return 0, fmt.Errorf("a consumer of events needs a name: %w", syscall.EINVAL)
	}
	err = db.Write(func(tx *schema.Tx) error {
		var known bool
		if seq, known, err = cursor(tx, name); err != nil || known {
			return err
		}
		if seq, err = Last(tx); err != nil {
			return err
		}
		return SetCursor(tx, name, seq)
	})
	return seq, err
}

// Consumers lists the named consumers whose names begin with prefix.
func Consumers(tx *schema.Tx, prefix string) (list []Consumer, err error) {
	last, err := Last(tx)
	if err != nil {
		return nil, err
	}
	first, err := edge(tx, "SELECT min(seq) FROM event")
	if err != nil {
		return nil, err
	}
	s := tx.Stmt("SELECT name, seq FROM cursor WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name")
	s.BindText(1, prefix)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return list, err
		}
		c := Consumer{Name: s.ColumnText(0), Seq: s.ColumnInt64(1)}
		c.Behind, c.Lost = max(0, last-c.Seq), max(0, first-1-c.Seq)
		list = append(list, c)
	}
}

// cursor returns the place of a named consumer, and whether it has one.
func cursor(tx *schema.Tx, name string) (seq int64, known bool, err error) {
	s := tx.Stmt("SELECT seq FROM cursor WHERE name = ?")
	s.BindText(1, name)
	known, err = s.Step()
	if err != nil || !known {
		return 0, false, err
	}
	return s.ColumnInt64(0), true, nil
}

// Cursor returns the durable place of a named consumer, 0 when it has none.
func Cursor(tx *schema.Tx, name string) (int64, error) {
	seq, _, err := cursor(tx, name)
	return seq, err
}

// SetCursor stores the place of a named consumer.
func SetCursor(tx *schema.Tx, name string, seq int64) error {
	s := tx.Stmt("INSERT INTO cursor (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq")
	s.BindText(1, name)
	s.BindInt64(2, seq)
	_, err := s.Step()
	return err
}

// DropCursor forgets a named consumer and reports whether there was one.
func DropCursor(tx *schema.Tx, name string) (bool, error) {
	s := tx.Stmt("DELETE FROM cursor WHERE name = ?")
	s.BindText(1, name)
	if _, err := s.Step(); err != nil {
		return false, err
	}
	return tx.Conn().Changes() > 0, nil
}
