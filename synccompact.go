package alkfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/alkdev/alkfs/crdtsync"
)

// Compacted says what a compaction came to.
type Compacted = crdtsync.Compacted

// compactPatience is how long a compaction of the largest bucket may take.
const compactPatience = time.Hour

// CompactBucket puts, on this machine and then on each member, what the changes of a
// shared bucket came to in the place of those changes. The owner and admins may. It is
// done by the process that synchronises, where there is one. progress may be nil; it
// is told of versions, here only.
func (s *Store) CompactBucket(ctx context.Context, bucket string, progress func(done int64)) (c Compacted, err error) {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return c, err
	}
	if err := s.haveAll(r, b); err != nil {
		return c, err
	}
	for range 2 {
		lock, err := s.lockSync()
		if err == nil {
			defer lock.Close()
			r, err := s.replica()
			if err != nil {
				return c, err
			}
			return r.Compact(ctx, b.UUID, progress)
		}
		if !errors.Is(err, ErrSyncing) {
			return c, err
		}
		all, err := askSyncer[Compacted](ctx, s, compactPatience, askCompact, fmt.Sprintf("%x", b.UUID[:]))
		if errors.Is(err, ErrNotSyncing) {
			continue // it has just ended
		}
		if err == nil && len(all) != 1 {
			err = errors.New("the process that synchronises is of another version of alkfs: start it again")
		}
		if err != nil {
			return c, err
		}
		return all[0], nil
	}
	return c, ErrSyncing
}

// haveAll fails when a connected member has changes that are not here: they would be
// in no pack, and stay.
func (s *Store) haveAll(r *crdtsync.Replica, b Bucket) error {
	all, _, err := s.syncStatus(r)
	if err != nil {
		return err
	}
	for _, st := range all {
		for _, m := range st.Members {
			if st.UUID == b.UUID && m.Connected && m.Ahead > 0 {
				return fmt.Errorf("%s has %d changes that are still to come here: `alkfs sync wait %s`, then compact", m.Name, m.Ahead, b.Name)
			}
		}
	}
	return nil
}

// compact compacts the bucket of a uuid, in hexadecimal.
func (y *Syncer) compact(ctx context.Context, about string) (all []Compacted, err error) {
	engine := y.node.Load().engine
	uuids, err := engine.Buckets()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(uuids, func(u [16]byte) bool { return fmt.Sprintf("%x", u[:]) == about })
	if i < 0 {
		return nil, crdtsync.ErrNotShared
	}
	c, err := engine.Compact(ctx, uuids[i], nil)
	return []Compacted{c}, err
}
