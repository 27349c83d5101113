package schema

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

const (
	fileName     = "alkfs.db"
	cachePages   = 16384 // of 4 KiB, for the main connection
	readerConns  = 4
	busyDeadline = 30 * time.Second
)

// roomForBatches is how many bytes must be free on the disk for a Write to
// return before its commit. A variable for tests.
var roomForBatches uint64 = 256 << 20

// Options configures Open; the zero value is ready for use.
type Options struct {
	ReadOnly bool
	// NodeKey is this store's public key, recorded when the store is made.
	// Default: 32 random bytes.
	NodeKey []byte
	// CommitInterval bounds how long a finished Write may wait for its commit.
	// Default 5 ms; negative: every Write commits before it returns.
	CommitInterval time.Duration
	// Alone promises that no other process has the store open. Nothing waits in
	// the kernel for others then, so that stores work inside testing/synctest.
	Alone  bool
	Now    func() time.Time // clock that stamps are taken from. Default time.Now
	Logger *slog.Logger     // default: discard
}

// DB is one process's access to alkfs.db. Safe for concurrent use.
type DB struct {
	dir  string
	opts Options
	log  *slog.Logger
	wake *wakeFile // nil when read-only

	// turn makes waiting for SQLite's write lock fair between processes.
	// wmu serialises the writers of this process while they wait for it.
	// Lock order: wmu, mu, conn.
	wmu  sync.Mutex
	turn *os.File

	// conn is held by whoever uses the main connection: a function that looks
	// into the database, or applyLoop. back and failed belong to it.
	conn   sync.Mutex
	back   Tx    // for changes that wait
	failed error // of one of them: the transaction is to be given up
	later  waiting

	mu struct {
		sync.Mutex
		tx        Tx
		companion Companion
		version   int64 // PRAGMA data_version of the last transaction
		state     txState
		gen       uint32 // generation the open transaction reads
		timer     *time.Timer
		direct    bool // this batch commits at every Write
		fresh     bool // nothing was written in this batch
		closed    bool
		onLost    []*func(error)
	}
	watched []string // tables the companion keeps; set once, with it
	wal     *os.File // the WAL, for fdatasync; it carries no locks
	syncing syncRounds
	readers chan *Tx

	lostErr atomic.Pointer[error]
	losses  atomic.Int64
	stats   counters

	stop context.CancelFunc
	wg   sync.WaitGroup
}

type txState int

const (
	idle txState = iota
	reading
	writing
)

