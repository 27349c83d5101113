// Command notify measures, in one run, what events and queues cost: jobs enqueued,
// claimed and acknowledged per second; events per second; how long after a commit
// began a watcher in this process and in another one has the event; and what its
// event adds to the creation of a small file.
//
//	go run ./integration/bench/notify [-n 20000] [-dir DIR]
//
// It prints a table. Each number is the median of five parts of the run.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

const (
	childVariable = "ALKFS_BENCH_WATCHER" // directory of the store; set in the process that watches
	parts         = 5
)

func main() {
	var err error
	if dir := os.Getenv(childVariable); dir != "" {
		err = watcher(dir)
	} else {
		n := flag.Int("n", 20000, "repetitions of each thing; wake-ups and creations are a tenth")
		parent := flag.String("dir", os.TempDir(), "where to work")
		flag.Parse()
		err = run(*parent, *n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(parent string, n int) error {
	if n < 1000 {
		return errors.New("-n: at least 1000, or medians say nothing")
	}
	dir, err := os.MkdirTemp(parent, "alkfs-bench-notify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("%d CPUs, %s, %d repetitions\n\n| what | |\n|---|--:|\n", runtime.NumCPU(), runtime.Version(), n)
	for _, part := range []func(dir string, n int) error{queues, events, wakes, creates} {
		sub, err := os.MkdirTemp(dir, "store")
		if err != nil {
			return err
		}
		if err := part(sub, n); err != nil {
			return err
		}
	}
	return nil
}

func row(what, format string, args ...any) {
	fmt.Printf("| %s | %s |\n", what, fmt.Sprintf(format, args...))
}

func openDB(dir string) (*schema.DB, error) {
	return schema.Open(context.Background(), dir, schema.Options{})
}

// perSecond runs f, which does n things, in parts, and returns the median rate.
func perSecond(n int, f func(n int) error) (float64, error) {
	var rates []float64
	for range parts {
		began := time.Now()
		if err := f(n / parts); err != nil {
			return 0, err
		}
		rates = append(rates, float64(n/parts)/time.Since(began).Seconds())
	}
	slices.Sort(rates)
	return rates[parts/2], nil
}

// inParallel splits n things among workers.
func inParallel(workers, n int, f func(n int) error) error {
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { errs[w] = f(n / workers) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// queues takes jobs through their lives, each step in a transaction of its own.
func queues(dir string, n int) error {
	db, err := openDB(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, c := range []struct{ workers, batch int }{{1, 1}, {16, 1}, {1, 64}} {
		q := notify.Queue{Name: fmt.Sprint(c)}
		rate, err := perSecond(n, func(n int) error {
			return inParallel(c.workers, n, func(n int) error { return work(db, q, n, c.batch) })
		})
		if err != nil {
			return err
		}
		row(fmt.Sprintf("enqueue, claim and acknowledge, %d at a time, %d workers", c.batch, c.workers), "%.0f jobs/s", rate)
	}
	return nil
}

func work(db *schema.DB, q notify.Queue, n, batch int) error {
	payload := []byte("what a job is about: some tens of bytes")
	for done := 0; done < n; {
		k := min(batch, n-done)
		err := db.Write(func(tx *schema.Tx) (err error) {
			for range k {
				if _, err = q.Enqueue(tx, payload, 0, 0); err != nil {
					break
				}
			}
			return err
		})
		var jobs []notify.Job
		if err == nil {
			err = db.Write(func(tx *schema.Tx) (err error) { jobs, err = q.Claim(tx, "bench", k, time.Hour); return err })
		}
		if err == nil {
			err = db.Write(func(tx *schema.Tx) (err error) {
				for _, j := range jobs {
					if err = q.Ack(tx, j, nil); err != nil {
						break
					}
				}
				return err
			})
		}
		if err != nil {
			return err
		}
		done += k
	}
	return nil
}

func event(tx *schema.Tx, size int64) *notify.Event {
	return &notify.Event{
		Stamp: tx.NextStamp(), Node: schema.LocalNode, Bucket: 2, Branch: 2, Op: notify.OpContent,
		Ino: 1 << 40, Parent: 1 << 41, Name: []byte("file.txt"), New: make([]byte, 32), Size: size,
	}
}

// events appends events, each in a transaction of its own, and reads them back.
func events(dir string, n int) error {
	db, err := openDB(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, writers := range []int{1, 16} {
		rate, err := perSecond(n, func(n int) error {
			return inParallel(writers, n, func(n int) error {
				for range n {
					if err := db.Write(func(tx *schema.Tx) error { return notify.Append(tx, event(tx, 0)) }); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		row(fmt.Sprintf("events written, each in a transaction, %d writers", writers), "%.0f /s", rate)
	}
	seq := int64(0)
	rate, err := perSecond(n, func(n int) error {
		for e, err := range notify.Watch(context.Background(), db, seq) {
			if err != nil {
				return err
			}
			seq = e.Seq
			if n--; n == 0 {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	row("events read by a watcher that has fallen behind", "%.0f /s", rate)
	return nil
}

// creates makes small files with their events and, in turns on the same store,
// with a trigger that keeps the row of the event out. What is measured is the
// processor time of this process in the best of many turns, which other work on the
// machine disturbs least.
func creates(dir string, n int) error {
	s, err := alkfs.Open(context.Background(), dir, alkfs.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	v, err := s.View(alkfs.Spec{})
	if err != nil {
		return err
	}
	content := make([]byte, 4096)
	made := 0
	create := func() error {
		copy(content, fmt.Sprint(made)) // else they are one blob
		made++
		return v.WriteFile(fmt.Sprintf("f%07d", made), content, 0o644)
	}
	appendOne := func() error {
		return s.DB().Write(func(tx *schema.Tx) error { return notify.Append(tx, event(tx, 0)) })
	}
	nothing := func() error {
		return s.DB().Write(func(tx *schema.Tx) error { tx.NextStamp(); return nil })
	}
	const turns = 60
	best := map[string]time.Duration{}
	measure := func(what string, f func() error) error {
		for range 20 { // prepares its statements anew
			if err := f(); err != nil {
				return err
			}
		}
		began := cpuTime()
		for range n / turns {
			if err := f(); err != nil {
				return err
			}
		}
		if err := s.DB().Commit(); err != nil {
			return err
		}
		each := (cpuTime() - began) / time.Duration(n/turns)
		if old, ok := best[what]; !ok || each < old {
			best[what] = each
		}
		return nil
	}
	for turn := range turns {
		with := turn%2 == turn/2%2 // with, without, without, with
		if err := setEvents(s.DB(), with); err != nil {
			return err
		}
		err := measure(fmt.Sprint("create ", with), create)
		if err == nil && with {
			err = errors.Join(measure("append", appendOne), measure("nothing", nothing))
		}
		if err != nil {
			return err
		}
	}
	with, without, alone := best["create true"], best["create false"], best["append"]-best["nothing"]
	row("create of a 4 KiB file through the Go API, processor time", "%v", with.Round(10*time.Nanosecond))
	row("the same without the row of its event", "%v", without.Round(10*time.Nanosecond))
	row("an event in a transaction, over an empty one", "%v, %.1f %% of the create", alone.Round(10*time.Nanosecond), 100*float64(alone)/float64(with))
	return nil
}

func setEvents(db *schema.DB, on bool) error {
	query := "CREATE TEMP TRIGGER IF NOT EXISTS no_events BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END"
	if on {
		query = "DROP TRIGGER IF EXISTS no_events"
	}
	err := db.Write(func(tx *schema.Tx) error {
		s, _, err := tx.Conn().PrepareTransient(query)
		if err != nil {
			return err
		}
		defer s.Finalize()
		_, err = s.Step()
		return err
	})
	if err != nil {
		return fmt.Errorf("keep events out: %w", err)
	}
	return nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bootTime is a clock that all processes share.
func bootTime() int64 {
	_, ns := notify.SystemClock{}.Boot()
	return ns
}

// wakes commits events one at a time, and has a watcher in this process and then
// one in another say when it had each.
func wakes(dir string, n int) error {
	db, err := openDB(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := wakesHere(db, n/10); err != nil {
		return err
	}
	return wakesThere(db, dir, n/10)
}

func wakesHere(db *schema.DB, n int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	woke := make(chan int64)
	go func() {
		defer close(woke)
		for e, err := range notify.Watch(ctx, db, 0) {
			if err != nil {
				return
			}
			woke <- bootTime() - e.Size
		}
	}()
	return wakeLoop(db, n, "in this process", func() (int64, error) { return <-woke, nil })
}

func wakesThere(db *schema.DB, dir string, n int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return errors.New("the watcher ended")
	}
	return wakeLoop(db, n, "in another process", func() (ns int64, err error) {
		if !lines.Scan() {
			return 0, errors.New("the watcher ended")
		}
		_, err = fmt.Sscan(lines.Text(), &ns)
		return ns, err
	})
}

// watcher is the other process.
func watcher(dir string) error {
	db, err := openDB(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer db.Close()
	var last int64
	err = db.Read(func(tx *schema.Tx) (err error) { last, err = notify.Last(tx); return err })
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for e, err := range notify.Watch(context.Background(), db, last) {
		if err != nil {
			return err
		}
		fmt.Println(bootTime() - e.Size)
	}
	return nil
}

// wakeLoop prints how long it took from the beginning of a transaction, and from
// when its commit had returned, until the watcher had the event.
func wakeLoop(db *schema.DB, n int, where string, latency func() (int64, error)) error {
	var all, after []time.Duration
	for range n {
		began := bootTime()
		err := db.Write(func(tx *schema.Tx) error { return notify.Append(tx, event(tx, began)) })
		if err == nil {
			err = db.Commit()
		}
		committed := bootTime() - began
		if err != nil {
			return err
		}
		ns, err := latency()
		if err != nil {
			return err
		}
		all = append(all, time.Duration(ns))
		after = append(after, max(0, time.Duration(ns-committed)))
	}
	slices.Sort(all)
	slices.Sort(after)
	at := func(d []time.Duration, percent int) time.Duration {
		return d[len(d)*percent/100].Round(100 * time.Nanosecond)
	}
	row("change begun until a watcher "+where+" has it, median and 99th percentile", "%v, %v", at(all, 50), at(all, 99))
	row("of that, after the commit", "%v, %v", at(after, 50), at(after, 99))
	return nil
}
