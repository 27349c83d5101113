package blobstore

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
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
}

type Store struct {
	dir  string
	db   *schema.DB
	opts Options
}

var errTODO = errors.New("not done yet")

func Open(ctx context.Context, dir string, db *schema.DB, o Options) (*Store, error) {
	return nil, errTODO
}
func (s *Store) Close() error                                            { return nil }
func (s *Store) PutInline(tx *schema.Tx, p []byte) (Hash, error)         { return Hash{}, errTODO }
func (s *Store) Inline(tx *schema.Tx, h Hash) ([]byte, bool, error)      { return nil, false, errTODO }
func (s *Store) Open(h Hash, size int64) (*Blob, error)                  { return nil, errTODO }
func (s *Store) OpenTx(tx *schema.Tx, h Hash, size int64) (*Blob, error) { return nil, errTODO }
func (s *Store) AddFile(tx *schema.Tx, h Hash, size int64) error         { return errTODO }
func (s *Store) Has(tx *schema.Tx, h Hash) (bool, error)                 { return false, errTODO }
func (s *Store) Sync(ctx context.Context, h Hash) error                  { return errTODO }
func (s *Store) VerifyUnsynced(ctx context.Context) (bad []Hash, err error) {
	return nil, errTODO
}

// Lease keeps h from collection until the time given, for owner, who may renew
// it. Unlease ends it.
func (s *Store) Lease(tx *schema.Tx, h Hash, owner string, until time.Time) error { return errTODO }
func (s *Store) Unlease(tx *schema.Tx, h Hash, owner string) error                { return errTODO }

type Blob struct{}

func (b *Blob) ReadAt(p []byte, off int64) (int, error) { return 0, errTODO }
func (b *Blob) Hash() Hash                              { return Hash{} }
func (b *Blob) Size() int64                             { return 0 }
func (b *Blob) File() *os.File                          { return nil }
func (b *Blob) Close() error                            { return nil }

type Staging struct{}

func (s *Store) NewStaging() (*Staging, error)               { return nil, errTODO }
func (s *Store) OpenStaging(name string) (*Staging, error)   { return nil, errTODO }
func (st *Staging) Name() string                             { return "" }
func (st *Staging) WriteAt(p []byte, off int64) (int, error) { return 0, errTODO }
func (st *Staging) ReadAt(p []byte, off int64) (int, error)  { return 0, errTODO }
func (st *Staging) CopyFrom(b *Blob, off, n int64) error     { return errTODO }
func (st *Staging) CopyRange(src io.ReaderAt, srcFile *os.File, srcOff, dstOff, n int64) (int64, error) {
	return 0, errTODO
}
func (st *Staging) Punch(off, n int64) error  { return errTODO }
func (st *Staging) Truncate(size int64) error { return errTODO }
func (st *Staging) Sync() error               { return errTODO }
func (st *Staging) File() *os.File            { return nil }
func (st *Staging) Discard() error            { return errTODO }
func (st *Staging) Seal(ctx context.Context, size int64) (Hash, error) {
	return Hash{}, errTODO
}

// GCOptions configures GC.
type GCOptions struct {
	DryRun bool // report only
	// Grace is how long a blob nobody refers to, or a stray file, is kept
	// after it was made. Default 10 minutes; negative: none.
	Grace    time.Duration
	Progress func(done, total int64) // blobs; may be nil
}

// GCReport says what GC removed, or would have. Bytes are of content.
type GCReport struct {
	Blobs, Bytes          int64 // blobs nobody refers to
	Strays, StrayBytes    int64 // files without a row
	Staging, StagingBytes int64 // files of dead owners
}

// CheckOptions configures Check.
type CheckOptions struct {
	Deep     bool                    // hash all content again
	Progress func(done, total int64) // bytes when Deep, else blobs; may be nil
}

// CheckReport says what Check found.
type CheckReport struct {
	Blobs, Bytes int64
	Missing      []Hash // rows without content
	Damaged      []Hash // content that is not what its hash says; now in quarantine/
	Quarantined  []Hash // found damaged earlier, and still not replaced
	Rebuilt      []Hash // blobs whose outboard was made anew
	Strays       int64  // files without a row; GC removes them
}

// Stats describes a store.
type Stats struct {
	Inline, InlineBytes int64 // blobs kept in their rows
	Files, FileBytes    int64 // blobs kept as files
	Unsynced            int64 // files not known to be on the disk yet
	Quarantined         int64
	Versions            int64 // inode versions with content
	VersionBytes        int64 // what they would take without sharing
	OpenBlobs           int64 // file blobs this process has open
	GroupsVerified      int64 // groups hashed by reads since Open
	GroupsHashed        int64 // groups hashed by writes since Open
}

func (s *Store) GC(ctx context.Context, o GCOptions) (GCReport, error) { return GCReport{}, errTODO }
func (s *Store) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	return CheckReport{}, errTODO
}
func (s *Store) Stats() Stats { return Stats{} }
