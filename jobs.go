package alkfs

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Job is a kind of background work that Upkeep does.
type Job struct {
	Name, Schedule string // Schedule: five cron fields or "@every 15m"
	About          string
	Paused         bool
	Last, Next     time.Time // zero: never yet, and not before some process does the upkeep
	Running        string    // who runs it now; ""
}

// JobRun is one run of a job, or one that waits to be tried again.
type JobRun struct {
	ID       int64
	Name     string
	State    JobState
	Queued   time.Time
	Finished time.Time // zero while it is not
	Took     time.Duration
	Attempts int
	Result   string // the last error when it failed
}

// Jobs returns the background work there is.
func (s *Store) Jobs() (list []Job, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		stored, err := schedules.List(tx)
		if err != nil {
			return err
		}
		claimed, err := queue.List(tx, notify.Claimed, 10)
		if err != nil {
			return err
		}
		list = nil
		for _, j := range upkeepJobs {
			out := Job{Name: j.name, Schedule: j.spec, About: j.about}
			for _, sch := range stored {
				if sch.Name == j.name {
					out.Paused, out.Last, out.Next = sch.Paused, sch.Last, sch.Next
				}
			}
			for _, c := range claimed {
				if string(c.Payload) == j.name {
					out.Running = c.Claimant
				}
			}
			list = append(list, out)
		}
		return nil
	})
	return list, err
}

func noJob(name string) error {
	return &nameError{fmt.Sprintf("there is no job %q", name), fs.ErrNotExist}
}

// PauseJob stops a job from being run by its schedule, or lets it go on.
func (s *Store) PauseJob(name string, paused bool) error {
	if _, ok := jobNamed(name); !ok {
		return noJob(name)
	}
	if err := s.setSchedules(); err != nil {
		return err
	}
	return s.write(func(tx *schema.Tx) error { return schedules.Pause(tx, name, paused) })
}

// RunJob runs a job now, in this process and as fast as it can, also when it is
// paused. It waits for another job that runs.
func (s *Store) RunJob(ctx context.Context, name string) (r JobRun, err error) {
	if _, ok := jobNamed(name); !ok {
		return r, noJob(name)
	}
	if s.readOnly {
		return r, ErrReadOnly
	}
	holder, lease := s.holder(), defaultUpkeepTimes.lease
	lock, err := locks.Wait(ctx, s.db, upkeepLock, holder, lease)
	if err != nil {
		return r, err
	}
	var claim notify.Job
	err = s.write(func(tx *schema.Tx) error {
		id, err := queue.Enqueue(tx, []byte(name), 0, 0)
		if err != nil {
			return err
		}
		all, err := queue.Claim(tx, holder, math.MaxInt32, lease)
		for _, c := range all {
			if c.ID == id {
				claim = c
			} else if err == nil {
				err = queue.PutBack(tx, c, 0)
			}
		}
		return err
	})
	if err != nil {
		_ = s.write(func(tx *schema.Tx) error { return locks.Release(tx, lock) })
		return r, err
	}
	run := jobRun{s: s, lock: lock, claim: claim, lease: lease, once: true}
	if err := run.do(ctx); err != nil {
		return r, err
	}
	list, err := s.JobHistory(math.MaxInt32)
	if i := slices.IndexFunc(list, func(r JobRun) bool { return r.ID == claim.ID }); i >= 0 {
		r = list[i]
	}
	return r, err
}

// JobHistory returns the newest runs, at most limit, latest first.
func (s *Store) JobHistory(limit int) (list []JobRun, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		list = nil
		for st := notify.Ready; st <= notify.Dead; st++ {
			jobs, err := queue.List(tx, st, math.MaxInt32)
			if err != nil {
				return err
			}
			for _, j := range jobs {
				list = append(list, jobRunOf(j))
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b JobRun) int { return int(b.ID - a.ID) })
	return list[:min(len(list), limit)], err
}

func jobRunOf(j notify.Job) JobRun {
	r := JobRun{
		ID: j.ID, Name: string(j.Payload), State: j.State, Queued: j.Created, Finished: j.Finished,
		Attempts: j.Attempts, Result: string(j.Outcome),
	}
	var o outcome
	if j.State == notify.Done && json.Unmarshal(j.Outcome, &o) == nil {
		r.Result, r.Took = o.Text, o.Took
	}
	return r
}

// LockInfo describes a named lock of the store.
type LockInfo = notify.Info

// Locks returns the named locks that were ever taken; those without a holder
// are free.
func (s *Store) Locks() (list []LockInfo, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = locks.List(tx)
		return err
	})
	return list, err
}

// BreakLock takes a named lock from its holder, whose later use of it fails. That
// of a writer on the file it writes (Writers) is EBUSY: only its process can say
// what becomes of what it has written.
func (s *Store) BreakLock(name string) error {
	found := false
	err := s.write(func(tx *schema.Tx) error {
		all, err := locks.List(tx)
		if err != nil {
			return err
		}
		if found = slices.ContainsFunc(all, func(i LockInfo) bool { return i.Name == name }); !found {
			return nil
		}
		return locks.Break(tx, name)
	})
	if found || err != nil {
		return err
	}
	return s.notBroken(name)
}

// notBroken says why there is no lock of that name to break.
func (s *Store) notBroken(name string) error {
	writers, err := s.Writers()
	if err != nil {
		return err
	}
	if sp, err := ParseSpec(name); err == nil {
		for _, w := range writers {
			if w.spec().String() == sp.String() {
				return &nameError{fmt.Sprintf("%s is writing it: close the file there, or end the process and `alkfs sessions abort %d` drops what it wrote",
					w.Process, w.ID), syscall.EBUSY}
			}
		}
	}
	return &nameError{fmt.Sprintf("there is no lock %q", name), fs.ErrNotExist}
}

// A durable queue as it is seen from outside.
type (
	QueueDepth = notify.Depth
	QueueJob   = notify.Job
	JobState   = notify.State
)

// What a job of a queue is waiting for.
const (
	JobReady   = notify.Ready
	JobClaimed = notify.Claimed
	JobDone    = notify.Done
	JobDead    = notify.Dead
)

// ParseJobState is the inverse of JobState.String.
func ParseJobState(name string) (JobState, error) { return notify.ParseState(name) }

// Queues counts the jobs of all durable queues by state.
func (s *Store) Queues() (list []QueueDepth, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = notify.Depths(tx)
		return err
	})
	return list, err
}

// QueueJobs returns the jobs of a queue in a state, oldest first, at most limit.
func (s *Store) QueueJobs(name string, state JobState, limit int) (list []QueueJob, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = notify.Queue{Name: name}.List(tx, state, limit)
		return err
	})
	return list, err
}

// RetryJobs makes dead jobs of a queue ready again, all of them when no ids are
// given, and returns how many.
func (s *Store) RetryJobs(name string, ids ...int64) (n int, err error) {
	q := notify.Queue{Name: name}
	err = s.write(func(tx *schema.Tx) (err error) {
		if n = len(ids); n == 0 {
			n, err = q.RetryAll(tx)
			return err
		}
		for _, id := range ids {
			if err := q.Retry(tx, id); err != nil {
				return &nameError{err.Error(), fs.ErrNotExist}
			}
		}
		return nil
	})
	return n, err
}

// PurgeJobs removes the jobs of a queue in a state and returns how many.
func (s *Store) PurgeJobs(name string, state JobState) (n int, err error) {
	err = s.write(func(tx *schema.Tx) (err error) {
		n, err = notify.Queue{Name: name}.Purge(tx, state)
		return err
	})
	return n, err
}
