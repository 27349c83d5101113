package fusefs

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// Open implements OPEN.
func (fs *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := fs.inBranch(in.NodeId)
	if err != nil {
		return status(err)
	}
	return status(fs.open(n, in.Flags, in.Mode, out))
}

// open makes a handle for n.
func (fs *fileSystem) open(n *node, flags, kill uint32, out *fuse.OpenOut) error {
	f, err := fs.openFileOf(n)
	if err != nil {
		return err
	}
	h := &handle{node: n, file: f, writable: flags&unix.O_ACCMODE != unix.O_RDONLY}
	if h.writable {
		f.JoinAttrs(n)
	}
	if flags&unix.O_TRUNC != 0 {
		err = fs.truncate(n, f, 0, kill&fuse.OPEN_KILL_SUIDGID != 0)
	}
	if err == nil {
		err = fs.bind(h, flags, out)
	}
	if err != nil {
		f.Close()
		return err
	}
	if !h.writable && flags&unix.O_TRUNC == 0 {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	out.Fh = fs.handles.add(h)
	return nil
}

// truncate sets the size of an open file.
func (fs *fileSystem) truncate(n *node, f *writesession.File, size int64, kill bool) error {
	if err := fs.killPriv(n, kill); err != nil {
		return err
	}
	return f.Truncate(size)
}

// file returns the handle of an open regular file.
func (fs *fileSystem) file(fh uint64) (*handle, error) {
	if h := fs.handles.get(fh); h != nil && h.file != nil {
		return h, nil
	}
	return nil, syscall.EBADF
}

// Read implements READ.
func (fs *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h, err := fs.file(in.Fh)
	if err != nil {
		return nil, status(err)
	}
	n, err := readFull(interrupt{cancel}, h.file, buf, int64(in.Offset))
	switch {
	case errors.Is(err, context.Canceled):
		return nil, fuse.EINTR
	case err != nil:
		fs.log.Error("read", keyInode, h.file.Ino(), keyError, err) // the program hears its number and no more
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// interrupt is the context of a request, which ends when the program that made
// it gets a signal.
type interrupt struct{ c <-chan struct{} }

func (i interrupt) Done() <-chan struct{} { return i.c }

func (i interrupt) Err() error {
	select {
	case <-i.c:
		return context.Canceled
	default:
		return nil
	}
}

func (interrupt) Deadline() (time.Time, bool) { return time.Time{}, false }
func (interrupt) Value(any) any               { return nil }

// Write implements WRITE.
func (fs *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h, err := fs.file(in.Fh)
	if err != nil {
		return 0, status(err)
	}
	if err := fs.killPriv(h.node, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0); err != nil {
		return 0, status(err)
	}
	if in.WriteFlags&fuse.WRITE_CACHE == 0 { // else the kernel writes back a mapping
		h.writers.note(in.Pid)
	}
	n, err := h.file.WriteAt(data, int64(in.Offset))
	if n > 0 {
		return uint32(n), fuse.OK
	}
	return 0, status(err)
}

// Flush implements FLUSH, which comes for every close(2) of a descriptor that
// may have written and is what reports that the content could not be published.
func (fs *fileSystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h, err := fs.file(in.Fh)
	if err != nil {
		return fuse.OK // a directory
	}
	if h.writers.inherited(in.Pid) {
		return fuse.OK
	}
	version := h.node.version()
	if err := h.file.Flush(fs.ctx); err != nil {
		return status(err)
	}
	h.node.published(version, h.file)
	return status(fs.recordAttrs(h.node))
}

// Release implements RELEASE. It publishes what was written through a mapping
// after the last close(2); nobody hears of an error then.
func (fs *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if h := fs.handles.remove(in.Fh); h != nil && h.file != nil {
		fs.release(h)
	}
}

func (fs *fileSystem) release(h *handle) {
	n := h.node
	n.releasing.Lock()
	if n.lastOpen() {
		version := n.version()
		if _, err := h.file.Publish(fs.ctx); err != nil {
			fs.log.Error("publish after close", keyInode, h.file.Ino(), keyError, err)
		} else {
			n.published(version, h.file)
		}
	}
	if n.lastWriter(h) {
		if err := fs.recordAttrs(n); err != nil {
			fs.log.Error("set attributes", keyInode, n.ino, keyError, err)
		}
	}
	fs.unbind(h)
	n.releasing.Unlock()
	if err := h.file.Close(); err != nil {
		fs.log.Error("close", keyInode, h.file.Ino(), keyError, err)
	}
}

// Fsync implements FSYNC.
func (fs *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, err := fs.file(in.Fh)
	if err != nil {
		return status(err)
	}
	if err := fs.recordAttrs(h.node); err != nil {
		return status(err)
	}
	fs.recordPending() // what was acknowledged before is never lost alone
	version := h.node.version()
	if err := h.file.Sync(fs.ctx); err != nil {
		return status(err)
	}
	h.node.published(version, h.file)
	return fuse.OK
}

// Fallocate implements FALLOCATE.
func (fs *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h, err := fs.file(in.Fh)
	if err != nil {
		return status(err)
	}
	if err := fs.killPriv(h.node, false); err != nil {
		return status(err)
	}
	return status(h.file.Allocate(in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek implements LSEEK, which is sent for SEEK_DATA and SEEK_HOLE only.
func (fs *fileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, err := fs.file(in.Fh)
	if err != nil {
		return status(err)
	}
	off, err := h.file.Seek(int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

// CopyFileRange implements COPY_FILE_RANGE.
func (fs *fileSystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	src, err := fs.file(in.FhIn)
	if err != nil {
		return 0, status(err)
	}
	dst, err := fs.file(in.FhOut)
	if err != nil {
		return 0, status(err)
	}
	if err := fs.killPriv(dst.node, true); err != nil {
		return 0, status(err)
	}
	dst.writers.note(in.Pid)
	n, err := writesession.CopyRange(dst.file, int64(in.OffOut), src.file, int64(in.OffIn), int64(min(in.Len, 1<<31)))
	if n > 0 {
		return uint32(n), fuse.OK
	}
	return 0, status(err)
}

// Ioctl implements IOCTL: there are none.
func (fs *fileSystem) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}

// StatFs implements STATFS with the numbers of the disk the store is on or,
// where that is less, those of the bucket's quota.
func (fs *fileSystem) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st syscall.Statfs_t
	if err := syscall.Statfs(fs.db.Dir(), &st); err != nil {
		return status(err)
	}
	out.FromStatfsT(&st)
	out.NameLen = 255
	n, err := fs.node(in.NodeId)
	if err != nil || n.vol == nil {
		return fuse.OK // above the branches
	}
	err = fs.db.Read(func(tx *schema.Tx) error {
		q, ok, err := fs.tree.Quota(tx, n.vol.view.Bucket().ID)
		if ok {
			q.Disk(int64(out.Bsize), &out.Blocks, &out.Bfree, &out.Bavail, &out.Files, &out.Ffree)
		}
		return err
	})
	if err != nil {
		return status(err)
	}
	return fuse.OK
}
