package blobstore

import (
	"container/list"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// InlineMax is the greatest size, in bytes, of content kept in its row.
const InlineMax = 16 << 10

// Options configures Open; the zero value is ready for use.
type Options struct {
	Logger *slog.Logger // default: discard
	// SyncAfter is how long a new blob waits for the background fsync.
	// Default 2 s; negative: no background fsync.
	SyncAfter time.Duration
	// FetchWait is how long a read of content that is elsewhere waits while
	// nothing of it comes. Default 30 s.
	FetchWait time.Duration
}

// Store is one process's access to the blobs of a store directory.
type Store struct {
	dir   string
	db    *schema.DB
	opts  Options
	log   *slog.Logger
	fs    fsOps
	owner string // of the leases that Seal takes

	// mu is never held during I/O, and db may be used under no lock of this
	// package.
	mu struct {
		sync.Mutex
		files    map[Hash]*blobFile // open ones, idle ones included
		idle     list.List          // of *blobFile without handles, latest first
		sealed   map[Hash]*sealed   // by Seal, not yet in a row
		suspects map[Hash]bool      // found damaged by reads of this process
		partials map[partialKey]*Partial
	}
	source   atomic.Pointer[Source]
	hashing  chan hashTask
	newFiles syncQueue
	suspect  chan Hash
	shield   shield
	counts   struct{ verified, hashed, opened, reused, fetched atomic.Int64 }

	background context.Context // of what goes on between calls
	stop       context.CancelFunc
	wg         sync.WaitGroup
}

// sealed is a content between Seal and AddFile.
type sealed struct {
	n     int
	fresh bool // the file is new, whatever a row says of an earlier one
}

const (
	stateGood = iota
	stateQuarantined
	stateSuspect
	stateAbsent // the bytes are elsewhere; see Expect
)

// Open opens the blobs in the store directory dir, making what is not there.
// Whoever opens a store calls VerifyUnsynced before using it.
func Open(ctx context.Context, dir string, db *schema.DB, o Options) (*Store, error) {
	return open(ctx, dir, db, o, osFS{})
}

func open(ctx context.Context, dir string, db *schema.DB, o Options, ops fsOps) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SyncAfter == 0 {
		o.SyncAfter = 2 * time.Second
	}
	if o.FetchWait <= 0 {
		o.FetchWait = 30 * time.Second
	}
	s := &Store{
		dir: dir, db: db, opts: o, log: o.Logger, fs: ops, owner: "seal-" + randomName(),
		hashing: make(chan hashTask, 64), suspect: make(chan Hash, 16),
	}
	s.mu.files = make(map[Hash]*blobFile)
	s.mu.sealed = make(map[Hash]*sealed)
	s.mu.suspects = make(map[Hash]bool)
	s.mu.partials = make(map[partialKey]*Partial)
	s.background, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if db.ReadOnly() {
		return s, nil
	}
	for _, name := range []string{"blobs", "staging", "quarantine"} {
		if err := s.fs.mkdir(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			s.stop()
			return nil, fmt.Errorf("open blobs: %w", err)
		}
	}
	if err := s.fs.syncDir(dir); err != nil {
		s.stop()
		return nil, fmt.Errorf("open blobs: %w", err)
	}
	for range hashWorkers {
		s.wg.Go(func() { s.hashLoop(s.background) })
	}
	s.wg.Go(func() { s.syncLoop(s.background) })
	s.wg.Go(func() { s.suspectLoop(s.background) })
	return s, nil
}

// Close ends the background work, after a last sync of new blobs. Handles must
// be closed before.
func (s *Store) Close() error {
	s.stop()
	s.wg.Wait()
	var err error
	if !s.db.ReadOnly() && s.opts.SyncAfter > 0 {
		err = s.flushNew(context.Background())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, f := range s.mu.files {
		f.close()
		delete(s.mu.files, h)
	}
	s.mu.idle.Init()
	s.shield.close()
	return err
}

func randomName() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// now returns nanoseconds since 1970, for blob.created, which also tells apart
// two lives of a row.
func now() int64 { return time.Now().UnixNano() }
