package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc/PID/stat: USER_HZ, which is 100 on all
// that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime returns the CPU time of a process, of those it started and of what
// those started, whether they have ended or not.
func cpuTime(pid int) time.Duration {
	type process struct{ parent, ticks int }
	all := make(map[int]process)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		p, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// proc(5): after the name, which is in parentheses and may hold any
		// byte, come state and parent, and 10 to 13 later user and system time
		// of itself and of its children that were waited for.
		_, rest, _ := strings.Cut(string(p[strings.LastIndexByte(string(p), ')')+1:]), " ")
		f := strings.Fields(rest)
		if len(f) < 15 {
			continue
		}
		var id, parent int
		fmt.Sscan(filepath.Base(filepath.Dir(path)), &id)
		fmt.Sscan(f[1], &parent)
		sum := 0
		for _, s := range f[11:15] {
			var n int
			fmt.Sscan(s, &n)
			sum += n
		}
		all[id] = process{parent, sum}
	}
	total := 0
	for id, p := range all {
		for at := id; at != 0; at = all[at].parent {
			if at == pid {
				total += p.ticks
				break
			}
		}
	}
	return time.Duration(total) * tick
}
