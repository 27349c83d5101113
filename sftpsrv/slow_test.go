package sftpsrv

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

func newSlowPeer(paths ...string) *fakePeer {
	p := &fakePeer{data: make([]byte, 64), slow: make(map[string]chan struct{}), begun: make(chan string, 10_000)}
	for _, path := range paths {
		p.slow[path] = make(chan struct{})
	}
	return p
}

// others are answered, in this order, whatever else waits.
func (w *wire) others(id uint32, handle string) {
	w.t.Helper()
	w.send(newEncoder(fxpRead, id).str(handle).u64(0).u32(10))
	w.want(fxpData, id)
	w.send(newEncoder(fxpWrite, id+1).str(handle).u64(0).str("text"))
	w.wantStatus(id+1, statusOK)
	w.send(newEncoder(fxpFstat, id+2).str(handle))
	w.want(fxpAttrs, id+2)
	w.send(newEncoder(fxpMkdir, id+3).str("/d").attrs(attrs{}))
	w.wantStatus(id+3, statusOK)
	w.send(newEncoder(fxpRename, id+4).str("/d").str("/e"))
	w.wantStatus(id+4, statusOK)
	w.send(newEncoder(fxpOpendir, id+5).str("/"))
	dir := w.want(fxpHandle, id+5).str()
	w.send(newEncoder(fxpReaddir, id+6).bytes(dir))
	w.wantStatus(id+6, statusEOF)
	w.send(newEncoder(fxpClose, id+7).bytes(dir))
	w.wantStatus(id+7, statusOK)
	w.send(newEncoder(fxpClose, id+8).str(handle))
	w.wantStatus(id+8, statusOK)
}

func TestOneBlockedRequestStallsNobodyElse(t *testing.T) {
	for _, kind := range []byte{fxpRead, fxpWrite} {
		p := newSlowPeer("/slow")
		w := serveFake(t, p)
		slow := w.openPath(1, "/slow", openRead|openWrite)
		quick := w.openPath(2, "/x", openRead|openWrite)
		e := newEncoder(kind, 3).str(slow).u64(0)
		if kind == fxpRead {
			e.u32(10)
		} else {
			e.str("0123456789")
		}
		w.send(e)
		<-p.begun
		w.others(10, quick)
		close(p.slow["/slow"])
		if kind == fxpRead {
			w.want(fxpData, 3)
		} else {
			w.wantStatus(3, statusOK)
		}
	}
}

