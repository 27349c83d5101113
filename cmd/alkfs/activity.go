package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/latency"
)

// activity is what all processes of a store have done until a moment.
type activity struct {
	at        time.Time
	stats     alkfs.Stats
	processes []alkfs.Process  // those that run
	ops       latency.Surfaces // of those and of those that ended
}

func takeActivity(ctx context.Context, s *alkfs.Store) (a activity, err error) {
	a.at = time.Now()
	if a.stats, err = s.Stats(); err != nil {
		return a, err
	}
	// First those that run: one that ends in between counts twice for a moment
	// rather than not at all.
	if a.processes, err = s.Processes(ctx); err != nil {
		return a, err
	}
	if a.ops, err = s.Ended(); err != nil {
		return a, err
	}
	for _, p := range a.processes {
		a.ops.AddAll(p.Ops)
	}
	return a, nil
}

// operation is a line of a table of operations.
type operation struct {
	surface, op string
	latency.Counts
}

// operations lists by surface, and the most frequent first.
func operations(all latency.Surfaces) (list []operation) {
	for surface, ops := range all {
		for name, c := range ops {
			list = append(list, operation{surface, name, c})
		}
	}
	slices.SortFunc(list, func(a, b operation) int {
		return cmp.Or(strings.Compare(a.surface, b.surface), cmp.Compare(b.Total(), a.Total()), strings.Compare(a.op, b.op))
	})
	return list
}

// operationLines formats a table, with rates where the operations are those of
// some time, of at most so many lines; 0: all.
func operationLines(all latency.Surfaces, over time.Duration, most int) []string {
	list := operations(all)
	if most > 0 && len(list) > most {
		slices.SortStableFunc(list, func(a, b operation) int { return cmp.Compare(b.Sum, a.Sum) })
		list = list[:most]
	}
	if len(list) == 0 {
		return nil
	}
	last := "mean"
	if over > 0 {
		last = "per s"
	}
	lines := []string{fmt.Sprintf("%-8s %-16s %10s %9s %9s %9s", "surface", "operation", "count", "p50", "p99", last)}
	for _, o := range list {
		value := shortTime(o.Mean())
		if over > 0 {
			value = fmt.Sprintf("%.1f", float64(o.Total())/over.Seconds())
		}
		lines = append(lines, fmt.Sprintf("%-8s %-16s %10d %9s %9s %9s", o.surface, o.op, o.Total(), shortTime(o.Quantile(0.5)), shortTime(o.Quantile(0.99)), value))
	}
	return lines
}

// shortTime is d in three digits.
func shortTime(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return d.String()
	case d < time.Millisecond:
		return fmt.Sprintf("%.3gµs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3gms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3gs", d.Seconds())
}

func operationObjects(all latency.Surfaces) []object {
	list := []object{}
	for _, o := range operations(all) {
		list = append(list, object{"surface", o.surface, "op", o.op, "count", o.Total(), "p50_seconds", o.Quantile(0.5).Seconds(),
			"p99_seconds", o.Quantile(0.99).Seconds(), "mean_seconds", o.Mean().Seconds()})
	}
	return list
}

func processLines(list []alkfs.Process) (lines []string) {
	for _, p := range list {
		lines = append(lines, fmt.Sprintf("process   %d %s since %s: CPU %s, heap %s, %d files open, %d slow operations", p.PID, quote(p.Name),
			humanTime(p.Started), shortTime(p.CPU), bytesText(int64(p.HeapBytes)), p.Files.Open, p.Slow))
		c := p.Blobs
		lines = append(lines, fmt.Sprintf("            %d writes in %d commits; content files: %d opened, %d found open; %d groups checked, %d hashed",
			p.Transactions.Writes, p.Transactions.Commits, c.Opened, c.Reused, c.Verified, c.Hashed))
		for _, m := range p.Mounts {
			lines = append(lines, fmt.Sprintf("  mount     %s: %d inodes known, %d handles; %d opens, %d passed through; %d inodes read again, %d notices",
				quote(m.Dir), m.Nodes, m.Handles, m.Opens, m.Passthrough, m.Reloads, m.Invalidations))
		}
		if s := p.SSH; s != nil {
			lines = append(lines, fmt.Sprintf("  ssh       %d connections of %d accepted; %d refused, %d failed to log in; %d commands", s.Open, s.Accepted, s.Refused, s.Failed, s.Commands))
		}
	}
	return lines
}

func processObjects(list []alkfs.Process) []object {
	out := []object{}
	for _, p := range list {
		mounts := []object{}
		for _, m := range p.Mounts {
			mounts = append(mounts, object{"dir", m.Dir, "nodes", m.Nodes, "handles", m.Handles, "opens", m.Opens, "passthrough", m.Passthrough,
				"reloads", m.Reloads, "invalidations", m.Invalidations})
		}
		o := object{"pid", p.PID, "name", p.Name, "started", jsonTime(p.Started), "cpu_seconds", p.CPU.Seconds(), "heap_bytes", p.HeapBytes,
			"goroutines", p.Goroutines, "open_files", p.Files.Open, "publishes", p.Files.Publishes, "published_bytes", p.Files.Bytes,
			"slow", p.Slow, "writes", p.Transactions.Writes, "commits", p.Transactions.Commits, "checkpoints", p.Transactions.Checkpoints,
			"blobs_opened", p.Blobs.Opened, "blobs_reused", p.Blobs.Reused, "groups_verified", p.Blobs.Verified, "groups_hashed", p.Blobs.Hashed,
			"mounts", mounts}
		if s := p.SSH; s != nil {
			o = append(o, "ssh_connections", s.Open, "ssh_accepted", s.Accepted, "ssh_refused", s.Refused, "ssh_failed", s.Failed, "ssh_commands", s.Commands)
		}
		out = append(out, o)
	}
	return out
}
