package fusefs

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// cacheSeconds is how long the kernel may keep names and attributes it is not
// told to drop.
const cacheSeconds = 3600

// fileSystem answers the kernel's requests.
type fileSystem struct {
	fuse.RawFileSystem // what is not implemented here is never sent on Linux

	db       *schema.DB
	tree     *pathtree.Tree
	sessions *writesession.Sessions
	log      *slog.Logger
	opts     Options
	origin   int64 // of the events this mount makes
	// ctx is that of publishes. It outlives requests: an interrupted close(2)
	// must not lose what was written.
	ctx    context.Context
	server *fuse.Server

	nodes   *nodes
	handles handles
	pending pendingNodes

	// epoch counts the changes made elsewhere that were heard of. An answer
	// computed before one of them must not be cached by the kernel after it.
	epoch atomic.Uint64

	vols struct {
		sync.Mutex
		open map[int64]*volume // by branch
	}

	lost          atomic.Bool // writes that were acknowledged are gone
	passthrough   atomic.Bool // the kernel takes backing files
	passthroughs  atomic.Int64
	invalidations atomic.Int64
	opens         atomic.Int64
	reloads       atomic.Int64
}

func newFileSystem(c Config, o Options) *fileSystem {
	fs := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		db:            c.DB,
		tree:          c.Tree,
		sessions:      c.Sessions,
		log:           c.Logger,
		opts:          o,
		origin:        rand.Int64N(1<<62) + 1,
		ctx:           context.Background(),
	}
	fs.vols.open = make(map[int64]*volume)
	return fs
}

func (fs *fileSystem) String() string           { return fsType }
func (fs *fileSystem) SetDebug(bool)            {}
func (fs *fileSystem) Init(server *fuse.Server) { fs.server = server }

// status is err as the kernel takes it. Never ENOSYS.
func status(err error) fuse.Status { return fuse.Status(pathtree.Errno(err)) }

// node returns the node of a request, ESTALE when it is not known.
func (fs *fileSystem) node(id uint64) (*node, error) {
	if n := fs.nodes.get(id); n != nil {
		return n, nil
	}
	return nil, syscall.ESTALE
}

// inBranch is node for requests that only make sense inside a branch; on the
// directories above them they fail with EPERM.
func (fs *fileSystem) inBranch(id uint64) (*node, error) {
	n, err := fs.node(id)
	if err == nil && n.vol == nil {
		err = syscall.EPERM
	}
	return n, err
}

// inode returns the inode of n as this mount shows it, what is written and not
// published included.
func (fs *fileSystem) inode(n *node) (pathtree.Inode, error) {
	n.mu.Lock()
	in, fresh, file := n.mu.inode, n.mu.fresh, n.mu.file
	n.mu.Unlock()
	if !fresh {
		var err error
		if in, err = fs.reload(n); err != nil {
			return in, err
		}
	}
	if file != nil {
		in = overlay(file, in)
	}
	return in, nil
}

// overlay returns in, the inode of f as the database has it, as it is with
// what is written and not yet published.
func overlay(f *writesession.File, in pathtree.Inode) pathtree.Inode {
	f.Observe(in)
	dirty := f.Dirty() // before the inode: a publish between gives a newer one
	own := f.Inode()
	if own.Stamp > in.Stamp || !dirty && newer(&own, &in) {
		return own
	}
	if dirty {
		in.Size, in.Mtime, in.Ctime = own.Size, own.Mtime, max(in.Ctime+1, own.Ctime)
	}
	return in
}

// newer reports whether a is a later version than b.
func newer(a, b *pathtree.Inode) bool {
	return a.Stamp > b.Stamp || a.Stamp == b.Stamp && a.Ctime > b.Ctime
}

// reload reads the inode of n from the database.
func (fs *fileSystem) reload(n *node) (in pathtree.Inode, err error) {
	fs.reloads.Add(1)
	err = fs.db.Read(func(tx *schema.Tx) error {
		var err error
		if in, err = n.vol.view.Inode(tx, n.ino); err == nil {
			n.store(&in)
		}
		return err
	})
	return in, err
}

// observe tells the open file of n, if there is one, of a change just made. It
// must be called outside of transactions, after the node has stored in.
func observe(n *node, in *pathtree.Inode) {
	if f := n.openFile(); f != nil {
		f.Observe(*in)
	}
}

// changed stores and observes an inode that a request changed beside its own
// node, if the kernel knows it. The first half runs inside the transaction.
func (fs *fileSystem) changed(vol *volume, in *pathtree.Inode) *node {
	n := fs.nodes.find(nodeKey{vol.branch, in.Ino})
	if n != nil {
		n.store(in)
	}
	return n
}

// fillAttr translates in.
func (fs *fileSystem) fillAttr(vol *volume, in *pathtree.Inode, out *fuse.Attr) {
	out.Ino = vol.stIno(in.Ino)
	out.Size = uint64(in.Size)
	out.Blocks = uint64(in.Size+511) / 512
	out.Atime, out.Atimensec = splitTime(in.Atime)
	out.Mtime, out.Mtimensec = splitTime(in.Mtime)
	out.Ctime, out.Ctimensec = splitTime(in.Ctime)
	out.Mode = in.Mode
	out.Nlink = in.Nlink
	out.Uid, out.Gid = in.UID, in.GID
	out.Rdev = in.Rdev
	out.Blksize = 4096
	fs.override(out)
}

// override applies the mount's own idea of owners and permissions.
func (fs *fileSystem) override(out *fuse.Attr) {
	if fs.opts.UID != nil {
		out.Uid = *fs.opts.UID
	}
	if fs.opts.GID != nil {
		out.Gid = *fs.opts.GID
	}
	if fs.opts.Umask != nil {
		out.Mode &^= *fs.opts.Umask & 0o777
	}
}

// splitTime splits ns since 1970 into seconds and nanoseconds.
func splitTime(ns int64) (sec uint64, nsec uint32) {
	s, n := ns/1e9, ns%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return uint64(s), uint32(n)
}

// fillEntry answers with n, whose inode is in.
func (fs *fileSystem) fillEntry(n *node, in *pathtree.Inode, epoch uint64, out *fuse.EntryOut) {
	out.NodeId = n.id
	fs.fillAttr(n.vol, in, &out.Attr)
	n.answered.Store(int64(latency.Now()))
	fs.setValid(epoch, out)
}

// setValid lets the kernel cache an entry if nothing was heard of since epoch.
func (fs *fileSystem) setValid(epoch uint64, out *fuse.EntryOut) {
	if fs.epoch.Load() == epoch {
		out.EntryValid, out.AttrValid = cacheSeconds, cacheSeconds
	}
}
