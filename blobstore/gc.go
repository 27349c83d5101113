package blobstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

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
	Blobs, Bytes           int64 // blobs nobody refers to
	Strays, StrayBytes     int64 // files without a row
	Staging, StagingBytes  int64 // files of dead owners
	Partials, PartialBytes int64 // parts of content that nobody refers to, or that is here
}

// gcBatch is the number of blobs removed in one transaction.
const gcBatch = 32

// unnamed is the condition under which nothing shows a row of blob, and unused
// that nobody else wants it just now either, nor has leased it.
const (
	begunOn = `EXISTS (SELECT 1 FROM write_session WHERE base = blob.hash)` // a write session reads it
	unnamed = `NOT EXISTS (SELECT 1 FROM inode WHERE inode.hash = blob.hash)
	AND NOT ` + begunOn + `
	AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.hash = blob.hash)`
	unused = unnamed + `
	AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.hash = blob.hash AND expires > ?)`
	// unreferenced is the condition under which a row of blob may go.
	unreferenced = unused + `
	AND NOT EXISTS (SELECT 1 FROM guard WHERE guard.hash = blob.hash)`
)

// condemned is a blob that nobody referred to when it was looked at.
type condemned struct {
	hash   Hash
	size   int64
	file   bool
	absent bool // its bytes never were here, or have been evicted
}

// GC removes the blobs that no version, write session, lease or Guard names,
// files without rows, and staging files of dead owners. It is safe while
// everything else runs, in any process.
func (s *Store) GC(ctx context.Context, o GCOptions) (rep GCReport, err error) {
	before := cutoff(o.Grace)
	if !s.db.ReadOnly() {
		if err := s.db.Barrier(); err != nil {
			return rep, err
		}
	}
	dead, err := s.mark(before)
	if err != nil {
		return rep, err
	}
	for i := 0; i < len(dead); i += gcBatch {
		if err := ctx.Err(); err != nil {
			return rep, err
		}
		batch := dead[i:min(i+gcBatch, len(dead))]
		if !o.DryRun {
			if batch, err = s.sweep(batch); err != nil {
				return rep, err
			}
		}
		for _, c := range batch {
			if c.absent {
				continue
			}
			rep.Blobs++
			rep.Bytes += c.size
		}
		if o.Progress != nil {
			o.Progress(int64(min(i+gcBatch, len(dead))), int64(len(dead)))
		}
	}
	if err := s.sweepStrays(ctx, o.DryRun, before, &rep); err != nil {
		return rep, err
	}
	if err := s.sweepStaging(ctx, o.DryRun, &rep); err != nil {
		return rep, err
	}
	if err := s.sweepPartials(ctx, o.DryRun, before, &rep); err != nil {
		return rep, err
	}
	if !o.DryRun {
		err = s.dropExpired()
	}
	return rep, err
}

// cutoff returns before when a blob must have been made, in ns since 1970, to be
// collected with a GCOptions.Grace.
func cutoff(grace time.Duration) int64 {
	switch {
	case grace == 0:
		grace = 10 * time.Minute
	case grace < 0:
		grace = -time.Hour // clocks do not matter then
	}
	return time.Now().Add(-grace).UnixNano()
}

func (s *Store) mark(before int64) (dead []condemned, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT hash, size, data IS NULL, state FROM blob WHERE created < ? AND " + unreferenced)
		q.BindInt64(1, before)
		q.BindInt64(2, now())
		for {
			more, err := q.Step()
			if err != nil || !more {
				return err
			}
			c := condemned{size: q.ColumnInt64(1), file: q.ColumnInt64(2) != 0, absent: q.ColumnInt64(3) == stateAbsent}
			q.ColumnBytes(0, c.hash[:])
			dead = append(dead, c)
		}
	})
	return dead, err
}

// sweep deletes the rows that still nobody refers to, makes that durable, so
// that no crash leaves a row without its file, and then removes the files.
func (s *Store) sweep(batch []condemned) (gone []condemned, err error) {
	return s.sweepWhat(func(*schema.Tx) ([]condemned, error) { return batch, nil })
}

