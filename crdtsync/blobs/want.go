package blobs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// The wanted list is the table sync_want: contents, or groups of them, to bring
// when there is time. A row goes when its groups are here.

const (
	wantsAtOnce = 96 // rows worked on at once; small ones share requests
	tryLeast    = time.Second
	tryMost     = 10 * time.Minute
)

// Want puts all of a content on the wanted list, or raises its priority there.
func Want(tx *schema.Tx, c Content, prio blobstore.Priority) error {
	return wantGroups(tx, c, blobstore.Range{Count: blobstore.Groups(c.Size)}, prio)
}

func wantGroups(tx *schema.Tx, c Content, r blobstore.Range, prio blobstore.Priority) error {
	q := tx.Stmt(`INSERT INTO sync_want (hash, size, first, count, priority, due, added) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
		ON CONFLICT (hash, size, first, count) DO UPDATE SET priority = max(priority, excluded.priority), due = min(due, excluded.due)`)
	q.BindBytes(1, c.Hash[:])
	q.BindInt64(2, c.Size)
	q.BindInt64(3, r.First)
	q.BindInt64(4, r.Count)
	q.BindInt64(5, int64(prio))
	q.BindInt64(6, time.Now().UnixNano())
	_, err := q.Step()
	return err
}

// Unwant takes a content off the wanted list.
func Unwant(tx *schema.Tx, h blobstore.Hash) error {
	q := tx.Stmt("DELETE FROM sync_want WHERE hash = ?")
	q.BindBytes(1, h[:])
	_, err := q.Step()
	return err
}

// Wanted counts the wanted list.
func Wanted(tx *schema.Tx) (contents, bytes int64, err error) {
	q := tx.Stmt("SELECT count(*), coalesce(sum(min(size, count * 16384)), 0) FROM sync_want")
	if _, err := q.Step(); err != nil {
		return 0, 0, err
	}
	return q.ColumnInt64(0), q.ColumnInt64(1), nil
}

// wanted is a row of sync_want.
type wanted struct {
	id int64
	Content
	r     blobstore.Range
	prio  blobstore.Priority
	tries int64
}

// due lists rows whose turn it is, the most urgent first, and when the next is
// due if there are none.
func due(tx *schema.Tx, n int) (rows []wanted, next time.Time, err error) {
	now := time.Now().UnixNano()
	q := tx.Stmt("SELECT id, hash, size, first, count, priority, tries FROM sync_want WHERE due <= ? ORDER BY priority DESC, due LIMIT ?")
	q.BindInt64(1, now)
	q.BindInt64(2, int64(n))
	for {
		more, err := q.Step()
		if err != nil {
			return nil, next, err
		}
		if !more {
			break
		}
		w := wanted{
			id: q.ColumnInt64(0), r: blobstore.Range{First: q.ColumnInt64(3), Count: q.ColumnInt64(4)},
			prio: blobstore.Priority(q.ColumnInt64(5)), tries: q.ColumnInt64(6),
		}
		q.ColumnBytes(1, w.Hash[:])
		w.Size = q.ColumnInt64(2)
		rows = append(rows, w)
	}
	q = tx.Stmt("SELECT min(due) FROM sync_want WHERE due > ?")
	q.BindInt64(1, now)
	if _, err := q.Step(); err != nil {
		return nil, next, err
	}
	if at := q.ColumnInt64(0); at != 0 {
		next = time.Unix(0, at)
	}
	return rows, next, nil
}

// Worker works the wanted list off.
type Worker struct {
	f     *Fetcher
	blobs *blobstore.Store
	db    *schema.DB
	log   *slog.Logger

	// mu guards the rows that are being worked on, and how many end by themselves.
	mu struct {
		sync.Mutex
		busy map[int64]bool
	}
	ended chan struct{} // has room for one: a row ended
}

// NewWorker returns a worker that brings by f what is wanted into a store, of
// which f is the source.
func NewWorker(f *Fetcher, blobs *blobstore.Store, db *schema.DB) *Worker {
	w := &Worker{f: f, blobs: blobs, db: db, log: f.log, ended: make(chan struct{}, 1)}
	w.mu.busy = make(map[int64]bool)
	return w
}

