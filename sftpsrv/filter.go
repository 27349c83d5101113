package sftpsrv

import (
	"context"
	"encoding/binary"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
)

// maxSent bounds the requests that pkg/sftp has not answered.
const maxSent = 256

// filter stands between an SSH channel and pkg/sftp. Requests about names that
// pkg/sftp knows how to answer pass through; all about open files, and some
// others, are answered here, by peer, and pkg/sftp never sees them. It relies on
// pkg/sftp answering every request exactly once and in order: sent remembers
// what each coming reply belongs to.
//
// pkg/sftp sends its replies in order, so one that takes long holds up all that
// follow. What passes is therefore one short transaction on names each; whatever
// may wait is a task (lane.go). An open or change of a name waits for the
// requests that pkg/sftp has; names are found in the order of the requests.
// Requests about names do not wait for those about open files: who has not seen
// the answer to a write may or may not see its effect by name. But a rename, and
// what sets times or a size, does so after the closes that came before it.
type filter struct {
	ch   io.ReadWriteCloser
	peer answerer
	ctx  context.Context
	stop context.CancelFunc
	pool *pool
	ops  *latency.Set // nil: not counted

	now    request // read last; only the goroutine that reads uses these two
	tasked bool    // a task was made of it

	in   []byte // the packet read last; only Read uses these two
	rest []byte // of it, what pkg/sftp has still to read
	out  []byte // the packet pkg/sftp is sending; only Write uses it

	wmu sync.Mutex // makes packets on ch whole

	mu struct {
		sync.Mutex
		sent    []request // passed on to pkg/sftp and not yet answered
		handles map[string]*handle
		named   uint64 // handles named by the filter
		lanes   map[any]*lane
		tasks   int     // not finished
		ready   []*task // let into their lanes and waiting for room
		held    int     // bytes of packets that tasks keep
		reading int     // bytes of memory that tasks take while they run
	}
	changed sync.Cond // of mu: a count went down
}

// request is one as it came.
type request struct {
	kind  byte
	id    uint32
	began latency.Moment
}

// answerer is what the filter needs from the session behind it.
type answerer interface {
	// opened returns the oldest directory that a handler of pkg/sftp has opened
	// and that was not returned yet; it is called once per handle.
	opened() any
	// open opens a file. When finish is not nil the file is to be used after
	// finish has returned, which may take long; if it fails the file is closed.
	open(path string, flags uint32, a attrs) (obj any, finish func() error, err error)
	// key is the same for the handles of one file.
	key(obj any) any
	changed(obj any) bool // closing it has something to publish
	close(obj any) error
	write(obj any, p []byte, off uint64) error
	// writeNow is write if that has nothing to wait for.
	writeNow(obj any, p []byte, off uint64) (done bool, err error)
	read(obj any, p []byte, off int64) (int, error)
	left(obj any, off uint64) (int64, error) // bytes from off to the end
	fstat(obj any) (attrs, error)
	fsetstat(obj any, a attrs) error
	fsync(ctx context.Context, obj any) error
	stat(path string, follow bool) (attrs, error)
	setstat(path string, a attrs, follow bool) (rest, error)
	mkdir(path string, a attrs) error
	rename(from, to string, flags uint32) (rest, error)
	statvfs(path string, obj any) (unix.Statfs_t, error) // of path when obj is nil
	copyData(ctx context.Context, c copyRange) error
	expand(path string) (string, error)
	names(uids, gids []uint32) (users, groups []string)
	hash(path string) (blobstore.Hash, int64, error)
	// ahead is called when a change was answered: there may be another.
	ahead()
	// check returns the name and the digests of the first of algorithms it knows.
	check(ctx context.Context, obj any, algorithms string, r blockRange) (string, []byte, error)
}

func newFilter(ctx context.Context, ch io.ReadWriteCloser, peer answerer, p *pool) *filter {
	f := &filter{ch: ch, peer: peer, pool: p}
	f.ctx, f.stop = context.WithCancel(ctx)
	f.mu.handles = make(map[string]*handle)
	f.mu.lanes = make(map[any]*lane)
	f.changed.L = &f.mu
	return f
}

// Close ends the connection. Requests under way are abandoned.
func (f *filter) Close() error {
	f.stop()
	return f.ch.Close()
}

