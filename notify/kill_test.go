package notify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

const (
	killChildDir = "ALKFS_NOTIFY_KILL_CHILD" // directory; set in a child
	killLease    = 500 * time.Millisecond
	killWorkers  = 3 // processes
)

var killQueue = Queue{Name: "work", MaxAttempts: 1 << 30, Backoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond}

// TestKilledProcesses has several processes produce changes with their events
// and jobs, work the jobs off, and take turns with a lock, and kills them one
// after the other. What they did they write to logs of their own, which tell
// after each kill whether the database kept its word.
func TestKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	kids := make([]*killChild, killWorkers)
	for i := range kids {
		kids[i] = startKillChild(t, dir)
	}
	l := ledger{dir: dir, db: db, read: map[string]int64{}, began: map[string]bool{}, runs: map[string][]interval{}, held: map[int64]interval{}}
	for round := range killRounds {
		time.Sleep(rand.N(80 * time.Millisecond)) // the random moment
		i := round % killWorkers
		kids[i].kill(t)
		kids[i] = startKillChild(t, dir)
		checkOutbox(t, db)
		awaitJobs(t, db, newestJob(t, db))
		l.check(t)
		if t.Failed() {
			t.Fatalf("after round %d of kill -9", round)
		}
		t.Logf("round %d: %d acknowledged changes are there, each with one event; %d jobs ran, %d claims of them at different times; %d turns with the lock, one after the other",
			round, l.acknowledged, l.changes, l.claims, len(l.held))
	}
	for _, k := range kids {
		k.stop(t)
	}
	drain(t, db, dir)
	checkOutbox(t, db)
	l.check(t)
	if l.changes == 0 || len(l.held) < 2 {
		t.Errorf("%d changes, %d lock holders: the processes did nothing", l.changes, len(l.held))
	}
}

type killChild struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func startKillChild(t *testing.T, dir string) *killChild {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), killChildDir+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	return &killChild{cmd, in}
}

func (k *killChild) kill(t *testing.T) {
	if err := k.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = k.cmd.Wait() // an error, as it was killed
}

func (k *killChild) stop(t *testing.T) {
	k.in.Close()
	if err := k.cmd.Wait(); err != nil {
		t.Errorf("child: %v", err)
	}
}

// TestKillChild is such a process; it ends when its standard input does.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killChildDir)
	if dir == "" {
		return // the parent starts it
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	db := open(t, dir)
	log, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("log-%d-%x", os.Getpid(), rand.Uint64())), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c := child{db: db, log: log, name: fmt.Sprint("pid ", os.Getpid())}
	var wg sync.WaitGroup
	for _, f := range []func(context.Context) error{c.produce, c.work, c.hold} {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	fmt.Println("ready")
	wg.Wait()
}

type child struct {
	db   *schema.DB
	log  *os.File
	name string
}

// note appends a line to the log in one write(2), which a kill does not split.
func (c child) note(format string, args ...any) error {
	_, err := fmt.Fprintf(c.log, format+"\n", args...)
	return err
}

func (c child) produce(ctx context.Context) error {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("change/%d/%d/%x", os.Getpid(), n, rand.Uint64())
		if err := c.db.Write(func(tx *schema.Tx) error { return change(tx, id) }); err != nil {
			return err
		}
		if err := c.db.Commit(); err != nil {
			return err
		}
		if err := c.note("acknowledged %s", id); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond) // else the parent drains for long
	}
	return nil
}

// change is a change with its event and a job to do about it.
func change(tx *schema.Tx, id string) error {
	if err := SetCursor(tx, id, 1); err != nil {
		return err
	}
	if err := Append(tx, &Event{Stamp: tx.NextStamp(), Op: OpCreate, Name: []byte(id)}); err != nil {
		return err
	}
	_, err := killQueue.Enqueue(tx, []byte(id), 0, 0)
	return err
}

func (c child) work(ctx context.Context) error {
	for ctx.Err() == nil {
		gen := c.db.Generation()
		n, err := workOnce(c.db, c.name, c.note)
		if err != nil {
			return err
		}
		if n == 0 {
			wait, cancel := context.WithTimeout(ctx, killLease)
			_, _ = c.db.Wait(wait, gen)
			cancel()
		}
	}
	return nil
}

