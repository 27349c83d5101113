package alkfs

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/schema"
)

// Kept is content of a shared bucket that is fetched without being read.
type Kept struct {
	Spec   Spec // Branch "": every branch
	Pinned bool // else the policy is eager
}

// Fetching says what is fetched without being read, and how it stands.
type Fetching struct {
	Kept     []Kept
	Contents int64 // on the wanted list, those that somebody waits for included
	Bytes    int64
	Free     int64 // bytes of the disk
	Reserve  int64 // bytes of the disk below which nothing is fetched by policy
}

// Full reports whether nothing is fetched by policy, to leave room on the disk.
func (f Fetching) Full() bool { return f.Free < f.Reserve }

// SetEager has all content that a branch, or with Branch "" any of the bucket,
// shows fetched by the process that synchronises; or, with eager false, only what is
// read or pinned.
func (s *Store) SetEager(where Spec, eager bool) error {
	if where.Path != "" || where.At != "" {
		return errors.New("a policy is that of a bucket or branch: for less, use pin")
	}
	change := blobs.RemoveKeep
	if eager {
		change = blobs.AddKeep
	}
	return s.changeKeep(where, false, change)
}

// ErrNotPinned says that there is no pin to remove.
var ErrNotPinned = errors.New("it is not pinned")

// Pin has the content below a path fetched, and what comes there later.
func (s *Store) Pin(spec Spec) error {
	if spec.At != "" {
		return errors.New("only the present can be pinned, not a snapshot or time")
	}
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	if name := strings.Trim(spec.Path, "/"); name != "" && !v.has(name) {
		return pathError("pin", name, fs.ErrNotExist)
	}
	return s.changeKeep(spec.withDefaults(), true, blobs.AddKeep)
}

// Unpin ends a Pin of exactly this path. What was fetched stays.
func (s *Store) Unpin(spec Spec) error {
	return s.changeKeep(spec.withDefaults(), true, func(tx *schema.Tx, k blobs.Keep) error {
		all, err := blobs.Keeps(tx)
		if err != nil {
			return err
		}
		if !slices.Contains(all, k) {
			return pathError("unpin", spec.Path, ErrNotPinned)
		}
		return blobs.RemoveKeep(tx, k)
	})
}

// changeKeep has change make or end the rule that spec names.
func (s *Store) changeKeep(spec Spec, pinned bool, change func(*schema.Tx, blobs.Keep) error) error {
	return s.write(func(tx *schema.Tx) error {
		k, err := s.keep(tx, spec)
		if err != nil {
			return err
		}
		k.Pinned = pinned
		return change(tx, k)
	})
}

// keep returns the rule for a bucket, a branch unless spec names none, and a path.
func (s *Store) keep(tx *schema.Tx, spec Spec) (k blobs.Keep, err error) {
	b, err := s.bucket(tx, Spec{Bucket: spec.Bucket}.withDefaults().Bucket)
	if err != nil {
		return k, err
	}
	k.Bucket, k.Path = b.ID, strings.Trim(spec.Path, "/")
	if spec.Branch != "" {
		br, err := s.tree.Branch(tx, b.ID, spec.Branch)
		if err != nil {
			return k, err
		}
		k.Branch = br.ID
	}
	return k, nil
}

// Fetching returns what is fetched without being read.
func (s *Store) Fetching() (f Fetching, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		f = Fetching{}
		all, err := blobs.Keeps(tx)
		if err != nil {
			return err
		}
		buckets, err := s.tree.Buckets(tx)
		if err != nil {
			return err
		}
		for _, b := range buckets {
			branches, err := s.tree.Branches(tx, b.ID)
			if err != nil {
				return err
			}
			names := map[int64]string{0: ""}
			for _, br := range branches {
				names[br.ID] = br.Name
			}
			for _, k := range all {
				if name, ok := names[k.Branch]; ok && k.Bucket == b.ID {
					f.Kept = append(f.Kept, Kept{Spec{Bucket: b.Name, Branch: name, Path: k.Path}, k.Pinned})
				}
			}
		}
		f.Contents, f.Bytes, err = blobs.Wanted(tx)
		return err
	})
	if err == nil {
		f.Free, f.Reserve, err = blobs.Room(s.dir)
	}
	return f, err
}

// Lacking counts the files below a path, and those whose content is not here.
func (s *Store) Lacking(spec Spec) (files, absent, bytes int64, err error) {
	v, err := s.View(spec)
	if err != nil {
		return 0, 0, 0, err
	}
	root := strings.Trim(spec.Path, "/")
	if root == "" {
		root = "."
	}
	err = fs.WalkDir(v, root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		in := fi.Sys().(Inode)
		return s.db.Read(func(tx *schema.Tx) error {
			here, err := s.blobs.Here(tx, in.Hash)
			files++
			if err == nil && !here {
				absent, bytes = absent+1, bytes+in.Size
			}
			return err
		})
	})
	return files, absent, bytes, err
}
