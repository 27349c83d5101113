package sftpsrv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
)

// fakePeer is a session over one file in memory, and others that block.
type fakePeer struct {
	mu       sync.Mutex
	data     []byte
	writes   []uint64
	created  attrs
	closes   int
	slow     map[string]chan struct{} // files whose reads and writes wait for their channel
	begun    chan string              // told of each such read and write
	syncGate chan struct{}
}

// fakeFile is a file of a fakePeer; handles of one path are one file.
type fakeFile struct {
	p    *fakePeer
	path string
}

func (p *fakePeer) opened() any { return fakeFile{p, "/"} }

func (p *fakePeer) open(path string, _ uint32, a attrs) (any, func() error, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.created = a
	return fakeFile{p, path}, nil, nil
}

func (p *fakePeer) key(obj any) any      { return obj }
func (p *fakePeer) changed(obj any) bool { return false }

func (p *fakePeer) close(any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closes++
	return nil
}

// wait blocks on a slow file.
func (p *fakePeer) wait(obj any) {
	if gate := p.slow[obj.(fakeFile).path]; gate != nil {
		p.begun <- obj.(fakeFile).path
		<-gate
	}
}

func (p *fakePeer) write(obj any, b []byte, off uint64) error {
	p.wait(obj)
	p.mu.Lock()
	defer p.mu.Unlock()
	if off > 1<<20 {
		return syscall.EFBIG
	}
	if need := int(off) + len(b); need > len(p.data) {
		p.data = append(p.data, make([]byte, need-len(p.data))...)
	}
	copy(p.data[off:], b)
	p.writes = append(p.writes, off)
	return nil
}

func (p *fakePeer) writeNow(obj any, b []byte, off uint64) (bool, error) {
	if p.slow[obj.(fakeFile).path] != nil {
		return false, nil
	}
	return true, p.write(obj, b, off)
}

func (p *fakePeer) read(obj any, b []byte, off int64) (int, error) {
	p.wait(obj)
	p.mu.Lock()
	defer p.mu.Unlock()
	if off < 0 || off >= int64(len(p.data)) {
		return 0, io.EOF
	}
	return copy(b, p.data[off:]), nil
}

