package fusefs

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// loop answers requests in the place of fuse.Server's own loop, whose readers
// take turns: then each request wakes a thread that has lost its processor to
// Go's scheduler, and finding it another takes longer than to answer. Here one
// goroutine reads and answers for as long as it keeps up. It lets another go on
// reading before a request that may take its time, and watch sees to that when
// one does.
type loop struct {
	fd     int
	server *fuse.ProtocolServer
	log    *slog.Logger
	bufs   sync.Pool // of *buffers

	// turn is odd while the goroutine that reads answers a request itself. Who
	// moves it on from there reads next: that goroutine, or one that watch starts.
	turn     atomic.Uint64
	watching atomic.Bool
	gone     atomic.Bool // the mount is
	workers  sync.WaitGroup

	// crowded counts down the reads that are answered beside the reading, since
	// when one was not and another request had to wait for it.
	crowded atomic.Int32

	mu    sync.Mutex
	reads map[uint64]bool // being answered, by their number
}

// buffers are those of one request.
type buffers struct{ in, out []byte }

// Operations of the protocol, in linux/fuse.h.
const (
	codeRead          = 15
	codeWrite         = 16
	codeFsync         = 20
	codeFsyncDir      = 30
	codeInterrupt     = 36
	codeCopyFileRange = 47
)

// smallWrite is up to where a write, which is copied, is made at once.
const smallWrite = 64 << 10

// afterCrowd is how many reads are answered beside the reading after one that
// another request had to wait for.
const afterCrowd = 64

// watchEvery is after how long, or up to twice that, a request that takes its
// time no longer holds up others.
const watchEvery = time.Millisecond

// mounting is held while go-fuse mounts, to see which descriptor it opens.
var mounting sync.Mutex

// newServer mounts, and returns the descriptor that requests are read from, a
// copy of go-fuse's; -1 when it was not found.
func newServer(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions) (*fuse.Server, int, error) {
	mounting.Lock()
	defer mounting.Unlock()
	before := fuseDescriptors()
	server, err := fuse.NewServer(fs, dir, o)
	if err != nil {
		return nil, -1, err
	}
	for fd := range fuseDescriptors() {
		if before[fd] {
			continue
		}
		if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			return server, fd, nil
		}
	}
	return server, -1, nil
}

// fuseDescriptors returns the descriptors of this process on /dev/fuse.
func fuseDescriptors() map[int]bool {
	const dir = "/proc/self/fd"
	list, _ := os.ReadDir(dir)
	found := make(map[int]bool)
	for _, e := range list {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == "/dev/fuse" {
			if fd, err := strconv.Atoi(e.Name()); err == nil {
				found[fd] = true
			}
		}
	}
	return found
}

// newLoop returns a loop that answers by fs what comes from fd, of a mount that
// server has made with o.
func newLoop(fs fuse.RawFileSystem, server *fuse.Server, fd int, o *fuse.MountOptions, log *slog.Logger) (*loop, error) {
	l := &loop{
		fd:     fd,
		server: fuse.NewProtocolServer(fs, o),
		log:    log,
		reads:  make(map[uint64]bool),
	}
	l.bufs.New = func() any {
		const header = 64 << 10 // more than the headers of any request or answer
		return &buffers{make([]byte, o.MaxWrite+header), make([]byte, o.MaxWrite+header)}
	}
	// What server agreed upon with the kernel, it agrees upon again.
	b := l.bufs.Get().(*buffers)
	defer l.bufs.Put(b)
	hello := *server.KernelSettings()
	if _, st := l.server.HandleRequest([][]byte{bytesOf(&hello)}, [][]byte{b.out}); !st.Ok() {
		return nil, syscall.Errno(st)
	}
	return l, nil
}

func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// run answers requests until the mount is gone and all are answered.
func (l *loop) run() {
	l.work()
	l.workers.Wait()
	unix.Close(l.fd)
}

