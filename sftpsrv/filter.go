package sftpsrv

import (
	"context"
	"encoding/binary"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
)

// maxOwn bounds the requests of one connection that the filter itself is
// working on.
const maxOwn = 16

// maxReading bounds the bytes of data that pkg/sftp is getting ready to send on
// one connection. It is more than fills an SSH channel's window.
const maxReading = 8 << 20

// maxSent bounds the requests that pkg/sftp has not answered.
const maxSent = 256

// filter stands between an SSH channel and pkg/sftp. Requests that pkg/sftp
// knows how to answer pass through; the others are answered here, by peer, and
// pkg/sftp never sees them. It relies on pkg/sftp answering every request
// exactly once and in order: sent remembers what each coming reply belongs to.
//
// Writes are answered here because pkg/sftp hands them to several workers and
// so loses their order; fstat and fsetstat because it answers them for whatever
// now has the file's name; opens and mkdirs pass, but leave their attributes
// here, which it would drop.
//
// Order: a request answered here that names a handle waits for the reads of
// that handle which came before it; one that names a path waits for all earlier
// requests that are not reads. What takes long (fsync, copies, publishing a
// large file) runs beside what follows, except that a close waits for it.
type filter struct {
	ch   io.ReadWriteCloser
	peer answerer
	ctx  context.Context
	stop context.CancelFunc

	in   []byte // the packet being handed to pkg/sftp; only Read uses these two
	rest []byte
	out  []byte // the packet pkg/sftp is sending; only Write uses it

	wmu sync.Mutex // makes packets on ch whole
	sem chan struct{}

	mu struct {
		sync.Mutex
		sent     []request
		commands int // in sent, without reads
		reading  int // bytes that reads in sent ask for
		running  int // goroutines of the filter
		handles  map[string]*handle
	}
	changed sync.Cond // of mu: a count went down
}

// request is one that was passed on to pkg/sftp and not yet answered.
type request struct {
	kind  byte
	id    uint32
	h     *handle // of a read or close
	bytes int     // a read asks for
}

// handle is what an open file or directory is to the filter.
type handle struct {
	name     string
	obj      any // *openFile or *dirLister, from answerer.opened
	inFlight int // reads passed on; guarded by filter.mu
	own      int // requests the filter is working on; guarded by filter.mu
}

// answerer is what the filter needs from the session behind it.
type answerer interface {
	// opening is told of an open or mkdir before pkg/sftp sees it, in order.
	opening(a attrs)
	// opened returns the oldest object that a handler made and that was not
	// returned yet; it is called once per handle.
	opened() any
	// closed is called when pkg/sftp has closed obj. A function it returns
	// finishes the close and gives its status; it may take long.
	closed(obj any) func() error
	write(obj any, p []byte, off uint64) error
	read(obj any, p []byte, off int64) (int, error)
	left(obj any, off uint64) (int64, error) // bytes from off to the end
	fstat(obj any) (attrs, error)
	fsetstat(obj any, a attrs) error
	fsync(ctx context.Context, obj any) error
	lsetstat(path string, a attrs) error
	statvfs(path string, obj any) (unix.Statfs_t, error) // of path when obj is nil
	copyData(ctx context.Context, c copyRange) error
	expand(path string) (string, error)
	names(uids, gids []uint32) (users, groups []string)
	hash(path string) (blobstore.Hash, int64, error)
	// check returns the name and the digests of the first of algorithms it knows.
	check(ctx context.Context, obj any, algorithms string, r blockRange) (string, []byte, error)
}

func newFilter(ctx context.Context, ch io.ReadWriteCloser, peer answerer) *filter {
	f := &filter{ch: ch, peer: peer, sem: make(chan struct{}, maxOwn)}
	f.ctx, f.stop = context.WithCancel(ctx)
	f.mu.handles = make(map[string]*handle)
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
	r := request{kind: f.in[4], id: d.u32()}
	pass, err = f.dispatch(&r, d)
	if err == nil && pass {
		f.mu.Lock()
		for len(f.mu.sent) >= maxSent {
			f.changed.Wait()
		}
		f.mu.sent = append(f.mu.sent, r)
		if r.kind != fxpRead {
			f.mu.commands++
		}
		f.mu.Unlock()
	}
	return pass, err
}