// Open opens the database in dir, creating or migrating it as needed.
func Open(ctx context.Context, dir string, opts Options) (*DB, error) {
	if opts.CommitInterval == 0 {
		opts.CommitInterval = 5 * time.Millisecond
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	db := &DB{dir: dir, opts: opts, log: opts.Logger, readers: make(chan *Tx, readerConns)}
	db.later.kick = make(chan struct{}, 1)
	if err := db.open(ctx); err != nil {
		db.closeFiles()
		return nil, fmt.Errorf("open store %s: %w", dir, describe(onFullDisk(dir, err)))
	}
	bg, cancel := context.WithCancel(context.Background())
	db.stop = cancel
	if !opts.ReadOnly {
		if !opts.Alone {
			db.wg.Go(func() { db.wake.run(bg, db.dataVersion) })
		}
		db.wg.Go(func() { db.checkpointLoop(bg) })
		db.wg.Go(func() { db.applyLoop(bg) })
	}
	return db, nil
}

func (db *DB) open(ctx context.Context) error {
	path := filepath.Join(db.dir, fileName)
	conn, err := openConn(path, db.opts.ReadOnly)
	if err != nil {
		return err
	}
	tx := &db.mu.tx
	*tx = newTx(db, conn)
	tx.front, tx.watched = true, map[string]bool{}
	db.back = newTx(db, conn)
	if db.opts.ReadOnly {
		version, err := checkFormat(conn)
		if err == nil && version != Format {
			err = fmt.Errorf("format %d needs migrating to %d: %w", version, Format, ErrReadOnly)
		}
		return err
	}
	if err := migrate(ctx, conn, path); err != nil {
		return err
	}
	if err := db.identify(tx); err != nil {
		return err
	}
	if db.wal, err = os.OpenFile(path+"-wal", os.O_RDWR, 0); err != nil {
		return err
	}
	if db.turn, err = os.OpenFile(filepath.Join(db.dir, "writer.lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if db.wake, err = openWake(filepath.Join(db.dir, "commit.seq")); err != nil {
		return err
	}
	db.mu.timer = time.AfterFunc(time.Hour, db.endTx)
	db.mu.timer.Stop()
	return syncDir(db.dir)
}

// identify records this store's node row and clock when they are missing.
func (db *DB) identify(tx *Tx) error {
	key := db.opts.NodeKey
	if key == nil {
		key = make([]byte, 32)
		rand.Read(key)
	}
	return whenNotBusy(context.Background(), func() error {
		err := sqlitex.Execute(tx.conn, "INSERT OR IGNORE INTO node (id, key) VALUES (2, ?)", &sqlitex.ExecOptions{Args: []any{key}})
		if err != nil {
			return err
		}
		return sqlitex.Execute(tx.conn, "INSERT OR IGNORE INTO clock (id, stamp, ino) VALUES (2, 0, 2)", nil)
	})
}

func openConn(path string, readOnly bool) (*sqlite.Conn, error) {
	if err := startEngine(); err != nil {
		return nil, err
	}
	flags := sqlite.OpenReadWrite | sqlite.OpenCreate | sqlite.OpenURI
	name := "file:" + (&urlPath{filepath.Clean(path)}).String()
	if !readOnly {
		name += "?vfs=" + vfsName
	} else {
		flags = sqlite.OpenReadOnly | sqlite.OpenURI
		if unix.Access(filepath.Dir(path), unix.W_OK) != nil {
			// SQLite cannot make its -shm file there. That is safe to do
			// without only when no WAL waits to be read.
			if st, err := os.Stat(path + "-wal"); err == nil && st.Size() > 0 {
				return nil, fmt.Errorf("%w and was not closed cleanly: open it once where it can be written", ErrReadOnly)
			}
			name += "?immutable=1"
		}
	}
	var conn *sqlite.Conn
	err := whenNotBusy(context.Background(), func() (err error) {
		conn, err = sqlite.OpenConn(name, flags)
		return err
	})
	if err != nil {
		return nil, err
	}
	conn.SetBusyTimeout(0)
	if !readOnly {
		// WAL mode is a mark in the file: not in one that is not ours.
		if err := whenNotBusy(context.Background(), func() error { _, err := checkFormat(conn); return err }); err != nil {
			conn.Close()
			return nil, err
		}
		if err := whenNotBusy(context.Background(), func() error { return sqlitex.ExecuteTransient(conn, "PRAGMA journal_mode = WAL", nil) }); err != nil {
			conn.Close()
			return nil, err
		}
	}
	for _, q := range []string{
		"PRAGMA foreign_keys = ON",
		"PRAGMA synchronous = NORMAL",
		"PRAGMA wal_autocheckpoint = 0",
		fmt.Sprintf("PRAGMA journal_size_limit = %d", walPagesMost*4096), // what a long reader made it grow beyond is given back
		"PRAGMA temp_store = MEMORY",
		fmt.Sprintf("PRAGMA cache_size = %d", cachePages),
	} {
		if err := whenNotBusy(context.Background(), func() error { return sqlitex.ExecuteTransient(conn, q, nil) }); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// Dir returns the store directory.
func (db *DB) Dir() string { return db.dir }

// Now returns the time on the clock that stamps are taken from.
func (db *DB) Now() time.Time { return db.opts.Now() }

// ReadOnly reports whether the database refuses writes.
func (db *DB) ReadOnly() bool { return db.opts.ReadOnly }

// Losses returns how often OnLost was called: what was written in this process
// before the count went up may be lost. It changes only between transactions.
func (db *DB) Losses() int64 { return db.losses.Load() }

// OnLost has f called when acknowledged but uncommitted writes were lost to a
// failing disk, until remove is called: caches of what the store holds must be
// dropped. It runs with the database locked and must not call it.
func (db *DB) OnLost(f func(error)) (remove func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.mu.onLost = append(db.mu.onLost, &f)
	return func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.mu.onLost = slices.DeleteFunc(db.mu.onLost, func(g *func(error)) bool { return g == &f })
	}
}

// Close commits what waits and closes the database.
func (db *DB) Close() error {
	err := db.Commit()
	db.lock()
	if db.mu.closed {
		db.unlock()
		return nil
	}
	db.finish()
	db.mu.closed = true
	db.unlock()
	db.stop()
	if db.wake != nil {
		db.wake.bump()
	}
	db.wg.Wait()
	db.mu.Lock()
	defer db.mu.Unlock()
	db.closeFiles()
	return err
}

func (db *DB) closeFiles() {
	if db.mu.timer != nil {
		db.mu.timer.Stop()
	}
	for len(db.readers) > 0 {
		(<-db.readers).conn.Close()
	}
	if db.mu.tx.conn != nil {
		db.mu.tx.conn.Close()
	}
	for _, f := range []*os.File{db.wal, db.turn} {
		if f != nil {
			f.Close()
		}
	}
	if db.wake != nil {
		db.wake.close()
	}
}

// errBusy tells a caller of beginWrite to try again.
var errBusy = errors.New("busy")

func whenNotBusy(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(busyDeadline)
	for {
		err := f()
		code := sqlite.ErrCode(err).ToPrimary()
		if err == nil || (code != sqlite.ResultBusy && !errors.Is(err, errBusy)) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another process has held the store's write lock for %v: %w", busyDeadline, unix.EBUSY)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Microsecond):
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
