package alkfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// BranchUsage is what one branch has of its own; see pathtree.
type BranchUsage = pathtree.BranchUsage

// Stats is how the store is now, in time that does not depend on its size.
type Stats struct {
	// Of the store, whatever process did it.
	DatabaseBytes, WALBytes int64
	LastEvent               int64 // number of the newest event
	Writing, Orphaned       int   // unpublished writes that are recorded, of processes that run and that died
	Queues                  []QueueDepth
	LocksHeld               int
	DiskSize, DiskFree      int64 // bytes of the file system

	// Of this process, since it opened the store.
	Transactions schema.Stats
	Files        writesession.Stats
}

// Stats returns how the store is now.
func (s *Store) Stats() (st Stats, err error) {
	st.Transactions, st.Files = s.db.Stats(), s.sessions.Stats()
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		if st.LastEvent, err = notify.Last(tx); err != nil {
			return err
		}
		if st.Queues, err = notify.Depths(tx); err != nil {
			return err
		}
		held, err := locks.List(tx)
		st.LocksHeld = 0
		for _, l := range held {
			if l.Holder != "" {
				st.LocksHeld++
			}
		}
		return err
	})
	if err != nil {
		return st, err
	}
	open, err := s.OpenSessions()
	for _, o := range open {
		if o.Alive {
			st.Writing++
		} else {
			st.Orphaned++
		}
	}
	if err != nil {
		return st, err
	}
	for name, size := range map[string]*int64{databaseFile: &st.DatabaseBytes, databaseFile + "-wal": &st.WALBytes} {
		fi, err := os.Stat(filepath.Join(s.dir, name))
		if err == nil {
			*size = fi.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return st, err
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dir, &disk); err != nil {
		return st, pathError("statfs", s.dir, err)
	}
	st.DiskSize, st.DiskFree = int64(disk.Blocks)*disk.Bsize, int64(disk.Bavail)*disk.Bsize
	return st, nil
}

// BranchUsage returns what each branch has of its own. It reads every version.
func (s *Store) BranchUsage() (list []BranchUsage, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) (err error) {
		list, err = s.tree.Usage(tx)
		return err
	})
	return list, err
}

// Healthy returns nil when the store can be read and its disk written to.
func (s *Store) Healthy() error {
	if _, err := s.Buckets(); err != nil {
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dir, &disk); err != nil {
		return pathError("statfs", s.dir, err)
	}
	if disk.Bavail == 0 {
		return pathError("statfs", s.dir, unix.ENOSPC)
	}
	return nil
}
