package sftpsrv

import (
	"io"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
)

// handle is what an open file or directory is to the filter.
type handle struct {
	name string
	obj  any // *openFile or *dirLister
	dir  bool
	lane *lane
}

// addHandle makes a handle of obj, named by the filter unless name is given.
func (f *filter) addHandle(name string, obj any, dir bool) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == "" {
		f.mu.named++
		name = "f" + strconv.FormatUint(f.mu.named, 10) // pkg/sftp's are numbers
	}
	h := &handle{name: name, obj: obj, dir: dir, lane: f.lane(f.peer.key(obj))}
	f.mu.handles[name] = h
	return h
}

// dropHandle forgets a handle. Tasks that have it go on.
func (f *filter) dropHandle(h *handle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mu.handles, h.name)
	f.unlane(h.lane)
}

// handle returns the handle of that name, nil without one, and whether a
// request about it can be answered by the caller.
func (f *filter) handle(name []byte, shared bool) (h *handle, free bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h = f.mu.handles[string(name)]
	return h, h != nil && h.lane.free(shared)
}

func (f *filter) openFile(id uint32, d *decoder) error {
	path, flags, a := string(d.str()), d.u32(), d.attrs()
	if d.bad {
		return errBadMessage
	}
	if flags&(openRead|openWrite|openAppend|openCreate|openTrunc) == 0 {
		return f.answer(id, nil, errBadMessage)
	}
	f.afterCommands()
	obj, finish, err := f.peer.open(path, flags, a)
	if err != nil {
		return f.answer(id, nil, err)
	}
	h := f.addHandle("", obj, false)
	reply := newEncoder(fxpHandle, id).str(h.name).packet()
	if finish == nil {
		err := f.write(reply)
		if flags&openCreate != 0 {
			f.peer.ahead()
		}
		return err
	}
	f.submit(&task{lanes: []*lane{h.lane}, run: func() []byte {
		if err := finish(); err != nil {
			f.dropHandle(h)
			return statusPacket(id, err)
		}
		return reply
	}})
	return nil
}

// closeHandle closes a file. A directory is pkg/sftp's to close.
func (f *filter) closeHandle(r *request, d *decoder) (pass bool, err error) {
	h, free := f.handle(d.str(), false)
	switch {
	case d.bad:
		return false, errBadMessage
	case h == nil:
		return false, f.answer(r.id, nil, errBadHandle)
	}
	defer f.dropHandle(h)
	switch {
	case h.dir:
		return true, nil
	case free && !f.peer.changed(h.obj):
		return false, f.answer(r.id, nil, f.peer.close(h.obj))
	}
	f.submit(&task{lanes: []*lane{h.lane}, run: func() []byte { return statusPacket(r.id, f.peer.close(h.obj)) }})
	return false, nil
}

// readFile takes room for no more than there is: clients ask for maxData from
// files of any size. The content of a short file is in memory or in a row and
// is answered at once.
func (f *filter) readFile(id uint32, d *decoder) error {
	name, off, n := d.str(), d.u64(), int(min(d.u32(), maxData))
	if d.bad {
		return errBadMessage
	}
	h, free := f.handle(name, false) // false: the answers to earlier reads come first
	if h == nil {
		return f.answer(id, nil, errBadHandle)
	}
	if free {
		left, err := f.left(h, off)
		if err != nil {
			return f.answer(id, nil, err)
		}
		n = int(min(int64(n), left))
		if off+uint64(left) <= blobstore.InlineMax {
			return f.write(f.readReply(id, h, off, n))
		}
	}
	f.submit(&task{lanes: []*lane{h.lane}, shared: true, room: n, run: func() []byte {
		left, err := f.left(h, off)
		if err != nil {
			return statusPacket(id, err)
		}
		return f.readReply(id, h, off, int(min(int64(n), left)))
	}})
	return nil
}

// left returns how many bytes there are from off, EOF when there are none.
func (f *filter) left(h *handle, off uint64) (int64, error) {
	left, err := f.peer.left(h.obj, off)
	if err == nil && left == 0 {
		err = io.EOF
	}
	return left, err
}

