package alkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// countdown is a context that ends when it has been asked n times whether it has.
type countdown struct {
	context.Context
	n atomic.Int64
}

func (c *countdown) Err() error {
	if c.n.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestScrubGoesOnWhereItWasStopped stops scrubs in the middle, in turns by two
// openers of the store, and has every content hashed exactly once.
func TestScrubGoesOnWhereItWasStopped(t *testing.T) {
	defer func(least, step int64) { scrubLeast, scrubStep = least, step }(scrubLeast, scrubStep)
	scrubLeast, scrubStep = 4*int64(len(content64K(0))), 1 // 4 of 9 at a time, and the place kept after each
	dir := t.TempDir()
	stores := []*Store{openStore(t, dir), openStore(t, dir)}
	v := openView(t, stores[0], Spec{})
	const blobs = 9
	for i := range blobs {
		writeFile(t, v, fmt.Sprint("f", i), content64K(i))
	}
	if err := stores[0].Sync(); err != nil {
		t.Fatal(err)
	}
	place := func() (next int64) {
		err := stores[0].db.Read(func(tx *schema.Tx) (err error) { next, err = notify.Cursor(tx, scrubCursor); return err })
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	seen, stopped, full := 0, 0, 0
	for round := 0; ; round++ {
		s := stores[round%2]
		w := &work{ctx: context.Context(t.Context())}
		if round%2 == 0 {
			stop := &countdown{Context: t.Context()}
			stop.n.Store(12) // some blobs, not a share
			w.ctx = stop
		}
		before := place()
		text, err := s.scrub(w)
		var n int
		if _, e := fmt.Sscanf(text, "%d blobs", &n); e != nil {
			t.Fatal(text, err)
		}
		if err := s.db.Commit(); err != nil {
			t.Fatal(err)
		}
		seen += n
		switch {
		case errors.Is(err, context.Canceled):
			if stopped++; n == 0 || n == 4 || place() <= before {
				t.Fatalf("stopped after %d blobs, at %d, before at %d", n, place(), before)
			}
		case err != nil:
			t.Fatal(err)
		case n == 4:
			full++
		}
		if place() == 0 {
			break
		}
	}
	if seen != blobs || stopped == 0 || full == 0 {
		t.Errorf("%d blobs hashed, want %d once; %d rounds stopped, %d with a full share", seen, blobs, stopped, full)
	}
}

func TestUnpublishedWritesOfTheDeadExpire(t *testing.T) {
	defer func(d time.Duration) { orphanExpiry = d }(orphanExpiry)
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	live, err := v.Create("live")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if _, err := live.Write(content64K(1)); err != nil {
		t.Fatal(err)
	}
	left, err := v.Create("left")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := left.Write(content64K(2)); err != nil {
		t.Fatal(err)
	}
	if err := left.f.Preserve(); err != nil { // as of a process that is gone
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  string
		left  int
	}{{orphanExpiry, "0 sessions", 1}, {0, "1 sessions", 0}} {
		orphanExpiry = c.after
		if r, err := s.RunJob(t.Context(), "sessions"); err != nil || r.Result != c.want {
			t.Fatalf("after %v: %+v, %v", c.after, r, err)
		}
		list, err := s.OpenSessions()
		orphans := slices.DeleteFunc(list, func(i SessionInfo) bool { return i.Alive })
		if err != nil || len(orphans) != c.left {
			t.Fatalf("after %v: %+v, %v", c.after, orphans, err)
		}
	}
	if err := live.Close(); err != nil {
		t.Fatal("what is being written was dropped:", err)
	}
	wantFile(t, s, Spec{Path: "live"}, content64K(1))
}

// TestJobOfTheDeadIsDoneByAnother claims a job and never settles it.
func TestJobOfTheDeadIsDoneByAnother(t *testing.T) {
	defer func(q notify.Queue) { queue = q }(queue)
	queue.Backoff = time.Millisecond
	dir := t.TempDir()
	a, b := openStore(t, dir), openStore(t, dir)
	missed(t, a)
	dead := upkeep{s: a, times: upkeepTimes{lease: 30 * time.Millisecond}, holder: "dead"}
	run, err := dead.claim()
	if err != nil || run == nil {
		t.Fatal(run, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- b.upkeep(ctx, quick) }()
	await(t, b, func(runs []JobRun) bool {
		return slices.ContainsFunc(runs, func(r JobRun) bool { return r.ID == run.claim.ID && r.State == JobDone && r.Attempts == 2 })
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := run.renew(); !errors.Is(err, notify.ErrLockLost) && !errors.Is(err, notify.ErrClaimLost) {
		t.Error("the dead one goes on:", err)
	}
}

// TestPruneFollowsEachBucketsPolicy has a bucket that keeps history for no time
// beside one that keeps it for the usual time and one that keeps it for ever.
func TestPruneFollowsEachBucketsPolicy(t *testing.T) {
	s := openStore(t, t.TempDir())
	for name, keep := range map[string]time.Duration{"short": time.Nanosecond, "usual": 0, "forever": -1} {
		if _, err := s.CreateBucket(name); err != nil {
			t.Fatal(err)
		}
		if err := s.SetPolicy(name, Policy{Retention: keep}); err != nil {
			t.Fatal(err)
		}
		for k := range 3 {
			if _, err := s.CreateSnapshot(Spec{Bucket: name}, fmt.Sprint("s", k), ""); err != nil { // else f is replaced in place
				t.Fatal(err)
			}
			writeFile(t, openView(t, s, Spec{Bucket: name}), "f", fmt.Append(nil, k))
		}
		for k := range 3 {
			if err := s.RemoveSnapshot(name, fmt.Sprint("s", k)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r, err := s.RunJob(t.Context(), "prune"); err != nil {
		t.Fatal(r, err)
	}
	for name, want := range map[string]int{"short": 1, "usual": 3, "forever": 3} {
		list, err := s.Log(Spec{Bucket: name, Path: "f"}, 0)
		if err != nil || len(list) != want {
			t.Errorf("%s: %d versions, want %d (%v)", name, len(list), want, err)
		}
	}
}

// TestDiskWarningsAreRare has two processes find a full disk again and again.
func TestDiskWarningsAreRare(t *testing.T) {
	defer func(f func(string, *unix.Statfs_t) error) { statfs = f }(statfs)
	used := uint64(89)
	statfs = func(_ string, st *unix.Statfs_t) error {
		*st = unix.Statfs_t{Blocks: 100, Bfree: 100 - used, Bavail: 100 - used, Bsize: 1}
		return nil
	}
	dir := t.TempDir()
	var log bytes.Buffer
	var stores []*Store
	for range 2 {
		s, err := Open(t.Context(), dir, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stores = append(stores, s)
	}
	look := func(s *Store, gently bool) int {
		t.Helper()
		log.Reset()
		if _, err := s.watchDisk(&work{ctx: t.Context(), gently: gently}); err != nil {
			t.Fatal(err)
		}
		return strings.Count(log.String(), "nearly full")
	}
	if n := look(stores[0], true) + look(stores[0], false); n != 0 {
		t.Error("warned at 89 %")
	}
	used = 90
	warned := 0
	for range 3 {
		warned += look(stores[0], true) + look(stores[1], true)
	}
	if warned != 1 {
		t.Errorf("%d warnings in the log, want 1", warned)
	}
	if n := look(stores[0], false) + look(stores[1], false); n != 2 {
		t.Errorf("%d warnings to who asked twice", n)
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
