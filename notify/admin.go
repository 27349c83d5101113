package notify

import (
	"fmt"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// ParseState is the inverse of State.String.
func ParseState(s string) (State, error) {
	for st := Ready; st <= Dead; st++ {
		if st.String() == s {
			return st, nil
		}
	}
	return 0, fmt.Errorf("%q is no state of a job: ready, claimed, done or dead: %w", s, syscall.EINVAL)
}

// Depth is how many jobs of a queue are in one state.
type Depth struct {
	Queue  string
	State  State
	Jobs   int
	Oldest time.Time // when the oldest of them was enqueued
}

// Depths counts the jobs of all queues, by queue and state.
func Depths(tx *schema.Tx) (all []Depth, err error) {
	s := tx.Stmt("SELECT queue, state, count(*), min(created) FROM job GROUP BY queue, state ORDER BY queue, state")
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, Depth{s.ColumnText(0), State(s.ColumnInt(1)), s.ColumnInt(2), time.Unix(0, s.ColumnInt64(3))})
	}
}

// Waiting reports whether a job with that payload is ready or claimed.
func (q Queue) Waiting(tx *schema.Tx, payload []byte) (bool, error) {
	s := tx.Stmt("SELECT 1 FROM job WHERE queue = ? AND state IN (1, 2) AND payload = ? LIMIT 1")
	s.BindText(1, q.Name)
	bindBytes(s, 2, payload)
	return s.Step()
}

// Next returns when the earliest ready job may be claimed, the zero time when there
// is none, and whether a job is claimed.
func (q Queue) Next(tx *schema.Tx) (due time.Time, claimed bool, err error) {
	s := tx.Stmt("SELECT min(due) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 2) FROM job WHERE queue = ? AND state IN (1, 2)")
	s.BindText(1, q.Name)
	if _, err := s.Step(); err != nil {
		return due, false, err
	}
	if ns := s.ColumnInt64(0); ns != 0 {
		due = time.Unix(0, ns)
	}
	claimed = s.ColumnInt(1) > 0
	if due.IsZero() {
		return due, claimed, nil
	}
	_, wait, err := q.limits().Take(tx, q.rateName(), q.Rate, 0)
	if permit := clockOr(q.Clock).Now().Add(wait); wait > 0 && permit.After(due) {
		due = permit
	}
	return due, claimed, err
}

// PutBack ends a claim as if it had not been: the job is due after wait, and
// the attempt does not count.
func (q Queue) PutBack(tx *schema.Tx, claim Job, wait time.Duration) error {
	if err := q.holds(tx, claim); err != nil {
		return err
	}
	s := tx.Stmt("UPDATE job SET attempts = attempts - 1 WHERE id = ?")
	s.BindInt64(1, claim.ID)
	if _, err := s.Step(); err != nil {
		return err
	}
	return q.settle(tx, claim.ID, Ready, nil, wait)
}

// RetryAll makes all dead jobs ready again and returns how many there were.
func (q Queue) RetryAll(tx *schema.Tx) (int, error) {
	s := tx.Stmt("UPDATE job SET state = 1, attempts = 0, due = ?, finished = 0 WHERE queue = ? AND state = 4")
	s.BindInt64(1, clockOr(q.Clock).Now().UnixNano())
	s.BindText(2, q.Name)
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	return tx.Conn().Changes(), nil
}

// Trim removes the done and dead jobs with that payload but for the newest keep.
func (q Queue) Trim(tx *schema.Tx, payload []byte, keep int) error {
	s := tx.Stmt(`DELETE FROM job WHERE id IN (SELECT id FROM job
		WHERE queue = ? AND state IN (3, 4) AND payload = ? ORDER BY id DESC LIMIT -1 OFFSET ?)`)
	s.BindText(1, q.Name)
	bindBytes(s, 2, payload)
	s.BindInt64(3, int64(keep))
	_, err := s.Step()
	return err
}
