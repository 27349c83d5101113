package writesession

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// A recorded session names its staging file by a second link, NAME-kept. The
// first one becomes the blob when the session is published; the second stays
// until the transaction that publishes can no longer be lost and, for a synced
// session, until the blob is on the disk too. So at every moment of a publish
// a crash leaves either the new version or the session. An overlay has one name,
// which stays as long.
const keptSuffix = "-kept"

func (s *Sessions) stagingPath(name string) string {
	return filepath.Join(s.db.Dir(), stagingDir, name)
}

// kept is a file in staging/ that stays while a session needs it.
type kept struct {
	name string
	of   *blobstore.Staging
}

// remove ends the keeping.
func (s *Sessions) remove(k kept) {
	os.Remove(s.stagingPath(k.name))
	k.leave()
}

// leave closes an overlay; the staging file is closed with the content.
func (k kept) leave() {
	if k.of != nil && k.of.Name() == k.name {
		k.of.Leave()
	}
}

// discard removes the files of c, which is f's content no longer, but for what
// the row of f has. change must be held.
func (f *File) discard(c content) {
	if st := c.staging; st != nil {
		if strings.HasSuffix(st.Name(), keptSuffix) { // it is open by the name that the row has
			st.Leave()
		} else {
			st.Discard() // what remains is collected when this process is gone
		}
	}
	if st := c.overlay; st != nil && st != f.row.over.of && st != f.row.spare.of {
		st.Discard()
	}
}

// unkeep removes files once nothing needs them: when what was written to the
// database up to now cannot be lost to a kill or, after an fsync, a power cut.
func (s *Sessions) unkeep(synced bool, files ...kept) {
	if len(files) == 0 {
		return
	}
	losses := s.db.Losses()
	s.later(func() {
		commit := s.db.Commit
		if synced {
			commit = s.db.Sync
		}
		if err := commit(); err != nil || s.db.Losses() != losses {
			s.log.Warn("staging files kept", "files", files, "error", err)
			return
		}
		for _, k := range files {
			s.remove(k)
		}
	})
}

// settled ends a session that was published with the blob h.
func (s *Sessions) settled(r row, h blobstore.Hash) {
	if !r.synced {
		s.unkeep(false, r.files()...)
		return
	}
	s.later(func() {
		err := s.blobs.Sync(context.Background(), h)
		if err == nil {
			err = s.db.Sync()
		}
		if err == nil {
			err = s.db.Write(func(tx *schema.Tx) error { return deleteRow(tx, r.id) })
		}
		if err != nil {
			s.log.Warn("published content is not on the disk yet", "blob", h, "error", err)
			return // the next process looks
		}
		for _, k := range r.files() {
			s.remove(k)
		}
	})
}

// later runs f in the background, or now when the sessions are closed.
func (s *Sessions) later(f func()) {
	s.mu.Lock()
	closed := s.mu.closed
	if !closed {
		s.wg.Go(f)
	}
	s.mu.Unlock()
	if closed {
		f()
	}
}

// openKept opens the staging file that a row of a dead process names. For
// writing it gets its first name again, or is copied when it is a blob's file
// too; then the link is left for unkeep.
func (s *Sessions) openKept(link string, write bool) (*blobstore.Staging, error) {
	st, err := s.blobs.OpenStaging(link)
	if err != nil || !write {
		return st, err
	}
	name := strings.TrimSuffix(link, keptSuffix)
	os.Remove(s.stagingPath(name))
	var stat unix.Stat_t
	if err := unix.Fstat(int(st.File().Fd()), &stat); err != nil {
		st.Leave()
		return nil, err
	}
	if stat.Nlink == 1 {
		err := os.Link(s.stagingPath(link), s.stagingPath(name))
		st.Leave()
		if err != nil {
			return nil, err
		}
		return s.blobs.OpenStaging(name)
	}
	defer st.Leave()
	c, err := s.blobs.NewStaging()
	if err != nil {
		return nil, err
	}
	if _, err := c.CopyRange(st, st.File(), 0, 0, stat.Size); err != nil {
		c.Discard()
		return nil, err
	}
	return c, nil
}
