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

// A recorded session names its staging file and its overlay by second links,
// NAME-kept. The first link of the staging file becomes the blob when the session
// is published; the second ones stay until the transaction that publishes can no
// longer be lost and, for a synced session, until the blob is on the disk too. So
// at every moment of a publish a crash leaves either the new version or the
// session.
const keptSuffix = "-kept"

func (s *Sessions) stagingPath(name string) string {
	return filepath.Join(s.db.Dir(), stagingDir, name)
}

// kept is such a link.
type kept struct {
	name string // in staging/
	of   *blobstore.Staging
}

// keep returns the link to st, which is k or made now.
func (s *Sessions) keep(st *blobstore.Staging, k kept) (kept, error) {
	switch st {
	case nil:
		return kept{}, nil
	case k.of:
		return k, nil
	}
	name := st.Name() + keptSuffix
	return kept{name, st}, os.Link(s.stagingPath(st.Name()), s.stagingPath(name))
}

// unlink removes the links that are in none of those that a row names.
func (s *Sessions) unlink(links, named []kept) {
	for _, k := range without(links, named) {
		os.Remove(s.stagingPath(k.name))
	}
}

// unkeep removes links once nothing needs them: when what was written to the
// database up to now cannot be lost to a kill or, after an fsync, a power cut.
func (s *Sessions) unkeep(synced bool, links ...kept) {
	if len(links) == 0 {
		return
	}
	losses := s.db.Losses()
	s.later(func() {
		commit := s.db.Commit
		if synced {
			commit = s.db.Sync
		}
		if err := commit(); err != nil || s.db.Losses() != losses {
			s.log.Warn("staging files kept", "files", links, "error", err)
			return
		}
		for _, k := range links {
			os.Remove(s.stagingPath(k.name))
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
			os.Remove(s.stagingPath(k.name))
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
