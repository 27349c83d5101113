package fusefs

import (
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxWriters is how many threads are remembered before it is simply forgotten
// who wrote.
const maxWriters = 32

// writers are the threads that wrote through a handle. FLUSH comes for every
// close of every copy of a descriptor, and a child that a program starts closes
// the copies that it inherits: that close must not publish what the program is
// in the middle of. The zero value is empty.
type writers struct {
	last atomic.Uint32 // wrote last; 0: nobody, or too many
	mu   sync.Mutex
	all  []uint32 // guarded by mu
}

// note says that a thread wrote; 0, from another process namespace or from the
// kernel, is nobody.
func (w *writers) note(pid uint32) {
	if pid == 0 || w.last.Load() == pid {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	known := len(w.all) > maxWriters
	for _, t := range w.all {
		known = known || t == pid
	}
	if !known {
		w.all = append(w.all, pid)
	}
	w.last.Store(pid)
}

// inherited reports whether the close by a thread is one of a copy that its
// process inherited: it wrote nothing, and a process that did is alive and will
// close its own.
func (w *writers) inherited(pid uint32) bool {
	last := w.last.Load()
	if last == 0 || pid == 0 || last == pid {
		return false
	}
	w.mu.Lock() // held while looking at /proc, which does not block
	defer w.mu.Unlock()
	if len(w.all) > maxWriters {
		return false
	}
	alive := false
	own := "/proc/" + strconv.Itoa(int(pid)) + "/task/"
	for _, t := range w.all {
		id := strconv.Itoa(int(t))
		if t == pid || unix.Access(own+id, unix.F_OK) == nil {
			return false
		}
		alive = alive || unix.Access("/proc/"+id, unix.F_OK) == nil
	}
	return alive
}
