package alkfs

import (
	"sync"
	"time"
)

// Progress tells how far a Put or Get has come.
type Progress struct {
	Path        string // host path being worked on, or the last one finished
	Files, Dirs int64  // finished; Files counts everything that is no directory
	Bytes       int64  // of content, so far
	TotalBytes  int64  // 0: not known
}

// PutOptions configures Put.
type PutOptions struct {
	Recursive bool             // take directories with what is in them
	Owners    bool             // keep the owners; otherwise new files belong to this process
	Sync      bool             // return when all of it survives a power cut
	Progress  func(p Progress) // called from one goroutine at a time; may be nil
}

// GetOptions configures Get.
type GetOptions struct {
	Recursive bool             // fetch directories with what is in them
	Owners    bool             // set the owners, which needs the right to do so
	Progress  func(p Progress) // called from one goroutine at a time; may be nil
}

// meter collects progress from many goroutines.
type meter struct {
	report func(p Progress)
	mu     struct {
		sync.Mutex
		Progress
		last time.Time
	}
}

// meterInterval bounds how often progress is reported while bytes are copied.
const meterInterval = 50 * time.Millisecond

func (m *meter) add(path string, files, dirs, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.Files += files
	m.mu.Dirs += dirs
	m.mu.Bytes += bytes
	if path != "" {
		m.mu.Path = path
	}
	if now := time.Now(); m.report != nil && now.Sub(m.mu.last) >= meterInterval {
		m.mu.last = now
		m.report(m.mu.Progress)
	}
}

// finish reports the end state and returns it.
func (m *meter) finish() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.report != nil {
		m.report(m.mu.Progress)
	}
	return m.mu.Progress
}
