package sftpsrv

import (
	"bytes"
	"crypto/md5"
	"os"
	"strings"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

func (w *wire) openAs(id uint32, path string, flags uint32) string {
	w.t.Helper()
	w.send(newEncoder(fxpOpen, id).str(path).u32(flags).attrs(attrs{}))
	return string(w.want(fxpHandle, id).str())
}

// write makes a file of data, in pieces.
func (w *wire) write(path string, data []byte) {
	w.t.Helper()
	h := w.openAs(1, path, openWrite|openCreate)
	for off := 0; off < len(data); off += 100_000 {
		w.send(newEncoder(fxpWrite, 2).str(h).u64(uint64(off)).bytes(data[off:min(len(data), off+100_000)]))
		w.wantStatus(2, statusOK)
	}
	w.close(h)
}

func (w *wire) close(h string) {
	w.t.Helper()
	w.send(newEncoder(fxpClose, 3).str(h))
	w.wantStatus(3, statusOK)
}

// extended asks for an extension and returns the body of the answer.
func (w *wire) extended(kind byte, name string, fill func(e *encoder)) *decoder {
	w.t.Helper()
	e := newEncoder(fxpExtended, 5).str(name)
	fill(e)
	w.send(e)
	return w.want(kind, 5)
}

func (w *wire) extendedFails(name string, code int, fill func(e *encoder)) {
	w.t.Helper()
	if got := w.extended(fxpStatus, name, fill).u32(); got != uint32(code) {
		w.t.Errorf("%s: status %d, want %d", name, got, code)
	}
}

func TestCopyDataOfAWholeFileMovesNoBytes(t *testing.T) {
	world := newWorld(t, Options{})
	w := world.serveSession(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	w.write("/ws/main/src", data)
	shared := world.c.Sessions.Stats().Shared
	src, dst := w.openAs(10, "/ws/main/src", openRead), w.openAs(11, "/ws/main/dst", openRead|openWrite|openCreate)
	w.extendedFails("copy-data", statusOK, func(e *encoder) { e.str(src).u64(0).u64(0).str(dst).u64(0) })
	w.close(dst)
	world.read(func(tx *schema.Tx) error {
		v := world.main(tx)
		a, err := v.Resolve(tx, "src")
		if err != nil {
			return err
		}
		b, err := v.Resolve(tx, "dst")
		if a.Hash != b.Hash || b.Size != int64(len(data)) {
			t.Errorf("the copy has %d bytes of %v, want %v", b.Size, b.Hash, a.Hash)
		}
		return err
	})
	if world.c.Sessions.Stats().Shared == shared {
		t.Error("bytes were copied")
	}
	// A part of it, to another place, seen by a read sent right behind.
	part := w.openAs(12, "/ws/main/part", openRead|openWrite|openCreate)
	w.send(newEncoder(fxpExtended, 13).str("copy-data").str(src).u64(5).u64(20_000).str(part).u64(3))
	w.send(newEncoder(fxpRead, 14).str(part).u64(0).u32(20))
	w.wantStatus(13, statusOK)
	if got, want := w.want(fxpData, 14).str(), append([]byte{0, 0, 0}, data[5:22]...); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for what, fill := range map[string]func(e *encoder){
		"onto itself":          func(e *encoder) { e.str(part).u64(0).u64(10).str(part).u64(5) },
		"onto a read handle":   func(e *encoder) { e.str(part).u64(0).u64(0).str(src).u64(0) },
		"from an unknown file": func(e *encoder) { e.str("f99").u64(0).u64(0).str(part).u64(0) },
		"too far":              func(e *encoder) { e.str(src).u64(0).u64(0).str(part).u64(1 << 63) },
	} {
		if w.extended(fxpStatus, "copy-data", fill).u32() == statusOK {
			t.Errorf("copy %s: done", what)
		}
	}
}

func TestHashesAreTold(t *testing.T) {
	world := newWorld(t, Options{})
	w := world.serveSession(t)
	data := bytes.Repeat([]byte("data "), 50_000)
	w.write("/ws/main/f", data)
	w.write("/ws/main/empty", nil)
	for path, want := range map[string][]byte{"/ws/main/f": data, "/ws/main/empty": nil} {
		d := w.extended(fxpExtendedReply, "hash@alkfs", func(e *encoder) { e.str(path) })
		sum := blobstore.Sum(want)
		if name, h, size := string(d.str()), d.str(), d.u64(); name != "blake3" || !bytes.Equal(h, sum[:]) || size != uint64(len(want)) {
			t.Errorf("%s: %s %x, %d bytes", path, name, h, size)
		}
	}
	w.extendedFails("hash@alkfs", statusNoFile, func(e *encoder) { e.str("/ws/main/none") })
	w.extendedFails("hash@alkfs", statusFailure, func(e *encoder) { e.str("/ws/main") })
	h := w.openAs(10, "/ws/main/f", openRead)
	d := w.extended(fxpExtendedReply, "check-file", func(e *encoder) { e.str(h).str("md5").u64(5).u64(100).u32(0) })
	sum := md5.Sum(data[5:105])
	if d.str(); string(d.str()) != "md5" || !bytes.Equal(d.b, sum[:]) {
		t.Errorf("md5 is %x, want %x", d.b, sum)
	}
	w.extendedFails("check-file", statusUnsupported, func(e *encoder) { e.str(h).str("crc32").u64(0).u64(0).u32(0) })
	w.extendedFails("check-file", statusFailure, func(e *encoder) { e.str(h).str("md5").u64(0).u64(0).u32(1) })
}

func TestOtherExtensions(t *testing.T) {
	world := newWorld(t, Options{})
	w := world.serveSession(t)
	w.write("/ws/main/f", []byte("text"))
	w.send(newEncoder(fxpSymlink, 9).str("f").str("/ws/main/l"))
	w.wantStatus(9, statusOK)
	w.extendedFails("lsetstat@openssh.com", statusOK, func(e *encoder) {
		e.str("/ws/main/l").attrs(attrs{flags: attrTimes, atime: 6, mtime: 7})
	})
	for path, want := range map[string]bool{"/ws/main/l": true, "/ws/main/f": false} {
		w.send(newEncoder(fxpLstat, 9).str(path))
		if a := w.want(fxpAttrs, 9).attrs(); (a.mtime == 7) != want {
			t.Errorf("%s has the time %d", path, a.mtime)
		}
	}
	for in, want := range map[string]string{"~": "/", "~/ws/../x": "/x", "ws": "/ws", "/a/../../b": "/b"} {
		d := w.extended(fxpName, "expand-path@openssh.com", func(e *encoder) { e.str(in) })
		if d.u32(); string(d.str()) != want {
			t.Errorf("%s is not %s", in, want)
		}
	}
	w.extendedFails("expand-path@openssh.com", statusNoFile, func(e *encoder) { e.str("~root/x") })
	d := w.extended(fxpExtendedReply, "users-groups-by-id@openssh.com", func(e *encoder) {
		e.bytes(newIDs(uint32(os.Getuid()), 12345)).bytes(newIDs(12345))
	})
	users, groups := &decoder{b: d.str()}, &decoder{b: d.str()}
	if me := string(users.str()); me == "" || string(users.str()) != "" || string(groups.str()) != "" || users.bad || groups.bad {
		t.Errorf("the server is %q", me)
	}
	d = w.extended(fxpExtendedReply, "limits@openssh.com", func(*encoder) {})
	if a, b, c, n := d.u64(), d.u64(), d.u64(), d.u64(); a != maxPacket || b != maxData || c != maxData || n != maxHandles {
		t.Errorf("limits %d %d %d %d", a, b, c, n)
	}
	h := w.openAs(10, "/ws/main/f", openRead)
	for _, name := range []string{"statvfs@openssh.com", "fstatvfs@openssh.com"} {
		d := w.extended(fxpExtendedReply, name, func(e *encoder) { e.str(map[bool]string{true: h, false: "/ws/main"}[strings.HasPrefix(name, "f")]) })
		if size, _, blocks := d.u64(), d.u64(), d.u64(); size == 0 || blocks == 0 || len(d.b) != 8*8 {
			t.Errorf("%s: %d blocks of %d bytes", name, blocks, size)
		}
	}
	w.extendedFails("hardlink@openssh.com", statusOK, func(e *encoder) { e.str("/ws/main/f").str("/ws/main/g") })
	w.extendedFails("fsync@openssh.com", statusOK, func(e *encoder) { e.str(h) })
}

func newIDs(list ...uint32) []byte {
	var e encoder
	for _, id := range list {
		e.u32(id)
	}
	return e.b
}
