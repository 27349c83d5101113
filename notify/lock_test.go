package notify

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// TestLockEndsWithItsTTLWhateverTheClockSays has a holder that dies: another gets
// the lock when its time to live has passed, not before, whether the wall clock is
// set forward or back meanwhile, and what the dead one does later is found out.
func TestLockEndsWithItsTTLWhateverTheClockSays(t *testing.T) {
	const ttl = time.Minute
	for _, jump := range []time.Duration{0, 100 * 365 * 24 * time.Hour, -100 * 365 * 24 * time.Hour} {
		db := open(t, t.TempDir())
		clock := &fakeClock{mono: int64(time.Hour)}
		locks := Locks{Clock: clock}
		acquire := func(who string) (Lock, error) {
			return write(t, db, func(tx *schema.Tx) (Lock, error) { return locks.Acquire(tx, "l", who, ttl) })
		}
		first, err := acquire("first")
		if err != nil {
			t.Fatal(err)
		}
		clock.jump = jump
		clock.mono += int64(ttl) - 1
		var held *HeldError
		if _, err := acquire("second"); !errors.As(err, &held) || held.Holder != "first" || held.Left != 1 {
			t.Fatalf("jump %v: a lock that is held: %v", jump, err)
		}
		if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, locks.Check(tx, first) }); err != nil {
			t.Fatalf("jump %v: its holder lost it: %v", jump, err)
		}
		clock.jump = -jump
		clock.mono++
		second, err := acquire("second")
		if err != nil || second.Token <= first.Token {
			t.Fatalf("jump %v: not taken over: %+v after %+v, %v", jump, second, first, err)
		}
		for name, f := range map[string]func(tx *schema.Tx) error{
			"check":   func(tx *schema.Tx) error { return locks.Check(tx, first) },
			"renew":   func(tx *schema.Tx) error { return locks.Renew(tx, first, ttl) },
			"release": func(tx *schema.Tx) error { return locks.Release(tx, first) },
		} {
			if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return 0, f(tx) }); !errors.Is(err, ErrLockLost) {
				t.Errorf("jump %v: %s by who lost it: %v", jump, name, err)
			}
		}
		clock.boot, clock.mono = 1, 5 // whoever held it is gone
		if third, err := acquire("third"); err != nil || third.Token <= second.Token {
			t.Errorf("jump %v: after a boot: %+v, %v", jump, third, err)
		}
	}
}

// TestWaitGetsTheLockOfTheDead waits for a lock that nobody will release.
func TestWaitGetsTheLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	dead, err := Locks{}.Wait(t.Context(), a, "l", "dead", 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lock, err := Locks{}.Wait(ctx, b, "l", "heir", time.Hour)
	if err != nil || lock.Token <= dead.Token {
		t.Fatalf("%+v after %+v, %v", lock, dead, err)
	}
	if _, err := write(t, a, func(tx *schema.Tx) (int, error) { return 0, Locks{}.Break(tx, "l") }); err != nil {
		t.Fatal(err)
	}
	if _, err := write(t, b, func(tx *schema.Tx) (int, error) { return 0, Locks{}.Renew(tx, lock, time.Hour) }); !errors.Is(err, ErrLockLost) {
		t.Error("a broken lock can be renewed:", err)
	}
}