// Read hands pkg/sftp the next bytes of requests meant for it. It returns an
// error only when everything the filter itself works on has finished, because
// pkg/sftp then closes all files.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		pass, err := f.next()
		if err != nil {
			f.stop()
			f.wait()
			return 0, err
		}
		if pass {
			f.rest = f.in
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// next reads one packet into f.in and reports whether it is for pkg/sftp.
func (f *filter) next() (pass bool, err error) {
	f.in = append(f.in[:0], 0, 0, 0, 0)
	if _, err := io.ReadFull(f.ch, f.in); err != nil {
		return false, err
	}
	n := binary.BigEndian.Uint32(f.in)
	if n < 5 || n > maxPacket {
		return false, errBadMessage
	}
	if cap(f.in) < int(n)+4 {
		f.in = append(make([]byte, 0, max(int(n)+4, 4<<10)), f.in...)
	}
	f.in = f.in[:n+4]
	if _, err := io.ReadFull(f.ch, f.in[4:]); err != nil {
		return false, io.ErrUnexpectedEOF
	}
	d := &decoder{b: f.in[5:]}
	r := request{kind: f.in[4], id: d.u32(), began: latency.Now()}
	f.now, f.tasked = r, false
	pass, err = f.dispatch(&r, d)
	if err == nil && !pass && !f.tasked {
		f.ops.Done(opOf(r.kind), r.began)
	}
	if err == nil && pass {
		f.mu.Lock()
		for len(f.mu.sent) >= maxSent {
			f.changed.Wait()
		}
		f.mu.sent = append(f.mu.sent, r)
		f.mu.Unlock()
	}
	return pass, err
}

// dispatch answers what is the filter's to answer and reports whether the
// packet is to be passed on.
func (f *filter) dispatch(r *request, d *decoder) (pass bool, err error) {
	switch r.kind {
	case fxpOpen:
		return false, f.openFile(r.id, d)
	case fxpClose:
		return f.closeHandle(r, d)
	case fxpRead:
		return false, f.readFile(r.id, d)
	case fxpWrite:
		return false, f.writeFile(r.id, d)
	case fxpStat, fxpLstat:
		return false, f.stat(r.id, d, r.kind == fxpStat)
	case fxpFstat:
		return false, f.fstat(r.id, d)
	case fxpFsetstat:
		return false, f.fsetstat(r.id, d)
	case fxpSetstat:
		return false, f.setstat(r.id, d, true)
	case fxpMkdir:
		return false, f.mkdir(r.id, d)
	case fxpRename:
		return false, f.rename(r.id, d, noReplace)
	case fxpExtended:
		return f.extended(r, d)
	}
	return true, nil
}

// Write takes what pkg/sftp sends. It never fails: a reply the client does not
// take is still the reply to the oldest request.
func (f *filter) Write(p []byte) (int, error) {
	f.out = append(f.out, p...)
	for len(f.out) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(f.out))
		if len(f.out) < n {
			break
		}
		f.deliver(f.out[:n])
		f.out = f.out[:copy(f.out, f.out[n:])]
	}
	return len(p), nil
}

// deliver sends the reply pkt of pkg/sftp to the client.
func (f *filter) deliver(pkt []byte) {
	switch pkt[4] {
	case fxpVersion:
		pkt = versionPacket()
	case fxpHandle:
		d := &decoder{b: pkt[9:]}
		f.addHandle(string(d.str()), f.peer.opened(), true)
	}
	f.mu.Lock()
	r := f.mu.sent[0]
	f.mu.sent = f.mu.sent[1:]
	f.changed.Broadcast()
	f.mu.Unlock()
	f.ops.Done(opOf(r.kind), r.began) // a client that is slow to take it is not our delay
	f.write(pkt)
}

// write sends one whole packet.
func (f *filter) write(pkt []byte) error {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	_, err := f.ch.Write(pkt)
	return err
}

// afterCommands returns when pkg/sftp has answered all that it was given.
func (f *filter) afterCommands() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.mu.sent) > 0 {
		f.changed.Wait()
	}
}

// answer sends pkt, or the status of err when there is no packet.
func (f *filter) answer(id uint32, pkt []byte, err error) error {
	return f.write(replyTo(id, pkt, err))
}

func replyTo(id uint32, pkt []byte, err error) []byte {
	if pkt == nil || err != nil {
		return statusPacket(id, err)
	}
	return pkt
}
