// Command loopback mounts go-fuse's own loopback file system over a directory:
// what a FUSE server in Go costs that adds nothing of its own. It is go-fuse's
// example with long time-outs, large requests and kept caches.
//
//	loopback DIR MOUNTPOINT
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
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

// node is a loopback node whose files keep the kernel's page cache.
type node struct{ fs.LoopbackNode }

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, f, errno := n.LoopbackNode.Open(ctx, flags)
	return fh, f | fuse.FOPEN_KEEP_CACHE, errno
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: loopback DIR MOUNTPOINT")
	}
	root := &fs.LoopbackRoot{Path: args[0]}
	root.NewNode = func(data *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{fs.LoopbackNode{RootData: data}}
	}
	root.RootNode = root.NewNode(root, nil, "", nil)
	long := time.Hour
	server, err := fs.Mount(args[1], root.RootNode, &fs.Options{
		EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long, NullPermissions: true,
		MountOptions: fuse.MountOptions{
			FsName: args[0], Name: "loopback", DirectMount: true, AllowOther: os.Getuid() == 0,
			MaxWrite: 1016 << 10, MaxReadAhead: 1 << 20, DisableXAttrs: false,
			Options: []string{"default_permissions"},
		},
	})
	if err != nil {
		return err
	}
	server.Wait()
	return nil
}
