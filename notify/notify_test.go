package notify

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

func open(t *testing.T, dir string) *schema.DB {
	t.Helper()
	db, err := schema.Open(context.Background(), dir, schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func add(t *testing.T, db *schema.DB, name string) {
	t.Helper()
	err := db.Write(func(tx *schema.Tx) error {
		return Append(tx, &Event{Stamp: tx.NextStamp(), Op: OpCreate, Name: []byte(name)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchFollowsAnotherProcessInOrder(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	names := []string{"", "one", "\xff\xfe", "three"}
	go func() {
		for _, n := range names {
			add(t, a, n)
		}
	}()
	var got int
	for e, err := range Watch(ctx, b, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Name) != names[got] {
			t.Fatalf("event %d is %q, want %q", got, e.Name, names[got])
		}
		if got++; got == len(names) {
			break
		}
	}
}

func TestFailedChangeLeavesNoEvent(t *testing.T) {
	db := open(t, t.TempDir())
	failed := errors.New("no")
	err := db.Write(func(tx *schema.Tx) error {
		if err := Append(tx, &Event{Stamp: tx.NextStamp(), Op: OpCreate}); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if events, err := committed(db, 0); err != nil || len(events) != 0 {
		t.Fatal(events, err)
	}
}

func TestPruneKeepsTheNewestAndTellsWhoFellBehind(t *testing.T) {
	db := open(t, t.TempDir())
	for range 5 {
		add(t, db, "x")
	}
	err := db.Write(func(tx *schema.Tx) error {
		n, err := Prune(tx, schema.MaxStamp, 100)
		if n != 4 {
			t.Errorf("pruned %d, want 4", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := committed(db, 2); !errors.Is(err, ErrFellBehind) {
		t.Fatalf("got %v, want ErrFellBehind", err)
	}
	if events, err := committed(db, 4); err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
}
