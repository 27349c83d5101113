package schema

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	checkpointPages = 2000 // pages in the WAL alone that are worth copying
	walLookEvery    = 32   // commits between a writer's looks at the WAL
)

// Variables for tests.
var (
	checkpointEvery = 500 * time.Millisecond
	walPagesMost    = 16384 // pages in the WAL at which writers wait for a checkpoint
)

// readersWait is how long a writer waits for readers to leave a WAL of twice
// walPagesMost.
const readersWait = 100 * time.Millisecond

// checkpointLoop copies the WAL into the database beside the writer, so that
// the writer only ever waits for the short tail that remains.
func (db *DB) checkpointLoop(ctx context.Context) {
	conn, err := openConn(db.dir+"/"+fileName, false)
	if err != nil {
		db.log.Error("checkpoint", "error", err)
		return
	}
	defer conn.Close()
	side := newTx(db, conn)
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	var seen uint32
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if gen := db.Generation(); gen == seen {
			continue
		} else {
			seen = gen
		}
		pages, copied := side.checkpoint("NOOP")
		db.stats.walPages.Store(int64(pages))
		if pages-copied < checkpointPages {
			continue
		}
		side.checkpoint("PASSIVE")
		db.lock()
		if !db.mu.closed && db.finish() == nil {
			// All copied: the next write starts the WAL from its beginning.
			db.mu.tx.checkpoint("PASSIVE")
		}
		db.unlock()
		db.stats.checkpoints.Add(1)
	}
}

// boundWAL checkpoints before a writer that outruns checkpointLoop goes on. When
// readers follow each other so closely that there is always one in the WAL, it
// never begins anew by itself; then the writer waits for those that are there,
// while new ones, who find that all is in the database file, stay out of it. One
// that stays long costs the writer readersWait every walLookEvery commits, and
// the WAL grows until it leaves. No transaction may be open. mu and conn must be
// held, over the I/O too: to hold up writers is the purpose.
func (db *DB) boundWAL() {
	if db.stats.commits.Load()%walLookEvery != 0 {
		return
	}
	tx := &db.mu.tx
	pages, _ := tx.checkpoint("NOOP")
	if pages >= walPagesMost {
		tx.checkpoint("PASSIVE")
	}
	if pages >= 2*walPagesMost {
		tx.conn.SetBusyTimeout(readersWait)
		tx.checkpoint("RESTART")
		tx.conn.SetBusyTimeout(0)
	}
}

// checkpoint returns the pages in the WAL and how many of them the database
// file has. Mode NOOP copies none.
func (tx *Tx) checkpoint(mode string) (pages, copied int) {
	s, err := tx.prepare("PRAGMA wal_checkpoint(" + mode + ")")
	if err != nil {
		return 0, 0
	}
	defer s.Reset()
	if ok, err := s.Step(); err != nil || !ok {
		return 0, 0
	}
	return s.ColumnInt(1), s.ColumnInt(2)
}

func (db *DB) walSize() int64 {
	st, err := db.wal.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// syncRounds lets many callers share one fsync: whoever comes while one runs
// waits for the next.
type syncRounds struct {
	mu   sync.Mutex
	next *syncRound
	run  sync.Mutex // held while syncing
}

type syncRound struct {
	once sync.Once
	err  error
}

func (r *syncRounds) do(sync func() error) error {
	r.mu.Lock()
	if r.next == nil {
		r.next = new(syncRound)
	}
	round := r.next
	r.mu.Unlock()
	round.once.Do(func() {
		r.run.Lock()
		defer r.run.Unlock()
		r.mu.Lock()
		r.next = nil // callers from here on are not covered by this sync
		r.mu.Unlock()
		round.err = sync()
	})
	return round.err
}

type counters struct {
	writes, commits, checkpoints, walPages, slow atomic.Int64
}

// Stats are counts since Open.
type Stats struct {
	Writes, Commits, Checkpoints int64
	Slow                         int64 // calls of Write that took longer than half a second
	WALPages                     int64 // at the last checkpoint
	WALBytes                     int64 // size of the file, which is reused and does not shrink
}

// Stats returns the counts so far.
func (db *DB) Stats() Stats {
	s := Stats{
		Writes: db.stats.writes.Load(), Commits: db.stats.commits.Load(),
		Checkpoints: db.stats.checkpoints.Load(), Slow: db.stats.slow.Load(), WALPages: db.stats.walPages.Load(),
	}
	if db.wal != nil {
		s.WALBytes = db.walSize()
	}
	return s
}
