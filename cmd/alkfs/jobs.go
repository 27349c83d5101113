package main

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

// upkeepIn does the store's background work, and answers what other processes
// ask about this one, until the function it returns is called.
func (a *app) upkeepIn(ctx context.Context, s *alkfs.Store) (stop func()) {
	silent, err := s.Answer()
	if err != nil { // nothing depends on it
		a.note("`alkfs stats` will not see this process: %v", err)
		silent = func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Upkeep(ctx) }) // it logs what goes wrong, and returns no error
	return func() {
		cancel()
		wg.Wait()
		silent()
	}
}

func (a *app) jobsCommand() *cobra.Command {
	var limit int
	history := &cobra.Command{
		Use: "history", Short: "List the runs of background jobs, latest first",
		Example: "  alkfs jobs history\n  alkfs jobs history -n 5 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.JobHistory(limit)
				for _, r := range list {
					if err == nil {
						err = a.printRun(r)
					}
				}
				return err
			})
		},
	}
	history.Flags().IntVarP(&limit, "limit", "n", 100, "how many at most")
	run := &cobra.Command{
		Use: "run NAME", Short: "Run a background job now, and wait for it",
		Example: "  alkfs jobs run scrub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				r, err := s.RunJob(cmd.Context(), args[0])
				if err == nil {
					err = a.printRun(r)
				}
				return err
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeJobs),
	}
	ls := &cobra.Command{
		Use: "ls", Short: "List the background jobs",
		Example: "  alkfs jobs ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Jobs()
				for _, j := range list {
					if err == nil {
						err = a.printJob(j)
					}
				}
				return err
			})
		},
	}
	c := group("jobs", "The background work of the store",
		"  alkfs jobs ls\n  alkfs jobs run scrub", ls, run, a.pauseCommand(true), a.pauseCommand(false), history)
	c.Long = `Mounts and "alkfs serve" do the background work of their store: one process at a
time, in small steps. It goes by the clock; what was missed is caught up with
once. Nothing of it is needed for the store to be correct.`
	return c
}

func (a *app) pauseCommand(paused bool) *cobra.Command {
	use, short := "resume", "Let a job go on by its schedule"
	if paused {
		use, short = "pause", "Stop a job from being run by its schedule"
	}
	return &cobra.Command{
		Use: use + " NAME", Short: short,
		Example: "  alkfs jobs " + use + " scrub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return s.PauseJob(args[0], paused) })
		},
		ValidArgsFunction: a.completeThen(1, a.completeJobs),
	}
}

func (a *app) completeJobs(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.look(func(s *alkfs.Store) (names []cobra.Completion) {
		list, _ := s.Jobs()
		for _, j := range list {
			if strings.HasPrefix(j.Name, word) {
				names = append(names, j.Name)
			}
		}
		return names
	})
}

func (a *app) printJob(j alkfs.Job) error {
	if a.json {
		return a.emit("name", j.Name, "schedule", j.Schedule, "about", j.About, "paused", j.Paused,
			"last", jsonTime(j.Last), "next", jsonTime(j.Next), "running", j.Running)
	}
	when := "when the store is mounted or served"
	switch {
	case j.Running != "":
		when = "run by " + j.Running
	case j.Paused:
		when = "paused"
	case !j.Next.IsZero():
		when = "next " + humanTime(j.Next)
	}
	a.printf("%-9s %-12s %s; %s\n", j.Name, j.Schedule, j.About, when)
	return nil
}

func (a *app) printRun(r alkfs.JobRun) error {
	if a.json {
		return a.emit("id", r.ID, "name", r.Name, "state", r.State.String(), "queued", jsonTime(r.Queued),
			"finished", jsonTime(r.Finished), "seconds", r.Took.Seconds(), "attempts", r.Attempts, "result", r.Result)
	}
	when := r.Finished
	if when.IsZero() {
		when = r.Queued
	}
	a.printf("%s  %-9s %-8s %s (%v)\n", humanTime(when), r.Name, r.State, r.Result, r.Took.Round(time.Millisecond))
	return nil
}

func (a *app) lockCommand() *cobra.Command {
	var all bool
	ls := &cobra.Command{
		Use: "ls", Short: "List the locks that are held",
		Long: `Lists the named locks of the store, and the files of buckets that allow one writer
at a time ("alkfs bucket set --policy exclusive") which somebody is writing. Such a
file is locked by the session of its writer ("alkfs sessions ls") and not by a lock
with a time to live: nothing has to be renewed, so that nothing is lost while the
machine sleeps, and it ends with the process.`,
		Example: "  alkfs lock ls\n  alkfs lock ls --all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Locks()
				for _, l := range list {
					if err == nil && (all || l.Holder != "") {
						err = a.printLock(l)
					}
				}
				if err != nil {
					return err
				}
				writers, err := s.Writers()
				for _, w := range writers {
					if err == nil {
						err = a.printWriter(w)
					}
				}
				return err
			})
		},
	}
	ls.Flags().BoolVar(&all, "all", false, "free ones too")
	var force bool
	br := &cobra.Command{
		Use: "break NAME", Short: "Take a lock from its holder",
		Long: `Takes a lock from its holder. What the holder does under it afterwards fails, and
changes nothing. The lock of a process that died ends by itself within a minute.
A file that somebody is writing is not taken from the writer: close it there, or end
the process, and "alkfs sessions" has what it wrote.`,
		Example: "  alkfs lock break --force upkeep",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if err := a.confirm(force, "Take the lock "+quote(args[0])+" from whoever holds it?"); err != nil {
					return err
				}
				return s.BreakLock(args[0])
			})
		},
	}
	forceFlag(br, &force)
	return group("lock", "Named locks of the store, and files with one writer", "  alkfs lock ls", ls, br)
}

