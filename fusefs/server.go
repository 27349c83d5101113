package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// Keys of log records.
const (
	keyDir   = "dir"
	keyError = "error"
	keyInode = "inode"
)

// Config is the store that a mount shows.
type Config struct {
	DB       *schema.DB
	Tree     *pathtree.Tree
	Blobs    *blobstore.Store
	Sessions *writesession.Sessions
	Logger   *slog.Logger  // default: discard
	Slow     time.Duration // from when on a request is logged; 0: never

	// wrap, of tests, comes between the kernel and the file system.
	wrap func(fuse.RawFileSystem) fuse.RawFileSystem
}

// Options says what to mount and how; the zero value mounts everything, read
// and write, for the calling user.
type Options struct {
	// Bucket and Branch say what the root of the mount is: a branch; with no
	// Branch, a directory of the bucket's branches; with neither, a directory
	// of all buckets.
	Bucket, Branch string
	At             schema.Stamp // everything as of then, read-only; 0: the present
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
	Opens         int64 // of files
	Reloads       int64 // inodes read from the database, not known already
	SlowRequests  int64 // logged as slow
}

// Ops returns the requests so far and how long they took.
func (s *Server) Ops() latency.Ops { return s.ops.Counts() }

// Server is a mount being served.
type Server struct {
	fs     *fileSystem
	ops    *latency.Set
	fuse   *fuse.Server
	loop   *loop // nil: go-fuse's own answers requests
	dir    string
	device uint32             // minor number, by which the kernel names the connection
	cancel context.CancelFunc // ends follow
	bg     sync.WaitGroup
	// forgetLost ends being told of lost writes; nil in a view of the past.
	forgetLost func()
	gone       chan struct{} // closed when the kernel is done with the mount
	once       sync.Once
	done       chan struct{} // closed when everything is published as well
}

// Mount mounts at dir and serves until the mount is undone: by Unmount, by
// umount(8), or because ctx ends, which publishes what is open and takes the
// mount away from the programs that still use it.
func Mount(ctx context.Context, dir string, c Config, o Options) (*Server, error) {
	s, err := mount(ctx, dir, c, o)
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	return s, nil
}

func mount(ctx context.Context, dir string, c Config, o Options) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Bucket == "" && o.Branch != "" {
		return nil, fmt.Errorf("branch %q of which bucket? %w", o.Branch, syscall.EINVAL)
	}
	o.ReadOnly = o.ReadOnly || o.At != 0 || c.DB.ReadOnly()
	dir, err := prepareDir(dir, c.DB.Dir(), c.Logger)
	if err != nil {
		return nil, err
	}
	bg, cancel := context.WithCancel(context.Background())
	s := &Server{dir: dir, cancel: cancel, gone: make(chan struct{}), done: make(chan struct{})}
	s.fs = newFileSystem(c, o)
	s.fs.log = c.Logger.With(keyDir, dir)
	s.ops = latency.NewSet("fuse", opNames, c.Slow, s.fs.log)
	var served fuse.RawFileSystem = &metered{s.fs, s.ops}
	if c.wrap != nil {
		served = c.wrap(served)
	}
	if err := s.start(bg, served); err != nil {
		cancel()
		return nil, err
	}
	go s.serve()
	if err := s.fuse.WaitMount(); err != nil {
		unmountDir(dir, true)
		<-s.done
		return nil, err
	}
	s.device = deviceOf(dir)
	raiseReadAhead(s.device, s.fs.log)
	go s.until(ctx)
	return s, nil
}

