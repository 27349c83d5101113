package notify

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

// fakeClock moves only when told; its wall clock may also jump.
type fakeClock struct {
	boot int
	mono int64
	jump time.Duration
}

func (c *fakeClock) Now() time.Time        { return time.Unix(1e9, c.mono).Add(c.jump) }
func (c *fakeClock) Boot() (string, int64) { return fmt.Sprint("boot", c.boot), c.mono }

func write[T any](t interface{ Fatal(...any) }, db *schema.DB, f func(*schema.Tx) (T, error)) (v T, err error) {
	var inner error
	if e := db.Write(func(tx *schema.Tx) error { v, inner = f(tx); return nil }); e != nil {
		t.Fatal(e)
	}
	return v, inner
}

func TestLocksAgainstModel(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		clock := &fakeClock{}
		locks := Locks{Clock: clock}
		name := fmt.Sprint("lock", run)
		var holder *Lock // by the model
		var until, token int64
		var stale []Lock
		live := func() bool { return holder != nil && clock.mono < until }
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				ttl := rapid.Int64Range(1, 1e6).Draw(t, "ttl")
				lock, err := write(t, db, func(tx *schema.Tx) (Lock, error) { return locks.Acquire(tx, name, "me", time.Duration(ttl)) })
				if live() {
					if !errors.Is(err, ErrHeld) {
						t.Fatalf("acquired while held: %v", err)
					}
					return
				}
				if err != nil || lock.Token <= token {
					t.Fatalf("token %d after %d: %v", lock.Token, token, err)
				}
				if holder != nil {
					stale = append(stale, *holder)
				}
				holder, token, until = &lock, lock.Token, clock.mono+ttl
			},
			"renew": func(t *rapid.T) {
				if holder == nil {
					return
				}
				ttl := rapid.Int64Range(1, 1e6).Draw(t, "ttl")
				_, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, locks.Renew(tx, *holder, time.Duration(ttl)) })
				if live() != (err == nil) {
					t.Fatalf("live %v, renew: %v", live(), err)
				}
				if err == nil {
					until = clock.mono + ttl
				}
			},
			"release": func(t *rapid.T) {
				if holder == nil {
					return
				}
				_, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, locks.Release(tx, *holder) })
				if live() != (err == nil) {
					t.Fatalf("live %v, release: %v", live(), err)
				}
				stale = append(stale, *holder)
				holder = nil
			},
			"break": func(t *rapid.T) {
				if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, locks.Break(tx, name) }); err != nil {
					t.Fatal(err)
				}
				if holder != nil {
					stale = append(stale, *holder)
					holder = nil
				}
			},
			"stale tokens are refused": func(t *rapid.T) {
				for _, l := range stale {
					if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, locks.Check(tx, l) }); !errors.Is(err, ErrLockLost) {
						t.Fatalf("token %d still good: %v", l.Token, err)
					}
				}
			},
			"time passes":     func(t *rapid.T) { clock.mono += rapid.Int64Range(0, 1e6).Draw(t, "ns") },
			"wall clock jump": func(t *rapid.T) { clock.jump = time.Duration(rapid.Int64Range(-1e18, 1e18).Draw(t, "jump")) },
			"reboot":          func(t *rapid.T) { clock.boot++; clock.mono = 0; until = 0 },
		})
	})
}

