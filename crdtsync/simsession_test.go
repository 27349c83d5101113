package crdtsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// simSessions has nodes write files by sessions, in a part of the histories in which
// files have content.
type simSessions struct {
	simPart
	serial int64 // of surfaces
}

const (
	simMemory  = 40 << 10 // to which a file being written is in memory
	simPersist = 5 * time.Second
)

// simSurfaces is what one run of a node has for the files that are open there.
type simSurfaces struct {
	*writesession.Sessions
	c    *simContent
	dead atomic.Bool // the process was killed

	mu      sync.Mutex // guards what follows
	handles []*simHandle
	busy    map[pathtree.Ino]chan struct{} // holds a value while somebody changes the inode's open files
	left    []simLeft                      // sessions that may be left, by this run and earlier ones
}

// simHandle is a file that a surface of its own has open. What follows file is for
// whoever holds the inode.
type simHandle struct {
	x      *simSurfaces
	name   string
	at     string
	view   *pathtree.View
	ino    pathtree.Ino
	reader bool // never writes
	file   *writesession.File

	reads   int            // under way; guarded by x.mu
	closed  bool           // guarded by x.mu too
	doing   bool           // something that may publish
	text    []byte         // what it shows, while it is dirty
	began   pathtree.Inode // the version that it became dirty on
	states  [][]byte       // what it showed since it became dirty, once each
	long    bool           // one of them was too long for memory
	synced  []byte         // of it a session was recorded for an fsync that was answered; nil: none
	answer  pathtree.Inode // what was shown when that was answered
	pending bool           // a flush left it to be published later
}

// simLeft is a session whose writer is gone.
type simLeft struct {
	name   string
	branch int64
	ino    pathtree.Ino
	may    [][]byte       // what it may hold; nil: anything
	must   bool           // it must be there, or published
	synced bool           // an fsync was answered with it
	began  pathtree.Inode // what was published before
	answer pathtree.Inode // what was shown when the fsync was answered,
	shown  pathtree.Inode // and when the next process began
}

// openSessions opens them, as a process does when it starts.
func (c *simContent) openSessions(log *slog.Logger) {
	n := c.n
	x := &simSurfaces{c: c, busy: map[pathtree.Ino]chan struct{}{}}
	if n.surfaces != nil {
		x.left = n.surfaces.left
	}
	for i := range x.left { // what came just before a crash may be gone
		l := &x.left[i]
		l.shown = x.inode(l.branch, l.ino)
	}
	var err error
	x.Sessions, err = writesession.New(context.Background(), n.db, n.tree, c.blobs, writesession.Options{
		Logger: log, MemoryMax: simMemory, PersistAfter: simPersist,
	})
	n.must(err)
	n.tree.KeepWhile(x.InUse)
	n.surfaces = x
	x.checkTakenOver()
}

// hold waits until nobody else changes open files of an inode. A mutex would have the
// clock stand still.
func (x *simSurfaces) hold(ino pathtree.Ino) (done func()) {
	x.mu.Lock()
	c := x.busy[ino]
	if c == nil {
		c = make(chan struct{}, 1)
		x.busy[ino] = c
	}
	x.mu.Unlock()
	c <- struct{}{}
	return func() { <-c }
}

// work has files written on some node, for some moments.
func (s *sim) work() {
	f := &s.sessions
	if !f.on || f.rng.IntN(3) == 0 {
		return
	}
	n := s.nodes[f.rng.IntN(len(s.nodes))]
	for range 1 + f.rng.IntN(10) {
		if n.up {
			s.sessionOperation(n.surfaces)
		}
		time.Sleep(time.Duration(1 + f.rng.Int64N([]int64{1e6, 100e6, 4e9}[f.rng.IntN(3)])))
	}
}

