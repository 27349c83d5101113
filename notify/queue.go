package notify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// ErrClaimLost means that a claim ended before it was settled: its time ran
// out, or somebody purged the job.
var ErrClaimLost = errors.New("the claim was lost")

// State is what a job is waiting for. The numbers are stored.
type State int

const (
	Ready   State = 1 // to be claimed when due
	Claimed State = 2 // by a worker, for its visibility timeout
	Done    State = 3
	Dead    State = 4 // failed as often as it may; kept until retried or purged
)

func (s State) String() string {
	return [...]string{Ready: "ready", Claimed: "claimed", Done: "done", Dead: "dead"}[s]
}

// Queue is a durable queue. A job is handed out at least once, and never to
// two workers at a time while a claim holds. Fields are useful when zero.
type Queue struct {
	Name        string
	MaxAttempts int           // claims before a job is dead; default 10
	Backoff     time.Duration // wait after the first failure, doubled each time; default 1 s
	MaxBackoff  time.Duration // default 10 min
	Rate        Rate          // of claims, over all workers; default: no limit
	Clock       Clock         // default: the machine's
}

// Job is an entry of a queue.
type Job struct {
	ID       int64
	Queue    string
	State    State
	Priority int64     // greater first
	Due      time.Time // not claimed before
	Payload  []byte
	Attempts int   // claims since it was enqueued or retried
	Claim    int64 // number of the claim; no two claims have the same, and it only rises
	Claimant string
	Outcome  []byte // result when Done, last error otherwise
	Created  time.Time
	Finished time.Time // when Done or Dead
}

// Enqueue adds a job in the caller's transaction; it is due after delay.
func (q Queue) Enqueue(tx *schema.Tx, payload []byte, priority int64, delay time.Duration) (int64, error) {
	now := clockOr(q.Clock).Now()
	s := tx.Stmt(`INSERT INTO job (queue, state, priority, due, payload, attempts, claimant, boot, until, created, finished)
		VALUES (?, 1, ?, ?, ?, 0, '', '', 0, ?, 0)`)
	s.BindText(1, q.Name)
	s.BindInt64(2, priority)
	s.BindInt64(3, now.Add(delay).UnixNano())
	bindBytes(s, 4, payload)
	s.BindInt64(5, now.UnixNano())
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	return tx.Conn().LastInsertRowID(), nil
}