// work reads and answers until another goroutine reads or the mount is gone.
func (l *loop) work() {
	b := l.bufs.Get().(*buffers)
	defer l.bufs.Put(b)
	for {
		n, ok := l.read(b.in)
		if !ok {
			l.gone.Store(true)
			l.interruptAll()
			return
		}
		if l.mayTakeLong((*fuse.InHeader)(unsafe.Pointer(&b.in[0]))) {
			l.workers.Go(l.work)
			l.answer(b, n)
			return
		}
		mine := l.turn.Add(1)
		if !l.watching.Load() && l.watching.CompareAndSwap(false, true) {
			l.workers.Go(l.watch)
		}
		l.answer(b, n)
		if !l.turn.CompareAndSwap(mine, mine+1) {
			return
		}
	}
}

// read reads one request, and reports false when the mount is gone.
func (l *loop) read(buf []byte) (n int, ok bool) {
	for {
		n, err := unix.Read(l.fd, buf)
		switch {
		case err == nil && n >= int(unsafe.Sizeof(fuse.InHeader{})):
			return n, true
		case err == nil:
			l.log.Error("short request", "bytes", n)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // ENOENT: interrupted before it was read
		default:
			if !errors.Is(err, unix.ENODEV) {
				l.log.Error("requests cannot be read", keyError, err)
			}
			return 0, false
		}
	}
}

// mayTakeLong reports whether others are not to wait for a request: it is much
// to copy, or waits for a disk or a network. Most reads do not.
func (l *loop) mayTakeLong(h *fuse.InHeader) bool {
	switch h.Opcode {
	case codeFsync, codeFsyncDir, codeCopyFileRange:
		return true
	case codeWrite:
		return h.Length > smallWrite
	case codeRead:
		return l.crowded.Load() > 0 && l.crowded.Add(-1) >= 0
	}
	return false
}

// answer answers the request of n bytes in b.
func (l *loop) answer(b *buffers, n int) {
	h := *(*fuse.InHeader)(unsafe.Pointer(&b.in[0]))
	if h.Opcode == codeRead {
		l.enter(h.Unique)
		defer l.leave(h.Unique)
	}
	m, st := l.server.HandleRequest([][]byte{b.in[:n]}, [][]byte{b.out})
	if !st.Ok() {
		l.log.Error("request not understood", "opcode", h.Opcode, keyError, st)
		m = refuse(b.out, h.Unique)
	}
	if m == 0 {
		return
	}
	// ENOENT: nobody waits for the answer any more.
	if _, err := unix.Write(l.fd, b.out[:m]); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		l.log.Error("answer", "opcode", h.Opcode, keyError, err)
	}
}

// refuse makes out the answer EIO to a request.
func refuse(out []byte, unique uint64) int {
	h := fuse.OutHeader{Length: uint32(unsafe.Sizeof(fuse.OutHeader{})), Status: -int32(syscall.EIO), Unique: unique}
	return copy(out, bytesOf(&h))
}

// watch lets another goroutine read when the one that does is held up by a
// request, and ends when nothing has come for a while.
func (l *loop) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	const patience = 100 // ticks
	last, same := uint64(0), 0
	for range tick.C {
		if l.gone.Load() {
			return
		}
		now := l.turn.Load()
		if now != last {
			last, same = now, 0
			continue
		}
		if now%2 == 1 {
			if l.turn.CompareAndSwap(now, now+1) {
				l.workers.Go(l.work)
			}
			continue
		}
		if same++; same < patience {
			continue
		}
		l.watching.Store(false)
		if l.turn.Load() == now || !l.watching.CompareAndSwap(false, true) {
			return
		}
	}
}

func (l *loop) enter(read uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads[read] = true
}

// leave is called when a read is answered. If another request has come
// meanwhile, the next are not to wait.
func (l *loop) leave(read uint64) {
	l.mu.Lock()
	delete(l.reads, read)
	l.mu.Unlock()
	waiting := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	if n, _ := unix.Poll(waiting, 0); n > 0 {
		l.crowded.Store(afterCrowd)
	}
}

// interruptAll ends the waiting of reads whose mount is gone.
func (l *loop) interruptAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for unique := range l.reads {
		in := fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: codeInterrupt}, Unique: unique}
		in.Length = uint32(unsafe.Sizeof(in))
		var out [256]byte
		_, _ = l.server.HandleRequest([][]byte{bytesOf(&in)}, [][]byte{out[:]})
	}
}