// sessionOperation does something with the files that are open on a node.
func (s *sim) sessionOperation(x *simSurfaces) {
	f, n := &s.sessions, x.c.n
	handles := x.open()
	switch k := f.rng.IntN(12); {
	case k == 0:
		s.logf("%s has its surfaces look at what has come", n.name)
		for _, ino := range inodesOf(handles) {
			s.meanwhile(x.c, func() { x.refresh(ino) })
		}
	case k == 1:
		seed := f.rng.Uint64()
		s.meanwhile(x.c, func() { x.endOne(rand.New(rand.NewPCG(s.seed, seed))) })
	case k < 5 && len(handles) < 6:
		x.openOne()
	case len(handles) > 0:
		h := handles[f.rng.IntN(len(handles))]
		op, rng := h.operation(f.rng), rand.New(rand.NewPCG(s.seed, f.rng.Uint64()))
		s.logf("%s %s: %s", h.name, h.at, op.name)
		s.meanwhile(x.c, func() {
			if !op.reads {
				defer x.hold(h.ino)()
			}
			if done := h.use(op.reads); done != nil {
				op.do(h, rng)
				done()
			}
		})
	}
}

func inodesOf(handles []*simHandle) (all []pathtree.Ino) {
	for _, h := range handles {
		all = append(all, h.ino)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// open returns what is open.
func (x *simSurfaces) open() []*simHandle {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.handles)
}

// use returns nil if h is closed, or if it is read and is not to be read.
func (h *simHandle) use(reads bool) (done func()) {
	h.x.mu.Lock()
	defer h.x.mu.Unlock()
	if h.closed || !reads && h.reads > 0 {
		return nil
	}
	if !reads {
		return func() {}
	}
	h.reads++
	return func() {
		h.x.mu.Lock()
		h.reads--
		h.x.mu.Unlock()
	}
}

// refresh tells open files of an inode of what was published, as a mount does after
// each event.
func (x *simSurfaces) refresh(ino pathtree.Ino) {
	defer x.hold(ino)()
	var branches []int64
	for _, h := range x.open() {
		if h.ino == ino && !slices.Contains(branches, h.view.Branch().ID) {
			branches = append(branches, h.view.Branch().ID)
		}
	}
	for _, b := range branches {
		x.Refresh(b, ino)
	}
}

// openOne opens a file that a head shows.
func (x *simSurfaces) openOne() {
	s, n := x.c.n.s, x.c.n
	rng := s.sessions.rng
	var f simFile
	made := rng.IntN(4) == 0
	if all := n.files(); made || len(all) == 0 {
		f, made = x.make()
	} else {
		f = all[rng.IntN(len(all))]
	}
	if f.ino == 0 {
		return
	}
	s.sessions.serial++
	h := &simHandle{x: x, name: fmt.Sprint(n.name, " surface ", s.sessions.serial), at: f.at, ino: f.ino, reader: !made && rng.IntN(3) == 0}
	n.read(func(tx *schema.Tx) error {
		v, err := n.tree.View(tx, f.branch, 0)
		if err == nil {
			h.view = v.WithOrigin(s.sessions.serial)
		}
		return err
	})
	var err error
	h.file, err = x.Open(h.view, h.ino)
	n.must(err)
	if made {
		h.file.Made(h.view.Root(), f.at[len(f.at)-len(simMade(0)):])
	}
	s.logf("%s %s: open, reader %v, made %v", h.name, h.at, h.reader, made)
	x.mu.Lock()
	x.handles = append(x.handles, h)
	x.mu.Unlock()
}

func simMade(serial int64) string { return fmt.Sprintf("made %04d", serial) }

// make makes a file, if there is a branch.
func (x *simSurfaces) make() (f simFile, made bool) {
	n := x.c.n
	n.must(n.db.Write(func(tx *schema.Tx) error {
		sh, err := n.lookup(tx, n.s.bucket)
		if err != nil {
			return err
		}
		b, err := n.tree.Branch(tx, sh.bucket.ID, pathtree.MainBranch)
		if err != nil || b.Keep != kept {
			return nil // it has not come, or is not kept
		}
		v, err := n.tree.View(tx, b.ID, 0)
		if err != nil {
			return err
		}
		name := simMade(n.s.sessions.serial)
		in, err := v.Create(tx, v.Root(), name, pathtree.NewInode{Mode: unix.S_IFREG | 0o644})
		f, made = simFile{branch: b.ID, ino: in.Ino, at: "main:/" + name}, err == nil
		return err
	}))
	return f, made
}

// simHandleOp is something that is done with an open file.
type simHandleOp struct {
	weight int
	name   string
	do     func(h *simHandle, rng *rand.Rand)
	reads  bool // whatever else is done with the inode
}

var simHandleOps = []simHandleOp{
	{10, "write", (*simHandle).write, false},
	{2, "truncate", (*simHandle).truncate, false},
	{2, "append", (*simHandle).append, false},
	{4, "read back", (*simHandle).readBack, false},
	{4, "fsync", (*simHandle).sync, false},
	{3, "flush", (*simHandle).flush, false},
	{3, "publish", (*simHandle).publish, false},
	{1, "abort", (*simHandle).abort, false},
	{1, "go away", (*simHandle).preserve, false},
	{4, "close", (*simHandle).close, false},
}

var simReaderOps = []simHandleOp{
	{9, "read", (*simHandle).read, true},
	{1, "close", (*simHandle).close, false},
}

func (h *simHandle) operation(rng *rand.Rand) simHandleOp {
	ops := simHandleOps
	if h.reader {
		ops = simReaderOps
	}
	total := 0
	for _, o := range ops {
		total += o.weight
	}
	k := rng.IntN(total)
	for _, o := range ops {
		if k -= o.weight; k < 0 {
			return o
		}
	}
	panic("not reached")
}

// look makes h's notes agree with the file: a flush may have been made up for.
func (h *simHandle) look() {
	if h.file.Dirty() {
		return
	}
	h.clean()
}

// clean notes down that h has nothing unpublished any more. Its session may be there
// again after a crash that took the last moments.
func (h *simHandle) clean() {
	if h.text != nil {
		h.x.leaves(h.leaves())
	}
	h.text, h.states, h.long, h.synced, h.pending = nil, nil, false, nil, false
}

// leaves returns what is left of h's session, if anything is.
func (h *simHandle) leaves() simLeft {
	l := simLeft{name: h.name, branch: h.view.Branch().ID, ino: h.ino, may: h.states, synced: h.synced != nil, began: h.began, answer: h.answer}
	if h.long && h.synced == nil {
		l.may = nil // what was written after it was recorded is there in part
	}
	return l
}

func (x *simSurfaces) leaves(l simLeft) {
	x.mu.Lock()
	x.left = append(x.left, l)
	x.mu.Unlock()
}

// shows returns what h is to show.
func (h *simHandle) shows() []byte {
	if h.text != nil {
		return h.text
	}
	in := h.file.Published()
	if in.Size == 0 {
		return nil
	}
	p := h.x.c.n.s.texts.get(in.Hash)
	if p == nil {
		h.fails("is on content that nobody wrote: %s of %d bytes", in.Hash, in.Size)
	}
	return p
}

// fails notes an error of the test, unless the process is gone.
func (h *simHandle) fails(format string, args ...any) {
	if h.x.c.ctx.Err() == nil {
		h.x.c.n.s.errorf("%s %s %d: %s", h.name, h.at, h.ino, fmt.Sprintf(format, args...))
	}
}

// refused reports whether err is one that may come: content is not to be had, or the
// file or its branch is gone, or not kept.
func refusedRightly(err error) bool {
	e := pathtree.Errno(err)
	return errors.Is(err, blobstore.ErrNotHere) || errors.Is(err, pathtree.ErrNotKept) || errors.Is(err, context.Canceled) || e == unix.ENOENT || e == unix.ESTALE
}

// did notes down that h shows text now, and what came of it.
func (h *simHandle) did(op string, err error) (ok bool) {
	h.x.c.n.s.logf("%s %s: %s: %v", h.name, h.at, op, err)
	if err != nil && !refusedRightly(err) {
		h.fails("%s: %v", op, err)
	}
	return err == nil
}

// changed notes down that h shows p now, and was clean on in if it was.
func (h *simHandle) changed(p []byte, in pathtree.Inode) {
	if h.text == nil {
		h.began = in
	}
	if p == nil {
		p = []byte{}
	}
	h.text = p
	h.states = append(h.states, p)
	h.long = h.long || len(p) > simMemory
	if h.pending {
		h.x.c.n.s.texts.add(p)
	}
}

func someBytes(rng *rand.Rand) []byte {
	p := make([]byte, 1+rng.IntN([]int{100, 5000, 60_000}[rng.IntN(3)]))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func (h *simHandle) write(rng *rand.Rand) {
	h.look()
	was, in := h.shows(), h.file.Published()
	off, p := rng.IntN(len(was)+1), someBytes(rng)
	next := make([]byte, max(len(was), off+len(p)))
	copy(next, was)
	copy(next[off:], p)
	h.ahead(next)
	n, err := h.file.WriteAt(p, int64(off))
	if h.did(fmt.Sprintf("write %d at %d", len(p), off), err) {
		h.changed(next, in)
	} else if n != 0 {
		h.fails("a write that failed says it wrote %d bytes", n)
	}
}

// ahead says what h will show, where that may be published at any time.
func (h *simHandle) ahead(p []byte) {
	if h.pending {
		h.x.c.n.s.texts.add(p)
	}
}

func (h *simHandle) truncate(rng *rand.Rand) {
	h.look()
	was, in := h.shows(), h.file.Published()
	size := rng.IntN(len(was) + 1)
	if rng.IntN(4) == 0 {
		size += rng.IntN(60_000)
	}
	next := make([]byte, size)
	copy(next, was)
	h.ahead(next)
	if h.did(fmt.Sprintf("truncate to %d", size), h.file.Truncate(int64(size))) {
		h.changed(next, in)
	}
}

func (h *simHandle) append(rng *rand.Rand) {
	h.look()
	was, in, p := h.shows(), h.file.Published(), someBytes(rng)
	next := slices.Concat(was, p)
	h.ahead(next)
	off, err := h.file.Append(p)
	if h.did(fmt.Sprintf("append %d", len(p)), err) {
		if off != int64(len(was)) {
			h.fails("appended at %d, not %d", off, len(was))
		}
		h.changed(next, in)
	}
}

// all reads all of the file.
func (h *simHandle) all() ([]byte, error) {
	p := make([]byte, 4<<20)
	n, err := h.file.ReadAtContext(h.x.c.ctx, p, 0)
	if err == io.EOF {
		err = nil
	} else if err == nil {
		err = errors.New("it is longer than any is made")
	}
	return p[:n], err
}

// readBack holds a surface to show what it wrote, whatever came meanwhile.
func (h *simHandle) readBack(*rand.Rand) {
	h.look()
	want := h.shows()
	if p, err := h.all(); h.did("read back", err) && !bytes.Equal(p, want) {
		h.fails("reads %d bytes %s, not %d bytes %s", len(p), blobstore.Sum(p), len(want), blobstore.Sum(want))
	}
}

// read holds a reader to see the old or the new, whatever is published meanwhile.
func (h *simHandle) read(*rand.Rand) {
	p, err := h.all()
	if h.did("read", err) && len(p) > 0 && h.x.c.n.s.texts.get(blobstore.Sum(p)) == nil {
		h.fails("reads %d bytes that nobody published", len(p))
	}
}

// publishes does what may publish h.
func (h *simHandle) publishes(op string, f func() error) (ok, dirty bool) {
	h.look()
	if dirty = h.text != nil; dirty {
		h.x.c.n.s.texts.add(h.text)
	}
	h.doing = true
	err := f()
	h.doing = false
	return h.did(op, err), dirty
}

// published holds what f has published to be what h showed.
func (h *simHandle) published(op string) {
	in := h.file.Published()
	want := blobstore.Hash{}
	if len(h.text) > 0 {
		want = blobstore.Sum(h.text)
	}
	if in.Hash != want || in.Size != int64(len(h.text)) {
		h.fails("%s published %d bytes %s, not %d bytes %s", op, in.Size, in.Hash, len(h.text), want)
	}
	h.clean()
}

func (h *simHandle) publish(*rand.Rand) {
	var in pathtree.Inode
	ok, dirty := h.publishes("publish", func() (err error) { in, err = h.file.Publish(h.x.c.ctx); return err })
	if ok && dirty && in.Nlink > 0 {
		h.published("publish")
	}
}

// flush is the close of one of several descriptors. A publish that it leaves to later
// must not wait for others then, with the file locked: all bytes are brought before.
func (h *simHandle) flush(*rand.Rand) {
	if _, err := h.all(); !h.did("read all", err) {
		return
	}
	ok, dirty := h.publishes("flush", func() error { return h.file.Flush(h.x.c.ctx) })
	if ok && dirty && !h.file.Dirty() {
		h.published("flush")
	} else if ok && dirty {
		h.pending = true
	}
}

func (h *simHandle) sync(*rand.Rand) {
	ok, dirty := h.publishes("fsync", func() error { return h.file.Sync(h.x.c.ctx) })
	switch {
	case !ok || !dirty:
	case !h.file.Dirty():
		h.published("fsync")
	case h.x.linked(h.view, h.ino):
		h.synced, h.states = h.text, [][]byte{h.text}
		h.answer = h.x.inode(h.view.Branch().ID, h.ino)
	}
}

func (h *simHandle) abort(*rand.Rand) {
	h.look()
	h.file.Abort()
	h.x.c.must(h.x.c.n.db.Commit()) // else it may be there after a crash
	h.did("abort", nil)
	if h.file.Dirty() {
		h.fails("is dirty after an abort")
	}
	h.clean()
}

// preserve is the close for a user who went away.
func (h *simHandle) preserve(*rand.Rand) {
	h.look()
	dirty, linked := h.text != nil, h.x.linked(h.view, h.ino)
	if err := h.file.Preserve(); h.did("preserve", err) && dirty && linked {
		l := h.leaves()
		l.may, l.must, l.synced = [][]byte{h.text}, !h.x.dead.Load(), false
		h.x.leaves(l)
	}
	h.end()
}

// close closes the file; where that cannot be, it is open again as it was.
func (h *simHandle) close(*rand.Rand) { h.tryClose() }

func (h *simHandle) tryClose() bool {
	stale := false // the branch was removed
	ok, dirty := h.publishes("close", func() error {
		err := h.file.Close()
		stale = pathtree.Errno(err) == unix.ESTALE
		return err
	})
	switch {
	case ok:
		if dirty && h.x.linked(h.view, h.ino) && !h.file.Dirty() {
			h.published("close")
		}
		h.end()
		return true
	case h.x.c.ctx.Err() != nil:
		h.end()
		return true
	}
	f, err := h.x.OpenInode(h.view, h.file.Published())
	h.x.c.must(err)
	if err == nil {
		h.file = f
	}
	if dirty && !h.file.Dirty() && !stale {
		h.fails("what could not be published when it was closed is gone")
	}
	return false
}

func (h *simHandle) end() {
	h.x.mu.Lock()
	defer h.x.mu.Unlock()
	h.closed = true
	h.x.handles = slices.DeleteFunc(h.x.handles, func(o *simHandle) bool { return o == h })
}

// held says why a branch is not let go.
func (n *simNode) held(_, branch string) (why []string) {
	if n.surfaces != nil {
		for _, h := range n.surfaces.open() {
			if h.view.Branch().Name == branch {
				why = append(why, h.name+" has a file open")
			}
		}
	}
	return why
}

// inode returns what a branch shows of an inode, none if it is gone.
func (x *simSurfaces) inode(branch int64, ino pathtree.Ino) (in pathtree.Inode) {
	x.c.n.read(func(tx *schema.Tx) error {
		v, err := x.c.n.tree.View(tx, branch, 0)
		if err == nil {
			in, err = v.Inode(tx, ino)
		}
		if err != nil && refusedRightly(err) {
			in, err = pathtree.Inode{}, nil
		}
		return err
	})
	return in
}

func (x *simSurfaces) linked(v *pathtree.View, ino pathtree.Ino) bool {
	return x.inode(v.Branch().ID, ino).Nlink > 0
}

// died notes down what must be left of the open files of a process that is killed.
func (x *simSurfaces) died() {
	x.dead.Store(true)
	for _, h := range x.open() {
		if h.text == nil || !h.file.Dirty() {
			continue
		}
		l := h.leaves()
		if l.must = l.synced; l.must && !h.doing {
			l.may = [][]byte{h.synced}
		}
		x.leaves(l)
	}
}

// close ends them as a process does that ends: what is open is published, or kept.
func (x *simSurfaces) close() {
	if x.dead.Load() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = x.Close(ctx)
		return
	}
	for _, ino := range inodesOf(x.open()) {
		defer x.hold(ino)()
	}
	for _, h := range x.open() {
		h.look()
		if h.text != nil {
			x.c.n.s.texts.add(h.text)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := x.Close(ctx)
	x.c.n.s.logf("%s closes what is open: %v", x.c.n.name, err)
	for _, h := range x.open() {
		if h.text != nil && h.file.Published().Hash != blobstore.Sum(h.text) && len(h.text) > 0 && x.linked(h.view, h.ino) {
			l := h.leaves()
			l.may, l.must, l.synced = append(l.may, h.text), true, false
			x.leaves(l)
		}
		h.end()
	}
}

// recorded returns the sessions of dead processes.
func (x *simSurfaces) recorded() (all []writesession.Info) {
	x.c.n.read(func(tx *schema.Tx) (err error) {
		all, err = x.List(tx)
		return err
	})
	return slices.DeleteFunc(all, func(in writesession.Info) bool { return in.Alive })
}

// checkTakenOver holds the next process to have what the one before had answered for:
// it is published, or kept.
func (x *simSurfaces) checkTakenOver() {
	n := x.c.n
	there := map[string]int{}
	for _, in := range x.recorded() {
		there[fmt.Sprint(in.Branch, in.Ino)]++
	}
	for i := range x.left {
		l := &x.left[i]
		in := x.inode(l.branch, l.ino)
		if !l.must || in.Nlink == 0 {
			continue
		}
		published := slices.ContainsFunc(l.may, func(p []byte) bool { return n.has(l.ino, blobstore.Sum(p)) })
		k := fmt.Sprint(l.branch, l.ino)
		switch {
		case published && l.synced && l.answer.Hash != l.shown.Hash && !l.is(l.shown):
			n.s.fatalf("%s: what %s had synced of %d is published over %s, which came after it was synced", n.name, l.name, l.ino, l.shown.Hash)
		case published:
			l.must = false
		case there[k] == 0:
			n.s.fatalf("%s: what %s had synced of %d, or left, is neither published nor kept", n.name, l.name, l.ino)
		case l.synced && l.began.Stamp == l.shown.Stamp && l.began.Branch == l.shown.Branch && x.here(l.began):
			n.s.fatalf("%s: what %s had synced of %d is not published, and the file is what it was", n.name, l.name, l.ino)
		default:
			there[k]--
		}
	}
}

// is reports whether in has content that the session may have published.
func (l *simLeft) is(in pathtree.Inode) bool {
	return slices.ContainsFunc(l.may, func(p []byte) bool { return blobstore.Sum(p) == in.Hash })
}

// here reports whether the content of in is here, all of it.
func (x *simSurfaces) here(in pathtree.Inode) (here bool) {
	if in.Size == 0 {
		return true
	}
	x.c.n.read(func(tx *schema.Tx) (err error) {
		here, err = x.c.blobs.Here(tx, in.Hash)
		return err
	})
	return here
}

// has reports whether some version of an inode has a content.
func (n *simNode) has(ino pathtree.Ino, h blobstore.Hash) (has bool) {
	n.eachVersion(func(v *pathtree.Version) {
		has = has || v.Inode != nil && v.Ino == ino && v.Inode.Hash == h
	})
	return has
}

// endOne looks at one session that a dead process left, and publishes or drops it.
func (x *simSurfaces) endOne(rng *rand.Rand) {
	all := x.recorded()
	if len(all) == 0 {
		return
	}
	in := all[rng.IntN(len(all))]
	defer x.hold(in.Ino)()
	x.endSession(in, rng)
}

// endSession does so with one, and reports whether it is gone.
func (x *simSurfaces) endSession(in writesession.Info, rng *rand.Rand) bool {
	s, n := x.c.n.s, x.c.n
	var b bytes.Buffer
	err := x.Recover(x.c.ctx, in.ID, &b)
	s.logf("%s: session %d of %d left by a dead process: %v", n.name, in.ID, in.Ino, err)
	if err != nil {
		if !refusedRightly(err) {
			x.c.must(err)
		}
		if pathtree.Errno(err) != unix.ENOENT {
			return false // others are to be reached first
		}
	} else {
		x.checkLeft(in, b.Bytes())
	}
	if err == nil && rng.IntN(2) == 0 {
		s.texts.add(b.Bytes())
		_, err = x.Publish(x.c.ctx, in.ID)
		s.logf("%s: session %d of %d is published: %v", n.name, in.ID, in.Ino, err)
		if err == nil {
			return true
		}
		if !refusedRightly(err) && !errors.Is(err, unix.EEXIST) { // its name is another's now
			x.c.must(err)
		}
	}
	err = x.Abort(x.c.ctx, in.ID)
	s.logf("%s: session %d of %d is dropped: %v", n.name, in.ID, in.Ino, err)
	if err != nil && !refusedRightly(err) {
		x.c.must(err)
	}
	return err == nil
}

// checkLeft holds what a session gives back to be what its writer had written.
func (x *simSurfaces) checkLeft(in writesession.Info, got []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	known := false
	var sizes []string
	for i := range x.left {
		l := &x.left[i]
		switch {
		case l.branch != in.Branch || l.ino != in.Ino:
		case slices.ContainsFunc(l.may, func(p []byte) bool { return bytes.Equal(p, got) }):
			known, l.must = true, false
		case l.may == nil:
			known = true
		default:
			for _, p := range l.may {
				sizes = append(sizes, fmt.Sprint(l.name, " ", len(p)))
			}
		}
	}
	if known {
		return
	}
	x.c.n.s.errorf("%s: session %d of %d, synced %v, gives back %d bytes that nobody wrote; written were %s", x.c.n.name, in.ID, in.Ino, in.Synced, len(got), strings.Join(sizes, ", "))
}

// finish closes the open files of all nodes, and ends what dead processes left.
func (s *sim) finishSessions() {
	if !s.sessions.on {
		return
	}
	for _, n := range s.nodes {
		x := n.surfaces
		for _, h := range x.open() {
			done := x.hold(h.ino)
			for wait := time.Second; !h.tryClose(); wait *= 2 {
				if wait > 10*time.Minute {
					s.fatalf("%s %s cannot be closed", h.name, h.at)
				}
				time.Sleep(wait)
			}
			done()
		}
		for wait := time.Second; ; wait *= 2 {
			all := x.recorded()
			for _, in := range all {
				x.endSession(in, s.sessions.rng)
			}
			if all = x.recorded(); len(all) == 0 {
				break
			}
			if wait > 10*time.Minute {
				s.fatalf("%s: sessions are left that cannot be ended: %+v", n.name, all)
			}
			time.Sleep(wait)
		}
		for _, l := range x.left {
			if l.must && x.inode(l.branch, l.ino).Nlink > 0 && !slices.ContainsFunc(l.may, func(p []byte) bool { return n.has(l.ino, blobstore.Sum(p)) }) {
				s.fatalf("%s: what %s had left of %d is gone", n.name, l.name, l.ino)
			}
		}
		n.remember()
	}
}

// checkSessions holds every version to have content that somebody published.
func (s *sim) checkSessions() {
	if !s.sessions.on {
		return
	}
	for _, n := range s.nodes {
		n.eachVersion(func(v *pathtree.Version) {
			if v.Inode != nil && !v.Inode.Hash.IsZero() && s.texts.get(v.Inode.Hash) == nil {
				s.fatalf("%s has %s %s with content %s, which nobody published", n.name, thingKey(v), v.ID, v.Inode.Hash)
			}
		})
	}
}
