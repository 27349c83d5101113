package notify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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
// whether the database kept its word.
func TestKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	kids := make([]*killChild, killWorkers)
	for i := range kids {
		kids[i] = startKillChild(t, dir)
	}
	for round := range killRounds {
		time.Sleep(rand.N(80 * time.Millisecond))
		i := round % killWorkers
		kids[i].kill(t)
		kids[i] = startKillChild(t, dir)
		checkOutbox(t, db)
	}
	for _, k := range kids {
		k.stop(t)
	}
	drain(t, db, dir)
	checkOutbox(t, db)
	checkLogs(t, db, dir)
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

type interval struct{ from, to int64 }

// checkLogs checks what the processes wrote down against the database and
// against each other.
func checkLogs(t *testing.T, db *schema.DB, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "log-*"))
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]bool{}
	began := map[string]bool{}
	runs := map[string][]interval{}
	held := map[int64][]int64{} // times by token
	for _, path := range logs {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var id string
			var a, b, c int64
			if n, _ := fmt.Sscanf(lines.Text(), "acknowledged %s", &id); n == 1 {
				acknowledged[id] = true
			} else if n, _ := fmt.Sscanf(lines.Text(), "began %s", &id); n == 1 {
				began[id] = true
			} else if n, _ := fmt.Sscanf(lines.Text(), "ran %s %d %d %d", &id, &a, &b, &c); n == 4 {
				runs[id] = append(runs[id], interval{b, c})
			} else if n, _ := fmt.Sscanf(lines.Text(), "held %d %d", &a, &b); n == 2 {
				held[a] = append(held[a], b)
			} else {
				t.Fatalf("%s: %q", path, lines.Text())
			}
		}
	}
	changes := map[string]bool{}
	err = db.Snapshot(func(tx *schema.Tx) error {
		s := tx.Stmt("SELECT name FROM cursor WHERE name LIKE 'change/%'")
		for {
			if ok, err := s.Step(); err != nil || !ok {
				return err
			}
			changes[s.ColumnText(0)] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range acknowledged {
		if !changes[id] {
			t.Errorf("%s was acknowledged and is gone", id)
		}
	}
	for id := range changes {
		if !began[id] {
			t.Errorf("the job of %s is done and never ran", id)
		}
		slices.SortFunc(runs[id], func(a, b interval) int { return int(a.from - b.from) })
		for i := 1; i < len(runs[id]); i++ {
			if runs[id][i].from < runs[id][i-1].to {
				t.Errorf("%s was run twice at a time: %v", id, runs[id])
			}
		}
	}
	tokens := make([]int64, 0, len(held))
	for token := range held {
		tokens = append(tokens, token)
	}
	slices.Sort(tokens)
	for i := 1; i < len(tokens); i++ {
		if before, after := slices.Max(held[tokens[i-1]]), slices.Min(held[tokens[i]]); before >= after {
			t.Errorf("tokens %d and %d were held at the same time", tokens[i-1], tokens[i])
		}
	}
	if len(changes) == 0 || len(tokens) < 2 {
		t.Errorf("%d changes, %d lock holders: the processes did nothing", len(changes), len(tokens))
	}
	t.Logf("%d rounds: %d changes (%d acknowledged), %d turns with the lock", killRounds, len(changes), len(acknowledged), len(tokens))
}
