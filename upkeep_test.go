package alkfs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// past is a clock of yesterday.
type past struct{ notify.SystemClock }

func (past) Now() time.Time { return time.Now().Add(-25 * time.Hour) }

// missed makes all jobs due, as if nobody had done the upkeep for a day.
func missed(t *testing.T, s *Store) {
	t.Helper()
	err := s.write(func(tx *schema.Tx) error {
		for _, j := range upkeepJobs {
			if err := (notify.Schedules{Clock: past{}}).Set(tx, j.name, j.spec, upkeepQueue, []byte(j.name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// await returns when the runs of all jobs satisfy f.
func await(t *testing.T, s *Store, f func(runs []JobRun) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		gen := s.db.Generation()
		runs, err := s.JobHistory(1000)
		if err != nil {
			t.Fatal(err)
		}
		if f(runs) {
			return
		}
		if _, err := s.db.Wait(ctx, gen); err != nil {
			t.Fatalf("%v; runs: %+v", err, runs)
		}
	}
}

var quick = upkeepTimes{first: time.Millisecond, most: 20 * time.Millisecond, lease: 10 * time.Second}

// TestMissedJobsRunOnceWhoeverLooks lets two openers of one store do its upkeep.
func TestMissedJobsRunOnceWhoeverLooks(t *testing.T) {
	dir := t.TempDir()
	a := openStore(t, dir)
	b := openStore(t, dir)
	missed(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for _, s := range []*Store{a, b} {
		go func() { ended <- s.upkeep(ctx, quick) }()
	}
	await(t, a, func(runs []JobRun) bool {
		done := map[string]int{}
		for _, r := range runs {
			if r.State == JobDone {
				done[r.Name]++
			}
		}
		return len(done) == len(upkeepJobs)
	})
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	runs, err := a.JobHistory(1000)
	if err != nil || len(runs) != len(upkeepJobs) {
		t.Errorf("%d runs of %d jobs (%v): %+v", len(runs), len(upkeepJobs), err, runs)
	}
	locks, err := a.Locks()
	if err != nil || len(locks) != 1 || locks[0].Holder != "" {
		t.Errorf("locks afterwards: %+v, %v", locks, err)
	}
}

// TestStoppedJobIsPutBack stops the upkeep in the middle of a job.
func TestStoppedJobIsPutBack(t *testing.T) {
	s := openStore(t, t.TempDir())
	started := make(chan struct{})
	all := upkeepJobs
	defer func() { upkeepJobs = all }()
	upkeepJobs = []job{{"endless", "@daily", "", func(_ *Store, w *work) (string, error) {
		close(started)
		<-w.ctx.Done()
		return "", w.ctx.Err()
	}}}
	missed(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.upkeep(ctx, quick) }()
	<-started
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	runs, err := s.JobHistory(10)
	if err != nil || len(runs) != 1 || runs[0].State != JobReady || runs[0].Attempts != 0 {
		t.Errorf("%+v, %v", runs, err)
	}
}

// TestBrokenLockStopsTheJob takes the lock from a running job.
func TestBrokenLockStopsTheJob(t *testing.T) {
	s := openStore(t, t.TempDir())
	all := upkeepJobs
	defer func() { upkeepJobs = all }()
	upkeepJobs = []job{{"endless", "@daily", "", func(s *Store, w *work) (string, error) {
		if err := s.BreakLock(upkeepLock); err != nil {
			return "", err
		}
		<-w.ctx.Done()
		return "", w.ctx.Err()
	}}}
	missed(t, s)
	u := upkeep{s: s, times: upkeepTimes{lease: 40 * time.Millisecond, most: time.Second}, holder: "me"}
	if _, err := u.look(t.Context()); !errors.Is(err, notify.ErrLockLost) && !errors.Is(err, notify.ErrClaimLost) {
		t.Fatal(err)
	}
}

func TestPausedJobWaits(t *testing.T) {
	s := openStore(t, t.TempDir())
	missed(t, s)
	for _, j := range upkeepJobs {
		if err := s.PauseJob(j.name, true); err != nil {
			t.Fatal(err)
		}
	}
	u := upkeep{s: s, times: quick, holder: "me"}
	if wait, err := u.look(t.Context()); err != nil || wait <= 0 {
		t.Fatal(wait, err)
	}
	if runs, err := s.JobHistory(10); err != nil || len(runs) != 0 {
		t.Fatalf("%+v, %v", runs, err)
	}
	if r, err := s.RunJob(t.Context(), "prune"); err != nil || r.State != JobDone {
		t.Fatalf("a paused job is run by hand: %+v, %v", r, err)
	}
	if err := s.PauseJob("nothing", true); err == nil || !strings.Contains(err.Error(), "no job") {
		t.Fatal(err)
	}
}

// TestFailedJobIsRememberedAndTrimmed runs a job that always fails by hand.
func TestFailedJobIsRememberedAndTrimmed(t *testing.T) {
	s := openStore(t, t.TempDir())
	all := upkeepJobs
	defer func() { upkeepJobs = all }()
	upkeepJobs = []job{{"bad", "@daily", "", func(*Store, *work) (string, error) { return "", errors.New("it broke") }}}
	for range jobsKept + 3 {
		if _, err := s.RunJob(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "it broke") {
			t.Fatal(err)
		}
	}
	runs, err := s.JobHistory(1000)
	if err != nil || len(runs) != jobsKept || runs[0].State != JobDead || runs[0].Result != "it broke" {
		t.Fatalf("%d runs, %+v, %v", len(runs), runs, err)
	}
	if n, err := s.RetryJobs(upkeepQueue); err != nil || n != jobsKept {
		t.Fatal(n, err)
	}
	if n, err := s.PurgeJobs(upkeepQueue, JobReady); err != nil || n != jobsKept {
		t.Fatal(n, err)
	}
}

func TestScrubJobFindsDamage(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	v, err := s.View(Spec{})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.WriteFile("f", bytes.Repeat([]byte("content "), 10000), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := s.RunJob(t.Context(), "scrub"); err != nil || !strings.Contains(r.Result, "0 damaged") {
		t.Fatalf("%+v, %v", r, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	i := slices.IndexFunc(files, func(f string) bool { return !strings.HasSuffix(f, ".obao") })
	if i < 0 {
		t.Fatal(files)
	}
	f, err := os.OpenFile(files[i], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("X"), 5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if r, err := s.RunJob(t.Context(), "scrub"); err != nil || !strings.Contains(r.Result, "1 damaged") {
		t.Fatalf("%+v, %v", r, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "quarantine", "*")); len(left) == 0 {
		t.Error("nothing in quarantine/")
	}
}

func TestFullness(t *testing.T) {
	for _, c := range []struct {
		blocks, free, avail uint64
		want                int
	}{{0, 0, 0, 0}, {100, 100, 95, 0}, {100, 10, 10, 90}, {100, 15, 5, 95}, {100, 0, 0, 100}} {
		if got := fullness(c.blocks, c.free, c.avail); got != c.want {
			t.Errorf("fullness(%d, %d, %d) = %d, want %d", c.blocks, c.free, c.avail, got, c.want)
		}
	}
}
