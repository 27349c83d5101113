package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/latency"
)

// Operations that are counted: all but FORGET, and those that never come.
const (
	opLookup = iota
	opGetAttr
	opSetAttr
	opMknod
	opMkdir
	opUnlink
	opRmdir
	opRename
	opLink
	opSymlink
	opReadlink
	opGetXAttr
	opListXAttr
	opSetXAttr
	opRemoveXAttr
	opCreate
	opTmpfile
	opOpen
	opRead
	opLseek
	opGetLk
	opSetLk
	opSetLkw
	opRelease
	opWrite
	opCopyFileRange
	opIoctl
	opFlush
	opFsync
	opFallocate
	opOpenDir
	opReadDir
	opReadDirPlus
	opReleaseDir
	opFsyncDir
	opStatFs
)

var opNames = []string{
	opLookup:        "lookup",
	opGetAttr:       "getattr",
	opSetAttr:       "setattr",
	opMknod:         "mknod",
	opMkdir:         "mkdir",
	opUnlink:        "unlink",
	opRmdir:         "rmdir",
	opRename:        "rename",
	opLink:          "link",
	opSymlink:       "symlink",
	opReadlink:      "readlink",
	opGetXAttr:      "getxattr",
	opListXAttr:     "listxattr",
	opSetXAttr:      "setxattr",
	opRemoveXAttr:   "removexattr",
	opCreate:        "create",
	opTmpfile:       "tmpfile",
	opOpen:          "open",
	opRead:          "read",
	opLseek:         "lseek",
	opGetLk:         "getlk",
	opSetLk:         "setlk",
	opSetLkw:        "setlkw",
	opRelease:       "release",
	opWrite:         "write",
	opCopyFileRange: "copyfilerange",
	opIoctl:         "ioctl",
	opFlush:         "flush",
	opFsync:         "fsync",
	opFallocate:     "fallocate",
	opOpenDir:       "opendir",
	opReadDir:       "readdir",
	opReadDirPlus:   "readdirplus",
	opReleaseDir:    "releasedir",
	opFsyncDir:      "fsyncdir",
	opStatFs:        "statfs",
}

// metered is the file system with its operations counted. There is no place in
// go-fuse that sees every request begin and end.
type metered struct {
	*fileSystem
	ops *latency.Set
}

func (m *metered) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer m.ops.Done(opLookup, latency.Now())
	return m.fileSystem.Lookup(cancel, header, name, out)
}

func (m *metered) GetAttr(cancel <-chan struct{}, input *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer m.ops.Done(opGetAttr, latency.Now())
	return m.fileSystem.GetAttr(cancel, input, out)
}

func (m *metered) SetAttr(cancel <-chan struct{}, input *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer m.ops.Done(opSetAttr, latency.Now())
	return m.fileSystem.SetAttr(cancel, input, out)
}

func (m *metered) Mknod(cancel <-chan struct{}, input *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.ops.Done(opMknod, latency.Now())
	return m.fileSystem.Mknod(cancel, input, name, out)
}

func (m *metered) Mkdir(cancel <-chan struct{}, input *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.ops.Done(opMkdir, latency.Now())
	return m.fileSystem.Mkdir(cancel, input, name, out)
}

func (m *metered) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	defer m.ops.Done(opUnlink, latency.Now())
	return m.fileSystem.Unlink(cancel, header, name)
}

func (m *metered) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	defer m.ops.Done(opRmdir, latency.Now())
	return m.fileSystem.Rmdir(cancel, header, name)
}

func (m *metered) Rename(cancel <-chan struct{}, input *fuse.RenameIn, oldName string, newName string) fuse.Status {
	defer m.ops.Done(opRename, latency.Now())
	return m.fileSystem.Rename(cancel, input, oldName, newName)
}

func (m *metered) Link(cancel <-chan struct{}, input *fuse.LinkIn, filename string, out *fuse.EntryOut) fuse.Status {
	defer m.ops.Done(opLink, latency.Now())
	return m.fileSystem.Link(cancel, input, filename, out)
}

func (m *metered) Symlink(cancel <-chan struct{}, header *fuse.InHeader, pointedTo string, linkName string, out *fuse.EntryOut) fuse.Status {
	defer m.ops.Done(opSymlink, latency.Now())
	return m.fileSystem.Symlink(cancel, header, pointedTo, linkName, out)
}

func (m *metered) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	defer m.ops.Done(opReadlink, latency.Now())
	return m.fileSystem.Readlink(cancel, header)
}

func (m *metered) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	defer m.ops.Done(opGetXAttr, latency.Now())
	return m.fileSystem.GetXAttr(cancel, header, attr, dest)
}

