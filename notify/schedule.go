package notify

import (
	"fmt"
	"syscall"
	"time"

	"github.com/robfig/cron/v3"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// Schedules put jobs into queues at set times. Runs missed while nobody looked
// count as one. The zero value uses the system clock.
type Schedules struct{ Clock Clock }

// Schedule is one of them.
type Schedule struct {
	Name    string
	Spec    string // five cron fields, @daily and the like, or "@every 90s"
	Queue   string
	Payload []byte
	Paused  bool
	Last    time.Time // zero: never
	Next    time.Time
}

// Set stores a schedule under its name, replacing one that is there. An
// unchanged spec keeps its next run, unless that is Ahead.
func (s Schedules) Set(tx *schema.Tx, name, spec, queue string, payload []byte) error {
	next, err := s.next(spec)
	if err != nil {
		return err
	}
	q := tx.Stmt(`INSERT INTO schedule (name, spec, queue, payload, paused, last, next) VALUES (?, ?, ?, ?, 0, 0, ?)
		ON CONFLICT (name) DO UPDATE SET queue = excluded.queue, payload = excluded.payload,
			next = CASE WHEN spec = excluded.spec THEN min(next, excluded.next) ELSE excluded.next END, spec = excluded.spec`)
	q.BindText(1, name)
	q.BindText(2, spec)
	q.BindText(3, queue)
	bindBytes(q, 4, payload)
	q.BindInt64(5, next.UnixNano())
	_, err = q.Step()
	return err
}

// next returns the first run of spec after now.
func (s Schedules) next(spec string) (time.Time, error) {
	parsed, err := cron.ParseStandard(spec)
	if err != nil {
		return time.Time{}, fmt.Errorf("schedule %q: %w (%w)", spec, err, syscall.EINVAL)
	}
	return parsed.Next(clockOr(s.Clock).Now()), nil
}

// Ahead reports whether the next run of a schedule is later than any could be: it
// was set when the clock was ahead, and would be waited for until the clock is
// there again.
func (s Schedules) Ahead(sch Schedule) bool {
	next, err := s.next(sch.Spec)
	return err == nil && sch.Next.After(next)
}

// Pause stops a schedule, or lets it go on from now.
func (s Schedules) Pause(tx *schema.Tx, name string, paused bool) error {
	all, err := s.List(tx)
	if err != nil {
		return err
	}
	for _, sch := range all {
		if sch.Name != name {
			continue
		}
		next, err := s.next(sch.Spec)
		if err != nil {
			return err
		}
		return s.update(tx, name, paused, sch.Last, next)
	}
	return fmt.Errorf("no schedule %q: %w", name, syscall.ENOENT)
}

// Tick enqueues a job for every schedule whose time has come, unless the one of
// an earlier run still waits, and returns their names. Any number of processes may call it: the transaction decides.
func (s Schedules) Tick(tx *schema.Tx) ([]string, error) {
	now := clockOr(s.Clock).Now()
	q := tx.Stmt(selectSchedule + " WHERE paused = 0 AND next <= ? ORDER BY next")
	q.BindInt64(1, now.UnixNano())
	due, err := scanSchedules(q)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, sch := range due {
		next, err := s.next(sch.Spec)
		if err != nil {
			return nil, err
		}
		queue := Queue{Name: sch.Queue, Clock: s.Clock}
		waiting, err := queue.Waiting(tx, sch.Payload)
		if err == nil && !waiting {
			_, err = queue.Enqueue(tx, sch.Payload, 0, 0)
		}
		if err != nil {
			return nil, err
		}
		if err := s.update(tx, sch.Name, false, now, next); err != nil {
			return nil, err
		}
		names = append(names, sch.Name)
	}
	return names, nil
}

// List returns all schedules by name.
func (s Schedules) List(tx *schema.Tx) ([]Schedule, error) {
	return scanSchedules(tx.Stmt(selectSchedule + " ORDER BY name"))
}

func (s Schedules) update(tx *schema.Tx, name string, paused bool, last, next time.Time) error {
	q := tx.Stmt("UPDATE schedule SET paused = ?, last = ?, next = ? WHERE name = ?")
	q.BindBool(1, paused)
	q.BindInt64(2, 0)
	if !last.IsZero() {
		q.BindInt64(2, last.UnixNano())
	}
	q.BindInt64(3, next.UnixNano())
	q.BindText(4, name)
	_, err := q.Step()
	return err
}

const selectSchedule = "SELECT name, spec, queue, payload, paused, last, next FROM schedule"

func scanSchedules(q *sqlite.Stmt) ([]Schedule, error) {
	var all []Schedule
	for {
		ok, err := q.Step()
		if err != nil || !ok {
			return all, err
		}
		sch := Schedule{
			Name: q.ColumnText(0), Spec: q.ColumnText(1), Queue: q.ColumnText(2), Payload: columnBytes(q, 3),
			Paused: q.ColumnBool(4), Next: time.Unix(0, q.ColumnInt64(6)),
		}
		if ns := q.ColumnInt64(5); ns != 0 {
			sch.Last = time.Unix(0, ns)
		}
		all = append(all, sch)
	}
}
