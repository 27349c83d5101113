package faultdisk

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Disk is a mounted directory. Safe for concurrent use.
type Disk struct {
	server *fuse.Server

	// mu is held over each operation below, too, so that the log has them in
	// the order in which they were done.
	mu        sync.Mutex
	ids       map[uint64]int // of files that the log names, by inode number below
	last      int            // id given out last; the root has 0
	recording bool
	log       []Op
	plan      Fault
	count     int    // operations since Fail
	failed    string // the first of those that failed
}

// Fault says which operations fail.
type Fault struct {
	At    int // the first that fails, from 1; 0: none
	Errno syscall.Errno
	Stay  bool // all after it fail, too
	// Only, when it is not nil, picks those that count and may fail.
	Only func(kind Kind, path string) bool
}

// Mount shows the directory below, which must be empty, at dir.
func Mount(dir, below string) (*Disk, error) {
	loopback, err := fs.NewLoopbackRoot(below)
	if err != nil {
		return nil, err
	}
	data := loopback.(*fs.LoopbackNode).RootData
	d := &Disk{ids: map[uint64]int{}}
	root := &node{LoopbackNode: &fs.LoopbackNode{RootData: data}, d: d}
	data.RootNode = root
	var st syscall.Stat_t
	if err := syscall.Stat(below, &st); err != nil {
		return nil, err
	}
	d.ids[st.Ino] = 0
	long := time.Hour // nobody else changes anything below
	o := &fs.Options{EntryTimeout: &long, AttrTimeout: &long}
	o.MountOptions = fuse.MountOptions{FsName: "faultdisk", Name: "faultdisk", DirectMount: true, MaxWrite: 1016 << 10}
	d.server, err = fs.Mount(dir, root, o)
	return d, err
}

// Unmount ends the disk.
func (d *Disk) Unmount() error { return d.server.Unmount() }

// Fail makes operations fail from now on, as f says. It starts counting anew.
func (d *Disk) Fail(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan, d.count, d.failed = f, 0, ""
}

// Count returns how many operations there were since Fail, and which was the
// first that failed; "" when none did.
func (d *Disk) Count() (n int, failed string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count, d.failed
}

// Record starts the log, on a disk that nothing was written to yet.
func (d *Disk) Record() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recording = true
}

// Mark adds a note to the log: what the test knows at this moment.
func (d *Disk) Mark(note string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.recording {
		d.log = append(d.log, Op{Kind: Mark, Path: note})
	}
}

// Log ends recording and returns what there is.
func (d *Disk) Log() []Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recording = false
	return d.log
}

// do does an operation on path unless it is to fail, and records what record
// returns if it succeeds. When it is to fail, half, if there is one, is done
// instead.
func (d *Disk) do(kind Kind, path string, do func() syscall.Errno, record func() Op, half func()) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	errno := d.fault(kind, path)
	switch {
	case errno == 0:
		if errno = do(); errno != 0 {
			return errno
		}
	case half != nil:
		half()
	case kind == Sync:
		kind = SyncFailed
	default:
		return errno
	}
	if d.recording {
		op := record()
		op.Kind, op.Path = kind, path
		d.log = append(d.log, op)
	}
	return errno
}

// fault counts an operation and returns the error it gets. mu must be held.
func (d *Disk) fault(kind Kind, path string) syscall.Errno {
	f := &d.plan
	if f.Only != nil && !f.Only(kind, path) {
		return 0
	}
	d.count++
	if f.At == 0 || d.count < f.At || d.count > f.At && !f.Stay {
		return 0
	}
	if d.failed == "" {
		d.failed = fmt.Sprintf("%s %s: %v", kind, path, f.Errno)
	}
	return f.Errno
}

// id returns the id of the file below with this number. mu must be held.
func (d *Disk) id(ino uint64) int {
	id, ok := d.ids[ino]
	if !ok {
		return d.newID(ino)
	}
	return id
}

// newID gives a file that was just made an id: inode numbers are used again.
// mu must be held.
func (d *Disk) newID(ino uint64) int {
	d.last++
	d.ids[ino] = d.last
	return d.last
}

// node is a file or directory.
type node struct {
	*fs.LoopbackNode
	d *Disk
}

// file is an open file. It does not embed LoopbackFile, which would hand it to
// the kernel.
type file struct{ f *fs.LoopbackFile }

var _ interface {
	fs.NodeWrapChilder
	fs.NodeWriter
	fs.NodeAllocater
	fs.NodeFsyncer
	fs.NodeOpener
	fs.NodeCreater
	fs.NodeOpendirHandler
	fs.NodeCopyFileRanger
} = (*node)(nil)

func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{ops.(*fs.LoopbackNode), n.d}
}

// ino returns the number of the file below.
func (n *node) ino() uint64 {
	if n.IsRoot() {
		var st syscall.Stat_t
		_ = syscall.Stat(n.RootData.Path, &st)
		return st.Ino
	}
	return n.StableAttr().Ino
}

func (n *node) name() string             { return n.Path(n.Root()) }
func (n *node) child(name string) string { return filepath.Join(n.name(), name) }

func (f file) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return f.f.Read(ctx, p, off)
}

func (f file) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return f.f.Getattr(ctx, out)
}

func (f file) Setattr(ctx context.Context, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return f.f.Setattr(ctx, in, out)
}

func (f file) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	return f.f.Lseek(ctx, off, whence)
}

func (f file) Flush(context.Context) syscall.Errno       { return 0 }
func (f file) Release(ctx context.Context) syscall.Errno { return f.f.Release(ctx) }
