package alkfs

import (
	"fmt"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Names of what this package hands on.
type (
	SyncConflict = pathtree.SyncConflict
	ConflictSide = pathtree.ConflictSide
	Keep         = pathtree.Keep
)

// Ways to settle a SyncConflict.
const (
	KeepShown = pathtree.KeepShown
	KeepOther = pathtree.KeepOther
	KeepBoth  = pathtree.KeepBoth
)

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

// ResolveSyncConflict settles a conflict of a bucket: what shows stays, or the
// side other, counted from 0, takes its place, or both are kept side by side.
// Other members hear of it like of any change.
func (s *Store) ResolveSyncConflict(c SyncConflict, keep Keep, other int) error {
	if err := s.everything(); err != nil {
		return err
	}
	var id pathtree.VersionID
	if keep == KeepOther {
		if other < 0 || other >= len(c.Others) {
			return fmt.Errorf("the conflict has %d other sides", len(c.Others))
		}
		id = c.Others[other].ID
	}
	return s.write(func(tx *schema.Tx) error { return s.tree.ResolveSyncConflict(tx, c, keep, id) })
}
