package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) statsCommand() *cobra.Command {
	var watch bool
	var every time.Duration
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show how the store is doing",
		Long: `Shows sizes, sharing, what is being written, queues, what each branch has of its
own, what the mounts and servers that run are doing, and how many operations
there were and how long they took: the median, and what 99 % did not exceed. The
operations of processes that have ended are counted too, unless they were killed.
With --watch it shows the last interval, on a terminal as top(1) does. "alkfs serve
--http ADDR" gives the same numbers for Prometheus at /metrics.`,
		Example: "  alkfs stats\n  alkfs stats --watch\n  alkfs stats --json | jq '.operations[] | select(.op == \"flush\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				if watch {
					a.follows = true
					return a.watchStats(cmd.Context(), s, every)
				}
				return a.printStats(cmd.Context(), s)
			})
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "a line whenever --every has passed, until Ctrl-C")
	c.Flags().DurationVar(&every, "every", 2*time.Second, "time between two lines of --watch")
	return c
}

func (a *app) printStats(ctx context.Context, s *alkfs.Store) error {
	st, err := s.Stats()
	if err != nil {
		return err
	}
	u, err := s.Usage()
	if err != nil {
		return err
	}
	branches, err := s.BranchUsage()
	if err != nil {
		return err
	}
	now, err := takeActivity(ctx, s)
	if err != nil {
		return err
	}
	stored := u.Blobs.InlineBytes + u.Blobs.FileBytes
	ratio := 1.0
	if stored > 0 {
		ratio = float64(u.Blobs.VersionBytes) / float64(stored)
	}
	if a.json {
		list := make([]object, len(branches))
		for i, b := range branches {
			list[i] = object{"bucket", b.Bucket, "branch", b.Branch, "versions", b.Versions, "bytes", b.Bytes}
		}
		queues := make([]object, len(st.Queues))
		for i, q := range st.Queues {
			queues[i] = object{"queue", q.Queue, "state", q.State.String(), "jobs", q.Jobs}
		}
		return a.emit("database_bytes", st.DatabaseBytes, "wal_bytes", st.WALBytes, "blobs", u.Blobs.Inline+u.Blobs.Files,
			"stored_bytes", stored, "version_bytes", u.Blobs.VersionBytes, "dedup_ratio", ratio, "unsynced", u.Blobs.Unsynced,
			"quarantined", u.Blobs.Quarantined, "events", st.LastEvent, "writing", st.Writing, "orphaned", st.Orphaned,
			"locks_held", st.LocksHeld, "disk_size", st.DiskSize, "disk_free", st.DiskFree, "queues", queues, "branches", list,
			"operations", operationObjects(now.ops), "processes", processObjects(now.processes))
	}
	a.printf("database  %s, log %s\ncontent   %s in %d blobs, %.2f times as much without sharing; %d not on the disk yet, %d in quarantine\n",
		bytesText(st.DatabaseBytes), bytesText(st.WALBytes), bytesText(stored), u.Blobs.Inline+u.Blobs.Files, ratio, u.Blobs.Unsynced, u.Blobs.Quarantined)
	a.printf("writing   %d files, %d left by processes that died\nevents    %d\nlocks     %d held\ndisk      %s free of %s\n",
		st.Writing, st.Orphaned, st.LastEvent, st.LocksHeld, bytesText(st.DiskFree), bytesText(st.DiskSize))
	for _, q := range st.Queues {
		a.printf("queue     %s: %d %s\n", quote(q.Queue), q.Jobs, q.State)
	}
	for _, b := range branches {
		a.printf("branch    %s: %s in %d versions of its own\n", quote(b.Bucket+"/"+b.Branch), bytesText(b.Bytes), b.Versions)
	}
	for _, line := range append(processLines(now.processes), operationLines(now.ops, 0, 0)...) {
		a.printf("%s\n", line)
	}
	return nil
}
