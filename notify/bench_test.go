package notify

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

func openBench(b *testing.B, dir string) *schema.DB {
	b.Helper()
	db, err := schema.Open(context.Background(), dir, schema.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

// BenchmarkQueue enqueues, claims and acknowledges a job, each in a Write of its
// own.
func BenchmarkQueue(b *testing.B) {
	db := openBench(b, b.TempDir())
	q := Queue{Name: "q"}
	for b.Loop() {
		err := db.Write(func(tx *schema.Tx) error { _, err := q.Enqueue(tx, []byte("payload"), 0, 0); return err })
		var jobs []Job
		if err == nil {
			err = db.Write(func(tx *schema.Tx) (err error) { jobs, err = q.Claim(tx, "w", 1, time.Minute); return err })
		}
		if err == nil {
			err = db.Write(func(tx *schema.Tx) error { return q.Ack(tx, jobs[0], nil) })
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEvent is what an event adds to a change.
func BenchmarkEvent(b *testing.B) {
	db := openBench(b, b.TempDir())
	e := Event{Op: OpContent, Bucket: 2, Branch: 2, Ino: 1 << 40, Parent: 1 << 41, Name: []byte("file.txt"), New: make([]byte, 32), Size: 4096}
	for _, n := range []int{0, 1} {
		b.Run(fmt.Sprint("events=", n), func(b *testing.B) {
			for b.Loop() {
				err := db.Write(func(tx *schema.Tx) error {
					e.Stamp = tx.NextStamp()
					for range n {
						if err := Append(tx, &e); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLock(b *testing.B) {
	db := openBench(b, b.TempDir())
	for b.Loop() {
		err := db.Write(func(tx *schema.Tx) error {
			l, err := Locks{}.Acquire(tx, "lock", "me", time.Minute)
			if err != nil {
				return err
			}
			return Locks{}.Release(tx, l)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

const wakeChildDir = "ALKFS_NOTIFY_WAKE_CHILD"

// TestWakeChild prints how many nanoseconds after its commit began it saw each
// event.
func TestWakeChild(t *testing.T) {
	dir := os.Getenv(wakeChildDir)
	if dir == "" {
		return // BenchmarkWake starts it
	}
	db := open(t, dir)
	fmt.Println("ready")
	for e, err := range Watch(t.Context(), db, 0) {
		if err != nil {
			t.Fatal(err)
		}
		_, now := SystemClock{}.Boot()
		fmt.Println(now - e.Size)
	}
}

// BenchmarkWake measures from before a commit until a watcher has its event, in
// this process and in another one.
func BenchmarkWake(b *testing.B) {
	b.Run("in-process", func(b *testing.B) {
		db := openBench(b, b.TempDir())
		ctx, cancel := context.WithCancel(context.Background())
		took, ended := make(chan int64), make(chan struct{})
		go func() {
			defer close(ended)
			for e, err := range Watch(ctx, db, 0) {
				if err != nil {
					return
				}
				_, now := SystemClock{}.Boot()
				took <- now - e.Size
			}
		}()
		wakeLoop(b, db, func() int64 { return <-took })
		cancel()
		<-ended
	})
	b.Run("between-processes", func(b *testing.B) {
		dir := b.TempDir()
		db := openBench(b, dir)
		cmd := exec.Command(os.Args[0], "-test.run=^TestWakeChild$", "-test.timeout=10m")
		cmd.Env = append(os.Environ(), wakeChildDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		lines.Scan() // ready
		wakeLoop(b, db, func() (ns int64) {
			lines.Scan()
			if _, err := fmt.Sscan(lines.Text(), &ns); err != nil {
				b.Fatal(err)
			}
			return ns
		})
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func wakeLoop(b *testing.B, db *schema.DB, latency func() int64) {
	var all []int64
	for b.Loop() {
		err := db.Write(func(tx *schema.Tx) error {
			_, now := SystemClock{}.Boot()
			return Append(tx, &Event{Stamp: tx.NextStamp(), Op: OpCreate, Size: now})
		})
		if err == nil {
			err = db.Commit()
		}
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, latency())
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2]), "p50-ns")
	b.ReportMetric(float64(all[len(all)*99/100]), "p99-ns")
}
