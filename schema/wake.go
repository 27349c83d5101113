package schema

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wakeFile is a counter in memory shared by all processes that have the store
// open. Every commit adds one and wakes whoever waits (futex(2)), so a change
// is noticed at the cost of a load and waiting for one costs nothing.
type wakeFile struct {
	mem     []byte
	counter *atomic.Uint32
	opened  uint32 // value of the counter before anybody could wait

	mu struct {
		sync.Mutex
		changed chan struct{} // closed at the next change
	}
}

// pollInterval bounds how late a commit is noticed whose process was killed
// before it could add to the counter.
const pollInterval = time.Second

func openWake(path string) (*wakeFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = 4096
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil { // allocated, so that a full disk is no SIGBUS
		if !errors.Is(err, syscall.EOPNOTSUPP) {
			return nil, err
		}
		if err := f.Truncate(size); err != nil {
			return nil, err
		}
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	w := &wakeFile{mem: mem, counter: (*atomic.Uint32)(unsafe.Pointer(&mem[0]))}
	w.mu.changed = make(chan struct{})
	w.opened = w.load()
	return w, nil
}

func (w *wakeFile) load() uint32 { return w.counter.Load() }

func (w *wakeFile) bump() {
	const futexWake = 1
	w.counter.Add(1)
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w.counter)), futexWake, 1<<30, 0, 0, 0)
}

// run turns changes of the counter into closed channels until ctx ends.
// version tells of commits that were not counted.
func (w *wakeFile) run(ctx context.Context, version func() int64) {
	const futexWait = 0
	// Not the value of now: somebody may be waiting for it to change already.
	seen, known := w.opened, version()
	for ctx.Err() == nil {
		if w.load() == seen {
			ts := unix.NsecToTimespec(int64(pollInterval))
			_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w.counter)), futexWait, uintptr(seen), uintptr(unsafe.Pointer(&ts)), 0, 0)
			if errno == unix.ETIMEDOUT {
				if v := version(); v != known {
					known = v
					w.bump()
				}
			}
		}
		if now := w.load(); now != seen {
			seen = now
			w.mu.Lock()
			close(w.mu.changed)
			w.mu.changed = make(chan struct{})
			w.mu.Unlock()
		}
	}
}

func (w *wakeFile) wait(ctx context.Context, gen uint32) (uint32, error) {
	for {
		w.mu.Lock()
		changed := w.mu.changed
		w.mu.Unlock()
		if now := w.load(); now != gen {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return gen, ctx.Err()
		case <-changed:
		}
	}
}

func (w *wakeFile) close() { _ = unix.Munmap(w.mem) }

// Generation changes whenever any process commits to the store; equal values
// mean that nothing was committed between.
func (db *DB) Generation() uint32 {
	if db.wake == nil {
		return 0
	}
	return db.wake.load()
}

// Wait returns when the generation is no longer gen, with the new one. In a
// read-only store it polls.
func (db *DB) Wait(ctx context.Context, gen uint32) (uint32, error) {
	if db.wake != nil {
		return db.wake.wait(ctx, gen)
	}
	select {
	case <-ctx.Done():
		return gen, ctx.Err()
	case <-time.After(pollInterval):
		return gen + 1, nil
	}
}

// dataVersion changes when another connection has committed.
func (db *DB) dataVersion() (v int64) {
	db.lock()
	defer db.unlock()
	if db.mu.closed {
		return 0
	}
	v, _ = db.mu.tx.dataVersion()
	return v
}
