package schema

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
)

// cursorChange sets a cursor.
type cursorChange struct {
	name string
	seq  int64
}

func (c cursorChange) Apply(tx *Tx) error { return putCursor(tx, c.name, c.seq) }

// badChange fails as a damaged disk would make one fail.
type badChange struct{}

func (badChange) Apply(tx *Tx) error {
	s := tx.Stmt("INSERT INTO cursor (name, seq) VALUES (?, ?)")
	s.BindText(1, "a")
	s.BindNull(2)
	_, err := s.Step()
	return err
}

// oneCursor keeps the cursor named a.
type oneCursor struct {
	seq, old int64
	known    bool
}

func (c *oneCursor) Keep()      { c.old = c.seq }
func (c *oneCursor) Undo()      { c.seq = c.old }
func (c *oneCursor) Reset()     { c.known = false }
func (c *oneCursor) Full() bool { return false }

func keepCursor(db *DB) *oneCursor {
	return db.Companion(func() Companion { return new(oneCursor) }, "cursor").(*oneCursor)
}

func TestLaterIsSeenByWhatFollows(t *testing.T) {
	db := open(t, t.TempDir(), Options{CommitInterval: 1 << 40})
	err := db.Write(func(tx *Tx) error {
		if err := tx.Later(cursorChange{"a", 1}); err != nil {
			return err
		}
		if err := tx.Later(cursorChange{"a", 2}); err != nil {
			return err
		}
		s := tx.Stmt("SELECT seq FROM cursor WHERE name = 'a'")
		if ok, err := s.Step(); !ok || s.ColumnInt64(0) != 2 {
			t.Errorf("in the Write itself: %v %v", ok, err)
		}
		return tx.Later(cursorChange{"a", 3})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := cursor(t, db, "a"); got != 3 {
		t.Errorf("Read sees %d", got)
	}
	if err := db.Write(func(tx *Tx) error { return tx.Later(cursorChange{"a", 4}) }); err != nil {
		t.Fatal(err)
	}
	err = db.Snapshot(func(tx *Tx) error {
		s := tx.Stmt("SELECT seq FROM cursor WHERE name = 'a'")
		_, err := s.Step()
		if got := s.ColumnInt64(0); got != 4 {
			t.Errorf("Snapshot sees %d", got)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLaterIsPartOfItsWrite(t *testing.T) {
	db := open(t, t.TempDir(), Options{})
	failed := errors.New("no")
	for _, look := range []bool{false, true} {
		err := db.Write(func(tx *Tx) error {
			if err := tx.Later(cursorChange{"a", 1}); err != nil {
				return err
			}
			if look {
				tx.Stmt("SELECT seq FROM cursor")
			}
			if err := tx.Later(cursorChange{"a", 2}); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		if got := cursor(t, db, "a"); got != 0 {
			t.Errorf("looking: %v: a failed Write left %d", look, got)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.Write(func(tx *Tx) error {
			_ = tx.Later(cursorChange{"a", 5})
			panic("in the middle")
		})
	}()
	if got := cursor(t, db, "a"); got != 0 {
		t.Errorf("a Write that panicked left %d", got)
	}
}

// Commit, Sync, Close and other processes find everything that was acknowledged.
func TestLaterIsCommitted(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir, Options{CommitInterval: 1 << 40}), open(t, dir, Options{})
	for i, end := range []func() error{a.Commit, a.Sync, a.Barrier, a.Close} {
		for k := range 3 * kickAt {
			seq := int64(100*i + k)
			if err := a.Write(func(tx *Tx) error { return tx.Later(cursorChange{"a", seq}) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := b.Barrier(); err != nil {
			t.Fatal(err)
		}
		if got, want := cursor(t, b, "a"), int64(100*i+3*kickAt-1); got != want {
			t.Errorf("%d: another process sees %d, want %d", i, got, want)
		}
	}
}

// Changes are made in the order in which they were left, whoever makes them.
func TestLaterKeepsOrder(t *testing.T) {
	db := open(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		wg.Go(func() {
			for i := range int64(500) {
				if err := db.Write(func(tx *Tx) error { return tx.Later(cursorChange{name, i + 1}) }); err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					if got := cursor(t, db, name); got != i+1 {
						t.Errorf("%s is %d, want %d", name, got, i+1)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, name := range []string{"a", "b", "c"} {
		if got := cursor(t, db, name); got != 500 {
			t.Errorf("%s ends as %d", name, got)
		}
	}
}

func TestLaterFailureLosesTheBatch(t *testing.T) {
	for _, who := range []string{"commit", "reader", "loop"} {
		db := open(t, t.TempDir(), Options{CommitInterval: 1 << 40})
		kept := keepCursor(db)
		told := make(chan error, 1)
		db.OnLost(func(err error) { told <- err })
		var ino int64
		var stamp Stamp
		for i := range kickAt + 1 {
			if who != "loop" && i > 2 {
				break
			}
			err := db.Write(func(tx *Tx) error {
				kept.known = true
				ino, stamp = max(ino, tx.NextIno()), max(stamp, tx.NextStamp())
				if i == 1 {
					return tx.Later(badChange{})
				}
				return tx.Later(cursorChange{"a", 1})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		switch who {
		case "commit":
			if err := db.Commit(); sqlite.ErrCode(err).ToPrimary() != sqlite.ResultConstraint {
				t.Errorf("Commit: %v", err)
			}
		case "reader":
			err := db.Read(func(tx *Tx) error { tx.Stmt("SELECT seq FROM cursor"); return nil })
			if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultConstraint {
				t.Errorf("Read: %v", err)
			}
		}
		if err := <-told; err == nil {
			t.Errorf("%s: OnLost was told nothing", who)
		}
		if err := db.Sync(); err == nil {
			t.Errorf("%s: the next Sync says nothing", who)
		}
		_ = db.Read(func(*Tx) error {
			if kept.known {
				t.Errorf("%s: what is kept in memory was not reset", who)
			}
			return nil
		})
		if got := cursor(t, db, "a"); got != 0 {
			t.Errorf("%s: %d is left of a lost batch", who, got)
		}
		if err := db.Write(func(tx *Tx) error { return tx.Later(cursorChange{"a", 9}) }); err != nil || cursor(t, db, "a") != 9 {
			t.Errorf("%s: the store does not go on: %v", who, err)
		}
		err := db.Write(func(tx *Tx) error {
			if i, s := tx.NextIno(), tx.NextStamp(); i <= ino || s <= stamp {
				t.Errorf("%s: number %d and stamp %d were given out before, in the lost batch: %d, %d", who, i, s, ino, stamp)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// Where a commit might fail for want of room, a change is its Write's own.
func TestLaterIsDoneAtOnceWhenTheDiskIsNearlyFull(t *testing.T) {
	db := open(t, t.TempDir(), Options{CommitInterval: -1})
	if err := db.Write(func(tx *Tx) error { return tx.Later(badChange{}) }); err == nil {
		t.Error("acknowledged")
	}
	if err := db.Write(func(tx *Tx) error { return tx.Later(cursorChange{"a", 4}) }); err != nil || cursor(t, db, "a") != 4 {
		t.Error(err)
	}
	defer func(old uint64) { roomForBatches = old }(roomForBatches)
	roomForBatches = 1 << 62
	full := open(t, smallDisk(t, "size=3m"), Options{})
	big := func(i int) error {
		return full.Write(func(tx *Tx) error { return tx.Later(bigChange(i)) })
	}
	var n int
	var err error
	for ; err == nil && n < 200; n++ {
		err = big(n)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d: %v", n, err)
	}
	if got := rows(t, full); got != int64(n-1) {
		t.Errorf("%d rows of %d", got, n-1)
	}
}

// bigChange adds a row of 64 KiB.
type bigChange int

func (c bigChange) Apply(tx *Tx) error {
	s := tx.Stmt("INSERT INTO blob (id, hash, size, data, synced, created) VALUES (?, ?, 0, zeroblob(65536), 1, 0)")
	s.BindInt64(1, int64(c)+2)
	s.BindBytes(2, []byte{byte(c), 1})
	_, err := s.Step()
	return err
}

func TestCompanion(t *testing.T) {
	dir := t.TempDir()
	db, other := open(t, dir, Options{}), open(t, dir, Options{})
	kept := keepCursor(db)
	if keepCursor(db) != kept {
		t.Fatal("there are two")
	}
	set := func(seq int64, result error) {
		t.Helper()
		err := db.Write(func(tx *Tx) error {
			if !tx.Companion() {
				t.Error("not to be asked")
			}
			kept.seq, kept.known = seq, true
			if err := tx.Later(cursorChange{"a", seq}); err != nil {
				return err
			}
			return result
		})
		if !errors.Is(err, result) {
			t.Fatal(err)
		}
	}
	set(1, nil)
	set(2, errors.New("no"))
	if kept.seq != 1 || !kept.known {
		t.Errorf("after a Write that failed: %+v", kept)
	}
	if err := db.Write(func(tx *Tx) error {
		err := putCursor(tx, "a", 3)
		if tx.Companion() {
			t.Error("to be asked after a statement that it was not told of")
		}
		if e := tx.Later(cursorChange{"a", 4}); e != nil {
			return e
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if kept.known || cursor(t, db, "a") != 4 {
		t.Errorf("after a statement that it was not told of: %+v", kept)
	}
	set(5, nil)
	if err := db.Commit(); err != nil {
		t.Fatal(err)
	}
	set(6, nil) // the commit of this process changes nothing
	if !kept.known {
		t.Error("reset for no reason")
	}
	if err := db.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := other.Write(func(tx *Tx) error { return putCursor(tx, "b", 1) }); err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	if cursor(t, db, "b") != 1 || kept.known {
		t.Errorf("after a commit of another process: %+v", kept)
	}
}

// A process that never stops writing gives others their turn, keeps nothing in
// memory that they changed, and loses nothing.
func TestHandOverIsFair(t *testing.T) {
	dir := t.TempDir()
	busy, other := open(t, dir, Options{CommitInterval: time.Millisecond}), open(t, dir, Options{})
	kept := keepCursor(busy)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var n int64
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := busy.Write(func(tx *Tx) error {
				if !kept.known {
					s := tx.Stmt("SELECT coalesce(max(seq), 0) FROM cursor WHERE name = 'a'")
					if _, err := s.Step(); err != nil {
						return err
					}
					kept.seq, kept.known = s.ColumnInt64(0), true
				}
				kept.seq++
				return tx.Later(cursorChange{"a", kept.seq})
			})
			if err != nil {
				t.Error(err)
				return
			}
			n++
		}
	})
	const turns = 30
	for range turns {
		err := other.Write(func(tx *Tx) error {
			s := tx.Stmt("INSERT INTO cursor (name, seq) VALUES ('a', 1) ON CONFLICT (name) DO UPDATE SET seq = seq + 1")
			_, err := s.Step()
			return err
		})
		if err == nil {
			err = other.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if err := busy.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := cursor(t, other, "a"); got != n+turns {
		t.Errorf("counted to %d, want %d", got, n+turns)
	}
}

// What a hand-over begins has no more than what came meanwhile, and ends.
func TestHandOverCommits(t *testing.T) {
	dir := t.TempDir()
	db, other := open(t, dir, Options{CommitInterval: 1 << 40}), open(t, dir, Options{})
	if db.handOver() {
		t.Error("handed over nothing")
	}
	for i := range int64(3) {
		if err := db.Write(func(tx *Tx) error { return tx.Later(cursorChange{"a", i + 1}) }); err != nil {
			t.Fatal(err)
		}
		if !db.handOver() {
			t.Fatal("not handed over")
		}
		if got := cursor(t, other, "a"); got != i+1 {
			t.Errorf("another process sees %d, want %d", got, i+1)
		}
		if db.handOver() {
			t.Error("handed over an empty batch")
		}
	}
	db.endTx() // as the timer does
	if err := other.Write(func(tx *Tx) error { return putCursor(tx, "a", 9) }); err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := cursor(t, db, "a"); got != 9 {
		t.Errorf("sees %d of another process", got)
	}
}

func TestHandOverThatFailsLosesTheBatch(t *testing.T) {
	defer func(old uint64) { roomForBatches = old }(roomForBatches)
	roomForBatches = 0
	db := open(t, smallDisk(t, "size=3m"), Options{CommitInterval: 1 << 40})
	var told error
	db.OnLost(func(err error) { told = err })
	for i := range 60 {
		if err := db.Write(func(tx *Tx) error { return tx.Later(bigChange(i)) }); err != nil {
			t.Fatal(err)
		}
	}
	db.handOver()
	if !errors.Is(told, syscall.ENOSPC) {
		t.Errorf("OnLost was told %v", told)
	}
	if err := db.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Sync: %v", err)
	}
	if got := rows(t, db); got != 0 {
		t.Errorf("%d rows of a lost batch", got)
	}
	if err := db.Write(func(tx *Tx) error { return tx.Later(cursorChange{"a", 9}) }); err != nil || cursor(t, db, "a") != 9 {
		t.Errorf("the store does not go on: %v", err)
	}
}

// TestAhead begins transactions ahead of writes on two handles of one store, in
// which nobody waits for the other.
func TestAhead(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir, Options{}), open(t, dir, Options{})
	writes := func(db *DB) bool {
		db.mu.Lock()
		defer db.mu.Unlock()
		return db.mu.state == writing
	}
	for i := range int64(50) {
		a.Ahead() // begins one
		a.Ahead() // has nothing to do
		b.Ahead() // finds a in the way
		for _, db := range []*DB{a, b} {
			if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", i) }); err != nil {
				t.Fatal(err)
			}
			db.Ahead()
			if err := db.Commit(); err != nil {
				t.Fatal(err)
			}
			if got := cursor(t, a, "a"); got != i {
				t.Fatalf("read %d, wrote %d", got, i)
			}
		}
	}
	a.Ahead()
	gen := b.Generation()
	if err := a.Commit(); err != nil {
		t.Fatal(err)
	}
	if b.Generation() != gen {
		t.Error("a transaction in which nothing was written counts as a commit")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.Ahead()
	if writes(a) {
		t.Error("a closed store has a transaction")
	}
}