// What is asked about one file takes effect in order, and reads between two
// writes together.
func TestOneFileKeepsItsOrder(t *testing.T) {
	p := newSlowPeer("/slow")
	w := serveFake(t, p)
	a, b := w.openPath(1, "/slow", openRead|openWrite), w.openPath(2, "/slow", openRead)
	w.send(newEncoder(fxpWrite, 3).str(a).u64(0).str("new"))
	w.send(newEncoder(fxpRead, 4).str(b).u64(0).u32(3))
	w.send(newEncoder(fxpRead, 5).str(a).u64(0).u32(3))
	w.send(newEncoder(fxpFstat, 6).str(b))
	w.send(newEncoder(fxpClose, 7).str(a))
	w.send(newEncoder(fxpFstat, 8).str(a)) // its handle is gone
	w.wantStatus(8, statusFailure)
	<-p.begun
	if len(p.begun) > 0 {
		t.Fatal("a read began before the write was done")
	}
	close(p.slow["/slow"])
	w.wantStatus(3, statusOK)
	got := map[uint32]byte{}
	for range 4 {
		kind, id, d := w.recv()
		if kind == fxpData && !bytes.Equal(d.str(), []byte("new")) {
			t.Error("a read did not see the write before it")
		}
		got[id] = kind
		if id == 7 && len(got) != 4 {
			t.Error("closed before the reads were answered")
		}
	}
	if want := map[uint32]byte{4: fxpData, 5: fxpData, 6: fxpAttrs, 7: fxpStatus}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The answers to the reads of a file come in order, whichever is ready first:
// OpenSSH's scp of 8.7 to 9.2 cuts off what it gets at the first that does not.
func TestReadsOfOneFileAreAnsweredInOrder(t *testing.T) {
	p := newSlowPeer("/slow")
	w := serveFake(t, p)
	h := w.openPath(1, "/slow", openRead)
	const n = 100
	for i := range uint32(n) {
		w.send(newEncoder(fxpRead, 10+i).str(h).u64(uint64(i % 60)).u32(1))
	}
	close(p.slow["/slow"])
	for i := range uint32(n) {
		w.want(fxpData, 10+i)
	}
}

// A session that asks for much takes little memory, and what needs none is
// answered all the same.
func TestMemoryOfASessionIsBounded(t *testing.T) {
	var paths []string
	for i := range 20 {
		paths = append(paths, fmt.Sprint("/slow", i))
	}
	p := newSlowPeer(paths...)
	w := serveFake(t, p)
	quick := w.openPath(1, "/x", openRead|openWrite)
	id := uint32(1000)
	for _, path := range paths {
		h := w.openPath(id, path, openRead)
		for range 100 {
			id++
			w.send(newEncoder(fxpRead, id).str(h).u64(0).u32(maxData))
		}
		id++
	}
	w.send(newEncoder(fxpFstat, 2).str(quick))
	w.want(fxpAttrs, 2)
	w.send(newEncoder(fxpOpendir, 3).str("/"))
	w.want(fxpHandle, 3)
	if n := len(p.begun) * maxData; n > maxReading {
		t.Errorf("%d bytes are being read", n)
	}
	for _, path := range paths {
		close(p.slow[path])
	}
	for range 100 * len(paths) {
		if kind, _, _ := w.recv(); kind != fxpData {
			t.Fatalf("packet %d", kind)
		}
	}
}

// Data of writes that wait are kept up to maxHeld; then no more is read.
func TestHeldWritesAreBounded(t *testing.T) {
	p := newSlowPeer("/slow")
	w := serveFake(t, p)
	h := w.openPath(1, "/slow", openWrite)
	const n = 100
	sent := make(chan int, n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		data := make([]byte, maxData)
		for i := range n {
			w.send(newEncoder(fxpWrite, uint32(10+i)).str(h).u64(0).bytes(data))
			sent <- i
		}
	}()
	<-p.begun
	for range maxHeld / maxPacket {
		<-sent
	}
	if len(sent) > 3 { // the one that waits for room, and the one being read
		t.Errorf("%d writes more than fit", len(sent))
	}
	close(p.slow["/slow"])
	for range n {
		if _, _, d := w.recv(); d.u32() != statusOK {
			t.Fatal("a write failed")
		}
	}
	<-done
}

// A pool that is empty leaves every session its first request.
func TestEmptyPoolLeavesEachSessionItsShare(t *testing.T) {
	f := newFilter(t.Context(), nil, nil, new(pool))
	var ts [2]task
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.take(&f.mu.reading, maxData, maxReading, &ts[0]) || f.take(&f.mu.reading, 1, maxReading, &ts[1]) {
		t.Error("the first is refused or the second is not")
	}
	f.pool.give(maxData)
	if !f.take(&f.mu.reading, maxData, maxReading, &ts[1]) || ts[1].pooled != maxData || f.pool.left.Load() != 0 {
		t.Error("what is given back cannot be taken")
	}
}

// serveSession serves a session of somebody who may do everything, without SSH.
func (w *world) serveSession(t *testing.T) *wire {
	s := newSession(w.c, 1, func() (*access.Rights, error) {
		return &access.Rights{Grants: []access.Grant{{Branches: "*", Level: access.Write}}}, nil
	})
	near, far := net.Pipe()
	near.SetDeadline(time.Now().Add(time.Minute))
	c := &wire{t, near, make(chan struct{})}
	go func() {
		defer close(c.done)
		f := newFilter(t.Context(), far, s, &w.server.memory)
		sftp.NewRequestServer(f, sftp.Handlers{FileCmd: handlers{s}, FileList: handlers{s}}).Serve()
		f.Close()
		f.wait()
		s.end()
	}()
	t.Cleanup(func() { near.Close(); <-c.done })
	return c
}

// blockBlob puts a named pipe in the place of the one blob file there is, so
// that whoever reads it next waits, and returns what ends that: the file has
// then gone wrong.
func (w *world) blockBlob(t *testing.T) (end func()) {
	t.Helper()
	var blob string
	must(t, filepath.WalkDir(filepath.Join(w.c.DB.Dir(), "blobs"), func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(p) == "" {
			blob = p
		}
		return err
	}))
	must(t, os.Remove(blob))
	must(t, unix.Mkfifo(blob, 0o600))
	end = func() {
		f, err := os.OpenFile(blob, os.O_RDWR, 0) // does not wait for a reader
		if errors.Is(err, fs.ErrNotExist) {
			return // it was called already
		}
		must(t, err)
		must(t, os.Remove(blob))
		f.Close()
	}
	t.Cleanup(end)
	return end
}

