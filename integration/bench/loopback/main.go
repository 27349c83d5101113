// Command loopback mounts go-fuse's own loopback file system over a directory:
// what a FUSE server in Go costs that adds nothing of its own. It is go-fuse's
// example with long time-outs, large requests and kept caches.
//
//	loopback DIR MOUNTPOINT
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
}

// keepCache lets the kernel keep the pages of a file from one open to the next,
// where go-fuse does not hand the file itself to the kernel (passthrough).
type keepCache struct{ fuse.RawFileSystem }

func (k keepCache) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s := k.RawFileSystem.Open(cancel, in, out)
	if out.OpenFlags&fuse.FOPEN_PASSTHROUGH == 0 { // these two exclude each other
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	return s
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: loopback DIR MOUNTPOINT")
	}
	root, err := fs.NewLoopbackRoot(args[0])
	if err != nil {
		return err
	}
	long := time.Hour
	raw := fs.NewNodeFS(root, &fs.Options{EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long, NullPermissions: true})
	server, err := fuse.NewServer(keepCache{raw}, args[1], &fuse.MountOptions{
		FsName: args[0], Name: "loopback", DirectMount: true, AllowOther: os.Getuid() == 0,
		MaxWrite: 1016 << 10, MaxReadAhead: 1 << 20,
		Options: []string{"default_permissions"},
	})
	if err != nil {
		return err
	}
	server.Serve()
	return nil
}