// workOnce claims some jobs, notes that they run, and settles them.
func workOnce(db *schema.DB, name string, note func(string, ...any) error) (int, error) {
	var jobs []Job
	var from int64
	err := db.Write(func(tx *schema.Tx) (err error) {
		_, from = SystemClock{}.Boot()
		jobs, err = killQueue.Claim(tx, name, 4, killLease)
		return err
	})
	if err == nil {
		err = db.Commit()
	}
	for _, j := range jobs {
		var to int64
		if err == nil {
			err = note("began %s", j.Payload)
		}
		if err == nil {
			err = db.Write(func(tx *schema.Tx) error {
				_, to = SystemClock{}.Boot()
				return killQueue.Ack(tx, j, nil)
			})
			if errors.Is(err, ErrClaimLost) { // this process was slow
				err = nil
				continue
			}
		}
		if err == nil {
			err = db.Commit()
		}
		if err == nil {
			err = note("ran %s %d %d %d", j.Payload, j.Claim, from, to)
		}
	}
	return len(jobs), err
}

// hold takes turns with the lock. Times are taken inside of transactions, which
// are one after the other over all processes.
func (c child) hold(ctx context.Context) error {
	locks := Locks{}
	for ctx.Err() == nil {
		lock, err := locks.Wait(ctx, c.db, "turn", c.name, killLease)
		if err != nil {
			return err
		}
		for range 3 {
			var at int64
			err := c.db.Write(func(tx *schema.Tx) error {
				_, at = SystemClock{}.Boot()
				if err := locks.Renew(tx, lock, killLease); err != nil {
					return err
				}
				newest, err := Cursor(tx, "fence")
				if err == nil && newest > lock.Token {
					err = fmt.Errorf("token %d after %d", lock.Token, newest)
				}
				return errors.Join(err, SetCursor(tx, "fence", lock.Token))
			})
			if errors.Is(err, ErrLockLost) {
				break
			}
			if err == nil {
				err = c.db.Commit()
			}
			if err == nil {
				err = c.note("held %d %d", lock.Token, at)
			}
			if err != nil {
				return err
			}
		}
		err = c.db.Write(func(tx *schema.Tx) error { return locks.Release(tx, lock) })
		if err != nil && !errors.Is(err, ErrLockLost) {
			return err
		}
		time.Sleep(time.Millisecond) // for the others' sake
	}
	return nil
}

