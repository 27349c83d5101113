package blobstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

// releaseGuards ends the guards of content that nothing else keeps and that may
// may go, and returns how many stay.
func (s *Store) releaseGuards(ctx context.Context, may MayDrop) (kept int64, err error) {
	guarded, err := s.guarded()
	if err != nil || may == nil {
		return int64(len(guarded)), err
	}
	for batch := range slices.Chunk(guarded, gcBatch) {
		if err := ctx.Err(); err != nil {
			return kept, err
		}
		ok, err := may(ctx, batch)
		if err != nil || len(ok) != len(batch) { // nobody can be asked: the next collection tries again
			s.log.Info("content kept: no member could be asked whether it has it", "blobs", len(batch), "error", err)
			kept += int64(len(batch))
			continue
		}
		err = s.db.Write(func(tx *schema.Tx) error {
			for i, h := range batch {
				if !ok[i] {
					continue
				}
				if err := s.Unlease(tx, h, guardOwner); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return kept, err
		}
		for _, ok := range ok {
			if !ok {
				kept++
			}
		}
	}
	return kept, s.db.Commit()
}

func (s *Store) mayDrop(may MayDrop) MayDrop {
	if src, ok := s.sourceNow().(interface {
		MayDrop(context.Context, []Hash) ([]bool, error)
	}); ok && may == nil {
		return src.MayDrop
	}
	return may
}

// guarded lists what only a guard keeps.
func (s *Store) guarded() (list []Hash, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt(`SELECT hash FROM lease g WHERE owner = ?1
			AND NOT EXISTS (SELECT 1 FROM inode WHERE inode.hash = g.hash)
			AND NOT EXISTS (SELECT 1 FROM write_session WHERE base = g.hash)
			AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.hash = g.hash AND owner <> ?1 AND expires > ?2)`)
		q.BindText(1, guardOwner)
		q.BindInt64(2, now())
		for {
			more, err := q.Step()
			if err != nil || !more {
				return err
			}
			var h Hash
			q.ColumnBytes(0, h[:])
			list = append(list, h)
		}
	})
	return list, err
}

// sweepPartials removes parts of content that nothing names, or all of which is
// here, and that no process is using.
func (s *Store) sweepPartials(ctx context.Context, dry bool, before int64, rep *GCReport) error {
	files, err := os.ReadDir(filepath.Join(s.dir, "partial"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, size, ok := parsePartial(e.Name())
		if !ok {
			continue // one of the other two, which go with it
		}
		bytes, gone, err := s.sweepPartial(h, size, dry, before)
		if err != nil {
			return err
		}
		if gone {
			rep.Partials++
			rep.PartialBytes += bytes
		}
	}
	return nil
}

func (s *Store) sweepPartial(h Hash, size int64, dry bool, before int64) (bytes int64, gone bool, err error) {
	if wanted, err := s.partialWanted(h); err != nil || wanted {
		return 0, false, err
	}
	path := s.partialPath(h, size)
	f, err := os.OpenFile(path+haveExt, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close() // and with it the locks
	for _, at := range []int64{lockHeader, lockUse} {
		if ok, err := tryLock(f, unix.F_WRLCK, at, at+1); err != nil || !ok {
			return 0, false, err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink == 0 || st.Mtim.Nano() >= before {
		return 0, false, err
	}
	if unix.Stat(path, &st) == nil {
		bytes = st.Blocks * 512
	}
	if dry {
		return bytes, true, nil
	}
	return bytes, true, s.removePartial(h, size)
}

// partialWanted reports whether a row says that the bytes of h are elsewhere.
// Rows that nothing refers to are gone by now.
func (s *Store) partialWanted(h Hash) (wanted bool, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		r, found, err := lookup(tx, h)
		wanted = found && r.state != stateGood
		return err
	})
	return wanted, err
}