func TestQueueAgainstModel(t *testing.T) {
	db := open(t, t.TempDir())
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		clock := &fakeClock{}
		q := Queue{Name: fmt.Sprint("queue", run), MaxAttempts: 3, Backoff: 100, MaxBackoff: 1000, Clock: clock}
		type claim struct {
			job   Job
			until int64
		}
		state := map[int64]State{} // by the model
		held := map[int64]claim{}
		var lost []Job
		expire := func() {
			for id, c := range held {
				if c.until <= clock.mono {
					lost = append(lost, c.job)
					delete(held, id)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"enqueue": func(t *rapid.T) {
				id, err := write(t, db, func(tx *schema.Tx) (int64, error) {
					return q.Enqueue(tx, []byte("x"), rapid.Int64Range(0, 3).Draw(t, "priority"), time.Duration(rapid.Int64Range(0, 500).Draw(t, "delay")))
				})
				if err != nil {
					t.Fatal(err)
				}
				state[id] = Ready
			},
			"claim": func(t *rapid.T) {
				n := rapid.IntRange(1, 3).Draw(t, "n")
				jobs, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.Claim(tx, "worker", n, 200) })
				if err != nil || len(jobs) > n {
					t.Fatal(len(jobs), err)
				}
				for i, j := range jobs {
					if _, twice := held[j.ID]; twice {
						t.Fatalf("job %d is with two workers", j.ID)
					}
					if j.Due.After(clock.Now()) || j.Attempts > q.MaxAttempts || state[j.ID] == Done {
						t.Fatalf("job %+v must not be handed out", j)
					}
					if i > 0 && jobs[i-1].Priority < j.Priority {
						t.Fatalf("priority %d before %d", jobs[i-1].Priority, j.Priority)
					}
					held[j.ID] = claim{j, clock.mono + 200}
				}
				left, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.List(tx, Ready, 1000) })
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range left {
					if due := !j.Due.After(clock.Now()); due && (len(jobs) < n || jobs[n-1].Priority < j.Priority) {
						t.Fatalf("job %+v is due, %d of %d were handed out: %+v", j, len(jobs), n, jobs)
					}
				}
			},
			"settle": func(t *rapid.T) {
				for id, c := range held {
					how := rapid.SampledFrom([]string{"ack", "fail", "heartbeat", "nothing"}).Draw(t, "how")
					_, err := write(t, db, func(tx *schema.Tx) (int, error) {
						switch how {
						case "ack":
							return 0, q.Ack(tx, c.job, nil)
						case "fail":
							return 0, q.Fail(tx, c.job, errors.New("no"))
						case "heartbeat":
							return 0, q.Heartbeat(tx, c.job, 300)
						}
						return 0, nil
					})
					if err != nil {
						t.Fatal(how, err)
					}
					switch how {
					case "ack":
						state[id] = Done
						delete(held, id)
					case "fail":
						lost = append(lost, c.job)
						delete(held, id)
					case "heartbeat":
						held[id] = claim{c.job, clock.mono + 300}
					}
					return
				}
			},
			"lost claims are refused": func(t *rapid.T) {
				for _, j := range lost {
					if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, q.Ack(tx, j, nil) }); !errors.Is(err, ErrClaimLost) {
						t.Fatalf("job %d: %v", j.ID, err)
					}
				}
			},
			"retry the dead": func(t *rapid.T) {
				dead, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.List(tx, Dead, 10) })
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range dead {
					if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, q.Retry(tx, j.ID) }); err != nil {
						t.Fatal(err)
					}
				}
			},
			"purge": func(t *rapid.T) {
				s := rapid.SampledFrom([]State{Ready, Claimed, Done, Dead}).Draw(t, "state")
				gone, err := write(t, db, func(tx *schema.Tx) ([]Job, error) {
					jobs, err := q.List(tx, s, 1000)
					if err == nil {
						_, err = q.Purge(tx, s)
					}
					return jobs, err
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range gone {
					delete(state, j.ID) // another job may get the number
					if c, ok := held[j.ID]; ok {
						lost = append(lost, c.job)
						delete(held, j.ID)
					}
				}
			},
			"time passes":     func(t *rapid.T) { clock.mono += rapid.Int64Range(0, 400).Draw(t, "ns"); expire() },
			"wall clock jump": func(t *rapid.T) { clock.jump += time.Duration(rapid.Int64Range(-400, 400).Draw(t, "jump")) },
			"reboot": func(t *rapid.T) {
				clock.boot++
				clock.jump += time.Duration(clock.mono)
				clock.mono = 0
				for id, c := range held {
					held[id] = claim{c.job, 0}
				}
				expire()
			},
			"": func(t *rapid.T) { // nothing is lost: every job is in exactly one state
				n := 0
				for s := Ready; s <= Dead; s++ {
					jobs, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.List(tx, s, 1000) })
					if err != nil {
						t.Fatal(err)
					}
					for _, j := range jobs {
						if (state[j.ID] == Done) != (j.State == Done) {
							t.Fatalf("job %d is %v, the model says %v", j.ID, j.State, state[j.ID])
						}
					}
					n += len(jobs)
				}
				if n != len(state) {
					t.Fatalf("%d jobs, enqueued %d", n, len(state))
				}
			},
		})
	})
}

