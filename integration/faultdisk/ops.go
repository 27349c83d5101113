package faultdisk

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Kind is what an operation does.
type Kind string

// The kinds of operations.
const (
	Write      Kind = "write"    // Data at Off
	Truncate   Kind = "truncate" // to N bytes
	Allocate   Kind = "allocate" // N bytes at Off, which may make the file longer; 0: it does not
	Punch      Kind = "punch"    // N bytes at Off become zero
	Make       Kind = "make"     // a new file or directory: Name in Dir is File
	Link       Kind = "link"     // as Make, for a file that there is
	Remove     Kind = "remove"   // Name in Dir
	Rename     Kind = "rename"   // Name in Dir becomes ToName in ToDir; both name File
	Sync       Kind = "sync"     // of a file or a directory
	SyncFailed Kind = "sync failed"
	Mark       Kind = "mark" // Path is a note of the test's
)

// Op is one operation. Dir, ToDir and File are ids that last as long as the log;
// the root is 0.
type Op struct {
	Kind         Kind
	Path         string // at that moment, of the file or of what is in Dir
	File         int
	IsDir        bool
	Off, N       int64
	Data         []byte
	Dir, ToDir   int
	Name, ToName string
}

func (n *node) Write(ctx context.Context, fh fs.FileHandle, p []byte, off int64) (written uint32, errno syscall.Errno) {
	f := fh.(file).f
	errno = n.d.do(Write, n.name(), func() (errno syscall.Errno) {
		written, errno = f.Write(ctx, p, off)
		return errno
	}, func() Op {
		return Op{File: n.d.id(n.ino()), Off: off, Data: append([]byte(nil), p[:written]...)}
	}, func() {
		written, _ = f.Write(ctx, p[:len(p)/2], off)
	})
	return written, errno
}

func (n *node) Allocate(ctx context.Context, fh fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	kind, n64 := Allocate, int64(size)
	switch {
	case mode&unix.FALLOC_FL_PUNCH_HOLE != 0:
		kind = Punch
	case mode&unix.FALLOC_FL_KEEP_SIZE != 0:
		n64 = 0
	}
	return n.d.do(kind, n.name(), func() syscall.Errno {
		return fh.(file).f.Allocate(ctx, off, size, mode)
	}, func() Op {
		return Op{File: n.d.id(n.ino()), Off: int64(off), N: n64}
	}, nil)
}

func (n *node) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	set := func() syscall.Errno { return n.LoopbackNode.Setattr(ctx, fh, in, out) }
	size, ok := in.GetSize()
	if !ok {
		return set()
	}
	return n.d.do(Truncate, n.name(), set, func() Op { return Op{File: n.d.id(n.ino()), N: int64(size)} }, nil)
}

func (n *node) Fsync(ctx context.Context, fh fs.FileHandle, flags uint32) syscall.Errno {
	return n.d.do(Sync, n.name(), func() syscall.Errno { return 0 }, func() Op {
		return Op{File: n.d.id(n.ino()), IsDir: n.IsDir()}
	}, nil)
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	var fh fs.FileHandle
	open := func() (errno syscall.Errno) {
		fh, _, errno = n.LoopbackNode.Open(ctx, flags)
		return errno
	}
	var errno syscall.Errno
	if flags&syscall.O_TRUNC != 0 {
		errno = n.d.do(Truncate, n.name(), open, func() Op { return Op{File: n.d.id(n.ino())} }, nil)
	} else {
		errno = open()
	}
	if errno != 0 {
		return nil, 0, errno
	}
	return file{fh.(*fs.LoopbackFile)}, fuse.FOPEN_KEEP_CACHE, 0
}

// OpendirHandle leaves fsync of a directory to Fsync.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, fuseFlags, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return struct {
		fs.FileReaddirenter
		fs.FileSeekdirer
		fs.FileReleasedirer
	}{fh.(fs.FileReaddirenter), fh.(fs.FileSeekdirer), fh.(fs.FileReleasedirer)}, fuseFlags, 0
}

// CopyFileRange makes the kernel read and write.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.EOPNOTSUPP
}

// made is the record of a new name in n.
func (n *node) made(name string, ch **fs.Inode, isDir bool) func() Op {
	return func() Op {
		return Op{Dir: n.d.id(n.ino()), Name: name, File: n.d.newID((*ch).StableAttr().Ino), IsDir: isDir}
	}
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (ch *fs.Inode, fh fs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	errno = n.d.do(Make, n.child(name), func() (errno syscall.Errno) {
		ch, fh, _, errno = n.LoopbackNode.Create(ctx, name, flags, mode, out)
		return errno
	}, n.made(name, &ch, false), nil)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return ch, file{fh.(*fs.LoopbackFile)}, fuse.FOPEN_KEEP_CACHE, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (ch *fs.Inode, errno syscall.Errno) {
	errno = n.d.do(Make, n.child(name), func() (errno syscall.Errno) {
		ch, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return errno
	}, n.made(name, &ch, true), nil)
	return ch, errno
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (ch *fs.Inode, errno syscall.Errno) {
	errno = n.d.do(Link, n.child(name), func() (errno syscall.Errno) {
		ch, errno = n.LoopbackNode.Link(ctx, target, name, out)
		return errno
	}, func() Op {
		return Op{Dir: n.d.id(n.ino()), Name: name, File: n.d.id(ch.StableAttr().Ino)}
	}, nil)
	return ch, errno
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.d.do(Remove, n.child(name), func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) }, func() Op {
		return Op{Dir: n.d.id(n.ino()), Name: name}
	}, nil)
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.d.do(Remove, n.child(name), func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) }, func() Op {
		return Op{Dir: n.d.id(n.ino()), Name: name, IsDir: true}
	}, nil)
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, toName string, flags uint32) syscall.Errno {
	return n.d.do(Rename, n.child(name), func() syscall.Errno {
		return n.LoopbackNode.Rename(ctx, name, to, toName, flags)
	}, func() Op {
		var st syscall.Stat_t
		dir := to.(*node)
		_ = syscall.Lstat(dir.RootData.Path+"/"+dir.child(toName), &st)
		return Op{Dir: n.d.id(n.ino()), Name: name, ToDir: n.d.id(dir.ino()), ToName: toName, File: n.d.id(st.Ino)}
	}, nil)
}
