package schema

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"zombiezen.com/go/sqlite/sqlitex"
)

func open(t testing.TB, dir string, opts Options) *DB {
	t.Helper()
	db, err := Open(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func putCursor(tx *Tx, name string, seq int64) error {
	s := tx.Stmt("INSERT OR REPLACE INTO cursor (name, seq) VALUES (?, ?)")
	s.BindText(1, name)
	s.BindInt64(2, seq)
	_, err := s.Step()
	return err
}

func cursor(t testing.TB, db *DB, name string) (seq int64) {
	t.Helper()
	err := db.Read(func(tx *Tx) error {
		s := tx.Stmt("SELECT seq FROM cursor WHERE name = ?")
		s.BindText(1, name)
		ok, err := s.Step()
		if ok {
			seq = s.ColumnInt64(0)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestWriteIsAtomicAndSeenAtOnce(t *testing.T) {
	db := open(t, t.TempDir(), Options{})
	failed := errors.New("no")
	if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", 7) }); err != nil {
		t.Fatal(err)
	}
	err := db.Write(func(tx *Tx) error {
		if err := putCursor(tx, "a", 8); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if got := cursor(t, db, "a"); got != 7 {
		t.Fatalf("got %d, want 7", got)
	}
}

func TestOtherConnectionsSeeCommits(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir, Options{}), open(t, dir, Options{})
	gen := b.Generation()
	cursor(t, b, "a") // b now holds a read transaction
	if err := a.Write(func(tx *Tx) error { return putCursor(tx, "a", 1) }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for cursor(t, b, "a") != 1 {
		var err error
		if gen, err = b.Wait(ctx, gen); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Write(func(tx *Tx) error { return putCursor(tx, "a", 2) }); err != nil {
		t.Fatal(err)
	}
	if err := b.Barrier(); err != nil {
		t.Fatal(err)
	}
	if got := cursor(t, b, "a"); got != 2 {
		t.Fatalf("after Barrier: got %d, want 2", got)
	}
}

func TestStampsIncreaseAcrossProcesses(t *testing.T) {
	dir := t.TempDir()
	dbs := []*DB{open(t, dir, Options{}), open(t, dir, Options{}), open(t, dir, Options{CommitInterval: -1})}
	var mu sync.Mutex
	var wg sync.WaitGroup
	last := map[Stamp]bool{}
	for _, db := range dbs {
		wg.Go(func() {
			var prev Stamp
			for range 200 {
				var s Stamp
				if err := db.Write(func(tx *Tx) error { s = tx.NextStamp(); return nil }); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if s <= prev || last[s] {
					t.Errorf("stamp %d after %d, seen before: %v", s, prev, last[s])
				}
				last[s], prev = true, s
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestSyncSharesRounds(t *testing.T) {
	db := open(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			err := db.Write(func(tx *Tx) error { return putCursor(tx, "k", int64(i)) })
			if err == nil {
				err = db.Sync()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestSnapshotSeesOwnWritesAndDoesNotBlock(t *testing.T) {
	db := open(t, t.TempDir(), Options{})
	if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", 1) }); err != nil {
		t.Fatal(err)
	}
	err := db.Snapshot(func(tx *Tx) error {
		if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", 2) }); err != nil {
			return err
		}
		if err := db.Commit(); err != nil {
			return err
		}
		s := tx.Stmt("SELECT seq FROM cursor WHERE name = 'a'")
		if ok, err := s.Step(); err != nil || !ok {
			t.Fatal(ok, err)
		}
		if got := s.ColumnInt64(0); got != 2 && got != 1 {
			t.Errorf("got %d", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir, Options{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := openConn(dir+"/"+fileName, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteTransient(c, "PRAGMA user_version = 999", nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Open(context.Background(), dir, Options{}); !errors.Is(err, ErrNewerFormat) {
		t.Fatalf("got %v, want ErrNewerFormat", err)
	}
}

func BenchmarkWriteRow(b *testing.B) {
	db := open(b, b.TempDir(), Options{})
	for i := 0; b.Loop(); i++ {
		if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", int64(i+2)) }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	db := open(b, b.TempDir(), Options{})
	if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", 2) }); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		cursor(b, db, "a")
	}
}

// TestOthers has two handles of one store: each sees the commits of the other
// and not its own, and both wake who waits here and there.
func TestOthers(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir, Options{}), open(t, dir, Options{})
	for i := range 100 {
		seenA, seenB, gen := a.Others(), b.Others(), b.Generation()
		woken := make(chan error, 2)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		for _, db := range []*DB{a, b} {
			go func() {
				_, err := db.Wait(ctx, gen)
				woken <- err
			}()
		}
		if err := a.Write(func(tx *Tx) error { return putCursor(tx, "a", int64(i)) }); err != nil {
			t.Fatal(err)
		}
		if err := a.Commit(); err != nil {
			t.Fatal(err)
		}
		if a.Others() != seenA {
			t.Error("a commit of one's own is one of others")
		}
		if b.Others() == seenB {
			t.Error("a commit of another is not seen")
		}
		for range 2 {
			if err := <-woken; err != nil {
				t.Error("who waits was not woken:", err)
			}
		}
		cancel()
		a, b = b, a
	}
}

// TestWaitBeforeTheWakerRuns changes the counter when somebody waits already
// and the goroutine that looks at it has not begun.
func TestWaitBeforeTheWakerRuns(t *testing.T) {
	w, err := openWake(filepath.Join(t.TempDir(), "commit.seq"))
	if err != nil {
		t.Fatal(err)
	}
	changed := w.mu.changed
	w.committed()
	select {
	case <-changed:
	default:
		t.Error("a commit of one's own woke nobody here")
	}
	before := w.load()
	w.bump()
	changed = w.mu.changed
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx, func() int64 { return 0 })
	}()
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Error("whoever waited for", before, "to change was not woken")
	}
	cancel()
	w.bump()
	<-ended
	w.close()
}