func TestSchedules(t *testing.T) {
	db := open(t, t.TempDir())
	clock := &fakeClock{}
	s := Schedules{Clock: clock}
	tick := func() int {
		names, err := write(t, db, s.Tick)
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	set := func(spec string) error {
		_, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, s.Set(tx, "gc", spec, "upkeep", []byte("gc")) })
		return err
	}
	if err := set("not a spec"); err == nil {
		t.Fatal("a bad spec was taken")
	}
	if err := set("@every 1m"); err != nil {
		t.Fatal(err)
	}
	if n := tick(); n != 0 {
		t.Fatal("ran before its time")
	}
	clock.mono += int64(10 * time.Minute)
	if n := tick(); n != 1 {
		t.Fatalf("ten missed runs gave %d, want 1", n)
	}
	if n := tick(); n != 0 {
		t.Fatal("ran twice")
	}
	pause := func(p bool) {
		if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, s.Pause(tx, "gc", p) }); err != nil {
			t.Fatal(err)
		}
	}
	pause(true)
	clock.mono += int64(time.Hour)
	if n := tick(); n != 0 {
		t.Fatal("ran while paused")
	}
	pause(false)
	if n := tick(); n != 0 {
		t.Fatal("a pause counts as a missed run")
	}
	clock.mono += int64(time.Minute)
	if n := tick(); n != 1 {
		t.Fatal("did not go on")
	}
	clock.jump = -48 * time.Hour // a clock that was ahead is set right
	ahead := func() bool {
		list, err := write(t, db, s.List)
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		return s.Ahead(list[0])
	}
	if !ahead() {
		t.Fatal("a run two days from now is taken for one of every minute")
	}
	if err := set("@every 1m"); err != nil || ahead() {
		t.Fatal("the next run is still two days from now", err)
	}
	clock.mono += int64(time.Minute)
	if n := tick(); n != 1 {
		t.Fatal("waits for the clock to be where it was")
	}
	clock.jump = 0
	if err := set("30 3 * * *"); err != nil || ahead() {
		t.Fatal(err)
	}
	list, err := write(t, db, s.List)
	if err != nil || list[0].Next.Hour() != 3 || list[0].Next.Minute() != 30 || list[0].Next.Sub(clock.Now()) > 25*time.Hour {
		t.Fatalf("%+v, %v", list, err)
	}
	jobs, err := write(t, db, func(tx *schema.Tx) ([]Job, error) {
		return Queue{Name: "upkeep", Clock: clock}.Claim(tx, "w", 10, time.Minute)
	})
	if err != nil || len(jobs) != 1 || string(jobs[0].Payload) != "gc" {
		t.Fatal("a job that waits stands for the runs after it", jobs, err)
	}
}

