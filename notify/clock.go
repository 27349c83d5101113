package notify

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time to locks and queues; tests have one of their own.
type Clock interface {
	// Now is the wall clock: for what must survive a reboot (due times).
	Now() time.Time
	// Boot names the running boot and tells the nanoseconds since it began,
	// suspended time included. It cannot jump and is the same in every
	// process, so leases are measured in it. A lease of another boot has ended:
	// whoever held it is gone.
	Boot() (id string, ns int64)
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// Boot implements Clock.
func (SystemClock) Boot() (string, int64) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail on Linux
	return bootID(), ts.Nano()
}

var bootID = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})

func clockOr(c Clock) Clock {
	if c == nil {
		return SystemClock{}
	}
	return c
}