func (f *filter) readReply(id uint32, h *handle, off uint64, n int) []byte {
	p := make([]byte, 13+n)
	n, err := f.peer.read(h.obj, p[13:], int64(off))
	if n == 0 && err == nil {
		err = io.EOF // nothing was asked for
	}
	if n == 0 {
		return statusPacket(id, err)
	}
	return dataPacket(p[:13+n], id)
}

func (f *filter) writeFile(id uint32, d *decoder) error {
	name, off, data := d.str(), d.u64(), d.str()
	if d.bad {
		return errBadMessage
	}
	h, free := f.handle(name, false)
	if h == nil {
		return f.answer(id, nil, errBadHandle)
	}
	if free {
		if done, err := f.peer.writeNow(h.obj, data, off); done {
			return f.answer(id, nil, err)
		}
	}
	held := len(f.in)
	f.in = nil // data is in it
	f.submit(&task{lanes: []*lane{h.lane}, held: held, run: func() []byte {
		return statusPacket(id, f.peer.write(h.obj, data, off))
	}})
	return nil
}

// stat answers what clients ask most; pkg/sftp would take three goroutines to.
func (f *filter) stat(id uint32, d *decoder, follow bool) error {
	path := string(d.str())
	if d.bad {
		return errBadMessage
	}
	f.afterCommands()
	a, err := f.peer.stat(path, follow)
	return f.answer(id, newEncoder(fxpAttrs, id).attrs(a).packet(), err)
}

func (f *filter) fstat(id uint32, d *decoder) error {
	h, free := f.handle(d.str(), true)
	switch {
	case d.bad:
		return errBadMessage
	case h == nil:
		return f.answer(id, nil, errBadHandle)
	}
	stat := func() []byte {
		a, err := f.peer.fstat(h.obj)
		return replyTo(id, newEncoder(fxpAttrs, id).attrs(a).packet(), err)
	}
	if free {
		return f.write(stat())
	}
	f.submit(&task{lanes: []*lane{h.lane}, shared: true, run: stat})
	return nil
}

func (f *filter) fsetstat(id uint32, d *decoder) error {
	h, _ := f.handle(d.str(), false)
	a := d.attrs()
	switch {
	case d.bad:
		return errBadMessage
	case h == nil:
		return f.answer(id, nil, errBadHandle)
	}
	f.submit(&task{lanes: []*lane{h.lane}, run: func() []byte { return statusPacket(id, f.peer.fsetstat(h.obj, a)) }})
	return nil
}

func (f *filter) mkdir(id uint32, d *decoder) error {
	path, a := string(d.str()), d.attrs()
	if d.bad {
		return errBadMessage
	}
	f.afterCommands()
	defer f.peer.ahead()
	return f.answer(id, nil, f.peer.mkdir(path, a))
}

func (f *filter) setstat(id uint32, d *decoder, follow bool) error {
	path, a := string(d.str()), d.attrs()
	if d.bad {
		return errBadMessage
	}
	f.afterCommands()
	rest, err := f.peer.setstat(path, a, follow)
	defer f.peer.ahead()
	return f.orRest(id, rest, false, err)
}

func (f *filter) rename(id uint32, d *decoder, flags uint32) error {
	from, to := string(d.str()), string(d.str())
	if d.bad {
		return errBadMessage
	}
	f.afterCommands()
	rest, err := f.peer.rename(from, to, flags)
	return f.orRest(id, rest, true, err)
}

// rest is what is left to be done about a file that is open, after the requests
// about it that came before.
type rest struct {
	key any // of its lane
	do  func() error
}

// orRest answers, or lets rest do so, beside reads when it is shared.
func (f *filter) orRest(id uint32, r rest, shared bool, err error) error {
	if r.do == nil || err != nil {
		return f.answer(id, nil, err)
	}
	f.mu.Lock()
	l := f.lane(r.key)
	f.mu.Unlock()
	f.submit(&task{lanes: []*lane{l}, shared: shared, run: func() []byte { return statusPacket(id, r.do()) }})
	f.mu.Lock()
	f.unlane(l)
	f.mu.Unlock()
	return nil
}

// noReplace is the flag of a version 3 rename, which replaces nothing.
const noReplace = unix.RENAME_NOREPLACE
