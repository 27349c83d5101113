package writesession

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
)

// A file that has no name any more must stay as long as a program has it open,
// in any process. So a process locks the byte of inUseName whose offset is the
// inode number of a file that is open for longer than a moment; the kernel lets
// go of the lock when the process dies. Pruning asks InUse. A row per open file
// would cost a write each, and outlive a crash.
const inUseName = "open.lock"

// inUse is a process's part in that.
type inUse struct {
	mine *os.File // with the locks of this process
	look *os.File // to ask with: a description does not see its own locks
	held map[pathtree.Ino]bool
}

func openInUse(dir string) (u inUse, err error) {
	path := filepath.Join(dir, inUseName)
	if u.mine, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return u, err
	}
	if u.look, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		u.mine.Close()
		return u, err
	}
	u.held = make(map[pathtree.Ino]bool)
	return u, nil
}

func (u inUse) close() {
	u.mine.Close()
	u.look.Close()
}

func inodeLock(kind int16, ino pathtree.Ino) *unix.Flock_t {
	return &unix.Flock_t{Type: kind, Start: int64(ino), Len: 1}
}

// holdOpen locks the inodes that are open and not locked yet.
func (s *Sessions) holdOpen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ino := range s.mu.files {
		if s.inUse.held[ino] {
			continue
		}
		if err := unix.FcntlFlock(s.inUse.mine.Fd(), unix.F_OFD_SETLK, inodeLock(unix.F_RDLCK, ino)); err != nil {
			s.log.Warn("cannot tell others that a file is open: once it is removed they may prune it", "ino", ino, "error", err)
			continue
		}
		s.inUse.held[ino] = true
	}
}

// letGo unlocks an inode that is no longer open. Sessions.mu must be held.
func (s *Sessions) letGo(ino pathtree.Ino) {
	if !s.inUse.held[ino] {
		return
	}
	delete(s.inUse.held, ino)
	_ = unix.FcntlFlock(s.inUse.mine.Fd(), unix.F_OFD_SETLK, inodeLock(unix.F_UNLCK, ino)) // needs no memory: the range is one that was locked
}

// InUse reports whether any process has ino open, and has had it for longer than
// Options.PersistAfter.
func (s *Sessions) InUse(ino pathtree.Ino) bool {
	if s.inUse.look == nil {
		return true // read-only: nothing is pruned
	}
	l := inodeLock(unix.F_WRLCK, ino)
	err := unix.FcntlFlock(s.inUse.look.Fd(), unix.F_OFD_GETLK, l)
	return err != nil || l.Type != unix.F_UNLCK
}