// Claim hands at most n due jobs to worker, who must settle each by Ack or Fail
// within visible, or prolong it by Heartbeat; then they are due again. It hands
// out none while Rate has no permits left; Next tells when to come again.
func (q Queue) Claim(tx *schema.Tx, worker string, n int, visible time.Duration) ([]Job, error) {
	if err := q.reap(tx); err != nil {
		return nil, err
	}
	s := tx.Stmt(selectJob + ` WHERE queue = ? AND state = 1 AND due <= ? ORDER BY priority DESC, due, id LIMIT ?`)
	s.BindText(1, q.Name)
	s.BindInt64(2, clockOr(q.Clock).Now().UnixNano())
	s.BindInt64(3, int64(n))
	jobs, err := scanJobs(s)
	if err != nil || len(jobs) == 0 {
		return nil, err
	}
	permits, _, err := q.limits().Take(tx, q.rateName(), q.Rate, len(jobs))
	if err != nil {
		return nil, err
	}
	jobs = jobs[:permits]
	boot, now := clockOr(q.Clock).Boot()
	for i := range jobs {
		j := &jobs[i]
		j.State, j.Claimant = Claimed, worker
		j.Attempts++
		j.Claim = int64(tx.NextStamp()) // a purged job may have had the same ID
		u := tx.Stmt("UPDATE job SET state = 2, attempts = ?, claim = ?, claimant = ?, boot = ?, until = ? WHERE id = ?")
		u.BindInt64(1, int64(j.Attempts))
		u.BindInt64(2, j.Claim)
		u.BindText(3, worker)
		u.BindText(4, boot)
		u.BindInt64(5, now+int64(visible))
		u.BindInt64(6, j.ID)
		if _, err := u.Step(); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

func (q Queue) limits() Limits   { return Limits{Clock: q.Clock} }
func (q Queue) rateName() string { return "queue/" + q.Name }

// Heartbeat makes the claim last visible from now.
func (q Queue) Heartbeat(tx *schema.Tx, claim Job, visible time.Duration) error {
	if err := q.holds(tx, claim); err != nil {
		return err
	}
	boot, now := clockOr(q.Clock).Boot()
	s := tx.Stmt("UPDATE job SET boot = ?, until = ? WHERE id = ?")
	s.BindText(1, boot)
	s.BindInt64(2, now+int64(visible))
	s.BindInt64(3, claim.ID)
	_, err := s.Step()
	return err
}

// Ack records that the job is done, with its result.
func (q Queue) Ack(tx *schema.Tx, claim Job, result []byte) error {
	if err := q.holds(tx, claim); err != nil {
		return err
	}
	return q.settle(tx, claim.ID, Done, result, 0)
}

// Fail puts the job back to be tried again after an exponential backoff with
// jitter, or declares it dead when it has had its attempts.
func (q Queue) Fail(tx *schema.Tx, claim Job, cause error) error {
	if err := q.holds(tx, claim); err != nil {
		return err
	}
	return q.again(tx, claim.ID, claim.Attempts, []byte(cause.Error()))
}

func (q Queue) again(tx *schema.Tx, id int64, attempts int, why []byte) error {
	if attempts >= positive(q.MaxAttempts, 10) {
		return q.settle(tx, id, Dead, why, 0)
	}
	wait, most := positive(q.Backoff, time.Second), positive(q.MaxBackoff, 10*time.Minute)
	for i := 1; i < attempts && wait < most; i++ {
		wait *= 2
	}
	wait = min(wait, most)
	wait = wait/2 + rand.N(wait/2+1) // half fixed, half at random
	return q.settle(tx, id, Ready, why, wait)
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// Retry makes a dead job ready again, with all its attempts before it.
func (q Queue) Retry(tx *schema.Tx, id int64) error {
	s := tx.Stmt("UPDATE job SET state = 1, attempts = 0, due = ?, finished = 0 WHERE id = ? AND queue = ? AND state = 4")
	s.BindInt64(1, clockOr(q.Clock).Now().UnixNano())
	s.BindInt64(2, id)
	s.BindText(3, q.Name)
	if _, err := s.Step(); err != nil {
		return err
	}
	if tx.Conn().Changes() == 0 {
		return fmt.Errorf("queue %q has no dead job %d", q.Name, id)
	}
	return nil
}

// Purge removes the jobs in state and returns how many there were.
func (q Queue) Purge(tx *schema.Tx, state State) (int, error) {
	s := tx.Stmt("DELETE FROM job WHERE queue = ? AND state = ?")
	s.BindText(1, q.Name)
	s.BindInt64(2, int64(state))
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	return tx.Conn().Changes(), nil
}

// List returns the jobs in state, oldest first, at most limit.
func (q Queue) List(tx *schema.Tx, state State, limit int) ([]Job, error) {
	s := tx.Stmt(selectJob + " WHERE queue = ? AND state = ? ORDER BY id LIMIT ?")
	s.BindText(1, q.Name)
	s.BindInt64(2, int64(state))
	s.BindInt64(3, int64(limit))
	return scanJobs(s)
}

// reap makes the jobs whose claims have ended ready again, or dead.
func (q Queue) reap(tx *schema.Tx) error {
	boot, now := clockOr(q.Clock).Boot()
	s := tx.Stmt(selectJob + " WHERE queue = ? AND state = 2 AND (boot <> ? OR until <= ?)")
	s.BindText(1, q.Name)
	s.BindText(2, boot)
	s.BindInt64(3, now)
	ended, err := scanJobs(s)
	if err != nil {
		return err
	}
	for _, j := range ended {
		if err := q.again(tx, j.ID, j.Attempts, []byte("the claim of "+j.Claimant+" ran out")); err != nil {
			return err
		}
	}
	return nil
}

// holds returns ErrClaimLost unless claim is still the job's claim.
func (q Queue) holds(tx *schema.Tx, claim Job) error {
	boot, now := clockOr(q.Clock).Boot()
	s := tx.Stmt("SELECT 1 FROM job WHERE id = ? AND state = 2 AND claim = ? AND boot = ? AND until > ?")
	s.BindInt64(1, claim.ID)
	s.BindInt64(2, claim.Claim)
	s.BindText(3, boot)
	s.BindInt64(4, now)
	if ok, err := s.Step(); err != nil || ok {
		return err
	}
	return fmt.Errorf("job %d of queue %q: %w", claim.ID, q.Name, ErrClaimLost)
}

func (q Queue) settle(tx *schema.Tx, id int64, state State, outcome []byte, wait time.Duration) error {
	now := clockOr(q.Clock).Now()
	s := tx.Stmt("UPDATE job SET state = ?, outcome = ?, due = ?, finished = ?, claimant = '', boot = '', until = 0 WHERE id = ?")
	s.BindInt64(1, int64(state))
	bindBytes(s, 2, outcome)
	s.BindInt64(3, now.Add(wait).UnixNano())
	s.BindInt64(4, 0)
	if state == Done || state == Dead {
		s.BindInt64(4, now.UnixNano())
	}
	s.BindInt64(5, id)
	_, err := s.Step()
	return err
}

const selectJob = "SELECT id, queue, state, priority, due, payload, attempts, claim, claimant, outcome, created, finished FROM job"

func scanJobs(s *sqlite.Stmt) ([]Job, error) {
	var jobs []Job
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return jobs, err
		}
		j := Job{
			ID: s.ColumnInt64(0), Queue: s.ColumnText(1), State: State(s.ColumnInt(2)), Priority: s.ColumnInt64(3),
			Due: time.Unix(0, s.ColumnInt64(4)), Payload: columnBytes(s, 5), Attempts: s.ColumnInt(6),
			Claim: s.ColumnInt64(7), Claimant: s.ColumnText(8), Outcome: columnBytes(s, 9), Created: time.Unix(0, s.ColumnInt64(10)),
		}
		if ns := s.ColumnInt64(11); ns != 0 {
			j.Finished = time.Unix(0, ns)
		}
		jobs = append(jobs, j)
	}
}
