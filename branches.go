package alkfs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// What a store holds; see pathtree for the fields.
type (
	Bucket   = pathtree.Bucket
	Branch   = pathtree.Branch
	Snapshot = pathtree.Snapshot
	Policy   = pathtree.Policy
	Quota    = pathtree.Quota // of a bucket
	Stamp    = schema.Stamp
)

// BranchOptions says where a new branch starts. The zero value forks the branch
// main of the same bucket as it is now.
type BranchOptions struct {
	From string // branch to fork; default main
	At   string // time or snapshot to fork at; default now
	Live bool   // keep following From where the new branch has no version of its own
}

// Buckets returns all buckets by name.
func (s *Store) Buckets() (list []Bucket, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = s.tree.Buckets(tx)
		return err
	})
	return slices.DeleteFunc(list, func(b Bucket) bool { return !s.sees(b) }), err
}

// Bucket returns one bucket.
func (s *Store) Bucket(name string) (b Bucket, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		b, err = s.bucket(tx, name)
		return err
	})
	return b, err
}

// Quota returns the quota of a bucket and what counts towards it; false when it
// has none.
func (s *Store) Quota(bucket string) (q Quota, ok bool, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		b, err := s.bucket(tx, bucket)
		if err == nil {
			q, ok, err = s.tree.Quota(tx, b.ID)
		}
		return err
	})
	return q, ok, err
}

// CreateBucket makes a bucket with an empty branch main.
func (s *Store) CreateBucket(name string) (b Bucket, err error) {
	if err := s.everything(); err != nil {
		return b, err
	}
	err = s.write(func(tx *schema.Tx) (err error) {
		b, err = s.tree.CreateBucket(tx, name)
		return named("bucket", name, err)
	})
	return b, err
}

// RemoveBucket removes a bucket with its branches and all their history.
func (s *Store) RemoveBucket(name string) error {
	if err := s.everything(); err != nil {
		return err
	}
	return s.write(func(tx *schema.Tx) error { return named("bucket", name, s.tree.RemoveBucket(tx, name)) })
}

// SetPolicy replaces the policy of a bucket.
func (s *Store) SetPolicy(bucket string, p Policy) error {
	if err := s.everything(); err != nil {
		return err
	}
	err := s.write(func(tx *schema.Tx) error {
		b, err := s.bucket(tx, bucket)
		if err != nil {
			return err
		}
		return s.tree.SetPolicy(tx, b.ID, p)
	})
	if err == nil {
		err = s.sessions.Policies()
	}
	return err
}

// Branches returns the branches of a bucket by name.
func (s *Store) Branches(bucket string) (list []Branch, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		b, err := s.bucket(tx, bucket)
		if err == nil {
			list, err = s.tree.Branches(tx, b.ID)
			list = s.seen(b, list)
		}
		return err
	})
	return list, err
}

// CreateBranch makes a branch of bucket. It takes the same time whatever the
// size of the tree.
func (s *Store) CreateBranch(bucket, name string, o BranchOptions) (b Branch, err error) {
	defer s.done(opBranch, latency.Now())
	err = s.write(func(tx *schema.Tx) error {
		from, at, err := s.resolve(tx, Spec{Bucket: bucket, Branch: o.From, At: o.At})
		if err != nil {
			return err
		}
		if err := s.mayIn(tx, from.Bucket, name, access.Write); err != nil {
			return err
		}
		b, err = s.tree.CreateBranch(tx, from.Bucket, name, pathtree.Origin{Branch: from.ID, At: at, Live: o.Live})
		return named("branch", name, err)
	})
	return b, err
}

// RenameBranch gives a branch another name. Mounts of it stay.
func (s *Store) RenameBranch(bucket, name, to string) error {
	return s.write(func(tx *schema.Tx) error {
		b, _, err := s.resolve(tx, Spec{Bucket: bucket, Branch: name})
		if err != nil {
			return err
		}
		for _, changed := range []string{b.Name, to} {
			if err := s.mayIn(tx, b.Bucket, changed, access.Write); err != nil {
				return err
			}
		}
		return named("branch", to, s.tree.RenameBranch(tx, b.ID, to))
	})
}

// RemoveBranch removes a branch. Branches made from it keep what they see.
func (s *Store) RemoveBranch(bucket, name string) error {
	return s.write(func(tx *schema.Tx) error {
		b, _, err := s.resolve(tx, Spec{Bucket: bucket, Branch: name})
		if err != nil {
			return err
		}
		if err := s.mayIn(tx, b.Bucket, b.Name, access.Write); err != nil {
			return err
		}
		return named("branch", name, s.tree.RemoveBranch(tx, b.ID))
	})
}

// Snapshots returns the snapshots of a bucket by name.
func (s *Store) Snapshots(bucket string) (list []Snapshot, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		b, err := s.bucket(tx, bucket)
		if err == nil {
			list, err = s.tree.Snapshots(tx, b.ID)
			list = slices.DeleteFunc(list, func(snap Snapshot) bool { return s.mayByID(tx, snap.Branch, access.Read) != nil })
		}
		return err
	})
	return list, err
}

