package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs"
)

func (a *app) umountCommand() *cobra.Command {
	var lazy bool
	c := &cobra.Command{
		Use:     "umount DIR...",
		Aliases: []string{"unmount"},
		Short:   "End a mount, and wait until everything in it is published",
		Long: `Ends the mount at DIR and returns when its process has published and committed
everything and is gone. While programs use the mount (an open file, a working
directory) it is refused; --lazy takes it away all the same.`,
		Example: `  alkfs umount ./workspace
  alkfs umount --lazy ./stuck`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, dir := range args {
				if err := a.umount(cmd.Context(), dir, lazy); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&lazy, "lazy", false, "also while it is in use: programs in it get errors from then on")
	return c
}

func (a *app) umount(ctx context.Context, dir string, lazy bool) error {
	at, err := mountPoint(dir)
	if err != nil {
		return err
	}
	m, ours, err := mountAt(at)
	if err != nil {
		return err
	}
	if !ours {
		return withHint(fmt.Errorf("%s is not an alkfs mount (%w)", quote(dir), fs.ErrNotExist), "`%s mount` lists the mounts of a store", self())
	}
	if err := unmount(at, lazy); err != nil {
		if errors.Is(err, syscall.EBUSY) {
			return withHint(fmt.Errorf("%s is in use (%w)", quote(dir), syscall.EBUSY), "leave it and close what is open there (`fuser -vm %s` lists who), or say --lazy", shellWord(dir))
		}
		return fmt.Errorf("unmount %s: %w", quote(dir), err)
	}
	store := strings.TrimPrefix(m.source, "alkfs:")
	if store == m.source { // mounted by other means than ours
		if store, err = a.storePath(); err != nil {
			return nil
		}
	}
	return awaitRecord(ctx, recordPath(store, at))
}

// unmount undoes the mount at dir, as root or with fusermount3. A mount that is
// only busy because its last file was just closed (the kernel tells the server
// without waiting) is tried again for a moment.
func unmount(dir string, lazy bool) error {
	flags := 0
	args := []string{"-u", "--", dir}
	if lazy {
		flags = unix.MNT_DETACH
		args = []string{"-u", "-z", "--", dir}
	}
	var err error
	for range 10 {
		if err = unix.Unmount(dir, flags); errors.Is(err, syscall.EPERM) {
			err = fusermount(args...)
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// retryUnmount tries again while the mount is in use, until it worked or gone is
// closed; the channel it returns is closed then.
func retryUnmount(m *alkfs.Mount, gone <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-gone:
				return
			case <-time.After(200 * time.Millisecond):
			}
			if !errors.Is(m.Unmount(), syscall.EBUSY) {
				return
			}
		}
	}()
	return done
}