func (a *app) printLock(l alkfs.LockInfo) error {
	if a.json {
		return a.emit("name", l.Name, "holder", l.Holder, "token", l.Token, "seconds_left", l.Left.Seconds())
	}
	if l.Holder == "" {
		a.printf("%s  free\n", quote(l.Name))
		return nil
	}
	a.printf("%s  held by %s for %v more unless renewed (token %d)\n", quote(l.Name), quote(l.Holder), l.Left.Round(time.Second), l.Token)
	return nil
}

// printWriter prints the lock that a session is on its file.
func (a *app) printWriter(w alkfs.SessionInfo) error {
	spec := alkfs.Spec{Bucket: w.Bucket, Branch: w.BranchName, Path: w.Path}
	if a.json {
		return a.emit("name", spec.String(), "holder", w.Process, "session", w.ID, "pid", w.PID,
			"bucket", w.Bucket, "branch", w.BranchName, "path", w.Path, "since", jsonTime(w.Created))
	}
	a.printf("%s  written by %s since %s (session %d)\n", quote(spec.String()), w.Process, humanTime(w.Created), w.ID)
	return nil
}

func (a *app) queueCommand() *cobra.Command {
	return group("queue", "Durable queues of the store", "  alkfs queue ls\n  alkfs queue ls upkeep",
		a.queueLsCommand(), a.queueRetryCommand(), a.queuePurgeCommand())
}

func (a *app) queueLsCommand() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use: "ls [QUEUE]", Short: "Count the jobs of all queues, or list those of one",
		Example: "  alkfs queue ls\n  alkfs queue ls upkeep --state dead",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				if len(args) == 0 {
					return a.printQueues(s)
				}
				return a.printQueue(s, args[0], state)
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "only ready, claimed, done or dead jobs")
	return c
}

func (a *app) printQueues(s *alkfs.Store) error {
	list, err := s.Queues()
	for _, d := range list {
		if !a.json {
			a.printf("%-12s %-8s %d\n", quote(d.Queue), d.State, d.Jobs)
		} else if err == nil {
			err = a.emit("queue", d.Queue, "state", d.State.String(), "jobs", d.Jobs, "oldest", jsonTime(d.Oldest))
		}
	}
	return err
}

func (a *app) printQueue(s *alkfs.Store, name, state string) error {
	states := []alkfs.JobState{alkfs.JobReady, alkfs.JobClaimed, alkfs.JobDone, alkfs.JobDead}
	if state != "" {
		only, err := alkfs.ParseJobState(state)
		if err != nil {
			return usageError{err}
		}
		states = []alkfs.JobState{only}
	}
	for _, st := range states {
		list, err := s.QueueJobs(name, st, 1000)
		if err != nil {
			return err
		}
		for _, j := range list {
			if a.json {
				err = a.emit("id", j.ID, "queue", j.Queue, "state", j.State.String(), "priority", j.Priority, "due", jsonTime(j.Due),
					"attempts", j.Attempts, "claimant", j.Claimant, "payload", string(j.Payload), "outcome", string(j.Outcome),
					"created", jsonTime(j.Created), "finished", jsonTime(j.Finished))
				if err != nil {
					return err
				}
				continue
			}
			a.printf("%d  %-8s %s  %d attempts  %s  %s\n", j.ID, j.State, humanTime(j.Due), j.Attempts, quote(string(j.Payload)), string(j.Outcome))
		}
	}
	return nil
}

func (a *app) queueRetryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "retry QUEUE [ID...]", Short: "Try dead jobs again: all, or those of the numbers given",
		Example: "  alkfs queue retry upkeep\n  alkfs queue retry upkeep 17",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ids []int64
			for _, arg := range args[1:] {
				id, err := strconv.ParseInt(arg, 10, 64)
				if err != nil {
					return usagef("job %q: a number is meant, as `alkfs queue ls %s` prints it", arg, args[0])
				}
				ids = append(ids, id)
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				n, err := s.RetryJobs(args[0], ids...)
				return a.printCount(n, "retried", err)
			})
		},
	}
}

func (a *app) queuePurgeCommand() *cobra.Command {
	var state string
	var force bool
	c := &cobra.Command{
		Use: "purge QUEUE", Short: "Remove the dead jobs of a queue, or those in another state",
		Example: "  alkfs queue purge --force upkeep\n  alkfs queue purge --state done --force upkeep",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := alkfs.ParseJobState(state)
			if err != nil {
				return usageError{err}
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if err := a.confirm(force, "Remove the "+st.String()+" jobs of queue "+quote(args[0])+"?"); err != nil {
					return err
				}
				n, err := s.PurgeJobs(args[0], st)
				return a.printCount(n, "removed", err)
			})
		},
	}
	c.Flags().StringVar(&state, "state", "dead", "ready, claimed, done or dead")
	forceFlag(c, &force)
	return c
}

func (a *app) printCount(n int, verb string, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.emit(verb, n)
	}
	a.printf("%s %d jobs\n", verb, n)
	return nil
}
