package alkfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

const (
	upkeepQueue = "upkeep"
	upkeepLock  = "upkeep" // held by whoever runs a job
	jobsKept    = 20       // finished runs of each job that stay in the history
)

// upkeepTimes are how often Upkeep looks and how long a claim lasts. A type of
// its own for tests.
type upkeepTimes struct {
	first, most time.Duration // until the first look, and between looks at most
	lease       time.Duration
}

var defaultUpkeepTimes = upkeepTimes{first: 20 * time.Second, most: time.Minute, lease: time.Minute}

// Upkeep does the background work of the store (see Jobs) until ctx ends. Any
// number of processes may call it; one at a time runs a job, and when it dies
// another goes on after a minute. It works in small steps with rests between
// them, so that nobody waits for it.
func (s *Store) Upkeep(ctx context.Context) error { return s.upkeep(ctx, defaultUpkeepTimes) }

func (s *Store) upkeep(ctx context.Context, times upkeepTimes) error {
	if s.readOnly {
		return nil
	}
	u := &upkeep{s: s, times: times, holder: s.holder()}
	wait := times.first
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if ctx.Err() != nil { // after no wait at all both may be so
			return nil
		}
		var err error
		if wait, err = u.look(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("upkeep", "error", err)
			wait = times.most
		}
	}
}

// holder names this process in locks and claims.
func (s *Store) holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("process %d on %s", os.Getpid(), host)
}

// upkeep is one process's part in the background work.
type upkeep struct {
	s      *Store
	times  upkeepTimes
	holder string
}

var (
	queue     = notify.Queue{Name: upkeepQueue, MaxAttempts: 8, Backoff: time.Minute, MaxBackoff: time.Hour}
	limits    notify.Limits
	locks     notify.Locks
	schedules notify.Schedules
)

// look runs what is due and returns how long to wait before the next look.
func (u *upkeep) look(ctx context.Context) (time.Duration, error) {
	if err := u.s.setSchedules(); err != nil {
		return 0, err
	}
	due, err := u.due()
	if err != nil {
		return 0, err
	}
	if wait := time.Until(due); wait > 0 {
		return min(wait+rand.N(u.times.most/50+1), u.times.most), nil
	}
	run, err := u.claim()
	if err != nil || run == nil {
		return u.times.most / 4, err // somebody else is at work
	}
	return 0, run.do(ctx)
}

// setSchedules stores the schedules of the jobs there are, if they are not, and
// sets those right that were set when the clock was ahead.
func (s *Store) setSchedules() error {
	var missing []job
	err := s.db.Read(func(tx *schema.Tx) error {
		stored, err := schedules.List(tx)
		specs := make(map[string]string)
		for _, sch := range stored {
			if !schedules.Ahead(sch) {
				specs[sch.Name] = sch.Spec
			}
		}
		for _, j := range upkeepJobs {
			if specs[j.name] != j.spec {
				missing = append(missing, j)
			}
		}
		return err
	})
	if err != nil || len(missing) == 0 {
		return err
	}
	return s.db.Write(func(tx *schema.Tx) error {
		for _, j := range missing {
			if err := schedules.Set(tx, j.name, j.spec, upkeepQueue, []byte(j.name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// due returns when there will be something to do. A claimed job is looked at
// again: its worker may die.
func (u *upkeep) due() (due time.Time, err error) {
	err = u.s.db.Read(func(tx *schema.Tx) error {
		var claimed bool
		if due, claimed, err = queue.Next(tx); err != nil {
			return err
		}
		if claimed {
			due = time.Time{}
			return nil
		}
		all, err := schedules.List(tx)
		for _, sch := range all {
			if !sch.Paused && (due.IsZero() || sch.Next.Before(due)) {
				due = sch.Next
			}
		}
		if due.IsZero() {
			due = time.Now().Add(u.times.most)
		}
		return err
	})
	return due, err
}

// claim takes the upkeep lock and a job that is due; nil when there is none or
// another process has the lock.
func (u *upkeep) claim() (run *jobRun, err error) {
	err = u.s.db.Write(func(tx *schema.Tx) error {
		run = nil
		if _, err := schedules.Tick(tx); err != nil {
			return err
		}
		lock, err := locks.Acquire(tx, upkeepLock, u.holder, u.times.lease)
		if errors.Is(err, notify.ErrHeld) {
			return nil
		}
		if err != nil {
			return err
		}
		claims, err := queue.Claim(tx, u.holder, 1, u.times.lease)
		if err != nil || len(claims) == 0 {
			return errors.Join(err, locks.Release(tx, lock))
		}
		run = &jobRun{s: u.s, lock: lock, claim: claims[0], lease: u.times.lease}
		return nil
	})
	if err == nil {
		err = u.s.db.Commit()
	}
	return run, err
}

// jobRun is a job that this process has claimed, with the upkeep lock held.
type jobRun struct {
	s     *Store
	lock  notify.Lock
	claim notify.Job
	lease time.Duration
	once  bool // somebody waits for it: run it as fast as it can, and do not try again
}

// outcome is what a finished run leaves in its row.
type outcome struct {
	Text string        `json:"text"`
	Took time.Duration `json:"ns"`
}

// do runs the job and settles the claim.
func (r *jobRun) do(ctx context.Context) error {
	name := string(r.claim.Payload)
	log := r.s.log.With("job", name)
	start := time.Now()
	text, err := r.work(ctx, name)
	took := time.Since(start)
	result, e := json.Marshal(outcome{text, took})
	if e != nil {
		return e
	}
	q, stopped := queue, ctx.Err() != nil
	if r.once {
		q.MaxAttempts, stopped = 1, false
	}
	e = r.s.db.Write(func(tx *schema.Tx) error {
		var e error
		switch {
		case err != nil && stopped:
			e = queue.PutBack(tx, r.claim, 0)
		case err != nil:
			e = q.Fail(tx, r.claim, err)
		default:
			e = queue.Ack(tx, r.claim, result)
		}
		if e != nil && !errors.Is(e, notify.ErrClaimLost) {
			return e
		}
		if e := queue.Trim(tx, r.claim.Payload, jobsKept); e != nil {
			return e
		}
		if e := locks.Release(tx, r.lock); e != nil && !errors.Is(e, notify.ErrLockLost) {
			return e
		}
		return nil
	})
	if e == nil {
		e = r.s.db.Commit()
	}
	if err == nil {
		log.Debug("upkeep", "result", text, "took", took)
	} else {
		err = fmt.Errorf("job %s: %w", name, err)
	}
	return errors.Join(err, e)
}

// work calls the job's function, and keeps the claim and the lock meanwhile;
// when they are lost the function is stopped.
func (r *jobRun) work(ctx context.Context, name string) (string, error) {
	j, ok := jobNamed(name)
	if !ok {
		return "", fmt.Errorf("this alkfs has no job %q", name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(r.lease / 4):
			}
			if err := r.renew(); errors.Is(err, notify.ErrClaimLost) || errors.Is(err, notify.ErrLockLost) {
				cancel(err)
			}
		}
	}()
	text, err := j.run(r.s, &work{ctx: ctx, gently: !r.once, rested: time.Now()})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-done
	return text, err
}

func (r *jobRun) renew() error {
	return r.s.db.Write(func(tx *schema.Tx) error {
		if err := locks.Renew(tx, r.lock, r.lease); err != nil {
			return err
		}
		return queue.Heartbeat(tx, r.claim, r.lease)
	})
}
