package notify

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// Errors of named locks.
var (
	ErrHeld     = errors.New("the lock is held")
	ErrLockLost = errors.New("the lock was lost")
)

// HeldError names who holds a lock. It is ErrHeld and EBUSY.
type HeldError struct {
	Name, Holder string
	Left         time.Duration // until it expires unless renewed
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("lock %q is held by %s, for %v more unless renewed", e.Name, e.Holder, e.Left.Round(time.Second))
}

// Is makes errors.Is(err, ErrHeld) true.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// Unwrap gives EBUSY.
func (e *HeldError) Unwrap() error { return syscall.EBUSY }

// Locks are the named locks of a store. A lock has one holder until it is
// released or its time to live ends. Every acquisition gets a greater fencing
// token (Gray and Cheriton, "Leases", 1989): a writer that was asleep while its
// lock expired is found out by Check. The zero value uses the system clock.
type Locks struct{ Clock Clock }

// Lock is one acquisition.
type Lock struct {
	Name, Holder string
	Token        int64
}

// Info describes a lock that was ever taken.
type Info struct {
	Name, Holder string // Holder is "" when it is free
	Token        int64
	Left         time.Duration
}

// Acquire takes the lock for ttl, or returns a *HeldError.
func (l Locks) Acquire(tx *schema.Tx, name, holder string, ttl time.Duration) (Lock, error) {
	if holder == "" {
		return Lock{}, fmt.Errorf("lock %q: a holder needs a name: %w", name, syscall.EINVAL)
	}
	now, err := l.read(tx, name)
	if err != nil {
		return Lock{}, err
	}
	if now.Holder != "" {
		return Lock{}, &HeldError{Name: name, Holder: now.Holder, Left: now.Left}
	}
	lock := Lock{Name: name, Holder: holder, Token: now.Token + 1}
	return lock, l.write(tx, lock, holder, ttl)
}

// Renew makes the lock last ttl from now, or returns ErrLockLost.
func (l Locks) Renew(tx *schema.Tx, lock Lock, ttl time.Duration) error {
	if err := l.Check(tx, lock); err != nil {
		return err
	}
	return l.write(tx, lock, lock.Holder, ttl)
}

// Release gives the lock up. It returns ErrLockLost when it was lost before.
func (l Locks) Release(tx *schema.Tx, lock Lock) error {
	if err := l.Check(tx, lock); err != nil {
		return err
	}
	return l.write(tx, lock, "", 0)
}

// Check returns ErrLockLost unless lock is held now. In the transaction of a
// change it makes the change depend on the lock.
func (l Locks) Check(tx *schema.Tx, lock Lock) error {
	now, err := l.read(tx, lock.Name)
	if err != nil {
		return err
	}
	if now.Holder == "" || now.Token != lock.Token {
		return fmt.Errorf("lock %q with token %d: %w", lock.Name, lock.Token, ErrLockLost)
	}
	return nil
}

// Break takes the lock from whoever holds it.
func (l Locks) Break(tx *schema.Tx, name string) error {
	now, err := l.read(tx, name)
	if err != nil || now.Token == 0 {
		return err
	}
	return l.write(tx, Lock{Name: name, Token: now.Token}, "", 0)
}

// List returns all locks that were ever taken, by name.
func (l Locks) List(tx *schema.Tx) ([]Info, error) {
	var infos []Info
	s := tx.Stmt("SELECT token, holder, boot, expires, name FROM lock ORDER BY name")
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return infos, err
		}
		info := Info{Name: s.ColumnText(4), Token: s.ColumnInt64(0)}
		info.Holder, info.Left = l.live(s.ColumnText(1), s.ColumnText(2), s.ColumnInt64(3))
		infos = append(infos, info)
	}
}

// Wait is Acquire that waits for the lock until ctx ends.
func (l Locks) Wait(ctx context.Context, db *schema.DB, name, holder string, ttl time.Duration) (lock Lock, err error) {
	for {
		gen := db.Generation()
		err = db.Write(func(tx *schema.Tx) error { lock, err = l.Acquire(tx, name, holder, ttl); return err })
		if err == nil {
			err = db.Commit()
		}
		var held *HeldError
		if !errors.As(err, &held) {
			return lock, err
		}
		expiry, cancel := context.WithTimeout(ctx, max(held.Left, time.Millisecond))
		_, _ = db.Wait(expiry, gen)
		cancel()
		if ctx.Err() != nil {
			return Lock{}, errors.Join(ctx.Err(), err)
		}
	}
}

// read returns the lock as of now; a token of 0 means it was never taken.
func (l Locks) read(tx *schema.Tx, name string) (Info, error) {
	s := tx.Stmt("SELECT token, holder, boot, expires FROM lock WHERE name = ?")
	s.BindText(1, name)
	ok, err := s.Step()
	if err != nil || !ok {
		return Info{Name: name}, err
	}
	info := Info{Name: name, Token: s.ColumnInt64(0)}
	info.Holder, info.Left = l.live(s.ColumnText(1), s.ColumnText(2), s.ColumnInt64(3))
	return info, nil
}

func (l Locks) live(holder, boot string, expires int64) (string, time.Duration) {
	id, now := clockOr(l.Clock).Boot()
	if holder == "" || boot != id || expires <= now {
		return "", 0
	}
	return holder, time.Duration(expires - now)
}

func (l Locks) write(tx *schema.Tx, lock Lock, holder string, ttl time.Duration) error {
	boot, now := clockOr(l.Clock).Boot()
	s := tx.Stmt("INSERT OR REPLACE INTO lock (name, token, holder, boot, expires) VALUES (?, ?, ?, ?, ?)")
	s.BindText(1, lock.Name)
	s.BindInt64(2, lock.Token)
	s.BindText(3, holder)
	s.BindText(4, boot)
	s.BindInt64(5, now+int64(ttl))
	_, err := s.Step()
	return err
}
