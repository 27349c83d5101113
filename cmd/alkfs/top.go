package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/latency"
)

// watchStats shows, time and again, what happened in the last interval: on a
// terminal in place, elsewhere in a line, with --json in an object.
func (a *app) watchStats(ctx context.Context, s *alkfs.Store, every time.Duration) error {
	if every <= 0 {
		return usagef("--every: more than nothing")
	}
	last, err := takeActivity(ctx, s)
	if err != nil {
		return err
	}
	width, height, onTerminal := a.screen()
	for first := true; ; first = false {
		now := last
		if !first {
			if now, err = takeActivity(ctx, s); err != nil {
				return err
			}
		}
		i := interval{now: now, over: now.at.Sub(last.at), ops: now.ops.Minus(last.ops), events: now.stats.LastEvent - last.stats.LastEvent}
		switch {
		case a.json:
			err = a.emit(i.fields()...)
		case onTerminal:
			a.printf("\x1b[H\x1b[2J%s", i.screen(width, height))
			width, height, _ = a.screen()
		default:
			a.printf("%s\n", i.line())
		}
		if err == nil {
			err = a.out.Flush()
		}
		if err != nil {
			return err
		}
		last = now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// screen returns the size of the terminal on standard output, if it is one.
func (a *app) screen() (width, height int, ok bool) {
	f, ok := a.raw.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row < 5 || size.Col < 40 {
		return 80, 24, true
	}
	return int(size.Col), int(size.Row), true
}

// interval is what happened between two moments.
type interval struct {
	now    activity
	over   time.Duration
	ops    latency.Surfaces
	events int64
}

func (i interval) rate() float64 {
	if i.over <= 0 {
		return 0
	}
	return float64(i.events) / i.over.Seconds()
}

func (i interval) waiting() (n int) {
	for _, q := range i.now.stats.Queues {
		if q.State == alkfs.JobReady || q.State == alkfs.JobClaimed {
			n += q.Jobs
		}
	}
	return n
}

func (i interval) fields() []any {
	st := i.now.stats
	return []any{"time", jsonTime(i.now.at), "events", st.LastEvent, "events_per_second", i.rate(), "writing", st.Writing,
		"orphaned", st.Orphaned, "jobs_waiting", i.waiting(), "locks_held", st.LocksHeld, "wal_bytes", st.WALBytes,
		"database_bytes", st.DatabaseBytes, "disk_free", st.DiskFree, "seconds", i.over.Seconds(),
		"operations", operationObjects(i.ops), "processes", processObjects(i.now.processes)}
}

func (i interval) line() string {
	st := i.now.stats
	return fmt.Sprintf("%s  %8.1f events/s  %d writing  %d jobs waiting  %d locks  log %s  database %s  disk %s free", i.now.at.Format("15:04:05"),
		i.rate(), st.Writing, i.waiting(), st.LocksHeld, bytesText(st.WALBytes), bytesText(st.DatabaseBytes), bytesText(st.DiskFree))
}

// screen fills a terminal of that size: what costs most time first.
func (i interval) screen(width, height int) string {
	lines := append([]string{i.line()}, processLines(i.now.processes)...)
	lines = append(lines, "")
	if room := height - len(lines) - 2; room > 0 {
		lines = append(lines, operationLines(i.ops, max(i.over, time.Millisecond), room)...)
	}
	for k, l := range lines {
		if r := []rune(l); len(r) > width {
			lines[k] = string(r[:width])
		}
	}
	return strings.Join(lines[:min(len(lines), height-1)], "\n") + "\n"
}