func (m *metered) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	defer m.ops.Done(opListXAttr, latency.Now())
	return m.fileSystem.ListXAttr(cancel, header, dest)
}

func (m *metered) SetXAttr(cancel <-chan struct{}, input *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	defer m.ops.Done(opSetXAttr, latency.Now())
	return m.fileSystem.SetXAttr(cancel, input, attr, data)
}

func (m *metered) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	defer m.ops.Done(opRemoveXAttr, latency.Now())
	return m.fileSystem.RemoveXAttr(cancel, header, attr)
}

func (m *metered) Create(cancel <-chan struct{}, input *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer m.ops.Done(opCreate, latency.Now())
	return m.fileSystem.Create(cancel, input, name, out)
}

func (m *metered) Tmpfile(cancel <-chan struct{}, input *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	defer m.ops.Done(opTmpfile, latency.Now())
	return m.fileSystem.Tmpfile(cancel, input, out)
}

func (m *metered) Open(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer m.ops.Done(opOpen, latency.Now())
	return m.fileSystem.Open(cancel, input, out)
}

func (m *metered) Read(cancel <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer m.ops.Done(opRead, latency.Now())
	return m.fileSystem.Read(cancel, input, buf)
}

func (m *metered) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	defer m.ops.Done(opLseek, latency.Now())
	return m.fileSystem.Lseek(cancel, in, out)
}

func (m *metered) GetLk(cancel <-chan struct{}, input *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	defer m.ops.Done(opGetLk, latency.Now())
	return m.fileSystem.GetLk(cancel, input, out)
}

func (m *metered) SetLk(cancel <-chan struct{}, input *fuse.LkIn) fuse.Status {
	defer m.ops.Done(opSetLk, latency.Now())
	return m.fileSystem.SetLk(cancel, input)
}

func (m *metered) SetLkw(cancel <-chan struct{}, input *fuse.LkIn) fuse.Status {
	defer m.ops.Waited(opSetLkw, latency.Now())
	return m.fileSystem.SetLkw(cancel, input)
}

func (m *metered) Release(cancel <-chan struct{}, input *fuse.ReleaseIn) {
	defer m.ops.Done(opRelease, latency.Now())
	m.fileSystem.Release(cancel, input)
}

func (m *metered) Write(cancel <-chan struct{}, input *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	defer m.ops.Done(opWrite, latency.Now())
	return m.fileSystem.Write(cancel, input, data)
}

func (m *metered) CopyFileRange(cancel <-chan struct{}, input *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	defer m.ops.Done(opCopyFileRange, latency.Now())
	return m.fileSystem.CopyFileRange(cancel, input)
}

func (m *metered) Ioctl(cancel <-chan struct{}, input *fuse.IoctlIn, inbuf []byte, output *fuse.IoctlOut, outbuf []byte) fuse.Status {
	defer m.ops.Done(opIoctl, latency.Now())
	return m.fileSystem.Ioctl(cancel, input, inbuf, output, outbuf)
}

func (m *metered) Flush(cancel <-chan struct{}, input *fuse.FlushIn) fuse.Status {
	defer m.ops.Done(opFlush, latency.Now())
	return m.fileSystem.Flush(cancel, input)
}

func (m *metered) Fsync(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	defer m.ops.Done(opFsync, latency.Now())
	return m.fileSystem.Fsync(cancel, input)
}

func (m *metered) Fallocate(cancel <-chan struct{}, input *fuse.FallocateIn) fuse.Status {
	defer m.ops.Done(opFallocate, latency.Now())
	return m.fileSystem.Fallocate(cancel, input)
}

func (m *metered) OpenDir(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer m.ops.Done(opOpenDir, latency.Now())
	return m.fileSystem.OpenDir(cancel, input, out)
}

func (m *metered) ReadDir(cancel <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer m.ops.Done(opReadDir, latency.Now())
	return m.fileSystem.ReadDir(cancel, input, out)
}

func (m *metered) ReadDirPlus(cancel <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer m.ops.Done(opReadDirPlus, latency.Now())
	return m.fileSystem.ReadDirPlus(cancel, input, out)
}

func (m *metered) ReleaseDir(input *fuse.ReleaseIn) {
	defer m.ops.Done(opReleaseDir, latency.Now())
	m.fileSystem.ReleaseDir(input)
}

func (m *metered) FsyncDir(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	defer m.ops.Done(opFsyncDir, latency.Now())
	return m.fileSystem.FsyncDir(cancel, input)
}

func (m *metered) StatFs(cancel <-chan struct{}, input *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer m.ops.Done(opStatFs, latency.Now())
	return m.fileSystem.StatFs(cancel, input, out)
}
