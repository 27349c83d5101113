package notify

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

type taken struct {
	n    int
	wait time.Duration
}

// TestRatesAgainstModel compares Take with a bucket that is refilled step by step:
// never more than Burst at once, never more than Burst + t·N/Per in t, and what is
// waited for is there then. The wall clock may jump as it likes.
func TestRatesAgainstModel(t *testing.T) {
	db := open(t, t.TempDir())
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		clock := &fakeClock{}
		limits := Limits{Clock: clock}
		name := fmt.Sprint("rate", run)
		r := Rate{N: rapid.IntRange(1, 5).Draw(t, "n"), Per: time.Duration(rapid.IntRange(10, 1000).Draw(t, "per")), Burst: rapid.IntRange(1, 8).Draw(t, "burst")}
		each := int64(r.Per) / int64(r.N)
		credit := each * int64(r.Burst) // of the model, in ns
		take := func(n int) taken {
			got, err := write(t, db, func(tx *schema.Tx) (taken, error) {
				got, wait, err := limits.Take(tx, name, r, n)
				return taken{got, wait}, err
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		pass := func(ns int64) {
			clock.mono += ns
			credit = min(credit+ns, each*int64(r.Burst))
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				n := rapid.IntRange(1, 10).Draw(t, "want")
				want := int(min(credit/each, int64(n)))
				got := take(n)
				if got.n != want || (got.n == 0) != (got.wait > 0) {
					t.Fatalf("%+v: took %+v, want %d", r, got, want)
				}
				credit -= int64(got.n) * each
				if got.n == 0 {
					pass(int64(got.wait) - 1)
					if early := take(1); early.n != 0 {
						t.Fatal("there before it was said")
					}
					pass(1)
					if late := take(1); late.n != 1 {
						t.Fatalf("not there when it was said: %+v", late)
					}
					credit -= each
				}
			},
			"time passes":     func(t *rapid.T) { pass(rapid.Int64Range(0, 2000).Draw(t, "ns")) },
			"wall clock jump": func(t *rapid.T) { clock.jump = time.Duration(rapid.Int64Range(-1e18, 1e18).Draw(t, "jump")) },
			"reboot":          func(t *rapid.T) { clock.boot++; clock.mono = 0; credit = each * int64(r.Burst) },
		})
	})
}

func TestQueueKeepsItsRate(t *testing.T) {
	db := open(t, t.TempDir())
	clock := &fakeClock{}
	q := Queue{Name: "mail", Clock: clock, Rate: Rate{N: 2, Per: time.Second}}
	for range 5 {
		if _, err := write(t, db, func(tx *schema.Tx) (int64, error) { return q.Enqueue(tx, nil, 0, 0) }); err != nil {
			t.Fatal(err)
		}
	}
	claim := func() int {
		jobs, err := write(t, db, func(tx *schema.Tx) ([]Job, error) { return q.Claim(tx, "w", 10, time.Hour) })
		if err != nil {
			t.Fatal(err)
		}
		return len(jobs)
	}
	if n := claim(); n != 2 {
		t.Fatalf("%d at once, want 2", n)
	}
	if n := claim(); n != 0 {
		t.Fatalf("%d too soon", n)
	}
	due, err := write(t, db, func(tx *schema.Tx) (time.Time, error) { due, _, err := q.Next(tx); return due, err })
	if wait := due.Sub(clock.Now()); err != nil || wait != time.Second/2 {
		t.Fatalf("the next one in %v, %v", wait, err)
	}
	clock.mono += int64(time.Second / 2)
	if n := claim(); n != 1 {
		t.Fatalf("%d, want 1", n)
	}
	clock.mono += int64(time.Hour)
	if n := claim(); n != 2 {
		t.Fatalf("%d, want the two that are left", n)
	}
}

func TestRateIsChecked(t *testing.T) {
	db := open(t, t.TempDir())
	for _, r := range []Rate{{N: -1}, {N: 1, Per: -1}, {N: 1, Burst: -1}, {N: 2, Per: 1}, {N: 1, Per: time.Hour, Burst: 1 << 60}} {
		_, err := write(t, db, func(tx *schema.Tx) (int, error) { n, _, err := Limits{}.Take(tx, "r", r, 1); return n, err })
		if !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if n, err := write(t, db, func(tx *schema.Tx) (int, error) { n, _, err := Limits{}.Take(tx, "r", Rate{}, 9); return n, err }); n != 9 || err != nil {
		t.Error("no limit is no limit:", n, err)
	}
	if err := (Limits{}).Wait(t.Context(), db, "w", Rate{N: 1000}); err != nil {
		t.Error(err)
	}
}