// Run works until ctx ends. New rows of any process are noticed at once, and when
// there is a new peer everything is tried anew.
func (w *Worker) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	known := 0
	for {
		gen := w.db.Generation()
		if n := len(w.f.Peers()); n > known {
			if err := w.retryAll(); err != nil {
				return err
			}
			known = n
		} else {
			known = n
		}
		rows, next, err := w.take()
		if err != nil {
			return err
		}
		for _, r := range rows {
			wg.Go(func() { w.bring(ctx, r) })
		}
		if err := w.wait(ctx, gen, next); err != nil {
			return nil // ctx ended
		}
	}
}

// wait returns when there may be something new to do.
func (w *Worker) wait(ctx context.Context, gen uint32, next time.Time) error {
	f := w.f
	f.mu.Lock()
	peers := f.mu.joined
	f.mu.Unlock()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	if !next.IsZero() {
		waiting, cancel = context.WithDeadline(waiting, next)
		defer cancel()
	}
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		_, _ = w.db.Wait(waiting, gen)
	}()
	select {
	case <-changed:
	case <-w.ended:
	case <-peers:
	}
	cancel()
	<-changed
	return ctx.Err()
}

// take marks rows as being worked on and returns them. A reader's row always
// finds room.
func (w *Worker) take() (rows []wanted, next time.Time, err error) {
	w.mu.Lock()
	busy := len(w.mu.busy)
	w.mu.Unlock()
	var all []wanted
	err = w.db.Read(func(tx *schema.Tx) (err error) {
		all, next, err = due(tx, busy+wantsAtOnce)
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range all {
		if w.mu.busy[r.id] || len(w.mu.busy) >= wantsAtOnce && r.prio < blobstore.Reading {
			continue
		}
		w.mu.busy[r.id] = true
		rows = append(rows, r)
	}
	return rows, next, err
}

// bring works on one row.
func (w *Worker) bring(ctx context.Context, r wanted) {
	err := w.blobs.FetchRange(ctx, r.Hash, r.Size, r.r, r.prio)
	e := w.db.Write(func(tx *schema.Tx) error {
		if err == nil || r.prio >= blobstore.Ahead { // who still waits asks again
			q := tx.Stmt("DELETE FROM sync_want WHERE id = ?")
			q.BindInt64(1, r.id)
			_, err := q.Step()
			return err
		}
		q := tx.Stmt("UPDATE sync_want SET tries = tries + 1, due = ? WHERE id = ?")
		wait := min(tryLeast<<min(r.tries, 20), tryMost)
		if ctx.Err() != nil {
			wait = 0
		}
		q.BindInt64(1, time.Now().Add(wait).UnixNano())
		q.BindInt64(2, r.id)
		_, err := q.Step()
		return err
	})
	if err != nil && ctx.Err() == nil {
		w.log.Info("wanted content not brought", "hash", r.Hash.String(), "tries", r.tries+1, "error", err)
	}
	if e != nil {
		w.log.Error("wanted list", "error", e)
	}
	w.mu.Lock()
	delete(w.mu.busy, r.id)
	w.mu.Unlock()
	select {
	case w.ended <- struct{}{}:
	default:
	}
}

func (w *Worker) retryAll() error {
	return w.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("UPDATE sync_want SET due = ?1 WHERE due > ?1")
		q.BindInt64(1, time.Now().UnixNano())
		_, err := q.Step()
		return err
	})
}

// Ask is the blobstore.Source of a process that is in touch with no peers: it
// puts what is wanted on the list, for the Worker of another process, and waits.
type Ask struct{ DB *schema.DB }

// Fetch implements blobstore.Source.
func (a Ask) Fetch(ctx context.Context, p *blobstore.Partial, want []blobstore.Range, prio blobstore.Priority) error {
	c := Content{Hash: p.Hash(), Size: p.Size()}
	err, asked := a.ask(c, want, prio), time.Now()
	for wait := time.Millisecond; err == nil; wait = min(2*wait, 20*time.Millisecond) {
		missing := 0
		for _, r := range want {
			rest, e := p.Missing(r)
			missing, err = missing+len(rest), errors.Join(err, e)
		}
		if err != nil || missing == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if time.Since(asked) > time.Second { // it may have failed and be worth another try
			err, asked = a.ask(c, want, prio), time.Now()
		}
	}
	return err
}

// ask puts groups on the list, for other processes to see at once.
func (a Ask) ask(c Content, want []blobstore.Range, prio blobstore.Priority) error {
	err := a.DB.Write(func(tx *schema.Tx) error {
		for _, r := range want {
			if err := wantGroups(tx, c, r, prio); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = a.DB.Commit()
	}
	return err
}
