package notify_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

func scratch() (*schema.DB, func()) {
	dir, err := os.MkdirTemp("", "notify-example-")
	check(err)
	db, err := schema.Open(context.Background(), dir, schema.Options{})
	check(err)
	return db, func() { check(db.Close()); os.RemoveAll(dir) }
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A job is enqueued in the transaction of the change that it is about, so there is
// one exactly when the change is there. Any process may work it off.
func ExampleQueue() {
	db, done := scratch()
	defer done()
	thumbnails := notify.Queue{Name: "thumbnails", MaxAttempts: 5, Rate: notify.Rate{N: 10}}
	check(db.Write(func(tx *schema.Tx) error {
		// … the change …
		_, err := thumbnails.Enqueue(tx, []byte("photo.jpg"), 0, 0)
		return err
	}))

	var jobs []notify.Job
	check(db.Write(func(tx *schema.Tx) (err error) {
		jobs, err = thumbnails.Claim(tx, "worker 1", 16, time.Minute) // ours for a minute
		return err
	}))
	check(db.Commit()) // before anything is done about it
	for _, j := range jobs {
		fmt.Printf("%s, attempt %d\n", j.Payload, j.Attempts)
		check(db.Write(func(tx *schema.Tx) error { return thumbnails.Ack(tx, j, []byte("128x96")) }))
	}
	// Output: photo.jpg, attempt 1
}

// A write that depends on a lock checks it in its own transaction: whoever was
// asleep while the lock expired is found out.
func ExampleLocks() {
	db, done := scratch()
	defer done()
	var locks notify.Locks
	lock, err := locks.Wait(context.Background(), db, "release", "build 17", time.Minute)
	check(err)

	err = db.Write(func(tx *schema.Tx) error {
		_, err := locks.Acquire(tx, "release", "build 18", time.Minute)
		return err
	})
	var held *notify.HeldError
	fmt.Println(errors.As(err, &held), held.Holder)

	check(db.Write(func(tx *schema.Tx) error { return locks.Break(tx, "release") }))
	err = db.Write(func(tx *schema.Tx) error {
		if err := locks.Check(tx, lock); err != nil {
			return err
		}
		return nil // … the write …
	})
	fmt.Println(errors.Is(err, notify.ErrLockLost))
	// Output:
	// true build 17
	// true
}