// CreateSnapshot names the present state of the branch of spec.
func (s *Store) CreateSnapshot(spec Spec, name, message string) (snap Snapshot, err error) {
	defer s.done(opSnapshot, latency.Now())
	err = s.write(func(tx *schema.Tx) error {
		b, _, err := s.resolve(tx, Spec{Bucket: spec.Bucket, Branch: spec.Branch})
		if err != nil {
			return err
		}
		if err := s.mayIn(tx, b.Bucket, b.Name, access.Write); err != nil {
			return err
		}
		snap, err = s.tree.CreateSnapshot(tx, b.ID, name, message)
		return named("snapshot", name, err)
	})
	return snap, err
}

// RemoveSnapshot forgets a snapshot of bucket.
func (s *Store) RemoveSnapshot(bucket, name string) error {
	return s.write(func(tx *schema.Tx) error {
		b, err := s.bucket(tx, bucket)
		if err != nil {
			return err
		}
		snap, err := s.tree.Snapshot(tx, b.ID, name)
		if err == nil && s.mayByID(tx, snap.Branch, access.Read) != nil {
			err = fs.ErrNotExist
		}
		if err != nil {
			return named("snapshot", name, err)
		}
		if err := s.mayByID(tx, snap.Branch, access.Write); err != nil {
			return err
		}
		return s.tree.RemoveSnapshot(tx, snap.ID)
	})
}

// write runs f in a transaction that other processes see when write returns.
func (s *Store) write(f func(tx *schema.Tx) error) error {
	if err := s.db.Write(f); err != nil {
		return err
	}
	return s.db.Commit()
}

func (s *Store) bucket(tx *schema.Tx, name string) (Bucket, error) {
	if name == "" {
		name = DefaultBucket
	}
	b, err := s.tree.Bucket(tx, name)
	if err == nil && !s.sees(b) {
		err = fs.ErrNotExist
	}
	return b, named("bucket", name, err)
}

// mayIn is may for a bucket by id.
func (s *Store) mayIn(tx *schema.Tx, bucket int64, branch string, want access.Level) error {
	if s.rights == nil {
		return nil
	}
	list, err := s.tree.Buckets(tx)
	for _, b := range list {
		if b.ID == bucket {
			return s.may(b, branch, want)
		}
	}
	return errors.Join(err, fs.ErrNotExist)
}

// mayByID is may for a branch by id.
func (s *Store) mayByID(tx *schema.Tx, branch int64, want access.Level) error {
	if s.rights == nil {
		return nil
	}
	br, err := s.tree.BranchByID(tx, branch)
	if err != nil {
		return err
	}
	return s.mayIn(tx, br.Bucket, br.Name, want)
}

// resolve finds the branch of spec and the bound that spec.At sets, 0 without
// one. A snapshot stands for its own branch when spec names none.
func (s *Store) resolve(tx *schema.Tx, spec Spec) (Branch, Stamp, error) {
	b, err := s.bucket(tx, spec.Bucket)
	if err != nil {
		return Branch{}, 0, err
	}
	if spec.At != "" {
		snap, err := s.tree.Snapshot(tx, b.ID, spec.At)
		if err == nil {
			if s.mayByID(tx, snap.Branch, access.Read) != nil {
				return Branch{}, 0, named("snapshot", spec.At, fs.ErrNotExist)
			}
			return s.resolveSnapshot(tx, spec, snap)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return Branch{}, 0, err
		}
	}
	name := spec.withDefaults().Branch
	br, err := s.tree.Branch(tx, b.ID, name)
	if err == nil {
		err = s.may(b, br.Name, access.Read)
	} else if errors.Is(err, fs.ErrNotExist) {
		all, err := s.tree.Branches(tx, b.ID)
		if err != nil || len(all) == 0 {
			return br, 0, cmp.Or(err, error(&NothingCameError{b.Name}))
		}
	}
	if err != nil || spec.At == "" {
		return br, 0, named("branch", b.Name+"/"+name, err)
	}
	t, err := ParseTime(spec.At, time.Now())
	if err != nil {
		return br, 0, fmt.Errorf("bucket %s has no snapshot of that name, and as a %w", b.Name, err)
	}
	return br, schema.StampAt(t), nil
}

func (s *Store) resolveSnapshot(tx *schema.Tx, spec Spec, snap Snapshot) (Branch, Stamp, error) {
	br, err := s.tree.BranchByID(tx, snap.Branch)
	if err == nil && spec.Branch != "" && br.Name != spec.Branch {
		err = fmt.Errorf("snapshot %q is of branch %s, not of %s: %w", snap.Name, br.Name, spec.Branch, ErrBadSpec)
	}
	return br, snap.Stamp, err
}
