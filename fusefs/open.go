package fusefs

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/writesession"
)

// ioMode says how the kernel does the I/O of a node's open files. It allows
// one way at a time: through its page cache, or passed through to one backing
// file. An open that does not fit fails with EIO there, so it is never sent.
//
// Passed through, reads see the blob of the content the file had when it was
// opened. The kernel opens a backing file anew with the flags of each open that
// shares it, so that one for writing would change a blob; so no open that can
// write, or truncates, ever gets a backing file, and if one did, the kernel
// would refuse it (Blob.Shielded). When one comes while others read through, the
// node is given up: the kernel looks the name up again, gets another node for
// the same inode and opens that one.
type ioMode struct {
	cached  int // opens through the page cache
	through int // opens passed through to backing, which shows hash
	backing int32
	hash    blobstore.Hash
}

// bind chooses the way of I/O of a new handle and counts it as an open of its
// node. ESTALE means that the kernel must look the name up again.
func (fs *fileSystem) bind(h *handle, flags uint32, out *fuse.OpenOut) error {
	n := h.node
	var blob *blobstore.Blob
	var f *os.File
	if fs.passthrough.Load() && !h.writable && flags&unix.O_TRUNC == 0 {
		blob, f = fs.backing(h)
	}
	if f != nil {
		defer f.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	io := &n.mu.io
	switch {
	case blob != nil && io.through > 0 && io.hash == blob.Hash():
		io.through++
		h.passthrough = true
	case io.through > 0:
		fs.nodes.detach(n)
		return syscall.ESTALE
	case f != nil && io.cached == 0 && fs.register(io, blob, f):
		io.through++
		h.passthrough = true
	default:
		io.cached++
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	if h.passthrough {
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH, io.backing
		fs.passthroughs.Add(1)
	}
	fs.opens.Add(1)
	n.mu.opens++
	n.mu.file = h.file
	if h.writable {
		n.mu.writers++
	}
	return nil
}

// backing returns the blob that reads of h may see, nil if there is none, and
// its file to be given to the kernel, if the kernel needs it.
func (fs *fileSystem) backing(h *handle) (*blobstore.Blob, *os.File) {
	b, clean := h.file.ReadOnlyBlob()
	if !clean || b == nil || b.File() == nil {
		return nil, nil
	}
	h.node.mu.Lock()
	open := h.node.mu.io.cached > 0 || h.node.mu.io.through > 0
	h.node.mu.Unlock()
	if open {
		return b, nil
	}
	f, err := b.Shielded()
	if err != nil && !errors.Is(err, blobstore.ErrMissing) { // collected: the handle has it still
		fs.noPassthrough(err)
	}
	return b, f
}

// register gives the kernel f, the file of blob, and reports whether it took it.
func (fs *fileSystem) register(io *ioMode, blob *blobstore.Blob, f *os.File) bool {
	id, errno := fs.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(f.Fd())})
	if errno != 0 {
		fs.noPassthrough(errno)
		return false
	}
	io.backing, io.hash = id, blob.Hash()
	return true
}

// noPassthrough passes nothing through from now on.
func (fs *fileSystem) noPassthrough(why error) {
	fs.passthrough.Store(false)
	fs.log.Info("reads go through the daemon: the kernel takes no backing files", keyError, why)
}

// unbind takes back what bind counted.
func (fs *fileSystem) unbind(h *handle) {
	n := h.node
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.opens--; n.mu.opens == 0 {
		n.mu.file = nil
	}
	if h.writable {
		n.mu.writers--
	}
	io := &n.mu.io
	if !h.passthrough {
		io.cached--
		return
	}
	if io.through--; io.through == 0 {
		fs.server.UnregisterBackingFd(io.backing)
		io.backing = 0
	}
}

// lastWriter reports whether h is the only open of n that may write.
func (n *node) lastWriter(h *handle) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return h.writable && n.mu.writers == 1
}

// lastOpen reports whether one open of n is left.
func (n *node) lastOpen() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.opens == 1
}

// version returns a number that changes with what is known of n.
func (n *node) version() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.version
}

// published takes over the inode of f, which was just published, unless
// something newer came since version.
func (n *node) published(version uint64, f *writesession.File) {
	in := f.Published()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.mu.version != version:
		n.mu.fresh = false
	case newer(&in, &n.mu.inode):
		if n.mu.pending != nil {
			n.mu.pending.Apply(&in)
		}
		n.mu.inode = in
	}
}

// openFileOf opens the content of n. The caller closes it.
//
// The kernel does not wait for a RELEASE before it sends the next OPEN, so
// between reading the inode and opening it the file may have been published
// and closed: it is told of what the inode is then.
func (fs *fileSystem) openFileOf(n *node) (*writesession.File, error) {
	in, err := fs.recorded(n)
	if err != nil {
		return nil, err
	}
	f, err := fs.sessions.OpenInode(n.vol.view, in)
	if err != nil {
		return nil, err
	}
	if in, err = fs.recorded(n); err != nil {
		f.Close()
		return nil, err
	}
	f.Observe(in)
	return f, nil
}

// recorded returns the inode of n as the database has it.
func (fs *fileSystem) recorded(n *node) (pathtree.Inode, error) {
	n.mu.Lock()
	in, fresh := n.mu.inode, n.mu.fresh
	n.mu.Unlock()
	if fresh {
		return in, nil
	}
	return fs.reload(n)
}

// readFull reads until p is full or the file ends.
func readFull(ctx context.Context, f *writesession.File, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k, err := f.ReadAtContext(ctx, p[n:], off+int64(n))
		n += k
		if errors.Is(err, io.EOF) || err == nil && k == 0 {
			break
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