// start mounts, and follows the changes made elsewhere from just before.
func (s *Server) start(bg context.Context, served fuse.RawFileSystem) error {
	var last int64
	err := s.fs.db.Read(func(tx *schema.Tx) (err error) {
		last, err = notify.Last(tx)
		return err
	})
	if err != nil {
		return err
	}
	root, err := s.fs.root()
	if err != nil {
		return err
	}
	s.fs.nodes = newNodes(root)
	o := s.fs.opts
	options, fd := mountOptions(o, s.fs.log), -1
	if s.fuse, fd, err = newServer(served, s.dir, options); err != nil {
		return explainMount(err)
	}
	if fd >= 0 {
		if s.loop, err = newLoop(served, s.fuse, fd, options, s.fs.log); err != nil {
			s.fs.log.Warn("requests are answered more slowly", keyError, err)
			unix.Close(fd)
		}
	}
	canPass := os.Geteuid() == 0 && s.fuse.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH != 0
	s.fs.passthrough.Store(canPass && (o.ReadOnly || o.Passthrough))
	if o.At == 0 {
		s.forgetLost = s.fs.db.OnLost(func(error) { s.fs.lost.Store(true) })
		s.bg.Go(func() { s.fs.follow(bg, last) })
	}
	return nil
}

// serve answers requests until the mount is gone, then publishes what a killed
// or lazily undone mount left open.
func (s *Server) serve() {
	if s.loop != nil {
		s.loop.run()
	}
	s.fuse.Serve() // which ends at once after the loop
	close(s.gone)
	s.finish()
}

// finish ends everything but the answering of requests. It may be called again.
func (s *Server) finish() {
	s.once.Do(func() {
		s.cancel()
		s.bg.Wait()
		if s.forgetLost != nil {
			s.forgetLost()
		}
		s.fs.recordPending()
		for _, h := range s.fs.handles.takeAll() {
			if h.file != nil {
				s.fs.release(h)
			}
		}
		close(s.done)
	})
}

// until undoes the mount when ctx ends.
func (s *Server) until(ctx context.Context) {
	select {
	case <-s.gone:
		return
	case <-ctx.Done():
	}
	err := s.Unmount()
	if err == nil {
		return
	}
	s.fs.log.Warn("mount taken away from the programs that use it", keyError, err)
	if err := unmountDir(s.dir, true); err != nil {
		s.fs.log.Error("unmount", keyError, err)
	}
	// The kernel is done with it when the last of those programs lets go. They
	// are not waited for: without a connection they get ENOTCONN.
	s.publishOpen()
	s.abort()
	select {
	case <-s.gone:
	case <-time.After(time.Second):
		s.finish()
	}
}

// Wait returns when the mount is gone and everything written is published.
func (s *Server) Wait() { <-s.done }

// Gone reports whether the mount is gone.
func (s *Server) Gone() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// Unmount publishes what is open and undoes the mount. EBUSY means that
// programs still have files or their working directory in it.
func (s *Server) Unmount() error {
	select {
	case <-s.gone:
		<-s.done
		return nil
	default:
	}
	s.publishOpen()
	var err error
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		// The kernel may still be sending what follows a last close.
		if err = unmountDir(s.dir, false); !errors.Is(err, syscall.EBUSY) {
			break
		}
		select {
		case <-s.gone:
		case <-time.After(wait):
		}
	}
	if err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: somebody else was faster
		return fmt.Errorf("unmount %s: %w", s.dir, explainBusy(err))
	}
	<-s.done
	return nil
}

// publishOpen publishes what is written and not yet closed.
func (s *Server) publishOpen() {
	s.fs.recordPending()
	for _, h := range s.fs.handles.all() {
		if h.file == nil || !h.writable {
			continue
		}
		if _, err := h.file.Publish(s.fs.ctx); err != nil {
			s.fs.log.Error("publish before unmount", keyInode, h.file.Ino(), keyError, err)
		}
	}
}

// Stats returns counters.
func (s *Server) Stats() Stats {
	return Stats{
		Nodes:         s.fs.nodes.count.Load(),
		Handles:       s.fs.handles.count.Load(),
		Passthrough:   s.fs.passthroughs.Load(),
		Invalidations: s.fs.invalidations.Load(),
		Opens:         s.fs.opens.Load(),
		Reloads:       s.fs.reloads.Load(),
		SlowRequests:  s.ops.Slow(),
	}
}
