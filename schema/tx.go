package schema

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
)

// LocalNode is the node id of the store itself.
const LocalNode = 2

// Tx is a transaction on one connection, handed to the function given to Read,
// Write or Snapshot and valid until it returns.
type Tx struct {
	db    *DB
	conn  *sqlite.Conn
	stmts map[string]*sqlite.Stmt
	used  []*sqlite.Stmt

	// Of the one that Read and Write hand out:
	front   bool
	inWrite bool
	held    bool            // the connection is locked until the function ends
	saved   bool            // its savepoint is open
	bypass  bool            // it wrote what the companion keeps
	own     []Change        // its changes that wait
	watched map[string]bool // queries that write what the companion keeps

	// In a write transaction: the clock as of now, and whether to store it.
	stamp  Stamp
	ino    int64
	ticked bool
	rider  Rider
}

// Rider is what a package keeps in memory beside an open batch of writes,
// instead of reading and writing it at each of them.
type Rider interface {
	Keep()          // a Write succeeded
	Undo()          // a Write failed: forget what happened since the last Keep
	Save(*Tx) error // the batch is about to be committed: record what was kept, on the Tx given
}

// Rider returns the rider of the open batch, nil when there is none.
func (tx *Tx) Rider() Rider { return tx.rider }

// Ride makes r the only rider of the open batch, which a Write has begun. It
// leaves with the batch.
func (tx *Tx) Ride(r Rider) { tx.rider = r }

// Writes reports whether a Write, or a batch of them, is open on tx.
func (tx *Tx) Writes() bool { return tx.db.mu.state == writing && tx == &tx.db.mu.tx }

func newTx(db *DB, conn *sqlite.Conn) Tx {
	return Tx{db: db, conn: conn, stmts: make(map[string]*sqlite.Stmt)}
}

// Stmt returns the prepared statement for query, reset; its bindings are those
// of the last use, so bind every parameter. It is reset again when the
// transaction's function returns. One query is one statement: do not start it
// anew while iterating over its rows.
//
// It sees all changes (Later) of this process. A query that writes does so at
// once, and its failure undoes the Write.
func (tx *Tx) Stmt(query string) *sqlite.Stmt {
	if tx.front {
		if err := tx.catchUp(); err != nil {
			panic(stmtError{err})
		}
		if tx.inWrite && !tx.bypass && tx.writesWatched(query) {
			tx.bypass = true
			tx.db.mu.companion.Reset()
		}
	}
	return tx.stmt(query)
}

// writesWatched is DB.watches, looked up once for each query.
func (tx *Tx) writesWatched(query string) bool {
	if tx.db.mu.companion == nil {
		return false
	}
	is, known := tx.watched[query]
	if !known {
		is = tx.db.watches(query)
		tx.watched[query] = is
	}
	return is
}

func (tx *Tx) stmt(query string) *sqlite.Stmt {
	s, err := tx.prepare(query)
	if err != nil {
		// Not about data: the query is wrong, or the database is unreadable.
		panic(stmtError{fmt.Errorf("prepare %q: %w", query, err)})
	}
	tx.used = append(tx.used, s)
	return s
}

// prepare returns the statement for query, reset.
func (tx *Tx) prepare(query string) (*sqlite.Stmt, error) {
	s := tx.stmts[query]
	if s != nil {
		_ = s.Reset()
		return s, nil
	}
	s, err := tx.conn.Prepare(query)
	if err == nil {
		tx.stmts[query] = s
	}
	return s, err
}

// stmtError carries a failed prepare out of a transaction's function.
type stmtError struct{ error }

// Conn returns the connection, for Changes and LastInsertRowID right after a
// statement of Stmt, and for reading by statements that are run once.
func (tx *Tx) Conn() *sqlite.Conn {
	if !tx.saved {
		if err := tx.catchUp(); err != nil {
			panic(stmtError{err})
		}
	}
	return tx.conn
}

// NextStamp returns a stamp later than any the store has given out.
func (tx *Tx) NextStamp() Stamp {
	tx.stamp = tx.stamp.next(tx.db.Now())
	tx.ticked = true
	return tx.stamp
}

// ObserveStamp makes later stamps follow s, which came from elsewhere.
func (tx *Tx) ObserveStamp(s Stamp) {
	if s > tx.stamp {
		tx.stamp, tx.ticked = s, true
	}
}

// NodeKey returns the public key of a node, nil when the store does not know it.
func (tx *Tx) NodeKey(id int64) ([]byte, error) {
	s := tx.Stmt("SELECT key FROM node WHERE id = ?")
	s.BindInt64(1, id)
	if ok, err := s.Step(); err != nil || !ok {
		return nil, err
	}
	key := Bytes(s, 0)
	return key, nil
}

