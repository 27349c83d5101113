package blobstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

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
