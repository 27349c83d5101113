package alkfs

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Names of what this package hands on.
type (
	SyncConflict = pathtree.SyncConflict
	ConflictSide = pathtree.ConflictSide
	VersionID    = pathtree.VersionID
	Keep         = pathtree.Keep
)

// Ways to settle a SyncConflict.
const (
	KeepShown = pathtree.KeepShown
	KeepOther = pathtree.KeepOther
	KeepBoth  = pathtree.KeepBoth
)

// AttributeConflict is the kind that KeepBoth does not settle.
const AttributeConflict = pathtree.AttributeConflict

// Author is a member that changed something.
type Author struct {
	Key  NodeKey // the one that it has now
	Name string
	Here bool // it is this one
}

// Authors returns a function that says which member made a version of what is in a
// shared bucket.
func (s *Store) Authors(bucket string) (func(VersionID) Author, error) {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return nil, err
	}
	m, err := r.Membership(b.UUID)
	if err != nil {
		return nil, err
	}
	return func(id VersionID) Author {
		k := m.Heir(NodeKey(id.Node))
		o, _ := m.Member(k)
		return Author{Key: k, Name: cmp.Or(o.Name, k.Short()), Here: k == r.Key()}
	}, nil
}

// SyncConflicts returns what members of a shared bucket changed at the same time
// in different ways, and nobody has settled. What lost is kept until then.
func (s *Store) SyncConflicts(bucket string) (list []SyncConflict, err error) {
	if err := s.everything(); err != nil {
		return nil, err
	}
	err = s.db.Read(func(tx *schema.Tx) error {
		b, err := s.bucket(tx, bucket)
		if err == nil {
			list, err = s.tree.SyncConflicts(tx, b.ID)
		}
		return err
	})
	return list, err
}

// OpenConflictSide opens the content of a regular file that is a side of a conflict:
// ENOENT where the side deletes it, EINVAL where it is none. Reads end with ctx, also
// while they wait for another machine.
func (s *Store) OpenConflictSide(ctx context.Context, side ConflictSide) (io.ReadCloser, error) {
	switch {
	case side.Gone:
		return nil, syscall.ENOENT
	case side.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, syscall.EINVAL
	}
	blob, err := s.blobs.Open(side.Hash, side.Size)
	if err != nil {
		return nil, err
	}
	return &blobFile{blob: blob, SectionReader: io.NewSectionReader(blobReader{ctx, blob}, 0, side.Size)}, nil
}

// ResolveSyncConflict settles a conflict of a bucket: what shows stays, or the
// side other, counted from 0, takes its place, or both are kept side by side.
// Other members hear of it like of any change.
func (s *Store) ResolveSyncConflict(c SyncConflict, keep Keep, other int) error {
	if err := s.everything(); err != nil {
		return err
	}
	var id VersionID
	if keep == KeepOther {
		if other < 0 || other >= len(c.Others) {
			return fmt.Errorf("the conflict has %d other sides", len(c.Others))
		}
		id = c.Others[other].ID
	}
	return s.write(func(tx *schema.Tx) error { return s.tree.ResolveSyncConflict(tx, c, keep, id) })
}
