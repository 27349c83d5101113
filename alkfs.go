package alkfs

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// closeDeadline bounds how long Close waits for open files to be published.
const closeDeadline = 60 * time.Second

const databaseFile = "alkfs.db"

// Format is the store format that this package writes. Older ones are migrated,
// newer ones refused with ErrNewerFormat.
var Format = schema.Format

// Options configures Open; the zero value opens for reading and writing and
// makes the store when there is none.
type Options struct {
	ReadOnly  bool         // refuse changes, and take no part in recovery
	MustExist bool         // fail with ErrNoStore rather than make a store
	Logger    *slog.Logger // default: discard
	// Name says what the process does, in a word or two ("mount"); it is how
	// its operations are listed.
	Name string
	// Slow is from when on an operation is logged; default 1 s, negative: never.
	Slow time.Duration
}

// Store is one directory with everything in it, opened by one process.
type Store struct {
	dir      string
	readOnly bool
	base     *slog.Logger // for the loggers of packages
	log      *slog.Logger
	db       *schema.DB
	tree     *pathtree.Tree
	blobs    *blobstore.Store
	sessions *writesession.Sessions
	rights   *Rights // nil: all; see As
	obs      *observer
	recent   *recent
	source   blobstore.Source // of content that is elsewhere, while this process does not synchronise
}

// Open opens the store in dir, making it on first use: with a key of its own
// (node.key), the bucket default and its branch main. What earlier processes
// left behind is put in order first: write sessions whose fsync was answered are
// published, and after a crash of the machine, content that did not reach the
// disk is withdrawn, which is logged. ctx bounds opening only.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, readOnly: o.ReadOnly, recent: &recent{}}
	s.base = slog.New(s.recent.tee(o.Logger.Handler()))
	s.log = s.logger("alkfs")
	s.obs = newObserver(o, s)
	if err := s.open(ctx, o); err != nil {
		s.closeParts(ctx)
		return nil, err
	}
	return s, nil
}

// Exists reports whether dir holds a store.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, databaseFile))
	return err == nil
}

func (s *Store) open(ctx context.Context, o Options) error {
	if o.MustExist || o.ReadOnly {
		_, err := os.Stat(filepath.Join(s.dir, databaseFile))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store %s: %w", s.dir, ErrNoStore)
		} else if err != nil {
			return fmt.Errorf("open store: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, backupMarker)); err == nil && !o.ReadOnly {
		return fmt.Errorf("store %s: %w", s.dir, ErrBackup)
	}
	var key []byte
	if !o.ReadOnly {
		if err := makeDir(s.dir); err != nil {
			return fmt.Errorf("make store: %w", err)
		}
		own, err := nodeKey(s.dir)
		if err != nil {
			return fmt.Errorf("store %s: %w", s.dir, err)
		}
		key = own.private.Public().(ed25519.PublicKey)
	}
	var err error
	if s.db, err = schema.Open(ctx, s.dir, schema.Options{ReadOnly: o.ReadOnly, NodeKey: key, Logger: s.logger("schema")}); err != nil {
		return err
	}
	s.tree = pathtree.New(s.db)
	if s.blobs, err = blobstore.Open(ctx, s.dir, s.db, blobstore.Options{Logger: s.logger("blobstore")}); err != nil {
		return err
	}
	if err := s.firstBucket(); err != nil {
		return err
	}
	if s.sessions, err = writesession.New(ctx, s.db, s.tree, s.blobs, writesession.Options{Logger: s.logger("writesession")}); err != nil {
		return err
	}
	if o.ReadOnly {
		return nil
	}
	r, err := s.replica()
	if err != nil {
		return err
	}
	s.source = elsewhere{r, blobs.Ask{DB: s.db}}
	s.blobs.SetSource(s.source)
	s.tree.KeepWhile(s.sessions.InUse)
	s.db.OnLost(func(error) { s.sessions.Lost() })
	return s.withdrawLost(ctx)
}

// firstBucket makes the default bucket in a store that has none.
func (s *Store) firstBucket() error {
	if s.readOnly {
		return nil
	}
	some := func(tx *schema.Tx) (bool, error) {
		buckets, err := s.tree.Buckets(tx)
		return len(buckets) > 0, err
	}
	var found bool
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		found, err = some(tx)
		return err
	})
	if err != nil || found {
		return err
	}
	err = s.db.Write(func(tx *schema.Tx) error {
		if found, err := some(tx); err != nil || found {
			return err
		}
		_, err := s.tree.CreateBucket(tx, DefaultBucket)
		return err
	})
	if err != nil {
		return err
	}
	return s.db.Sync()
}

// withdrawLost takes back versions whose content a crash of the machine lost.
func (s *Store) withdrawLost(ctx context.Context) error {
	paths := map[Hash][]string{}
	bad, err := s.blobs.VerifyUnsynced(ctx, func(tx *schema.Tx, h Hash) (err error) {
		paths[h], err = s.tree.Withdraw(tx, h)
		return err
	})
	for _, h := range bad {
		s.log.Warn("content did not survive a crash; the version before it is back", "hash", h.String(), "paths", paths[h])
	}
	if err != nil {
		return fmt.Errorf("check content after a crash: %w", err)
	}
	return nil
}

// Sync returns when all that was changed so far survives a power cut, the
// content of files published without fsync excepted: File.Sync and Put with
// PutOptions.Sync wait for that.
func (s *Store) Sync() error { return s.db.Sync() }

// Barrier returns when whatever any process acknowledged before can be seen.
func (s *Store) Barrier() error { return s.db.Barrier() }

// Close publishes what is open, commits and closes the store.
func (s *Store) Close() error {
	if s.rights != nil {
		return nil // it is another's
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeDeadline)
	defer cancel()
	if !s.readOnly {
		s.recordEnd()
	}
	return s.closeParts(ctx)
}

func (s *Store) closeParts(ctx context.Context) error {
	var errs []error
	if s.sessions != nil {
		errs = append(errs, s.sessions.Close(ctx))
	}
	if s.blobs != nil {
		errs = append(errs, s.blobs.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}

// Dir returns the directory of the store, absolute.
func (s *Store) Dir() string {
	if s.rights != nil {
		return "" // the host's business
	}
	return s.dir
}

// DB returns the database, for other surfaces.
func (s *Store) DB() *schema.DB { return s.db }

// Tree returns the path tree, for other surfaces.
func (s *Store) Tree() *pathtree.Tree { return s.tree }

// Blobs returns the blob store, for other surfaces.
func (s *Store) Blobs() *blobstore.Store { return s.blobs }

// Sessions returns the open files of this process, for other surfaces.
func (s *Store) Sessions() *writesession.Sessions { return s.sessions }
