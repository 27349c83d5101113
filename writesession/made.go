package writesession

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// place is where the writer of a file made it. A file that its writer leaves
// before there was a publish was never more than a name, and the name goes with
// the writer. The session keeps it.
type place struct {
	parent pathtree.Ino
	name   string // "": nowhere
}

// Made says that the caller has just made f, as name in parent: until it is
// published, Preserve takes the name away again, and so does a later process when
// this one dies. The name stays when somebody else has the file open, or has
// written it, renamed it or given it another name.
func (f *File) Made(parent pathtree.Ino, name string) {
	f.change.Lock()
	defer f.release()
	f.made = place{parent, name}
}

// putPlace records where the file of a session was made.
func putPlace(tx *schema.Tx, session int64, at place) error {
	if at.name == "" {
		return nil
	}
	s := tx.Stmt("INSERT OR REPLACE INTO unmade (session, parent, name) VALUES (?, ?, ?)")
	s.BindInt64(1, session)
	s.BindInt64(2, int64(at.parent))
	s.BindBytes(3, []byte(at.name))
	_, err := s.Step()
	return err
}

// unmake removes the name of a file that was made at a place and never
// published. session is what its writer left, 0 for nothing.
func (s *Sessions) unmake(v *pathtree.View, ino pathtree.Ino, at place, session int64) error {
	if s.isOpen(ino) || s.InUse(ino) {
		return nil
	}
	return s.db.Write(func(tx *schema.Tx) error {
		in, err := v.LookupInode(tx, at.parent, at.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case in.Ino != ino || in.Nlink != 1 || in.Size != 0 || !in.Hash.IsZero():
			return nil
		}
		q := tx.Stmt("SELECT 1 FROM write_session WHERE branch = ? AND ino = ? AND id <> ?")
		q.BindInt64(1, v.Branch().ID)
		q.BindInt64(2, int64(ino))
		q.BindInt64(3, session)
		if others, err := q.Step(); err != nil || others {
			return err
		}
		_, err = v.Unlink(tx, at.parent, at.name)
		return err
	})
}

// isOpen reports whether this process has ino open.
func (s *Sessions) isOpen(ino pathtree.Ino) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.files[ino] != nil
}

// makeAgain gives the file of an orphaned session back the name that went with
// its writer, and reports whether it did.
func (s *Sessions) makeAgain(v *pathtree.View, info Info) (done bool, err error) {
	if info.Name == "" {
		return false, nil
	}
	err = s.db.Write(func(tx *schema.Tx) error {
		in, err := v.Inode(tx, info.Ino)
		if err != nil || in.Nlink > 0 {
			return err
		}
		_, err = v.Link(tx, info.Ino, info.Parent, info.Name)
		done = err == nil
		return err
	})
	switch {
	case errors.Is(err, fs.ErrExist):
		err = fmt.Errorf("there is another file %q now; `alkfs sessions recover` writes this one elsewhere: %w", info.Name, syscall.EEXIST)
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("the directory of %q is gone; `alkfs sessions recover` writes the file elsewhere: %w", info.Name, syscall.ENOENT)
	}
	return done, err
}
