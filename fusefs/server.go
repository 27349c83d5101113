package fusefs

import (
	"context"
	"errors"
	"log/slog"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// Config is the store that a mount shows.
type Config struct {
	DB       *schema.DB
	Tree     *pathtree.Tree
	Blobs    *blobstore.Store
	Sessions *writesession.Sessions
	Logger   *slog.Logger // default: discard
}

// Options says what to mount and how; the zero value mounts everything, read
// and write, for the calling user.
type Options struct {
	// Bucket and Branch say what the root of the mount is: a branch; with no
	// Branch, a directory of the bucket's branches; with neither, a directory
	// of all buckets.
	Bucket, Branch string
	At             schema.Stamp // the branch as of then, read-only; 0: its head
	ReadOnly       bool
	AllowOther     bool // let other users in; permissions are checked in any case
	// Passthrough lets the kernel read large files from their blobs itself on a
	// writable mount too. A descriptor opened so keeps reading the content it
	// was opened on. Read-only mounts always do it where the kernel can.
	Passthrough bool
	UID, GID    *uint32 // shown as the owner and group of everything
	Umask       *uint32 // permission bits never shown
	FsName      string  // first column of df and mount; default "alkfs"
	Debug       bool    // log every request
}

// Stats counts what a mount has done since it was mounted.
type Stats struct {
	Nodes         int64 // inodes the kernel knows
	Handles       int64 // open files and directories
	Passthrough   int64 // opens answered with passthrough
	Invalidations int64 // notices sent to the kernel of changes made elsewhere
}

// Server is a mount being served.
type Server struct{}

// Mount mounts at dir and serves until the mount is undone, by Unmount, by
// umount(8), or because ctx ends.
func Mount(ctx context.Context, dir string, c Config, o Options) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// Wait returns when the mount is gone.
func (s *Server) Wait() {}

// Unmount publishes what is open and undoes the mount. EBUSY means that
// programs still have files or their working directory in it.
func (s *Server) Unmount() error { return nil }

// Stats returns counters.
func (s *Server) Stats() Stats { return Stats{} }