// With a real store: bytes that do not come hold up a read, a small write, a
// close and a truncation, and nobody else.
func TestBytesThatDoNotComeStallNobodyElse(t *testing.T) {
	for _, c := range []struct {
		what  string
		size  int
		begin func(w *wire, id uint32, h string)
	}{
		{"read", 300_000, func(w *wire, id uint32, h string) {
			w.send(newEncoder(fxpRead, id).str(h).u64(0).u32(100_000))
		}},
		{"write", 100_000, func(w *wire, id uint32, h string) {
			w.send(newEncoder(fxpWrite, id).str(h).u64(10).str("text"))
		}},
		{"close", 300_000, func(w *wire, id uint32, h string) {
			w.send(newEncoder(fxpWrite, 9).str(h).u64(10).str("text"))
			w.wantStatus(9, statusOK)
			w.send(newEncoder(fxpClose, id).str(h))
		}},
		{"truncate", 300_000, func(w *wire, id uint32, h string) {
			w.send(newEncoder(fxpClose, 9).str(h))
			w.wantStatus(9, statusOK)
			w.send(newEncoder(fxpSetstat, id).str("/ws/main/slow").attrs(attrs{flags: attrSize, size: 200_000}))
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			world := newWorld(t, Options{})
			w := world.serveSession(t)
			open := func(id uint32, p string, flags uint32) string {
				t.Helper()
				w.send(newEncoder(fxpOpen, id).str(p).u32(flags).attrs(attrs{}))
				return string(w.want(fxpHandle, id).str())
			}
			h := open(1, "/ws/main/slow", openWrite|openCreate)
			for off := 0; off < c.size; off += 100_000 {
				w.send(newEncoder(fxpWrite, 2).str(h).u64(uint64(off)).bytes(bytes.Repeat([]byte("s"), 100_000)))
				w.wantStatus(2, statusOK)
			}
			w.send(newEncoder(fxpClose, 3).str(h))
			w.wantStatus(3, statusOK)
			end := world.blockBlob(t)
			h = open(4, "/ws/main/slow", openRead|openWrite)
			c.begin(w, 5, h)

			other := open(10, "/ws/main/other", openRead|openWrite|openCreate)
			w.send(newEncoder(fxpWrite, 11).str(other).u64(0).bytes(bytes.Repeat([]byte("o"), 200_000)))
			w.wantStatus(11, statusOK)
			w.send(newEncoder(fxpRead, 12).str(other).u64(0).u32(10))
			w.want(fxpData, 12)
			w.send(newEncoder(fxpClose, 13).str(other))
			w.wantStatus(13, statusOK)
			w.send(newEncoder(fxpStat, 14).str("/ws/main/slow"))
			w.want(fxpAttrs, 14)
			w.send(newEncoder(fxpRename, 15).str("/ws/main/other").str("/ws/main/moved"))
			w.wantStatus(15, statusOK)
			w.send(newEncoder(fxpSetstat, 16).str("/ws/main/moved").attrs(attrs{flags: attrTimes, mtime: 5}))
			w.wantStatus(16, statusOK)
			w.send(newEncoder(fxpRead, 17).str(open(18, "/ws/main/moved", openRead)).u64(0).u32(10))
			w.want(fxpData, 17)
			end()
			if code := w.want(fxpStatus, 5).u32(); code == statusOK {
				t.Error("what could not be read was answered with success")
			}
		})
	}
}

// A client may send a rename, a new time or another open behind a close without
// waiting for its answer, as sshfs does. They find the file closed.
func TestWhatFollowsACloseFindsTheFileClosed(t *testing.T) {
	world := newWorld(t, Options{})
	w := world.serveSession(t)
	const n, size = 30, 200_000
	published := func() (in pathtree.Inode) { // what others see
		world.read(func(tx *schema.Tx) error {
			in, _ = world.main(tx).Resolve(tx, "f") // not there before the first rename
			return nil
		})
		return in
	}
	text := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, size) }
	for i := range n {
		w.send(newEncoder(fxpOpen, 1).str("/ws/main/tmp").u32(openWrite | openCreate | openTrunc).attrs(attrs{}))
		h := string(w.want(fxpHandle, 1).str())
		w.send(newEncoder(fxpWrite, 2).str(h).u64(0).bytes(text(i)))
		w.wantStatus(2, statusOK)
		go func() {
			w.send(newEncoder(fxpClose, 3).str(h))
			w.send(newEncoder(fxpSetstat, 4).str("/ws/main/tmp").attrs(attrs{flags: attrTimes, mtime: uint32(i)}))
			w.send(newEncoder(fxpExtended, 5).str("posix-rename@openssh.com").str("/ws/main/tmp").str("/ws/main/f"))
		}()
		for range 3 {
			_, id, d := w.recv()
			if d.u32() != statusOK {
				t.Fatalf("request %d failed", id)
			}
			if in := published(); id == 5 && in.Size != size {
				t.Errorf("round %d: renamed with %d bytes", i, in.Size)
			}
		}
		if in := published(); in.Mtime != int64(i)*int64(time.Second) {
			t.Errorf("round %d: time %d", i, in.Mtime)
		}
	}
}
