package alkfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/pathtree"
)

// Keeping says whether a branch of a shared bucket is on this machine.
type Keeping = pathtree.Keeping

// What there is of a branch.
const (
	BranchKept    = pathtree.Kept
	BranchNotKept = pathtree.NotKept
	BranchComing  = pathtree.Coming
	BranchLeaving = pathtree.Leaving
)

// ErrNotKept is wrapped by the errors for branches that are not on this machine, or
// not all of them yet.
var ErrNotKept = pathtree.ErrNotKept

// BranchStatus says how a branch of a shared bucket stands on this machine.
type BranchStatus = crdtsync.BranchStatus

// LeavingBranch is a branch that is not kept any more and still here, and what it waits
// for.
type LeavingBranch = crdtsync.LeavingBranch

// BranchWait is why a branch that is not kept any more does not leave yet.
type BranchWait = crdtsync.Wait

// KeptBranches says which branches of a bucket this machine keeps.
type KeptBranches struct {
	All      bool     // every branch
	Patterns []string // otherwise: globs over their names
	Branches []BranchStatus
	Waits    map[string][]BranchWait // by name of a branch that is leaving
}

// KeptBranches returns which branches of a shared bucket this machine keeps.
func (s *Store) KeptBranches(bucket string) (k KeptBranches, err error) {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return k, err
	}
	var partial bool
	if k.Patterns, partial, err = r.Patterns(b.UUID); err != nil {
		return k, err
	}
	k.All = !partial
	if k.Branches, err = r.Branches(b.UUID); err != nil {
		return k, err
	}
	k.Waits, err = s.leaving(r, b.UUID)
	return k, err
}

// leaving returns what the branches of a bucket that are to leave wait for, by name.
func (s *Store) leaving(r *crdtsync.Replica, bucket [16]byte) (map[string][]BranchWait, error) {
	all, _, err := s.syncStatus(r)
	if err != nil {
		return nil, err
	}
	waits := map[string][]BranchWait{}
	for _, b := range all {
		for _, l := range b.Leaving {
			if b.UUID == bucket {
				waits[l.Branch] = l.Waits
			}
		}
	}
	return waits, nil
}

// KeepBranches has this machine keep those branches of a shared bucket of which the
// name matches a pattern, besides those that were made on it and those that they
// descend from; or all. What comes to be kept is fetched, and what is not kept any
// more leaves, by the process that synchronises, and leaves only when another machine
// is known to have it. A branch that is in use here is not let go.
func (s *Store) KeepBranches(bucket string, all bool, patterns []string) error {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return err
	}
	if !all && len(patterns) == 0 {
		return errors.New("no pattern: name at least one, or keep all")
	}
	if err := r.SetPatterns(b.UUID, patterns, all, func(branch string) []string { return s.heldByMounts(bucket, branch) }); err != nil {
		return err
	}
	return s.db.Commit()
}

// heldByMounts says which mounts show a branch.
func (s *Store) heldByMounts(bucket, branch string) (why []string) {
	list, err := s.Processes(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	for _, p := range list {
		for _, m := range p.Mounts {
			if m.Bucket == bucket && m.Branch == branch {
				why = append(why, fmt.Sprintf("it is mounted at %s (`alkfs umount`)", m.Dir))
			}
		}
	}
	return why
}