// sweepWhat is sweep for the rows that condemn returns in the transaction in which
// they go.
func (s *Store) sweepWhat(condemn func(tx *schema.Tx) ([]condemned, error)) (gone []condemned, err error) {
	err = s.db.Write(func(tx *schema.Tx) error {
		gone = gone[:0]
		batch, err := condemn(tx)
		if err != nil {
			return err
		}
		for _, c := range batch {
			q := tx.Stmt("DELETE FROM blob WHERE hash = ? AND " + unreferenced + " RETURNING data IS NULL, state")
			q.BindBytes(1, c.hash[:])
			q.BindInt64(2, now())
			deleted, err := q.Step()
			if err != nil {
				return err
			}
			if deleted {
				c.file, c.absent = q.ColumnInt64(0) != 0, q.ColumnInt64(1) == stateAbsent
				gone = append(gone, c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var files []Hash
	for _, c := range gone {
		if c.file && !c.absent {
			files = append(files, c.hash)
		}
	}
	if len(files) == 0 {
		return gone, nil
	}
	if err := s.db.Sync(); err != nil {
		return nil, err
	}
	_, err = s.removeFiles(files)
	return gone, err
}

// removeFiles removes those of the files that have neither row nor lease. They
// are renamed while the transaction keeps every AddFile and Seal off, and
// unlinked, which is slow for large ones, after it.
func (s *Store) removeFiles(hashes []Hash) (removed []Hash, err error) {
	var trash []string
	err = s.db.Write(func(tx *schema.Tx) error {
		for _, h := range hashes {
			q := tx.Stmt(`SELECT EXISTS (SELECT 1 FROM blob WHERE hash = ?1 AND data IS NULL AND state <> ?3)
				OR EXISTS (SELECT 1 FROM lease WHERE hash = ?1 AND expires > ?2 AND owner <> ?4)`)
			q.BindBytes(1, h[:])
			q.BindInt64(2, now())
			q.BindInt64(3, stateAbsent)
			q.BindText(4, leavingOwner)
			if _, err := q.Step(); err != nil {
				return err
			}
			if q.ColumnInt64(0) != 0 {
				continue
			}
			name := s.stagingPath(randomName())
			if s.fs.rename(s.blobPath(h), name) == nil {
				trash = append(trash, name)
				removed = append(removed, h)
			}
			if s.fs.rename(s.outboardPath(h), name+outboardExt) == nil {
				trash = append(trash, name+outboardExt)
			}
		}
		return nil
	})
	for _, h := range removed {
		s.forget(h)
	}
	for _, name := range trash {
		_ = s.fs.remove(name) // else the next collection does
	}
	return removed, err
}

// sweepStrays removes files in blobs/ that no row names, as a crash between
// rename and commit leaves them.
func (s *Store) sweepStrays(ctx context.Context, dry bool, before int64, rep *GCReport) error {
	return s.eachStray(ctx, before, func(strays []condemned) error {
		hashes := make([]Hash, len(strays))
		size := make(map[Hash]int64)
		for i, c := range strays {
			hashes[i], size[c.hash] = c.hash, c.size
		}
		if !dry {
			var err error
			if hashes, err = s.removeFiles(hashes); err != nil {
				return err
			}
		}
		for _, h := range hashes {
			rep.Strays++
			rep.StrayBytes += size[h]
		}
		return nil
	})
}

// eachStray calls f with batches of files in blobs/ that were changed last
// before the time given and have neither row nor lease.
func (s *Store) eachStray(ctx context.Context, before int64, f func([]condemned) error) error {
	dirs, err := os.ReadDir(filepath.Join(s.dir, "blobs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		files, err := os.ReadDir(filepath.Join(s.dir, "blobs", d.Name()))
		if err != nil {
			continue // not a directory of ours
		}
		for i := 0; i < len(files); i += gcBatch {
			strays, err := s.straysAmong(d.Name(), files[i:min(i+gcBatch, len(files))], before)
			if err == nil && len(strays) > 0 {
				err = f(strays)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) straysAmong(dir string, files []os.DirEntry, before int64) (strays []condemned, err error) {
	var have []Hash
	for _, e := range files {
		if h, err := ParseHash(dir + e.Name()); err == nil {
			have = append(have, h)
		}
	}
	err = s.db.Read(func(tx *schema.Tx) error {
		for _, h := range have {
			if r, found, err := lookup(tx, h); err != nil {
				return err
			} else if !found || r.inline || r.state == stateAbsent {
				strays = append(strays, condemned{hash: h, file: true})
			}
		}
		return nil
	})
	kept := strays[:0]
	for _, c := range strays {
		var st unix.Stat_t
		if unix.Stat(s.blobPath(c.hash), &st) == nil && st.Ctim.Nano() < before {
			c.size = st.Size
			kept = append(kept, c)
		}
	}
	return kept, err
}

// sweepStaging removes staging files that no process holds and no session
// names.
func (s *Store) sweepStaging(ctx context.Context, dry bool, rep *GCReport) error {
	files, err := os.ReadDir(filepath.Join(s.dir, "staging"))
	if err != nil {
		return err
	}
	for _, e := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, dead, err := s.sweepOneStaging(e.Name(), dry)
		if err != nil {
			return err
		}
		if dead {
			rep.Staging++
			rep.StagingBytes += size
		}
	}
	return nil
}

// tempAge is how old an outboard in staging/ is whose maker is surely gone.
const tempAge = time.Hour

func (s *Store) sweepOneStaging(name string, dry bool) (size int64, dead bool, err error) {
	path := s.stagingPath(name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.IsDir() {
		return 0, false, err
	}
	if strings.HasSuffix(name, outboardExt) {
		dead = time.Since(fi.ModTime()) > tempAge
	} else if err := lockStaging(f, unix.LOCK_SH); err == nil {
		named, err := s.sessionNames(name)
		if err != nil {
			return 0, false, err
		}
		dead = !named
	}
	if dead && !dry {
		if err := s.db.Sync(); err != nil { // a power cut must not bring back a session that names it
			return 0, false, err
		}
		if err := s.fs.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, err
		}
	}
	return fi.Size(), dead, nil
}

// sessionNames reports whether a write session names the staging file. It waits
// for what a process that has just left the file has yet to commit; one that
// died before its commit has no session.
func (s *Store) sessionNames(name string) (named bool, err error) {
	look := s.db.Write
	if s.db.ReadOnly() {
		look = s.db.Read
	}
	err = look(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT EXISTS (SELECT 1 FROM write_session WHERE ?1 IN (staging, overlay))")
		q.BindText(1, name)
		_, err := q.Step()
		named = err == nil && q.ColumnInt64(0) != 0
		return err
	})
	return named, err
}

func (s *Store) dropExpired() error {
	return s.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("DELETE FROM lease WHERE expires <= ?")
		q.BindInt64(1, now())
		_, err := q.Step()
		return err
	})
}
