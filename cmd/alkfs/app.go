package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/alkdev/alkfs"
)

// app is one run of the command line.
type app struct {
	ctx context.Context // ends at an interrupt; also given to each command
	in  io.Reader
	out *bufio.Writer
	raw io.Writer // what is below out
	err io.Writer

	storeDir string // --store
	json     bool
	verbose  bool
	logLevel string // --log-level
	slow     string // --slow

	shared *alkfs.Store // the only store there is, of a server

	serving bool   // this process goes on serving after it opened the store
	follows bool   // an interrupt is how this command ends, as when serving
	started bool   // arguments are understood
	command string // path of the command that runs, for hints
}

func newApp(in io.Reader, out, errw io.Writer) *app {
	a := &app{ctx: context.Background(), in: in, err: errw}
	a.raw = out
	a.out = bufio.NewWriterSize(interruptible{a, out}, 64<<10)
	return a
}

// interruptible is standard output: it takes no more after an interrupt, unless
// that is how the command ends.
type interruptible struct {
	a *app
	w io.Writer
}

func (i interruptible) Write(p []byte) (int, error) {
	if err := i.a.ctx.Err(); err != nil && !i.a.follows && !i.a.serving {
		return 0, err
	}
	return i.w.Write(p)
}

// input is standard input; an interrupt ends a Read that waits for more.
func (a *app) input() io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(a.ctx, func() { w.CloseWithError(a.ctx.Err()) })
	go func() {
		_, err := io.Copy(w, a.in)
		w.CloseWithError(err)
	}()
	return r
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "alkfs",
		Short: "A mountable, branchable, content-addressed file system",
		Long: `alkfs keeps many cheap, isolated, mergeable copies of a workspace in one store.

A SPEC names what a command works on: BUCKET[/BRANCH][:PATH], where what is left
out means the bucket "default", its branch "main", and the root. --at TIME or
--at SNAPSHOT shows it as it was. More: alkfs help specs, alkfs help json,
alkfs help exit-status.`,
		Example: `  alkfs mount ./workspace          # a drive, made if it is missing
  alkfs branch create experiment   # a full copy of it in a millisecond
  alkfs mount /experiment ./try    # work in both side by side
  alkfs diff experiment            # what was changed there
  alkfs merge experiment main      # bring it back`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	flags := root.PersistentFlags()
	flags.StringVar(&a.storeDir, "store", "", "directory of the store (default $ALKFS_STORE, then $XDG_DATA_HOME/alkfs, then ~/.local/share/alkfs)")
	flags.BoolVar(&a.json, "json", false, "print JSON: lists as one object a line (see alkfs help json)")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "log what happens inside to standard error")
	flags.StringVar(&a.logLevel, "log-level", "", `log from this level on, also by package: "info,fusefs=debug,sftpsrv=warn" (default $ALKFS_LOG)`)
	flags.StringVar(&a.slow, "slow", "", `log operations that take longer; "off" for none (default $ALKFS_SLOW, then 1s)`)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.command = cmd.CommandPath()
		return err
	})
	root.AddGroup(
		&cobra.Group{ID: "mount", Title: "Drives:"},
		&cobra.Group{ID: "files", Title: "Files:"},
		&cobra.Group{ID: "branches", Title: "Branches and history:"},
		&cobra.Group{ID: "sync", Title: "Other machines:"},
		&cobra.Group{ID: "store", Title: "The store:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"mount":    {a.mountCommand(), a.umountCommand(), a.serveCommand()},
		"files":    {a.lsCommand(), a.treeCommand(), a.catCommand(), a.statCommand(), a.putCommand(), a.getCommand(), a.rmCommand(), a.mvCommand(), a.cpCommand(), a.mkdirCommand(), a.exportCommand(), a.importCommand()},
		"branches": {a.bucketCommand(), a.branchCommand(), a.snapshotCommand(), a.logCommand(), a.diffCommand(), a.mergeCommand(), a.restoreCommand(), a.watchCommand()},
		"sync":     {a.shareCommand(), a.joinCommand(), a.peerCommand(), a.syncCommand(), a.pinCommand(), a.unpinCommand(), a.whereCommand(), a.conflictsCommand()},
		"store":    {a.initCommand(), a.userCommand(), a.sessionsCommand(), a.jobsCommand(), a.lockCommand(), a.queueCommand(), a.gcCommand(), a.fsckCommand(), a.backupCommand(), a.restoreStoreCommand(), a.dfCommand(), a.statsCommand(), a.debugCommand(), a.versionCommand()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(helpTopics()...)
	a.markStart(root)
	return root
}

// markStart makes each command below c note that its arguments were understood:
// errors before that are about the command line.
func (a *app) markStart(c *cobra.Command) {
	if do := c.RunE; do != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			a.started, a.command = true, cmd.CommandPath()
			return do(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		a.markStart(sub)
	}
}

// group is a command that only has subcommands.
func group(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%s has no command %q", cmd.CommandPath(), args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(subs...)
	return c
}

// storePath returns where the store is.
func (a *app) storePath() (string, error) {
	if a.storeDir != "" {
		return filepath.Abs(a.storeDir)
	}
	if dir := os.Getenv("ALKFS_STORE"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "alkfs"), nil
	}
	home := os.Getenv("HOME")
	if home == "" {
		return "", usagef("neither HOME nor XDG_DATA_HOME is set, so there is no usual place for the store: name one with --store DIR or ALKFS_STORE")
	}
	return filepath.Join(home, ".local/share/alkfs"), nil
}

// How a command opens the store.
type access int

const (
	reading access = iota // a store that exists, also one that cannot be written to
	writing               // a store that exists
	making                // made when it is missing
)

func (a *app) open(ctx context.Context, how access) (*alkfs.Store, error) {
	if a.shared != nil {
		if a.storeDir != "" {
			return nil, usagef("--store is not for users of a server")
		}
		return a.shared, nil
	}
	dir, err := a.storePath()
	if err != nil {
		return nil, err
	}
	o, err := a.options(slog.LevelWarn)
	if err != nil {
		return nil, err
	}
	o.MustExist = how != making
	if how == reading && alkfs.Exists(dir) && unix.Access(dir, unix.W_OK) != nil {
		o.ReadOnly = true
	}
	s, err := alkfs.Open(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	if err := s.Barrier(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// with opens the store for f and closes it.
func (a *app) with(ctx context.Context, how access, f func(s *alkfs.Store) error) error {
	s, err := a.open(ctx, how)
	if err != nil {
		return err
	}
	err = f(s)
	if e := s.Close(); err == nil {
		err = e
	}
	return err
}

// atFlag adds --at to c.
func atFlag(c *cobra.Command, at *string, what string) {
	c.Flags().StringVar(at, "at", "", what+`: a snapshot, a time ("2006-01-02 15:04", RFC 3339) or "10m ago"`)
}

func forceFlag(c *cobra.Command, force *bool) {
	c.Flags().BoolVarP(force, "force", "f", false, "do not ask")
}

// parseSpec parses a SPEC argument with the value of --at.
func parseSpec(arg, at string) (alkfs.Spec, error) {
	spec, err := alkfs.ParseSpec(arg)
	spec.At = at
	return spec, err
}

// fsPath spells a spec's path as io/fs does.
func fsPath(spec alkfs.Spec) string {
	if spec.Path == "" {
		return "."
	}
	return spec.Path
}

// confirm asks, on the terminal, before something is lost. Where standard input
// is no terminal it refuses.
func (a *app) confirm(force bool, question string) error {
	if force {
		return nil
	}
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usagef("%s There is no terminal to ask on: say --force", question)
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return usagef("%s There is no terminal to ask on: say --force", question)
	}
	defer tty.Close()
	if _, err := tty.WriteString(question + " [y/N] "); err != nil {
		return err
	}
	answer, answered := "", make(chan struct{})
	go func() {
		answer, _ = bufio.NewReader(tty).ReadString('\n')
		close(answered)
	}()
	select {
	case <-a.ctx.Done():
		return a.ctx.Err()
	case <-answered:
	}
	if s := strings.ToLower(strings.TrimSpace(answer)); s == "y" || s == "yes" {
		return nil
	}
	return errors.New("not confirmed, nothing was changed")
}

// terminal reports whether standard error is one.
func (a *app) terminal() bool {
	f, ok := a.err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
