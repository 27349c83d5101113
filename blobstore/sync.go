package blobstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

// manyFiles is the number of new files from which one syncfs is cheaper than an
// fsync of each.
const manyFiles = 16

// syncQueue is the new blobs that wait for the background sync.
type syncQueue struct {
	mu     sync.Mutex
	hashes map[Hash]struct{}
	failed map[Hash]error // an fsync failed: its pages may be gone, so none will do
	dirs   map[string]bool
}

func (q *syncQueue) add(h Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.hashes == nil {
		q.hashes = make(map[Hash]struct{})
	}
	q.hashes[h] = struct{}{}
}

func (q *syncQueue) take() (all []Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for h := range q.hashes {
		if q.failed[h] == nil {
			all = append(all, h)
		}
	}
	q.hashes = nil
	return all
}

func (q *syncQueue) fail(h Hash, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failed == nil {
		q.failed = make(map[Hash]error)
	}
	q.failed[h] = err
}

func (q *syncQueue) failure(h Hash) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failed[h]
}

// Sync returns when the content of h is on the disk: file, outboard,
// directories. Inline content is as durable as its transaction. After a failed
// fsync h fails for as long as this process lives, since the kernel may have
// dropped what it could not write; VerifyUnsynced after the next start of the
// machine tells.
func (s *Store) Sync(ctx context.Context, h Hash) error {
	if h.IsZero() {
		return nil
	}
	if err := s.syncFiles(ctx, []Hash{h}); err != nil {
		return err
	}
	return s.db.Read(func(tx *schema.Tx) error {
		_, found, err := lookup(tx, h)
		if err == nil && !found {
			err = missing(h)
		}
		return err
	})
}

// unsynced is a row with synced 0 as it was before its file was synced.
type unsynced struct {
	hash        Hash
	created     int64
	size        int64
	quarantined bool
}

// syncFiles syncs those of the hashes that have a row with synced 0.
func (s *Store) syncFiles(ctx context.Context, hashes []Hash) error {
	var todo []unsynced
	err := s.db.Read(func(tx *schema.Tx) error {
		for _, h := range hashes {
			r, found, err := lookup(tx, h)
			if err != nil {
				return err
			}
			if found && !r.inline && !r.synced && r.state != stateQuarantined {
				todo = append(todo, unsynced{hash: h, created: r.created, size: r.size})
			}
		}
		return nil
	})
	if err != nil || len(todo) == 0 {
		return err
	}
	good, err := s.syncContents(ctx, todo)
	if e := s.markSynced(good); err == nil {
		err = e
	}
	return err
}

// syncContents returns those it could sync, and the first error.
func (s *Store) syncContents(ctx context.Context, todo []unsynced) (good []unsynced, first error) {
	if len(todo) >= manyFiles {
		if err := s.fs.syncAll(filepath.Join(s.dir, "blobs")); err == nil {
			for _, u := range todo {
				if s.newFiles.failure(u.hash) == nil && s.isThere(u) {
					good = append(good, u)
				}
			}
			return good, nil
		}
	}
	dirs := map[string]bool{}
	for _, u := range todo {
		err := ctx.Err()
		if err == nil {
			err = s.newFiles.failure(u.hash)
		}
		if err == nil {
			err = s.syncContent(u)
		}
		if errors.Is(err, ErrMissing) && s.collected(u) {
			continue
		}
		if err != nil {
			if first == nil {
				first = fmt.Errorf("sync blob %s: %w", u.hash, err)
			}
			continue
		}
		good = append(good, u)
		dirs[filepath.Dir(s.blobPath(u.hash))] = true
	}
	for dir := range dirs {
		if err := s.syncBlobDir(dir); err != nil {
			return nil, err
		}
	}
	return good, first
}

// collected reports whether the row is gone or made anew.
func (s *Store) collected(u unsynced) bool {
	gone := false
	err := s.db.Read(func(tx *schema.Tx) error {
		r, found, err := lookup(tx, u.hash)
		gone = !found || r.created != u.created
		return err
	})
	return err == nil && gone
}

func (s *Store) isThere(u unsynced) bool {
	fi, err := os.Stat(s.blobPath(u.hash))
	return err == nil && fi.Size() == u.size
}

func (s *Store) syncContent(u unsynced) error {
	err := s.syncPath(s.blobPath(u.hash))
	if err == nil && u.size > spanSize {
		err = s.syncPath(s.outboardPath(u.hash))
		if errors.Is(err, fs.ErrNotExist) { // made anew by the next read
			err = nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return missing(u.hash)
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		s.newFiles.fail(u.hash, err)
	}
	return err
}

func (s *Store) syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.fs.sync(f)
}

// syncBlobDir syncs blobs/ab, and blobs/ the first time.
func (s *Store) syncBlobDir(dir string) error {
	if err := s.fs.syncDir(dir); err != nil {
		return err
	}
	q := &s.newFiles
	q.mu.Lock()
	known := q.dirs[dir]
	q.mu.Unlock()
	if known {
		return nil
	}
	if err := s.fs.syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dirs == nil {
		q.dirs = make(map[string]bool)
	}
	q.dirs[dir] = true
	return nil
}

// markSynced sets synced in the rows that are still the ones whose files were
// synced.
func (s *Store) markSynced(good []unsynced) error {
	for len(good) > 0 {
		n := min(len(good), 256)
		err := s.db.Write(func(tx *schema.Tx) error {
			for _, u := range good[:n] {
				q := tx.Stmt("UPDATE blob SET synced = 1 WHERE hash = ? AND created = ? AND synced = 0")
				q.BindBytes(1, u.hash[:])
				q.BindInt64(2, u.created)
				if _, err := q.Step(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		good = good[n:]
	}
	return nil
}

// syncLoop syncs new blobs in the background, and at its start those that
// earlier processes left.
func (s *Store) syncLoop(ctx context.Context) {
	if s.opts.SyncAfter < 0 {
		return
	}
	tick := time.NewTicker(s.opts.SyncAfter)
	defer tick.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if first {
			s.queueUnsynced()
		}
		if err := s.flushNew(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("background sync", "error", err)
		}
	}
}

func (s *Store) flushNew(ctx context.Context) error {
	all := s.newFiles.take()
	if len(all) == 0 {
		return nil
	}
	err := s.syncFiles(ctx, all)
	if err != nil {
		for _, h := range all { // those that were synced are found to be
			s.newFiles.add(h)
		}
	}
	return err
}

// queueUnsynced queues what earlier processes of this boot left. Before
// VerifyUnsynced has seen to what a crash left, nothing may be called synced.
func (s *Store) queueUnsynced() {
	if booted, err := os.ReadFile(s.bootPath()); err != nil || !bytes.Equal(booted, bootID()) {
		return
	}
	rows, err := s.unsyncedRows("AND state <> 1")
	if err != nil {
		s.log.Error("background sync", "error", err)
		return
	}
	for _, u := range rows {
		s.newFiles.add(u.hash)
	}
}

func (s *Store) unsyncedRows(and string) (rows []unsynced, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT hash, created, size, state FROM blob WHERE synced = 0 " + and)
		for {
			more, err := q.Step()
			if err != nil || !more {
				return err
			}
			var u unsynced
			q.ColumnBytes(0, u.hash[:])
			u.created, u.size, u.quarantined = q.ColumnInt64(1), q.ColumnInt64(2), q.ColumnInt64(3) == stateQuarantined
			rows = append(rows, u)
		}
	})
	return rows, err
}
