package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs"
)

// mountFlags are the flags of mount.
type mountFlags struct {
	at                                string
	readOnly, allowOther, passthrough bool
	branches, all, background, debug  bool
	uid, gid                          int64
	umask                             string
}

func (a *app) mountCommand() *cobra.Command {
	f := mountFlags{uid: -1, gid: -1}
	c := &cobra.Command{
		Use:   "mount [SPEC] DIR",
		Short: "Show a branch as a directory",
		Long: `Shows a branch (default/main when no SPEC is given) at DIR, which is made if it
is missing, and serves it until Ctrl-C, or with --background until "alkfs umount
DIR". Without arguments it lists the mounts of the store.

What a program writes is seen by others when it closes the file. With --at, or
--read-only, the mount refuses changes.`,
		Example: `  alkfs mount ./workspace
  alkfs mount /experiment ./try --background
  alkfs mount --at "10m ago" ./before
  alkfs mount --branches work ./all-of-work`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listMounts()
			}
			spec := ""
			if len(args) == 2 {
				spec = args[0]
			}
			return a.mount(cmd.Context(), spec, args[len(args)-1], f)
		},
		ValidArgsFunction: a.completeThen(1, a.completeBranches),
	}
	flags := c.Flags()
	atFlag(c, &f.at, "show the branch as it was, read-only")
	flags.BoolVar(&f.readOnly, "read-only", false, "refuse changes")
	flags.BoolVar(&f.allowOther, "allow-other", false, "let other users in, as far as file permissions do")
	flags.BoolVar(&f.passthrough, "passthrough", false, "let the kernel read large files itself on a writable mount too; a file that is open then keeps showing what it was when opened")
	flags.BoolVar(&f.branches, "branches", false, "show a directory for each branch of the bucket")
	flags.BoolVar(&f.all, "all", false, "show BUCKET/BRANCH/… of the whole store")
	flags.BoolVar(&f.background, "background", false, "return when the mount works, and serve it until umount")
	flags.Int64Var(&f.uid, "uid", -1, "show this user as the owner of everything")
	flags.Int64Var(&f.gid, "gid", -1, "show this group as the group of everything")
	flags.StringVar(&f.umask, "umask", "", "permission bits never to show, in octal")
	flags.BoolVar(&f.debug, "debug", false, "log every request of the kernel (with --verbose)")
	return c
}

func (f mountFlags) options() (alkfs.MountOptions, error) {
	o := alkfs.MountOptions{ReadOnly: f.readOnly, AllowOther: f.allowOther, Passthrough: f.passthrough, Debug: f.debug}
	switch {
	case f.branches && f.all:
		return o, usagef("--branches and --all exclude each other")
	case f.branches:
		o.Scope = alkfs.ScopeBucket
	case f.all:
		o.Scope = alkfs.ScopeStore
	}
	if f.uid > 1<<32-2 || f.gid > 1<<32-2 {
		return o, usagef("--uid and --gid are numbers below 2^32-1")
	}
	if f.uid >= 0 {
		o.UID = new(uint32(f.uid))
	}
	if f.gid >= 0 {
		o.GID = new(uint32(f.gid))
	}
	if f.umask != "" {
		n, err := strconv.ParseUint(f.umask, 8, 32)
		if err != nil || n > 0o777 {
			return o, usagef("--umask %q: an octal number up to 777, such as 022", f.umask)
		}
		o.Umask = new(uint32(n))
	}
	return o, nil
}

