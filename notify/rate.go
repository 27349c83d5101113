package notify

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// Rate is how often something may be done: N times in any stretch of Per on
// average, and Burst times at once. The zero value is no limit.
type Rate struct {
	N     int
	Per   time.Duration // default 1 s
	Burst int           // default N
}

// Limits are rate limits that all processes share by name. The zero value uses
// the system clock. They are token buckets, kept as the generic cell rate
// algorithm does (ITU-T I.371, annex A): all there is to store is when the bucket
// will be full again. It is measured in the boot-time clock; after a boot the
// bucket is full.
type Limits struct{ Clock Clock }

// Take takes up to n permits of the limit of that name and returns how many it
// got, and when that is none, how long it is until there is one.
func (l Limits) Take(tx *schema.Tx, name string, r Rate, n int) (got int, wait time.Duration, err error) {
	if r.N == 0 {
		return n, 0, nil
	}
	each, all, err := r.intervals()
	if err != nil {
		return 0, 0, fmt.Errorf("rate limit %q: %w", name, err)
	}
	boot, now := clockOr(l.Clock).Boot()
	full, err := l.full(tx, name, boot, now)
	if err != nil {
		return 0, 0, err
	}
	full = min(full, now+all) // of a burst that was greater
	there := (now + all - full) / each
	if there == 0 {
		return 0, time.Duration(full + each - all - now), nil
	}
	if got = int(min(there, int64(n))); got == 0 {
		return 0, 0, nil
	}
	s := tx.Stmt("INSERT OR REPLACE INTO rate (name, boot, full) VALUES (?, ?, ?)")
	s.BindText(1, name)
	s.BindText(2, boot)
	s.BindInt64(3, full+int64(got)*each)
	_, err = s.Step()
	return got, 0, err
}

// Wait takes one permit, and waits for it until ctx ends.
func (l Limits) Wait(ctx context.Context, db *schema.DB, name string, r Rate) error {
	for {
		var got int
		var wait time.Duration
		err := db.Write(func(tx *schema.Tx) (err error) {
			got, wait, err = l.Take(tx, name, r, 1)
			return err
		})
		if err != nil || got > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// intervals returns the nanoseconds in which one permit comes, and all of them.
func (r Rate) intervals() (each, all int64, err error) {
	per, burst := positive(r.Per, time.Second), int64(positive(r.Burst, r.N))
	each = int64(per) / int64(max(r.N, 1))
	if r.N < 0 || r.Per < 0 || r.Burst < 0 || each == 0 || burst > math.MaxInt64/4/each {
		return 0, 0, fmt.Errorf("%d in %v, %d at once: %w", r.N, per, burst, syscall.EINVAL)
	}
	return each, each * burst, nil
}

// full returns when the bucket is full again, now at the earliest.
func (l Limits) full(tx *schema.Tx, name, boot string, now int64) (int64, error) {
	s := tx.Stmt("SELECT full FROM rate WHERE name = ? AND boot = ?")
	s.BindText(1, name)
	s.BindText(2, boot)
	ok, err := s.Step()
	if err != nil || !ok {
		return now, err
	}
	return max(now, s.ColumnInt64(0)), nil
}
