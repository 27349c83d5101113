package schema

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wakeFile is memory shared by all processes that have the store open. Every
// commit adds one to a counter in it and wakes who waits in other processes
// (futex(2)), so a change is noticed at the cost of a load and waiting for one
// costs nothing.
type wakeFile struct {
	mem      []byte
	counter  *atomic.Uint32
	sleepers *atomic.Int32 // in all processes; too many once one was killed, which costs wakes in vain
	opened   uint32        // value of the counter before anybody could wait

	asleep atomic.Int32  // of this process
	own    atomic.Uint64 // half the commits of this process in counter; odd while one is added

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
	w := &wakeFile{
		mem:     mem,
		counter: (*atomic.Uint32)(unsafe.Pointer(&mem[0])), sleepers: (*atomic.Int32)(unsafe.Pointer(&mem[64])),
	}
	w.mu.changed = make(chan struct{})
	w.opened = w.load()
	return w, nil
}

func (w *wakeFile) load() uint32 { return w.counter.Load() }

// bump tells everybody of a change that is not this process's own commit.
func (w *wakeFile) bump() {
	w.counter.Add(1)
	w.tell() // run may not run: Options.Alone
	w.wake()
}

// committed tells everybody of a commit of this process. Only one goroutine at
// a time calls it.
func (w *wakeFile) committed() {
	w.own.Add(1)
	w.counter.Add(1)
	w.own.Add(1)
	w.tell()
	if w.sleepers.Load() != w.asleep.Load() {
		w.wake()
	}
}

// others is the counter without the commits of this process.
func (w *wakeFile) others() uint32 {
	for {
		own := w.own.Load()
		n := w.load() - uint32(own/2)
		if own&1 == 0 && own == w.own.Load() {
			return n
		}
		runtime.Gosched()
	}
}

// tell wakes who waits in this process.
func (w *wakeFile) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.mu.changed)
	w.mu.changed = make(chan struct{})
}

// wake wakes every run.
func (w *wakeFile) wake() {
	const futexWake = 1
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w.counter)), futexWake, 1<<30, 0, 0, 0)
}

// sleep returns when another process has changed the counter from seen, or
// after pollInterval.
func (w *wakeFile) sleep(seen uint32) syscall.Errno {
	const futexWait = 0
	w.sleepers.Add(1)
	w.asleep.Add(1)
	ts := unix.NsecToTimespec(int64(pollInterval))
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w.counter)), futexWait, uintptr(seen), uintptr(unsafe.Pointer(&ts)), 0, 0)
	w.asleep.Add(-1)
	w.sleepers.Add(-1)
	return errno
}

// run turns changes of the counter by others into closed channels until ctx
// ends. version tells of commits that were not counted.
func (w *wakeFile) run(ctx context.Context, version func() int64) {
	// Not the value of now: somebody may be waiting for it to change already.
	seen, known := w.opened, version()
	for ctx.Err() == nil {
		if w.load() == seen && w.sleep(seen) == unix.ETIMEDOUT {
			if v := version(); v != known {
				known = v
				w.bump()
			}
		}
		if now := w.load(); now != seen {
			seen = now
			w.tell()
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

// Others changes whenever another process commits to the store, and when writes
// of this one were lost; equal values mean that neither happened between.
func (db *DB) Others() uint32 {
	if db.wake == nil {
		return 0
	}
	return db.wake.others()
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
