package notify

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// follow reads n events as a named consumer and returns their names.
func follow(t *testing.T, db *schema.DB, name string, n int) (names []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if n == 0 {
		cancel() // says hello and goes
	}
	for e, err := range Follow(ctx, db, name) {
		if n == 0 && errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if names = append(names, string(e.Name)); len(names) == n {
			break
		}
	}
	return names
}

func TestFollowGoesOnWhereItWas(t *testing.T) {
	dir := t.TempDir()
	db, other := open(t, dir), open(t, dir)
	add(t, db, "before")
	follow(t, db, "c", 0)
	for k := range 5 {
		add(t, db, fmt.Sprint(k))
	}
	for round, want := range []string{"[0 1 2]", "[2 3]", "[3 4]"} { // where the loop was left comes again
		db := []*schema.DB{db, other, db}[round]
		if got := fmt.Sprint(follow(t, db, "c", len(want)/2)); got != want {
			t.Fatalf("round %d: %s, want %s", round, got, want)
		}
	}
	list, err := write(t, db, func(tx *schema.Tx) ([]Consumer, error) { return Consumers(tx, "c") })
	if err != nil || len(list) != 1 || list[0].Seq != 5 || list[0].Behind != 1 || list[0].Lost != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if had, err := write(t, db, func(tx *schema.Tx) (bool, error) { return DropCursor(tx, "c") }); !had || err != nil {
		t.Error(had, err)
	}
}

// TestSlowConsumerHoldsUpNobody takes one event while others write and prune. It
// gets the rest in order, and is told when it comes too late.
func TestSlowConsumerHoldsUpNobody(t *testing.T) {
	for _, prune := range []bool{false, true} {
		db := open(t, t.TempDir())
		add(t, db, "0")
		n, last := 0, int64(0)
		var told error
		for e, err := range Watch(t.Context(), db, 0) {
			if err != nil {
				told = err
				break
			}
			if e.Seq != last+1 {
				t.Fatalf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
			if n++; n == 1 { // the consumer is busy
				for k := range 2 * batch {
					add(t, db, fmt.Sprint(k))
				}
				if prune {
					if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return Prune(tx, schema.MaxStamp, batch) }); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n == 2*batch+1 {
				break
			}
		}
		if prune != errors.Is(told, ErrFellBehind) || !prune && n != 2*batch+1 || prune && n != 1 {
			t.Errorf("pruned %v: %d events, told %v", prune, n, told)
		}
	}
}

func TestBefore(t *testing.T) {
	db := open(t, t.TempDir())
	before := func(s schema.Stamp) (int64, error) {
		return write(t, db, func(tx *schema.Tx) (int64, error) { return Before(tx, s) })
	}
	if n, err := before(schema.MaxStamp); n != 0 || err != nil {
		t.Error("of no events:", n, err)
	}
	for k := range 20 {
		_, err := write(t, db, func(tx *schema.Tx) (int, error) {
			return 0, Append(tx, &Event{Stamp: schema.Stamp(1000 + 10*(k/2)), Op: OpCreate}) // in pairs
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for s, want := range map[schema.Stamp]int64{1: 0, 1000: 0, 1001: 2, 1010: 2, 1011: 4, 1090: 18, 1091: 20, schema.MaxStamp: 20} {
		if n, err := before(s); n != want || err != nil {
			t.Errorf("before %d: %d, %v; want %d", s, n, err, want)
		}
	}
	if _, err := write(t, db, func(tx *schema.Tx) (int, error) { return Prune(tx, 1050, 100) }); err != nil {
		t.Fatal(err)
	}
	if n, err := before(1051); n != 12 || err != nil {
		t.Error("of what is kept:", n, err)
	}
	if _, err := before(1050); !errors.Is(err, ErrFellBehind) {
		t.Error("of what is not kept:", err)
	}
}