// NextIno returns the next value of the store's file inode counter.
func (tx *Tx) NextIno() int64 {
	tx.ino++
	tx.ticked = true
	return tx.ino
}

// ObserveIno makes later values of the file inode counter follow n.
func (tx *Tx) ObserveIno(n int64) {
	if n > tx.ino {
		tx.ino, tx.ticked = n, true
	}
}

// run calls f and resets the statements it used.
func (tx *Tx) run(f func(*Tx) error) (err error) {
	defer func() {
		for _, s := range tx.used {
			_ = s.Reset()
		}
		tx.used = tx.used[:0]
		switch p := recover().(type) {
		case nil:
		case stmtError:
			err = p.error
		default:
			panic(p)
		}
	}()
	return f(tx)
}

func (tx *Tx) exec(query string) error {
	s, err := tx.prepare(query)
	if err != nil {
		return err
	}
	_, err = s.Step()
	if e := s.Reset(); err == nil {
		err = e
	}
	return err
}

// Read runs f on the newest state, this process's uncommitted writes included.
// f must be short: it holds up everything else.
func (db *DB) Read(f func(*Tx) error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.beginRead(); err != nil {
		return err
	}
	tx := &db.mu.tx
	defer tx.leave()
	err := tx.run(f)
	if tx.held && db.failed != nil {
		db.lose(db.failed)
	}
	return describe(err)
}

// slow is from when on a Write is worth a line in the log.
const slow = 500 * time.Millisecond

// Write runs f and keeps all of its changes, or none when it returns an error.
// The changes are seen at once by every Read of this process; they are
// committed, and so seen by other processes, within Options.CommitInterval. A
// caller that needs them on the disk calls Sync. When the disk is nearly full
// the commit comes before Write returns, and its error is Write's.
func (db *DB) Write(f func(*Tx) error) error {
	if db.opts.ReadOnly {
		return ErrReadOnly
	}
	began := time.Now()
	db.wmu.Lock()
	defer db.wmu.Unlock()
	if err := db.lockForWrite(); err != nil {
		return err
	}
	defer db.mu.Unlock()
	defer func() {
		if took := time.Since(began); took > slow {
			db.stats.slow.Add(1)
			db.log.Info("slow transaction", "took", took)
		}
	}()
	tx := &db.mu.tx
	defer tx.leave()
	tx.inWrite = true
	stamp, ino, done := tx.stamp, tx.ino, false
	defer func() { // f panicked
		if !done {
			db.rollbackOp(nil)
		}
	}()
	err := tx.run(f)
	done = true
	if err == nil {
		err = db.keepOp()
	}
	if err != nil {
		db.rollbackOp(err)
		tx.stamp, tx.ino = max(tx.stamp, stamp), max(tx.ino, ino)
		return describe(err)
	}
	if tx.rider != nil {
		tx.rider.Keep()
	}
	db.stats.writes.Add(1)
	db.mu.fresh = false
	if db.mu.direct {
		tx.hold()
		return describe(db.commit())
	}
	return nil
}

// keepOp ends the current Write well. mu must be held.
func (db *DB) keepOp() error {
	tx := &db.mu.tx
	if tx.bypass {
		// The companion knows nothing of what still waits.
		if err := tx.catchUp(); err != nil {
			return err
		}
	}
	if tx.saved {
		if err := tx.exec("RELEASE op"); err != nil {
			return err
		}
	}
	if db.mu.companion != nil {
		db.mu.companion.Keep()
		if tx.bypass {
			db.mu.companion.Reset()
		}
	}
	return nil
}

// rollbackOp undoes the current Write. Some failures (disk full, I/O error) make
// SQLite drop the whole transaction, which loses the batch. mu must be held.
func (db *DB) rollbackOp(cause error) {
	tx := &db.mu.tx
	if tx.rider != nil {
		tx.rider.Undo()
	}
	clear(tx.own)
	tx.own = tx.own[:0]
	if db.mu.companion != nil {
		db.mu.companion.Undo()
		if tx.bypass {
			db.mu.companion.Reset()
		}
	}
	if !tx.held {
		return // nothing was written
	}
	if db.failed != nil {
		db.lose(db.failed)
		return
	}
	if !tx.conn.AutocommitEnabled() {
		if !tx.saved || tx.exec("ROLLBACK TO op") == nil && tx.exec("RELEASE op") == nil {
			return
		}
	}
	if cause == nil {
		cause = errors.New("the transaction could not be rolled back to its savepoint")
	}
	db.lose(cause)
}