// drain works off what the children left.
func drain(t *testing.T, db *schema.DB, dir string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log-parent"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := child{db: db, log: log}
	for deadline := time.Now().Add(time.Minute); ; {
		n, err := workOnce(db, "parent", c.note)
		if err != nil {
			t.Fatal(err)
		}
		left := count(t, db, "SELECT count(*), 0 FROM job WHERE state <> 3")
		if left[0] == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d jobs are never done", left[0])
		}
		if n == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func count(t *testing.T, db *schema.DB, query string) (n [2]int) {
	t.Helper()
	if err := db.Barrier(); err != nil {
		t.Fatal(err)
	}
	err := db.Snapshot(func(tx *schema.Tx) error {
		s := tx.Stmt(query)
		_, err := s.Step()
		n = [2]int{s.ColumnInt(0), s.ColumnInt(1)}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkOutbox checks that every change has exactly one event and one job.
func checkOutbox(t *testing.T, db *schema.DB) {
	t.Helper()
	for _, what := range []string{
		"SELECT count(*), (SELECT count(*) FROM cursor WHERE name LIKE 'change/%') FROM event",
		"SELECT count(*), 0 FROM (SELECT CAST(name AS TEXT) FROM event EXCEPT SELECT name FROM cursor)",
		"SELECT count(*), count(DISTINCT name) FROM event",
		"SELECT count(*), (SELECT count(*) FROM event) FROM job",
		"SELECT count(*), 0 FROM (SELECT payload FROM job EXCEPT SELECT name FROM event)",
		"SELECT count(*), count(DISTINCT payload) FROM job",
	} {
		if n := count(t, db, what); n[0] != n[1] {
			t.Fatalf("%s: %d and %d", what, n[0], n[1])
		}
	}
}

// newestJob returns the number of the newest job.
func newestJob(t *testing.T, db *schema.DB) int64 {
	t.Helper()
	return int64(count(t, db, "SELECT coalesce(max(id), 0), 0 FROM job")[0])
}

// awaitJobs returns when the jobs up to a number are done, whoever does them.
func awaitJobs(t *testing.T, db *schema.DB, upTo int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		gen := db.Generation()
		left := count(t, db, fmt.Sprintf("SELECT count(*), 0 FROM job WHERE state <> 3 AND id <= %d", upTo))[0]
		if left == 0 {
			return
		}
		if _, err := db.Wait(ctx, gen); err != nil {
			t.Fatalf("%d jobs are not done: %v", left, err)
		}
	}
}

// interval is a stretch of boot time, in nanoseconds, in which something was held.
type interval struct{ from, to int64 }

// ledger is what the processes wrote down, read as far as it goes.
type ledger struct {
	dir  string
	db   *schema.DB
	read map[string]int64 // bytes, by log

	changes, acknowledged, claims int
	newest                        int64 // job looked at
	began                         map[string]bool
	runs                          map[string][]interval // claims of a job that were settled
	held                          map[int64]interval    // turns with the lock, by fencing token
}

// check reads what is new in the logs and compares it with the database and with
// itself.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	newest := newestJob(t, l.db) // what is logged of the jobs up to here was logged before it is read
	awaitJobs(t, l.db, newest)
	logs, err := filepath.Glob(filepath.Join(l.dir, "log-*"))
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	for _, path := range logs {
		acknowledged = append(acknowledged, l.readLog(t, path)...)
	}
	l.acknowledged += len(acknowledged)
	if err := l.db.Barrier(); err != nil {
		t.Fatal(err)
	}
	err = l.db.Snapshot(func(tx *schema.Tx) error {
		for _, id := range acknowledged {
			if _, known, err := cursor(tx, id); err != nil || !known {
				t.Errorf("%s was acknowledged and is gone (%v)", id, err)
			}
		}
		s := tx.Stmt("SELECT payload FROM job WHERE id > ? AND id <= ?")
		s.BindInt64(1, l.newest)
		s.BindInt64(2, newest)
		for {
			if ok, err := s.Step(); err != nil || !ok {
				return err
			}
			l.changes++
			if id := string(columnBytes(s, 0)); !l.began[id] {
				t.Errorf("the job of %s is done and never ran", id)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	l.newest = newest
	l.checkTurns(t)
}

// readLog takes the lines that are new in a log, and returns the changes that were
// acknowledged.
func (l *ledger) readLog(t *testing.T, path string) (acknowledged []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(l.read[path], io.SeekStart); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return acknowledged // the rest, if any, is being written
		}
		l.read[path] += int64(len(line))
		var id string
		var a, b, c int64
		if n, _ := fmt.Sscanf(line, "acknowledged %s", &id); n == 1 {
			acknowledged = append(acknowledged, id)
		} else if n, _ := fmt.Sscanf(line, "began %s", &id); n == 1 {
			l.began[id] = true
		} else if n, _ := fmt.Sscanf(line, "ran %s %d %d %d", &id, &a, &b, &c); n == 4 {
			l.ran(t, id, interval{b, c})
		} else if n, _ := fmt.Sscanf(line, "held %d %d", &a, &b); n == 2 {
			h, known := l.held[a]
			if !known {
				h = interval{b, b}
			}
			l.held[a] = interval{min(h.from, b), max(h.to, b)}
		} else {
			t.Fatalf("%s: %q", path, line)
		}
	}
}

// ran notes a settled claim; no two of one job may overlap.
func (l *ledger) ran(t *testing.T, id string, now interval) {
	t.Helper()
	l.claims++
	for _, before := range l.runs[id] {
		if now.from < before.to && before.from < now.to {
			t.Errorf("%s was run twice at a time: %v and %v", id, before, now)
		}
	}
	l.runs[id] = append(l.runs[id], now)
}

// checkTurns checks that a greater fencing token was held only after every
// smaller one.
func (l *ledger) checkTurns(t *testing.T) {
	t.Helper()
	tokens := slices.Sorted(maps.Keys(l.held))
	for i := 1; i < len(tokens); i++ {
		if before, after := l.held[tokens[i-1]], l.held[tokens[i]]; before.to >= after.from {
			t.Errorf("tokens %d and %d were held at the same time", tokens[i-1], tokens[i])
		}
	}
}