func (p *fakePeer) left(obj any, off uint64) (int64, error) {
	if p.slow[obj.(fakeFile).path] != nil {
		return 1 << 30, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if off >= uint64(len(p.data)) {
		return 0, nil
	}
	return int64(len(p.data)) - int64(off), nil
}

func (p *fakePeer) stat(path string, _ bool) (attrs, error) {
	if strings.HasSuffix(path, "/missing") {
		return attrs{}, errNoFile
	}
	return p.fstat(nil)
}

func (p *fakePeer) fstat(any) (attrs, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return attrs{flags: attrSize, size: uint64(len(p.data))}, nil
}

func (p *fakePeer) ahead() {}

func (p *fakePeer) fsync(ctx context.Context, _ any) error {
	if p.syncGate == nil {
		return nil
	}
	select {
	case <-p.syncGate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *fakePeer) mkdir(_ string, a attrs) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.created = a
	return nil
}

func (p *fakePeer) fsetstat(any, attrs) error                   { return nil }
func (p *fakePeer) setstat(string, attrs, bool) (rest, error)   { return rest{}, nil }
func (p *fakePeer) rename(string, string, uint32) (rest, error) { return rest{}, nil }
func (p *fakePeer) expand(s string) (string, error)             { return s, nil }
func (p *fakePeer) names(u, g []uint32) (a, b []string) {
	return make([]string, len(u)), make([]string, len(g))
}
func (p *fakePeer) copyData(context.Context, copyRange) error  { return nil }
func (p *fakePeer) statvfs(string, any) (unix.Statfs_t, error) { return unix.Statfs_t{}, nil }
func (p *fakePeer) hash(string) (blobstore.Hash, int64, error) { return blobstore.Hash{}, 0, nil }
func (p *fakePeer) check(context.Context, any, string, blockRange) (string, []byte, error) {
	return "md5", []byte("sum"), nil
}

// Handlers of pkg/sftp.
func (p *fakePeer) Filecmd(*sftp.Request) error                   { return nil }
func (p *fakePeer) Filelist(*sftp.Request) (sftp.ListerAt, error) { return p, nil }
func (p *fakePeer) ListAt([]os.FileInfo, int64) (int, error)      { return 0, io.EOF }

// serveOn serves a channel with p behind the filter, until it ends.
func (p *fakePeer) serveOn(ctx context.Context, ch io.ReadWriteCloser) {
	all := new(pool)
	all.give(64 << 20)
	f := newFilter(ctx, ch, p, all)
	sftp.NewRequestServer(f, sftp.Handlers{FileCmd: p, FileList: p}).Serve()
	f.Close()
	f.wait()
	if left := all.left.Load(); left != 64<<20 {
		panic(fmt.Sprintf("%d bytes of memory are not given back", 64<<20-left))
	}
}

// wire is the client's end of a served connection.
type wire struct {
	t    *testing.T
	conn net.Conn
	done chan struct{}
}

func serveFake(t *testing.T, p *fakePeer) *wire {
	near, far := net.Pipe()
	near.SetDeadline(time.Now().Add(time.Minute))
	w := &wire{t, near, make(chan struct{})}
	go func() {
		defer close(w.done)
		p.serveOn(t.Context(), far)
	}()
	t.Cleanup(func() { near.Close(); <-w.done })
	return w
}

// send writes in the background: net.Pipe holds nothing.
func (w *wire) send(e *encoder) {
	w.t.Helper()
	if _, err := w.conn.Write(e.packet()); err != nil {
		w.t.Error(err)
	}
}

func (w *wire) recv() (kind byte, id uint32, d *decoder) {
	w.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(w.conn, head[:]); err != nil {
		w.t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(w.conn, body); err != nil {
		w.t.Fatal(err)
	}
	d = &decoder{b: body[1:]}
	return body[0], d.u32(), d
}

func (w *wire) want(kind byte, id uint32) *decoder {
	w.t.Helper()
	k, i, d := w.recv()
	if k != kind || i != id {
		w.t.Fatalf("got packet %d with id %d, want %d with %d", k, i, kind, id)
	}
	return d
}

func (w *wire) wantStatus(id uint32, code int) {
	w.t.Helper()
	if got := w.want(fxpStatus, id).u32(); got != uint32(code) {
		w.t.Fatalf("request %d: status %d, want %d", id, got, code)
	}
}

func (w *wire) open(id, flags uint32) string { return w.openPath(id, "/x", flags) }

func (w *wire) openPath(id uint32, path string, flags uint32) string {
	w.t.Helper()
	w.send(newEncoder(fxpOpen, id).str(path).u32(flags).attrs(attrs{flags: attrMode, mode: 0o640}))
	return string(w.want(fxpHandle, id).str())
}

func TestVersionAdvertisesWhatWorks(t *testing.T) {
	w := serveFake(t, &fakePeer{})
	w.send(newEncoder(fxpInit, 3))
	d := w.want(fxpVersion, 3)
	var got []string
	for len(d.b) > 0 {
		got = append(got, string(d.str()))
		d.str()
	}
	var want []string
	for _, x := range extensions {
		want = append(want, x.name)
	}
	if d.bad || !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	// None of them may answer that it is unknown.
	h := w.open(1, openRead)
	for i, x := range extensions {
		id := uint32(100 + i)
		e := newEncoder(fxpExtended, id).str(x.name)
		switch x.name {
		case "copy-data":
			e.str(h).u64(0).u64(0).str(h).u64(0)
		case "check-file":
			e.str(h).str("md5").u64(0).u64(0).u32(0)
		case "fsync@openssh.com", "fstatvfs@openssh.com":
			e.str(h)
		case "lsetstat@openssh.com":
			e.str("/x").attrs(attrs{})
		default:
			e.str("/a").str("/b")
		}
		w.send(e)
		kind, got, d := w.recv()
		if got != id || (kind == fxpStatus && d.u32() != statusOK) {
			t.Errorf("%s: packet %d for id %d", x.name, kind, got)
		}
	}
	w.send(newEncoder(fxpExtended, 9).str("nobody@example.com"))
	w.wantStatus(9, statusUnsupported)
}

func TestAttributesOfCreateAreKept(t *testing.T) {
	p := &fakePeer{}
	w := serveFake(t, p)
	w.open(1, openWrite|openCreate)
	if p.created.mode != 0o640 {
		t.Errorf("open: mode %o", p.created.mode)
	}
	w.send(newEncoder(fxpMkdir, 2).str("/d").attrs(attrs{flags: attrMode, mode: 0o711}))
	w.wantStatus(2, statusOK)
	if p.created.mode != 0o711 {
		t.Errorf("mkdir: mode %o", p.created.mode)
	}
}

func TestPipelinedRequestsTakeEffectInOrder(t *testing.T) {
	p := &fakePeer{}
	w := serveFake(t, p)
	h := w.open(1, openRead|openWrite)
	go func() { // all before the first reply is read
		for i := range 50 {
			w.send(newEncoder(fxpWrite, uint32(10+i)).str(h).u64(0).bytes([]byte{byte(i)}))
		}
		w.send(newEncoder(fxpRead, 60).str(h).u64(0).u32(10))
		w.send(newEncoder(fxpWrite, 61).str(h).u64(1).str("more"))
		w.send(newEncoder(fxpFstat, 62).str(h))
		w.send(newEncoder(fxpClose, 63).str(h))
		w.send(newEncoder(fxpFstat, 64).str(h))
	}()
	for i := range 50 {
		w.wantStatus(uint32(10+i), statusOK)
	}
	if got := w.want(103, 60).str(); !bytes.Equal(got, []byte{49}) {
		t.Errorf("read %v, want the last write", got)
	}
	w.wantStatus(61, statusOK)
	if a := w.want(fxpAttrs, 62).attrs(); a.size != 5 {
		t.Errorf("size %d, want 5", a.size)
	}
	w.wantStatus(63, statusOK)
	w.wantStatus(64, statusFailure)
}

func TestSlowSyncStallsNobodyButItsClose(t *testing.T) {
	p := &fakePeer{syncGate: make(chan struct{})}
	w := serveFake(t, p)
	a, b := w.open(1, openWrite), w.open(2, openRead)
	w.send(newEncoder(fxpExtended, 3).str("fsync@openssh.com").str(a))
	w.send(newEncoder(fxpFstat, 4).str(b))
	w.want(fxpAttrs, 4)
	w.send(newEncoder(fxpFstat, 5).str(a))
	w.want(fxpAttrs, 5)
	w.send(newEncoder(fxpClose, 6).str(a))
	close(p.syncGate)
	w.wantStatus(3, statusOK)
	w.wantStatus(6, statusOK)
}

func TestForeignHandlesAreRefused(t *testing.T) {
	w := serveFake(t, &fakePeer{})
	for i, kind := range []byte{fxpRead, fxpWrite, fxpClose, fxpFstat, fxpFsetstat} {
		e := newEncoder(kind, uint32(i)).str("7")
		switch kind {
		case fxpRead:
			e.u64(0).u32(1)
		case fxpWrite:
			e.u64(0).str("x")
		case fxpFsetstat:
			e.attrs(attrs{})
		}
		w.send(e)
		w.wantStatus(uint32(i), statusFailure)
	}
	w.send(newEncoder(fxpOpen, 9).str("/x").u32(openExcl).attrs(attrs{}))
	w.wantStatus(9, statusBadMessage)
}

// stream is a channel whose client sends fixed bytes and reads everything.
type stream struct {
	io.Reader
	out bytes.Buffer
	mu  sync.Mutex
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}
func (s *stream) Close() error { return nil }

func FuzzFilter(f *testing.F) {
	add := func(es ...*encoder) {
		var all []byte
		for _, e := range es {
			all = append(all, e.packet()...)
		}
		f.Add(all)
	}
	add(newEncoder(fxpInit, 3))
	open := func() *encoder {
		return newEncoder(fxpOpen, 1).str("/x").u32(openRead | openWrite).attrs(attrs{flags: attrMode, mode: 0o600})
	}
	add(open(), newEncoder(fxpWrite, 2).str("f1").u64(3).str("abc"), newEncoder(fxpRead, 3).str("f1").u64(0).u32(1<<31),
		newEncoder(fxpFstat, 4).str("f1"), newEncoder(fxpClose, 5).str("f1"), newEncoder(fxpClose, 6).str("f1"))
	for _, x := range extensions {
		add(open(), newEncoder(fxpExtended, 1).str(x.name).str("f1").u64(0).u64(1).str("f1").u64(9))
	}
	for kind := byte(7); kind <= 20; kind++ {
		add(newEncoder(kind, 1).str("/a").u32(0))
		add(newEncoder(kind, 1).str("/a").str("/b"))
	}
	add(newEncoder(fxpMkdir, 1).str("/d").attrs(attrs{flags: attrExtended | attrTimes}).u32(1 << 30))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := &fakePeer{}
		s := &stream{Reader: bytes.NewReader(in)}
		p.serveOn(context.Background(), s)
		s.mu.Lock()
		defer s.mu.Unlock()
		for out := s.out.Bytes(); len(out) > 0; {
			if len(out) < 9 {
				t.Fatalf("a reply of %d bytes", len(out))
			}
			n := binary.BigEndian.Uint32(out)
			if n < 5 || n > maxPacket || int(n)+4 > len(out) {
				t.Fatalf("a reply with length %d, %d bytes left", n, len(out))
			}
			out = out[n+4:]
		}
	})
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{`branch create ws/a`, `ls 'a b' "c\"d" e\ f`, `'`, `\`, `a''b ""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := words(s)
		if err != nil {
			return
		}
		var line bytes.Buffer
		for _, w := range got {
			line.WriteString("'" + string(bytes.ReplaceAll([]byte(w), []byte("'"), []byte(`'\''`))) + "' ")
		}
		again, err := words(line.String())
		if err != nil || !slices.Equal(got, again) {
			t.Fatalf("%q: %q, quoted again %q, %v", s, got, again, err)
		}
	})
}
