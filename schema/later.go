package schema

import (
	"context"
	"errors"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"zombiezen.com/go/sqlite"
)

// Change is something to write whose outcome its author knows: it neither reads
// nor can fail but for a failing disk.
type Change interface {
	// Apply writes it. It may run on another goroutine and after Write has
	// returned, so what it holds must not be changed any more.
	Apply(*Tx) error
}

// Joiner is a Change that can become part of an earlier one.
type Joiner interface {
	Change
	// Join makes it part of one that still waits, and reports whether it did.
	// It is called once, when its Write has succeeded.
	Join() bool
}

// Companion keeps in memory what rows say, changes that still wait included. It
// is called with the database locked and must not call it.
type Companion interface {
	Keep()      // the Write that ends has succeeded
	Undo()      // it has failed: what was kept since the last Keep is wrong
	Reset()     // everything may be wrong
	Full() bool // it is time for a Reset, for the room it takes
}

// Companion returns the one companion of db, made by make when there is none.
// It is reset when another process, or a statement that is no Change, may have
// written one of the tables named.
func (db *DB) Companion(make func() Companion, tables ...string) Companion {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.mu.companion == nil {
		db.mu.companion, db.watched = make(), tables
	}
	return db.mu.companion
}

// waiting are the changes that Writes which have returned left to be made, in
// order. While there are any a write transaction is open.
type waiting struct {
	mu    sync.Mutex
	list  []Change
	next  int
	kick  chan struct{} // wakes applyLoop
	front atomic.Int32  // who waits for the connection and is waited for
}

// kickAt is how many changes make it worthwhile to wake another goroutine.
const kickAt = 32

// waitAt is how many may wait before who makes more helps.
const waitAt = 4096

// push adds changes, but for those that join others, and returns how many wait.
func (w *waiting) push(cs []Change) int {
	w.mu.Lock()
	for _, c := range cs {
		if j, ok := c.(Joiner); !ok || !j.Join() {
			w.list = append(w.list, c)
		}
	}
	n := len(w.list) - w.next
	w.mu.Unlock()
	if n >= kickAt {
		w.wake()
	}
	return n
}

func (w *waiting) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// pop returns the next change, nil when there is none.
func (w *waiting) pop() Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == len(w.list) {
		return nil
	}
	c := w.list[w.next]
	w.list[w.next] = nil
	if w.next++; w.next == len(w.list) {
		w.list, w.next = w.list[:0], 0
	}
	return c
}

func (w *waiting) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next == len(w.list)
}

func (w *waiting) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.list)
	w.list, w.next = w.list[:0], 0
}

// applyLoop makes the changes that wait beside whoever goes on meanwhile.
func (db *DB) applyLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-db.later.kick:
		}
		if db.applySome() == nil {
			continue
		}
		db.lock()
		if db.failed != nil {
			db.lose(db.failed)
		}
		db.unlock()
	}
}

// applySome makes changes until none is left or somebody wants the connection.
func (db *DB) applySome() error {
	db.conn.Lock()
	defer db.conn.Unlock()
	for db.failed == nil && db.later.front.Load() == 0 && db.applyNext() {
	}
	return db.failed
}

// applyAll makes all changes that wait. conn must be held.
func (db *DB) applyAll() error {
	for db.failed == nil && db.applyNext() {
	}
	return db.failed
}

// applyNext makes one change and reports whether there was one. After a failure
// the open transaction is lost. conn must be held.
func (db *DB) applyNext() bool {
	c := db.later.pop()
	if c == nil {
		return false
	}
	if err := db.back.run(c.Apply); err != nil {
		db.failed = err
	}
	return true
}

// handOver commits the open transaction and begins the next, and lets those go
// on meanwhile who need not look into the database: what they decide stands,
// because no other process gets a turn between the two. It does nothing and
// reports false when one waits for its turn, when there is nothing to commit, or
// when the companion has kept too much.
func (db *DB) handOver() bool {
	db.lock()
	full := db.mu.companion != nil && db.mu.companion.Full()
	if db.mu.closed || db.mu.state != writing || db.mu.direct || db.mu.fresh || full || !db.takeTurn() {
		db.unlock()
		return false
	}
	if err := db.complete(); err != nil {
		db.endTurn()
		db.lose(err)
		db.unlock()
		return true
	}
	db.mu.fresh = true
	db.mu.Unlock()
	db.failed = db.commitAndBegin()
	db.endTurn()
	roomy := db.roomy()
	db.unlockConn()
	db.lock()
	defer db.unlock()
	switch {
	case db.failed != nil:
		db.lose(db.failed)
	case db.mu.state == writing && !db.mu.closed:
		db.mu.direct = !roomy
		db.mu.timer.Reset(db.opts.CommitInterval)
	}
	return true
}