func (a *app) mount(ctx context.Context, arg, dir string, f mountFlags) error {
	spec, err := parseSpec(arg, f.at)
	if err != nil {
		return err
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	store, err := a.storePath()
	if err != nil {
		return err
	}
	if f.background && !isChild() {
		return a.mountInBackground(ctx, store, spec, dir)
	}
	lateTimers(ctx)
	err = a.serveMount(ctx, store, spec, dir, o)
	if isChild() && err != nil {
		tellParent(a.report(err))
	}
	return err
}

// serveMount mounts, says what to try, and serves until the end.
func (a *app) serveMount(ctx context.Context, store string, spec alkfs.Spec, dir string, o alkfs.MountOptions) error {
	at, err := a.prepareMountPoint(dir, store)
	if err != nil {
		return err
	}
	how := making
	if o.ReadOnly || spec.At != "" {
		how = reading
	}
	a.serving = true
	s, err := a.open(ctx, how)
	if err != nil {
		return err
	}
	shown := mountTitle(spec, o.Scope)
	record, err := writeRecord(store, mountRecord{Dir: at, Spec: shown})
	if how == reading && (errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES)) {
		err = nil // umount does without: there is nothing to publish
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = withHint(fmt.Errorf("%s is being served by another alkfs already: %w", quote(dir), syscall.EBUSY), "`%s umount %s` ends that", self(), shellWord(dir))
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if record != nil {
		defer dropRecord(record)
	}
	o.Name = storeSource(store)
	m, err := s.Mount(context.WithoutCancel(ctx), spec, at, o)
	if err != nil {
		return errors.Join(mountHint(err), s.Close())
	}
	stop := a.upkeepIn(ctx, s)
	if isChild() {
		tellParent(mountReport{OK: true, PID: os.Getpid()})
	} else {
		a.welcome(dir, shown, spec, o)
	}
	err = a.serve(ctx, m, dir)
	stop()
	return errors.Join(err, s.Close())
}

// serve returns when the mount is gone. An interrupt unmounts; while programs
// still use the mount, a second one detaches it from under them.
func (a *app) serve(ctx context.Context, m *alkfs.Mount, dir string) error {
	gone := make(chan struct{})
	go func() {
		m.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	err := m.Unmount()
	if errors.Is(err, syscall.EBUSY) && !isChild() {
		a.note("%s is still in use by some program; it goes away when that ends. Ctrl-C again takes it away now.", quote(dir))
		select {
		case <-gone:
			return nil
		case <-again:
		case <-retryUnmount(m, gone):
			return nil
		}
	}
	if err != nil {
		err = detach(m.Dir())
	}
	if err != nil {
		return err
	}
	return nil
}

// welcome prints what to do with a mount.
func (a *app) welcome(dir, shown string, spec alkfs.Spec, o alkfs.MountOptions) {
	if a.json {
		_ = a.emit("dir", dir, "spec", shown, "pid", os.Getpid(), "read_only", o.ReadOnly || spec.At != "")
		_ = a.out.Flush()
		return
	}
	a.printf("%s is at %s. Ctrl-C here, or `%s umount %s`, ends it.\n", shown, quote(dir), self(), shellWord(dir))
	if !o.ReadOnly && spec.At == "" && o.Scope == alkfs.ScopeBranch {
		a.printf("\nTry, in another terminal:\n%s", a.suggestions(dir, spec))
	}
	_ = a.out.Flush()
}

// suggestions are commands to try with a mount of spec at dir.
func (a *app) suggestions(dir string, spec alkfs.Spec) string {
	me, from := a.selfWithStore(), ""
	here, try := strings.TrimPrefix(spec.String(), alkfs.DefaultBucket+"/"), "try"
	if bucket, _, other := strings.Cut(here, "/"); other {
		try = bucket + "/try"
	}
	if here != alkfs.DefaultBranch {
		from = " --from " + here
	}
	tryPath := try
	if try == "try" {
		tryPath = "/try"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, line := range [][2]string{
		{"cd " + shellWord(dir), "work in it with any program"},
		{me + " branch create " + try + from, "a copy of everything, at once"},
		{me + " mount " + tryPath + " ./try", "work in both, side by side"},
		{me + " diff " + try, "what was changed there"},
		{me + " merge " + try + " " + here, "bring it back"},
		{me + " --help", "everything else"},
	} {
		fmt.Fprintf(w, "  %s\t%s\n", line[0], line[1])
	}
	w.Flush()
	return b.String()
}

func mountTitle(spec alkfs.Spec, scope alkfs.Scope) string {
	switch scope {
	case alkfs.ScopeStore:
		return "the whole store"
	case alkfs.ScopeBucket:
		if spec.Bucket == "" {
			return "bucket " + alkfs.DefaultBucket
		}
		return "bucket " + spec.Bucket
	}
	title := spec.String()
	if spec.At != "" {
		title += " at " + spec.At
	}
	return title
}

// prepareMountPoint makes dir if it is missing, takes away a dead mount of ours,
// and returns the directory as the kernel names it.
func (a *app) prepareMountPoint(dir, store string) (string, error) {
	at, err := mountPoint(dir)
	if err != nil {
		return "", err
	}
	_, ours, err := mountAt(at)
	if err != nil {
		return "", err
	}
	if ours {
		if _, err := os.Stat(at); !errors.Is(err, syscall.ENOTCONN) {
			return "", withHint(fmt.Errorf("%s is an alkfs mount already: %w", quote(dir), syscall.EBUSY), "`%s umount %s` ends it", self(), shellWord(dir))
		}
		if err := detach(at); err != nil {
			return "", err
		}
		a.note("%s was left mounted by a process that died; its mount was taken away", quote(dir))
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", fmt.Errorf("make the directory to mount at: %w", err)
	}
	if at, err = mountPoint(at); err != nil {
		return "", err
	}
	realStore, err := filepath.EvalSymlinks(store)
	if err != nil {
		realStore = store
	}
	if realStore == at || strings.HasPrefix(realStore+"/", strings.TrimSuffix(at, "/")+"/") {
		return "", usagef("%s holds the store itself (%s): mount somewhere else", quote(dir), quote(store))
	}
	if list, err := os.ReadDir(at); err == nil && len(list) > 0 {
		a.note("note: what was in %s is hidden while it is mounted", quote(dir))
	}
	return at, nil
}

func mountHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), "/dev/fuse"):
		return withHint(err, "load the fuse module (`modprobe fuse`); in a container, pass --device /dev/fuse --cap-add SYS_ADMIN")
	case strings.Contains(err.Error(), "fusermount"):
		return withHint(err, "an ordinary user needs fusermount3 (Debian package fuse3), and user_allow_other in /etc/fuse.conf for --allow-other")
	case errors.Is(err, syscall.EPERM):
		return withHint(err, "mounting needs root, or fusermount3 (Debian package fuse3)")
	}
	return err
}

// detach takes a mount away from under the programs that use it.
func detach(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err == nil || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return fusermount("-u", "-z", "--", dir)
}

func (a *app) listMounts() error {
	store, err := a.storePath()
	if err != nil {
		return err
	}
	live, err := liveRecords(store)
	if err != nil {
		return err
	}
	for _, r := range live {
		if a.json {
			err = errors.Join(err, a.emit("dir", r.Dir, "spec", r.Spec, "pid", r.PID, "started", jsonTime(r.Started)))
			continue
		}
		a.printf("%s at %s, process %d since %s\n", r.Spec, quote(r.Dir), r.PID, humanTime(r.Started))
	}
	if len(live) == 0 && !a.json {
		a.note("nothing of this store is mounted; `%s mount DIR` mounts default/main", self())
	}
	return err
}

// self is how this program was called.
func self() string {
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "/go-build") {
		return "go run ./cmd/alkfs"
	}
	return "alkfs"
}

// selfWithStore is self with the store, if that is not the usual one.
func (a *app) selfWithStore() string {
	if a.storeDir == "" {
		return self()
	}
	return self() + " --store " + shellWord(a.storeDir)
}
