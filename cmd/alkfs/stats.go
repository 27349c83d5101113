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
		Long: `Shows sizes, sharing, what is being written, queues and what each branch has of
its own. Counts of operations are those of a process: "alkfs serve --http ADDR"
gives them for Prometheus at /metrics.`,
		Example: "  alkfs stats\n  alkfs stats --watch",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				if watch {
					return a.watchStats(cmd.Context(), s, every)
				}
				return a.printStats(s)
			})
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "a line whenever --every has passed, until Ctrl-C")
	c.Flags().DurationVar(&every, "every", 2*time.Second, "time between two lines of --watch")
	return c
}

func (a *app) printStats(s *alkfs.Store) error {
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
			"locks_held", st.LocksHeld, "disk_size", st.DiskSize, "disk_free", st.DiskFree, "queues", queues, "branches", list)
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
	return nil
}

func (a *app) watchStats(ctx context.Context, s *alkfs.Store, every time.Duration) error {
	if every <= 0 {
		return usagef("--every: more than nothing")
	}
	var last int64
	for first := true; ; first = false {
		st, err := s.Stats()
		if err != nil {
			return err
		}
		rate := float64(st.LastEvent-last) / every.Seconds()
		if first {
			rate = 0
		}
		last = st.LastEvent
		waiting := 0
		for _, q := range st.Queues {
			if q.State == alkfs.JobReady || q.State == alkfs.JobClaimed {
				waiting += q.Jobs
			}
		}
		if a.json {
			err = a.emit("time", jsonTime(time.Now()), "events", st.LastEvent, "events_per_second", rate, "writing", st.Writing,
				"orphaned", st.Orphaned, "jobs_waiting", waiting, "locks_held", st.LocksHeld, "wal_bytes", st.WALBytes,
				"database_bytes", st.DatabaseBytes, "disk_free", st.DiskFree)
			if err != nil {
				return err
			}
		} else {
			a.printf("%s  %8.1f events/s  %d writing  %d jobs waiting  %d locks  log %s  database %s  disk %s free\n", time.Now().Format("15:04:05"),
				rate, st.Writing, waiting, st.LocksHeld, bytesText(st.WALBytes), bytesText(st.DatabaseBytes), bytesText(st.DiskFree))
		}
		if err := a.out.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}