// commitAndBegin is the part of handOver that others do not wait for. conn must
// be held, and the turn.
func (db *DB) commitAndBegin() error {
	tx := &db.mu.tx
	if err := tx.exec("COMMIT"); err != nil {
		return err
	}
	db.stats.commits.Add(1)
	db.wake.committed()
	db.boundWAL()
	err := whenNotBusy(context.Background(), func() error { return tx.exec("BEGIN IMMEDIATE") })
	if err != nil {
		return err
	}
	version, err := tx.dataVersion()
	if err == nil && version != db.mu.version {
		err = errors.New("something that does not wait for its turn has written to the database")
	}
	return err
}

// Ahead does now, if nobody is in the way, what the next Write would have to do
// first: it makes the changes that wait, or begins a transaction. It is for who
// has just answered somebody and expects to write again at once.
func (db *DB) Ahead() {
	db.mu.Lock()
	open := db.mu.state == writing
	db.mu.Unlock()
	if open {
		_ = db.applySome() // the commit says what failed
		return
	}
	if db.opts.ReadOnly || db.opts.CommitInterval < 0 || !db.wmu.TryLock() {
		return
	}
	defer db.wmu.Unlock()
	if !db.takeTurn() {
		return
	}
	defer db.endTurn()
	db.lock()
	defer db.unlock()
	if !db.mu.closed && db.mu.state != writing && db.beginWrite() == nil && db.mu.direct {
		_ = db.finish() // it has no timer that would
	}
}

// lock locks both the state and the connection. It waits for the connection
// first, which may take long, and holds up nobody while it does.
func (db *DB) lock() {
	for range 8 {
		db.lockConn()
		if db.mu.TryLock() { // against the order, so without waiting
			return
		}
		db.conn.Unlock()
		runtime.Gosched()
	}
	db.mu.Lock()
	db.lockConn()
}

// lockConn locks the connection before applyLoop goes on with it.
func (db *DB) lockConn() {
	db.later.front.Add(1)
	db.conn.Lock()
	db.later.front.Add(-1)
}

func (db *DB) unlock() {
	db.unlockConn()
	db.mu.Unlock()
}

// unlockConn unlocks the connection and lets applyLoop go on, which may have
// given it up.
func (db *DB) unlockConn() {
	again := db.failed != nil || !db.later.empty()
	db.conn.Unlock()
	if again {
		db.later.wake()
	}
}

// Later has c made after what was written before, and before anything that any
// Stmt reads. Write does not wait for it; so it fails only where Write does not
// return before the commit either.
func (tx *Tx) Later(c Change) error {
	if !tx.front {
		return c.Apply(tx)
	}
	if tx.db.mu.direct || tx.bypass {
		if err := tx.catchUp(); err != nil {
			return err
		}
		return tx.db.back.run(c.Apply)
	}
	tx.own = append(tx.own, c)
	return nil
}

// Peek is Stmt for a query that reads nothing any waiting change can write.
func (tx *Tx) Peek(query string) *sqlite.Stmt {
	tx.hold()
	return tx.stmt(query)
}

// Companion reports whether what the companion keeps is what Stmt would read.
func (tx *Tx) Companion() bool { return tx.front && !tx.bypass && !tx.db.opts.ReadOnly }

// hold locks the connection for the rest of the function.
func (tx *Tx) hold() {
	if tx.front && !tx.held {
		tx.db.lockConn()
		tx.held = true
	}
}

// catchUp makes all changes that wait, those of the function itself last and
// inside its savepoint.
func (tx *Tx) catchUp() error {
	if !tx.front {
		return nil
	}
	tx.hold()
	if err := tx.db.applyAll(); err != nil {
		return err
	}
	if tx.inWrite && !tx.saved {
		if err := tx.exec("SAVEPOINT op"); err != nil {
			return err
		}
		tx.saved = true
	}
	for _, c := range tx.own {
		if err := tx.db.back.run(c.Apply); err != nil {
			return err
		}
	}
	clear(tx.own)
	tx.own = tx.own[:0]
	return nil
}

// leave gives back what the function of tx held, and its changes to applyLoop.
func (tx *Tx) leave() {
	if len(tx.own) > 0 {
		if tx.db.later.push(tx.own) > waitAt {
			tx.hold()
			_ = tx.db.applyAll() // applyLoop sees to what fails
		}
		clear(tx.own)
		tx.own = tx.own[:0]
	}
	if tx.held {
		tx.held = false
		tx.db.unlockConn()
	}
	tx.inWrite, tx.saved, tx.bypass = false, false, false
}

var writes = regexp.MustCompile(`^\s*(?:INSERT(?: OR \w+)? INTO|REPLACE INTO|UPDATE(?: OR \w+)?|DELETE FROM)\s+(\w+)`)

// watches reports whether query writes a table that the companion keeps.
func (db *DB) watches(query string) bool {
	m := writes.FindStringSubmatch(query)
	return m != nil && slices.Contains(db.watched, m[1])
}
