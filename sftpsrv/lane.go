package sftpsrv

import "sync/atomic"

// Bounds of one SFTP session. What waits because of the first two stops the
// session from reading further requests; what waits because of the others does
// not.
const (
	maxTasks    = 4096    // requests about open files that wait or run
	maxHeld     = 4 << 20 // bytes of data in writes that wait
	maxReading  = 8 << 20 // bytes of data being read and sent; more than fills an SSH window
	maxTogether = 8       // reads of one file
)

// task is a request about open files that may have to wait: for a disk, for
// bytes that are not there yet, for a file to be hashed. Tasks are answered
// beside each other and in any order, which SFTP allows. Those about one file
// take effect as if they had come one at a time (see lane), and its reads and
// its changes are answered in order: OpenSSH's scp of 8.7 to 9.2 cuts a file off
// where the first answer is out of order.
type task struct {
	lanes  []*lane
	shared bool          // runs beside other shared tasks; else alone in its lanes
	held   int           // bytes of its packet that it keeps
	room   int           // bytes of memory it takes while it runs
	run    func() []byte // returns the reply
	of     request

	need   int           // lanes that it is not in yet
	pooled int           // bytes taken from the pool of all sessions
	before chan struct{} // of a read: closed when the one before it was answered
	sent   chan struct{} // and when it was itself
}

// lane keeps the order of the tasks about one file: changes run alone and in the
// order in which they came, reads between two changes run together. All of it
// is guarded by filter.mu.
type lane struct {
	key     any
	refs    int // handles and tasks
	waiting []*task
	readers int
	writer  bool
	last    chan struct{} // sent of the newest read; nil: none
}

// free reports whether a request that comes now need not wait.
func (l *lane) free(shared bool) bool {
	return len(l.waiting) == 0 && l.admits(shared)
}

func (l *lane) admits(shared bool) bool {
	return !l.writer && (l.readers == 0 || shared && l.readers < maxTogether)
}

// pool is the memory that the sessions of a server share beyond what each may
// always have: one request of each kind.
type pool struct{ left atomic.Int64 }

func (p *pool) take(n int) bool {
	if p.left.Add(int64(-n)) >= 0 {
		return true
	}
	p.give(n)
	return false
}

func (p *pool) give(n int) { p.left.Add(int64(n)) }

// lane returns the lane of the file key and counts a use of it. mu must be held.
func (f *filter) lane(key any) *lane {
	l := f.mu.lanes[key]
	if l == nil {
		l = &lane{key: key}
		f.mu.lanes[key] = l
	}
	l.refs++
	return l
}

// unlane ends a use of l. mu must be held.
func (f *filter) unlane(l *lane) {
	if l.refs--; l.refs == 0 {
		delete(f.mu.lanes, l.key)
	}
}

// submit has t run when the requests before it allow that. Only the goroutine
// that reads requests calls it.
func (f *filter) submit(t *task) {
	t.of, f.tasked = f.now, true
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.mu.tasks >= maxTasks || !f.take(&f.mu.held, t.held, maxHeld, t) {
		f.changed.Wait()
	}
	f.mu.tasks++
	if t.room > 0 {
		t.before, t.sent = t.lanes[0].last, make(chan struct{})
		t.lanes[0].last = t.sent
	}
	t.need = len(t.lanes)
	for _, l := range t.lanes {
		l.refs++
		l.waiting = append(l.waiting, t)
	}
	for _, l := range t.lanes {
		f.admit(l)
	}
	if t.need == 0 && len(t.lanes) == 0 {
		f.mu.ready = append(f.mu.ready, t)
	}
	f.startReady()
}

// admit lets into l what may run there now. mu must be held.
func (f *filter) admit(l *lane) {
	for len(l.waiting) > 0 && l.admits(l.waiting[0].shared) {
		t := l.waiting[0]
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		if t.shared {
			l.readers++
		} else {
			l.writer = true
		}
		if t.need--; t.need == 0 {
			f.mu.ready = append(f.mu.ready, t)
		}
	}
}

// startReady starts the tasks that only wait for room. mu must be held.
func (f *filter) startReady() {
	left := f.mu.ready[:0]
	for _, t := range f.mu.ready {
		if f.take(&f.mu.reading, t.room, maxReading, t) {
			go f.do(t)
		} else {
			left = append(left, t)
		}
	}
	clear(f.mu.ready[len(left):])
	f.mu.ready = left
}

// take counts n bytes for t in used, when they are within most and the pool has
// them; the first are the session's own. Whoever is refused has something to
// wait for: the end of what is counted already. mu must be held.
func (f *filter) take(used *int, n, most int, t *task) bool {
	if n > 0 && *used > 0 {
		if *used+n > most || !f.pool.take(n) {
			return false
		}
		t.pooled += n
	}
	*used += n
	return true
}

func (f *filter) do(t *task) {
	reply := t.run()
	if t.before != nil {
		<-t.before
	}
	f.ops.Done(opOf(t.of.kind), t.of.began)
	f.write(reply)
	if t.sent != nil {
		close(t.sent)
	}
	if t.of.kind == fxpClose {
		f.peer.ahead()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range t.lanes {
		if t.shared {
			l.readers--
		} else {
			l.writer = false
		}
		f.admit(l)
		f.unlane(l)
	}
	f.mu.held -= t.held
	f.mu.reading -= t.room
	f.pool.give(t.pooled)
	f.mu.tasks--
	f.startReady()
	f.changed.Broadcast()
}

// wait returns when no task is left.
func (f *filter) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.mu.tasks > 0 {
		f.changed.Wait()
	}
}