// TestRetriesBackOff fails a job until it is dead: each wait is between half of
// and all of twice the one before, at most MaxBackoff, and not always the same.
func TestRetriesBackOff(t *testing.T) {
	db := open(t, t.TempDir())
	clock := &fakeClock{}
	q := Queue{Name: "q", Clock: clock, MaxAttempts: 9, Backoff: time.Second, MaxBackoff: 20 * time.Second}
	waits := map[int]map[time.Duration]bool{}
	for run := range 20 {
		id, err := write(t, db, func(tx *schema.Tx) (int64, error) { return q.Enqueue(tx, []byte{byte(run)}, 0, 0) })
		if err != nil {
			t.Fatal(err)
		}
		for attempt := 1; ; attempt++ {
			jobs, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.Claim(tx, "w", 1, time.Hour) })
			if err != nil || len(jobs) != 1 || jobs[0].ID != id || jobs[0].Attempts != attempt {
				t.Fatal(attempt, jobs, err)
			}
			if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, q.Fail(tx, jobs[0], errors.New("it broke")) }); err != nil {
				t.Fatal(err)
			}
			if attempt == q.MaxAttempts {
				break
			}
			due, err := write(t, db, func(tx *schema.Tx) (time.Time, error) { due, _, err := q.Next(tx); return due, err })
			wait, most := due.Sub(clock.Now()), min(q.Backoff<<(attempt-1), q.MaxBackoff)
			if err != nil || wait < most/2 || wait > most {
				t.Fatalf("after failure %d: %v, want %v to %v (%v)", attempt, wait, most/2, most, err)
			}
			if waits[attempt] == nil {
				waits[attempt] = map[time.Duration]bool{}
			}
			waits[attempt][wait] = true
			clock.mono += int64(wait)
		}
		dead, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.List(tx, Dead, 100) })
		if err != nil || len(dead) != run+1 || string(dead[run].Outcome) != "it broke" {
			t.Fatal(dead, err)
		}
	}
	for attempt, seen := range waits {
		if len(seen) < 10 {
			t.Errorf("after failure %d: %d different waits in 20", attempt, len(seen))
		}
	}
	last, err := write(t, db, func(tx *schema.Tx) (int, error) { return q.RetryAll(tx) })
	if err != nil || last != 20 {
		t.Fatal(last, err)
	}
	jobs, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.Claim(tx, "w", 1, time.Hour) })
	if err != nil || len(jobs) != 1 || jobs[0].Attempts != 1 {
		t.Fatal(jobs, err)
	}
	if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, q.Ack(tx, jobs[0], []byte("42")) }); err != nil {
		t.Fatal(err)
	}
	done, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.List(tx, Done, 10) })
	if err != nil || len(done) != 1 || string(done[0].Outcome) != "42" {
		t.Fatal("the result is not kept:", done, err)
	}
}

// The number of a purged job may be given to a new one, its claim may not: who
// held it has nothing to say about the new one.
func TestClaimOfAPurgedJobIsLost(t *testing.T) {
	db := open(t, t.TempDir())
	q := Queue{Name: "q"}
	enqueue := func() int64 {
		t.Helper()
		id, err := write(t, db, func(tx *schema.Tx) (int64, error) { return q.Enqueue(tx, nil, 0, 0) })
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	claim := func() Job {
		t.Helper()
		all, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.Claim(tx, "worker", 1, time.Minute) })
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0]
	}
	first := enqueue()
	old := claim()
	if n, err := write(t, db, func(tx *schema.Tx) (int, error) { return q.Purge(tx, Claimed) }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if second := enqueue(); second != first {
		t.Fatalf("job %d after job %d: this test needs the same number", second, first)
	}
	now := claim()
	for name, f := range map[string]func(tx *schema.Tx) error{
		"ack":       func(tx *schema.Tx) error { return q.Ack(tx, old, nil) },
		"fail":      func(tx *schema.Tx) error { return q.Fail(tx, old, errors.New("no")) },
		"heartbeat": func(tx *schema.Tx) error { return q.Heartbeat(tx, old, time.Minute) },
	} {
		if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, f(tx) }); !errors.Is(err, ErrClaimLost) {
			t.Errorf("%s by who held the purged job: %v", name, err)
		}
	}
	if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, q.Ack(tx, now, nil) }); err != nil {
		t.Error(err)
	}
}