// dispatch answers what is the filter's to answer and reports whether the
// packet is to be passed on.
func (f *filter) dispatch(r *request, d *decoder) (pass bool, err error) {
	switch r.kind {
	case fxpOpen:
		d.str()
		flags := d.u32()
		a := d.attrs()
		if d.bad {
			return false, errBadMessage
		}
		if flags&(openRead|openWrite|openAppend|openCreate|openTrunc) == 0 {
			return false, f.write(statusPacket(r.id, errBadMessage))
		}
		f.peer.opening(a)
	case fxpMkdir:
		d.str()
		a := d.attrs()
		if d.bad {
			return false, errBadMessage
		}
		f.peer.opening(a)
	case fxpWrite:
		return false, f.writeFile(r, d)
	case fxpRead:
		return f.readFile(r, d)
	case fxpClose:
		if r.h = f.release(d.str()); r.h == nil {
			return false, f.write(statusPacket(r.id, errBadHandle))
		}
	case fxpFstat, fxpFsetstat:
		return false, f.byHandle(r, d)
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

// deliver sends the reply pkt to the client.
func (f *filter) deliver(pkt []byte) {
	f.mu.Lock()
	r := f.mu.sent[0]
	f.mu.sent = f.mu.sent[1:]
	if r.kind == fxpRead {
		r.h.inFlight--
		f.mu.reading -= r.bytes
	} else {
		f.mu.commands--
	}
	f.changed.Broadcast()
	f.mu.Unlock()

	switch {
	case pkt[4] == fxpVersion:
		pkt = versionPacket()
	case pkt[4] == fxpHandle:
		d := &decoder{b: pkt[9:]}
		h := &handle{name: string(d.str()), obj: f.peer.opened()}
		f.mu.Lock()
		f.mu.handles[h.name] = h
		f.mu.Unlock()
	case r.kind == fxpClose:
		if finish := f.peer.closed(r.h.obj); finish != nil {
			f.start(func() { f.write(statusPacket(r.id, finish())) })
			return
		}
	}
	f.write(pkt)
}

// write sends one whole packet.
func (f *filter) write(pkt []byte) error {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	_, err := f.ch.Write(pkt)
	return err
}

// start runs fn in a goroutine that wait waits for.
func (f *filter) start(fn func()) {
	f.mu.Lock()
	f.mu.running++
	f.mu.Unlock()
	go func() {
		defer func() {
			f.mu.Lock()
			f.mu.running--
			f.changed.Broadcast()
			f.mu.Unlock()
		}()
		fn()
	}()
}

// wait returns when nothing that start began is running.
func (f *filter) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.mu.running > 0 {
		f.changed.Wait()
	}
}

// pass notes a read of n bytes that goes to pkg/sftp, when there is room.
func (f *filter) pass(name []byte, n int) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.mu.reading > 0 && f.mu.reading+n > maxReading {
		f.changed.Wait()
	}
	h := f.mu.handles[string(name)]
	if h != nil {
		h.inFlight++
		f.mu.reading += n
	}
	return h
}

// readFile passes a read on, asking for no more than there is: clients ask for
// maxData from files of any size, and pkg/sftp makes room for what is asked. The
// content of a short file is in memory or a row, and is answered at once.
func (f *filter) readFile(r *request, d *decoder) (pass bool, err error) {
	name, off := d.str(), d.u64()
	if len(d.b) < 4 {
		return false, errBadMessage
	}
	length := d.b[:4]
	r.bytes = min(int(d.u32()), maxData)
	f.mu.Lock()
	h := f.mu.handles[string(name)]
	f.mu.Unlock()
	if h == nil {
		return false, f.write(statusPacket(r.id, errBadHandle))
	}
	left, err := f.peer.left(h.obj, off)
	switch {
	case err != nil || left == 0:
		if err == nil {
			err = io.EOF
		}
		return false, f.write(statusPacket(r.id, err))
	case left < int64(r.bytes):
		r.bytes = int(left)
	}
	if off+uint64(left) <= blobstore.InlineMax {
		p := make([]byte, 13+r.bytes)
		n, err := f.peer.read(h.obj, p[13:], int64(off))
		if n == 0 {
			return false, f.answer(r.id, nil, err)
		}
		return false, f.write(dataPacket(p[:13+n], r.id))
	}
	binary.BigEndian.PutUint32(length, uint32(r.bytes))
	r.h = f.pass(name, r.bytes)
	return true, nil
}

// writeFile writes at once: writes to one file take effect in the order in
// which they came.
func (f *filter) writeFile(r *request, d *decoder) error {
	name, off := d.str(), d.u64()
	data := d.str()
	if d.bad {
		return errBadMessage
	}
	h := f.settled(name)
	if h == nil {
		return f.write(statusPacket(r.id, errBadHandle))
	}
	return f.write(statusPacket(r.id, f.peer.write(h.obj, data, off)))
}

// release forgets a handle that is being closed, after the filter's own work
// on it.
func (f *filter) release(name []byte) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.mu.handles[string(name)]
	if h == nil {
		return nil
	}
	for h.own > 0 {
		f.changed.Wait()
	}
	delete(f.mu.handles, h.name)
	return h
}

// settled returns the handle when all earlier reads of it were answered.
func (f *filter) settled(name []byte) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.mu.handles[string(name)]
	for h != nil && h.inFlight > 0 {
		f.changed.Wait()
	}
	return h
}

// afterCommands returns when all earlier commands were answered.
func (f *filter) afterCommands() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.mu.commands > 0 {
		f.changed.Wait()
	}
}

// beside answers request id by work, beside the requests that follow. A close
// of one of hs waits for it.
func (f *filter) beside(id uint32, work func() ([]byte, error), hs ...*handle) error {
	select {
	case f.sem <- struct{}{}:
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
	f.count(hs, 1)
	f.start(func() {
		pkt, err := work()
		f.count(hs, -1)
		<-f.sem
		f.answer(id, pkt, err)
	})
	return nil
}

func (f *filter) count(hs []*handle, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hs {
		h.own += n
	}
	f.changed.Broadcast()
}

// answer sends pkt, or the status of err when there is no packet.
func (f *filter) answer(id uint32, pkt []byte, err error) error {
	if pkt == nil || err != nil {
		pkt = statusPacket(id, err)
	}
	return f.write(pkt)
}
