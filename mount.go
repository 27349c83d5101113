package alkfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/alkdev/alkfs/fusefs"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Scope says how much of a store a mount shows.
type Scope int

const (
	ScopeBranch Scope = iota // the tree of the spec's branch
	ScopeBucket              // a directory for each branch of the spec's bucket
	ScopeStore               // BUCKET/BRANCH/… of everything
)

// MountOptions configures Mount; the zero value mounts one branch, read and
// write, for the calling user.
type MountOptions struct {
	Scope       Scope
	ReadOnly    bool
	AllowOther  bool    // let other users in; permissions are checked in any case
	Passthrough bool    // the kernel reads large files from their blobs itself on a writable mount too
	UID, GID    *uint32 // shown as the owner and group of everything
	Umask       *uint32 // permission bits never shown
	Name        string  // first column of df and mount; default "alkfs"
	Debug       bool    // log every request
}

// Mount is a directory that shows a store. Programs see their own changes at
// once; what other surfaces publish appears as they publish it.
type Mount struct {
	server *fusefs.Server
	dir    string

	bucket, branch string // that it shows alone; "" for all
}

// MountStats counts what a mount has done.
type MountStats = fusefs.Stats

// Mount shows what spec names at dir, a directory that exists, until Unmount,
// umount(8), or the end of ctx. With spec.At the mount is read-only, and shows
// the branch as it was then.
func (s *Store) Mount(ctx context.Context, spec Spec, dir string, o MountOptions) (*Mount, error) {
	fo := fusefs.Options{
		ReadOnly: o.ReadOnly || s.readOnly, AllowOther: o.AllowOther, Passthrough: o.Passthrough,
		UID: o.UID, GID: o.GID, Umask: o.Umask, FsName: o.Name, Debug: o.Debug,
	}
	err := s.db.Read(func(tx *schema.Tx) error {
		br, at, err := s.resolve(tx, spec)
		if err != nil {
			return err
		}
		fo.Bucket, fo.Branch, fo.At = spec.withDefaults().Bucket, br.Name, at
		return nil
	})
	if err != nil {
		return nil, err
	}
	if cleanPath(spec.Path) != "" {
		return nil, fmt.Errorf("mount %s: a whole branch is mounted, not a path in it: %w", spec, ErrBadSpec)
	}
	if o.Scope != ScopeBranch && spec.At != "" {
		return nil, fmt.Errorf("mount %s: a time or snapshot goes with one branch: %w", spec, ErrBadSpec)
	}
	switch o.Scope {
	case ScopeBucket:
		fo.Branch = ""
	case ScopeStore:
		fo.Bucket, fo.Branch = "", ""
	}
	if st, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	} else if !st.IsDir() {
		return nil, fmt.Errorf("mount: %w", &fs.PathError{Op: "stat", Path: dir, Err: errors.New("not a directory")})
	}
	server, err := fusefs.Mount(ctx, dir, fusefs.Config{DB: s.db, Tree: s.tree, Blobs: s.blobs, Sessions: s.sessions, Logger: s.logger("fusefs"), Slow: s.obs.slow}, fo)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	m := &Mount{server: server, dir: dir, bucket: fo.Bucket, branch: fo.Branch}
	s.obs.addMount(m)
	return m, nil
}

// StillComing reports whether err is of a branch that has yet to come from another
// machine, or is coming: WaitForBranch waits for it.
func StillComing(err error) bool {
	var nothing *NothingCameError
	var some *pathtree.NotKeptError
	return errors.As(err, &nothing) || errors.As(err, &some) && some.Keep == pathtree.Coming
}

// WaitForBranch returns when the branch of spec is there, and all of it: it may have to
// come from another machine.
func (s *Store) WaitForBranch(ctx context.Context, spec Spec) error {
	for {
		gen := s.db.Generation()
		err := s.db.Read(func(tx *schema.Tx) error {
			b, at, err := s.resolve(tx, spec)
			if err == nil {
				_, err = s.tree.View(tx, b.ID, at)
			}
			return err
		})
		if !errors.Is(err, fs.ErrNotExist) && !StillComing(err) {
			return err
		}
		if _, err := s.db.Wait(ctx, gen); err != nil {
			return err
		}
	}
}

// Dir returns the directory mounted at.
func (m *Mount) Dir() string { return m.dir }

// Wait returns when the mount is gone.
func (m *Mount) Wait() { m.server.Wait() }

// Unmount publishes what is open and undoes the mount. EBUSY means that
// programs still have files or their working directory in it.
func (m *Mount) Unmount() error { return m.server.Unmount() }

// Stats counts what the mount has done.
func (m *Mount) Stats() MountStats { return m.server.Stats() }
