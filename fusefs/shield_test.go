package fusefs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/blobstore"
)

// careless is a file system of one file, "f", that passes every open through,
// those for writing too.
type careless struct {
	fuse.RawFileSystem
	size    uint64
	backing atomic.Int32
}

func (c *careless) attr(out *fuse.Attr) {
	*out = fuse.Attr{Ino: 2, Mode: syscall.S_IFREG | 0o666, Nlink: 1, Size: c.size}
}

func (c *careless) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name != "f" {
		return fuse.ENOENT
	}
	out.NodeId = 2
	c.attr(&out.Attr)
	return fuse.OK
}

func (c *careless) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Attr = fuse.Attr{Ino: 1, Mode: syscall.S_IFDIR | 0o755, Nlink: 2}
		return fuse.OK
	}
	c.attr(&out.Attr)
	return fuse.OK
}

func (c *careless) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH, c.backing.Load()
	return fuse.OK
}

// TestKernelRefusesWritersOfABackingFile does what ioMode never does, and what
// go-fuse's own file systems do: it gives a writer the backing file of readers.
func TestKernelRefusesWritersOfABackingFile(t *testing.T) {
	store := t.TempDir()
	c := testStore(t, store)
	main, s := testMount(t, c, Options{Bucket: "b", Branch: "main", Passthrough: true})
	needPassthrough(t, s)
	content := strings.Repeat("0123456789abcdef", 8<<10)
	write(t, filepath.Join(main, "f"), content)
	before := blobFiles(t, store)
	b, err := c.Blobs.Open(blobstore.Sum([]byte(content)), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	shielded, err := b.Shielded()
	if err != nil {
		t.Fatal(err)
	}
	defer shielded.Close()

	fs := &careless{RawFileSystem: fuse.NewDefaultRawFileSystem(), size: uint64(len(content))}
	dir := t.TempDir()
	server, err := fuse.NewServer(fs, dir, &fuse.MountOptions{DirectMountStrict: true})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	defer func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
			unmountDir(dir, true)
		}
	}()
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	id, errno := server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(shielded.Fd())})
	if errno != 0 {
		t.Fatal(errno)
	}
	fs.backing.Store(id)
	reader := open(t, filepath.Join(dir, "f"), os.O_RDONLY)
	if got := readAt(t, reader, 0, len(content)); got != content {
		t.Fatal("reads something else")
	}
	for _, flags := range []int{os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC} {
		f, err := os.OpenFile(filepath.Join(dir, "f"), flags, 0)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("opened with %#x: %v", flags, err)
		}
	}
	reader.Close()
	server.UnregisterBackingFd(id)
	for path, sum := range blobFiles(t, store) {
		if before[path] != sum {
			t.Errorf("blob %s changed", path)
		}
	}
}
