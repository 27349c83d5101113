package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

// watchFlags are the flags of watch.
type watchFlags struct {
	since, command, as string
	count              int
	list               bool
	forget             string
}

func (a *app) watchCommand() *cobra.Command {
	var f watchFlags
	c := &cobra.Command{
		Use:   "watch [SPEC]",
		Short: "Print changes as they happen, made by any process",
		Long: `Prints each change as it is committed, until Ctrl-C: of the whole store, or of a
branch and what is below the path of SPEC.

--since says where to begin: after an event number, or at a time. With --as NAME
the store remembers how far NAME has come, and the next watch by that name goes on
there; nothing is missed, and what was being handled when it was killed comes
again. A consumer that comes after events were pruned (7 days) is told so.

--exec runs a shell command for each change instead of printing it. The command
has the change as JSON on its standard input, and in ALKFS_SEQ, ALKFS_TIME,
ALKFS_OP, ALKFS_BUCKET, ALKFS_BRANCH, ALKFS_PATH, ALKFS_OLD_PATH, ALKFS_SIZE and
ALKFS_HASH. When it fails, watch ends, and the change is not done with.`,
		Example: `  alkfs watch
  alkfs watch --json /experiment:src
  alkfs watch --since 0                  # all that is still recorded, then go on
  alkfs watch --since "1h ago"
  alkfs watch --as indexer --exec 'echo "$ALKFS_OP $ALKFS_PATH" >>changes'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var spec *alkfs.Spec
			if len(args) == 1 {
				s, err := parseSpec(args[0], "")
				if err != nil {
					return err
				}
				spec = &s
			}
			how := reading
			if f.as != "" || f.forget != "" {
				how = writing
			}
			return a.with(cmd.Context(), how, func(s *alkfs.Store) error {
				switch {
				case f.list:
					return a.printConsumers(s)
				case f.forget != "":
					return s.RemoveConsumer(f.forget)
				}
				return a.watch(cmd.Context(), s, spec, f)
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	flags := c.Flags()
	flags.StringVar(&f.since, "since", "", `begin after this event number, or at a time ("2006-01-02 15:04", "10m ago"), instead of now`)
	flags.StringVar(&f.as, "as", "", "name of a consumer whose place the store remembers")
	flags.StringVar(&f.command, "exec", "", "run a shell command for each change, one after the other")
	flags.IntVarP(&f.count, "count", "n", 0, "end after this many changes; 0: go on")
	flags.BoolVar(&f.list, "list", false, "list the consumers that have names, and how far behind they are")
	flags.StringVar(&f.forget, "forget", "", "forget a consumer")
	c.MarkFlagsMutuallyExclusive("list", "forget", "as")
	return c
}

func (a *app) watch(ctx context.Context, s *alkfs.Store, spec *alkfs.Spec, f watchFlags) error {
	events, err := f.events(ctx, s, spec)
	if err != nil {
		return f.fellBehind(err)
	}
	a.follows = true
	n, done := 0, int64(0)
	for e, err := range events {
		if err != nil {
			return f.fellBehind(err)
		}
		if err := a.handleEvent(ctx, e, f.command); ctx.Err() != nil {
			return nil // that is how it ends; a consumer with a name sees e again
		} else if err != nil {
			return err
		}
		if n++; n == f.count {
			done = e.Seq
			break
		}
	}
	if f.as != "" && done != 0 {
		return s.SetConsumer(f.as, done) // else the last one would come again
	}
	return nil
}

// events are those that the flags ask for.
func (f watchFlags) events(ctx context.Context, s *alkfs.Store, spec *alkfs.Spec) (iter.Seq2[alkfs.Event, error], error) {
	if f.as != "" && f.since == "" {
		return s.Follow(ctx, f.as, spec), nil
	}
	after, err := sinceEvent(s, f.since)
	if err != nil {
		return nil, err
	}
	if f.as == "" {
		return s.Watch(ctx, spec, after), nil
	}
	if err := s.SetConsumer(f.as, after); err != nil {
		return nil, err
	}
	return s.Follow(ctx, f.as, spec), nil
}

// sinceEvent returns the event number that --since names.
func sinceEvent(s *alkfs.Store, since string) (int64, error) {
	if since == "" {
		return s.LastEvent()
	}
	if n, err := strconv.ParseInt(since, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	t, err := alkfs.ParseTime(since, time.Now())
	if err != nil {
		return 0, usagef("--since %s: an event number, or a time such as \"2006-01-02 15:04\" or \"10m ago\"", quote(since))
	}
	return s.EventBefore(t)
}

// fellBehind says what a consumer can do that asked for events which are gone.
func (f watchFlags) fellBehind(err error) error {
	if !errors.Is(err, alkfs.ErrFellBehind) {
		return err
	}
	again := "watch --since 0"
	if f.as != "" {
		again += " --as " + shellWord(f.as)
	}
	return withHint(err, "`%s %s` begins with the oldest change that is still recorded", self(), again)
}

// handleEvent prints e, or runs the command for it.
func (a *app) handleEvent(ctx context.Context, e alkfs.Event, command string) error {
	if command == "" {
		return a.printEvent(e)
	}
	text, err := object(eventFields(e)).MarshalJSON()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin = bytes.NewReader(append(text, '\n'))
	cmd.Stdout, cmd.Stderr = a.out, a.err
	cmd.Env = append(os.Environ(), "ALKFS_SEQ="+strconv.FormatInt(e.Seq, 10), "ALKFS_TIME="+jsonTime(e.Time), "ALKFS_OP="+e.Op.String(),
		"ALKFS_BUCKET="+e.Bucket, "ALKFS_BRANCH="+e.Branch, "ALKFS_PATH="+e.Path, "ALKFS_OLD_PATH="+e.OldPath,
		"ALKFS_SIZE="+strconv.FormatInt(e.Size, 10), "ALKFS_HASH="+hashOrNone(e.Hash))
	if err = cmd.Run(); err != nil {
		return withHint(fmt.Errorf("--exec for event %d: %w", e.Seq, err), "`%s watch --since %d` begins with that change", self(), e.Seq-1)
	}
	return a.out.Flush()
}

func hashOrNone(h alkfs.Hash) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

func eventFields(e alkfs.Event) []any {
	fields := []any{"seq", e.Seq, "time", jsonTime(e.Time), "node", e.Node, "op", e.Op.String(), "bucket", e.Bucket, "branch", e.Branch, "path", e.Path}
	if e.OldPath != "" {
		fields = append(fields, "old_path", e.OldPath)
	}
	fields = append(fields, "ino", uint64(e.Ino), "size", e.Size)
	for _, h := range []struct {
		name string
		hash alkfs.Hash
	}{{"hash", e.Hash}, {"old_hash", e.OldHash}} {
		if !h.hash.IsZero() {
			fields = append(fields, h.name, h.hash.String())
		}
	}
	if e.Ref != 0 {
		fields = append(fields, "ref", e.Ref)
	}
	return fields
}

func (a *app) printEvent(e alkfs.Event) error {
	if a.json {
		if err := a.emit(eventFields(e)...); err != nil {
			return err
		}
		return a.out.Flush()
	}
	where := ""
	if e.Branch != "" {
		where = alkfs.Spec{Bucket: e.Bucket, Branch: e.Branch, Path: e.Path}.String()
	}
	a.printf("%s  %-8s %s", humanTime(e.Time), e.Op, quote(where))
	if e.OldPath != "" {
		a.printf("  was %s", quote(e.OldPath))
	}
	a.printf("\n")
	return a.out.Flush()
}

func (a *app) printConsumers(s *alkfs.Store) error {
	list, err := s.Consumers()
	for _, c := range list {
		if err != nil {
			break
		}
		if a.json {
			err = a.emit("name", c.Name, "seq", c.Seq, "behind", c.Behind, "lost", c.Lost)
			continue
		}
		a.printf("%s  at event %d, %d behind", quote(c.Name), c.Seq, c.Behind)
		if c.Lost > 0 {
			a.printf(", of which %d are no longer recorded", c.Lost)
		}
		a.printf("\n")
	}
	return err
}
