package schema

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	checkpointEvery = 500 * time.Millisecond
	checkpointPages = 2000 // WAL pages worth copying
)

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
		if db.walSize() < checkpointPages*4096 {
			continue
		}
		pages, copied := side.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
		db.stats.walPages.Store(int64(pages))
		if pages < checkpointPages || copied == 0 {
			continue
		}
		db.mu.Lock()
		if !db.mu.closed && db.finish() == nil {
			// All copied: the next write starts the WAL from its beginning.
			db.mu.tx.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
		}
		db.mu.Unlock()
		db.stats.checkpoints.Add(1)
	}
}

// checkpoint returns the pages in the WAL and how many of them the database
// file has now.
func (tx *Tx) checkpoint(query string) (pages, copied int) {
	s, _, err := tx.conn.PrepareTransient(query)
	if err != nil {
		return 0, 0
	}
	defer s.Finalize()
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
	writes, commits, checkpoints, walPages atomic.Int64
}

// Stats are counts since Open.
type Stats struct {
	Writes, Commits, Checkpoints int64
	WALPages                     int64 // at the last checkpoint
	WALBytes                     int64 // size of the file, which is reused and does not shrink
}

// Stats returns the counts so far.
func (db *DB) Stats() Stats {
	s := Stats{
		Writes: db.stats.writes.Load(), Commits: db.stats.commits.Load(),
		Checkpoints: db.stats.checkpoints.Load(), WALPages: db.stats.walPages.Load(),
	}
	if db.wal != nil {
		s.WALBytes = db.walSize()
	}
	return s
}
