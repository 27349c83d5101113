package crdtsync

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// simTrace is what happened in a history, in order: what the test did, what the
// network carried, and what there was in the end. Two runs with one trace are one
// history.
type simTrace struct {
	began time.Time

	mu    sync.Mutex // guards what follows
	lines []string
	done  []string // the lines that say what the test did
}

// did notes down what the test did, or what was found in the end.
func (r *simTrace) did(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, r.add(format, args...))
}

// saw notes down what the network did.
func (r *simTrace) saw(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add("  "+format, args...)
}

func (r *simTrace) add(format string, args ...any) string {
	line := fmt.Sprintf("%14.9f  ", time.Since(r.began).Seconds()) + fmt.Sprintf(format, args...)
	r.lines = append(r.lines, line)
	return line
}

// last returns what the test did last.
func (r *simTrace) last(n int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.done[max(0, len(r.done)-n):], "\n")
}

func (r *simTrace) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n") + "\n"
}

// hash tells histories apart.
func (r *simTrace) hash() string {
	h := sha256.Sum256([]byte(r.text()))
	return fmt.Sprintf("%x", h[:8])
}

// keep writes all of it to a file, whose name it returns.
func (r *simTrace) keep(dir string, seed uint64, which string) string {
	if dir == "" {
		dir = os.TempDir()
	}
	name := filepath.Join(dir, fmt.Sprintf("alkfs-sim-%d-%s.trace", seed, which))
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(name, []byte(r.text()), 0o600)
	}
	if err != nil {
		return err.Error()
	}
	return name
}
