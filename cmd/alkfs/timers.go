package main

import (
	"context"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// timerSlack is how late timers of a process that serves may be, in ns.
const timerSlack = 1_000_000

// slackMarker is set in the environment of a process that lateTimers started.
const slackMarker = "ALKFS_LATE_TIMERS"

// lateTimers starts this program anew with timers that may be timerSlack late,
// 50 µs otherwise. While anything runs, a thread of Go's runtime sleeps for 20 µs
// again and again. With requests that come one after the other that is a fifth
// of the CPU time, taken from the client where there are few cores. What a
// thread may be late by comes from the thread that made it, and stays through
// execve (prctl(2), PR_SET_TIMERSLACK). Where that fails serving is only slower.
func lateTimers(ctx context.Context) {
	if os.Getenv(slackMarker) != "" {
		os.Unsetenv(slackMarker)
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) != nil || ctx.Err() != nil {
		return
	}
	_ = syscall.Exec(exe, os.Args, append(os.Environ(), slackMarker+"=1"))
}