// lose gives up the open write transaction and the changes that wait. mu and
// conn must be held.
func (db *DB) lose(cause error) {
	if !db.mu.tx.conn.AutocommitEnabled() {
		_ = db.mu.tx.exec("ROLLBACK")
	}
	db.failed = nil
	db.later.clear()
	if db.mu.companion != nil {
		db.mu.companion.Reset()
	}
	db.mu.state = idle
	db.mu.tx.rider = nil
	db.mu.timer.Stop()
	if db.mu.direct {
		return // nobody was told that it worked
	}
	err := fmt.Errorf("recent changes were lost: %w", describe(cause))
	db.lostErr.Store(&err)
	db.losses.Add(1)
	db.log.Error("commit failed", "error", err)
	for _, f := range db.mu.onLost {
		(*f)(err)
	}
	db.wake.bump() // for those who wait for changes: this is one
}

// lockForWrite returns with mu held and a write transaction open. wmu must be
// held. It waits for other processes without holding mu.
func (db *DB) lockForWrite() error {
	db.mu.Lock()
	if db.mu.closed {
		db.mu.Unlock()
		return errClosed
	}
	if db.mu.state == writing {
		return nil
	}
	db.mu.Unlock()
	err := whenNotBusy(context.Background(), func() error {
		if !db.takeTurn() {
			return errBusy
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer db.endTurn()
	return whenNotBusy(context.Background(), func() error {
		db.lock()
		err := db.beginWrite()
		db.conn.Unlock()
		if err != nil {
			db.mu.Unlock()
		}
		return err
	})
}

// takeTurn reports whether this process may be the next to begin a write
// transaction.
func (db *DB) takeTurn() bool { return unix.Flock(int(db.turn.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }

func (db *DB) endTurn() { _ = unix.Flock(int(db.turn.Fd()), unix.LOCK_UN) }

var errClosed = errors.New("the store is closed")

// beginWrite opens a write transaction. mu and conn must be held.
func (db *DB) beginWrite() error {
	if db.mu.closed {
		return errClosed
	}
	tx := &db.mu.tx
	db.finish()
	db.boundWAL()
	db.mu.gen = db.wake.load()
	if err := tx.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := db.refresh()
	if err == nil {
		err = tx.loadClock()
	}
	if err != nil {
		_ = tx.exec("ROLLBACK")
		return err
	}
	db.mu.state, db.mu.fresh = writing, true
	db.mu.direct = db.opts.CommitInterval < 0 || !db.roomy()
	if !db.mu.direct {
		db.mu.timer.Reset(db.opts.CommitInterval)
	}
	return nil
}

// refresh resets the companion when another process has committed since the
// last transaction. mu and conn must be held, and a transaction be open.
func (db *DB) refresh() error {
	v, err := db.mu.tx.dataVersion()
	if err != nil {
		return err
	}
	if c := db.mu.companion; c != nil && (v != db.mu.version || c.Full()) {
		c.Reset()
	}
	db.mu.version = v
	return nil
}

// dataVersion returns a number that changes when another connection commits.
func (tx *Tx) dataVersion() (int64, error) {
	s, err := tx.prepare("PRAGMA data_version")
	if err != nil {
		return 0, err
	}
	defer s.Reset()
	if ok, err := s.Step(); err != nil || !ok {
		return 0, err
	}
	return s.ColumnInt64(0), nil
}

// roomy reports whether the disk has so much room that a commit will not fail
// for want of it.
func (db *DB) roomy() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(db.wal.Fd()), &st) == nil && st.Bavail*uint64(st.Bsize) >= roomForBatches
}

// beginRead makes sure a transaction is open that is no older than what other
// processes have committed. mu must be held.
func (db *DB) beginRead() error {
	if db.mu.closed {
		return errClosed
	}
	if db.mu.state == writing {
		return nil
	}
	gen := db.Generation()
	if db.mu.state == reading {
		if gen == db.mu.gen && db.wake != nil {
			return nil
		}
	}
	db.conn.Lock()
	defer db.conn.Unlock()
	db.finish()
	err := db.mu.tx.exec("BEGIN")
	if err == nil {
		if err = db.refresh(); err != nil {
			_ = db.mu.tx.exec("ROLLBACK")
		}
	}
	if err != nil {
		return describe(err)
	}
	db.mu.state, db.mu.gen = reading, gen
	if db.mu.timer != nil {
		db.mu.timer.Reset(5 * time.Millisecond)
	}
	return nil
}

// finish ends the open transaction, committing what it wrote. mu and conn must
// be held.
func (db *DB) finish() error {
	switch db.mu.state {
	case writing:
		return db.commit()
	case reading:
		db.mu.state = idle
		return db.mu.tx.exec("COMMIT")
	}
	return nil
}

// endTx is the timer's function.
func (db *DB) endTx() {
	_ = db.applySome() // while others go on
	if db.handOver() {
		return
	}
	db.lock()
	defer db.unlock()
	if !db.mu.closed {
		_ = db.finish() // lose has told whoever needs to know
	}
}

// commit commits the write transaction. mu and conn must be held.
func (db *DB) commit() error {
	tx := &db.mu.tx
	err := db.complete()
	if err == nil {
		err = tx.exec("COMMIT")
	}
	if err != nil {
		db.lose(err)
		return err
	}
	db.mu.state = idle
	db.mu.timer.Stop()
	if !db.mu.fresh {
		db.stats.commits.Add(1)
		db.wake.committed()
	}
	return nil
}

// complete writes all that the open transaction is still to have. mu and conn
// must be held.
func (db *DB) complete() error {
	tx := &db.mu.tx
	err := db.applyAll()
	if err == nil && tx.rider != nil {
		err = db.back.run(tx.rider.Save)
		tx.rider = nil
	}
	if err == nil {
		err = tx.saveClock()
	}
	return err
}

func (tx *Tx) loadClock() error {
	s, err := tx.prepare("SELECT stamp, ino FROM clock WHERE id = 2")
	if err != nil {
		return err
	}
	defer s.Reset()
	if ok, err := s.Step(); err != nil || !ok {
		return fmt.Errorf("%w: no clock: %v", ErrDamaged, err)
	}
	stamp, ino := Stamp(s.ColumnInt64(0)), s.ColumnInt64(1)
	// What was given out in a batch that was lost is not given out again: open
	// files still go by those numbers.
	tx.ticked = tx.stamp > stamp || tx.ino > ino
	tx.stamp, tx.ino = max(tx.stamp, stamp), max(tx.ino, ino)
	return nil
}

func (tx *Tx) saveClock() error {
	if !tx.ticked {
		return nil
	}
	s, err := tx.prepare("UPDATE clock SET stamp = ?, ino = ? WHERE id = 2")
	if err != nil {
		return err
	}
	defer s.Reset()
	s.BindInt64(1, int64(tx.stamp))
	s.BindInt64(2, tx.ino)
	_, err = s.Step()
	tx.ticked = false
	return err
}

// Commit returns when every Write that returned before is committed: other
// processes see it, and a crash of this process cannot undo it.
func (db *DB) Commit() error {
	db.lock()
	defer db.unlock()
	if db.mu.closed || db.mu.state != writing {
		return nil
	}
	return describe(db.finish())
}

// Sync is Commit, and returns when the disk has it too: neither a crash of the
// machine nor a power cut can undo it. It also reports, once, that changes
// acknowledged since the last Sync were lost.
func (db *DB) Sync() error {
	if db.opts.ReadOnly {
		return nil
	}
	if err := db.Commit(); err != nil {
		return err
	}
	if p := db.lostErr.Swap(nil); p != nil {
		return *p
	}
	return describe(db.syncing.do(func() error { return unix.Fdatasync(int(db.wal.Fd())) }))
}

// Barrier returns when everything that any process acknowledged before is
// committed, so that the next Read or Snapshot sees it.
func (db *DB) Barrier() error {
	if db.opts.ReadOnly {
		return nil
	}
	if err := db.Write(func(*Tx) error { return nil }); err != nil {
		return err
	}
	return db.Commit()
}

// Snapshot runs f, which may be long, on a consistent committed state that
// includes every Write that returned before. It holds nothing that others
// need, but the WAL cannot be reset while it runs. f must not write.
func (db *DB) Snapshot(f func(*Tx) error) error {
	if err := db.Commit(); err != nil {
		return err
	}
	var tx *Tx
	select {
	case tx = <-db.readers:
	default:
		conn, err := openConn(db.dir+"/"+fileName, true)
		if err != nil {
			return describe(err)
		}
		t := newTx(db, conn)
		tx = &t
	}
	defer func() {
		select {
		case db.readers <- tx:
		default:
			tx.conn.Close()
		}
	}()
	if err := tx.exec("BEGIN"); err != nil {
		return describe(err)
	}
	defer tx.exec("COMMIT")
	return describe(tx.run(f))
}
