package notify

import "github.com/alkdev/alkfs/schema"

// SinceExcept returns at most limit events after seq that origin, if it is not
// 0, did not make, and the sequence number up to which it looked. A surface
// that makes most of the changes itself skips them at little cost so.
func SinceExcept(tx *schema.Tx, seq, origin int64, limit int) (events []Event, last int64, err error) {
	first, err := edge(tx, "SELECT min(seq) FROM event")
	if err != nil {
		return nil, seq, err
	}
	if seq > 0 && seq+1 < first {
		return nil, seq, ErrFellBehind
	}
	s := tx.Stmt(`SELECT seq, stamp, node, bucket, branch, origin, op, ino, parent, name, old, new, size, ref
		FROM event WHERE seq > ? AND (origin <> ? OR origin = 0) ORDER BY seq LIMIT ?`)
	s.BindInt64(1, seq)
	s.BindInt64(2, origin)
	s.BindInt64(3, int64(limit))
	for err := range schema.Rows(s) {
		if err != nil {
			return events, seq, err
		}
		events = append(events, scan(s))
	}
	if len(events) == limit {
		return events, events[limit-1].Seq, nil
	}
	last, err = Last(tx)
	return events, last, err
}
