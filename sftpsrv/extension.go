package sftpsrv

import (
	"encoding/binary"

	"github.com/alkdev/alkfs/blobstore"
)

// extensions are advertised in the VERSION packet, with their versions. Hardlink
// is answered by pkg/sftp, the others by the filter. Those of
// OpenSSH are described in its PROTOCOL file, copy-data and check-file in
// draft-ietf-secsh-filexfer-extensions-00. Ours is hash@alkfs: the request
// carries a path, the reply the string "blake3", the 32 bytes of the hash and
// the size as a uint64; the content is not read.
var extensions = []struct{ name, version string }{
	{"posix-rename@openssh.com", "1"},
	{"hardlink@openssh.com", "1"},
	{"statvfs@openssh.com", "2"},
	{"fstatvfs@openssh.com", "2"},
	{"fsync@openssh.com", "1"},
	{"lsetstat@openssh.com", "1"},
	{"limits@openssh.com", "1"},
	{"expand-path@openssh.com", "1"},
	{"users-groups-by-id@openssh.com", "1"},
	{"copy-data", "1"},
	{"check-file", "1"},
	{"hash@alkfs", "1"},
}

func versionPacket() []byte {
	e := newEncoder(fxpVersion, 3)
	for _, x := range extensions {
		e.str(x.name).str(x.version)
	}
	return e.packet()
}

// copyRange is the request of copy-data. A length of 0 means to the end.
type copyRange struct {
	src, dst       any
	srcOff, length uint64
	dstOff         uint64
}

// blockRange is what check-file hashes: [off, off+length) in blocks, or in one
// when block is 0. A length of 0 means to the end.
type blockRange struct {
	off, length uint64
	block       uint32
}

// extended answers an extension, or passes on the one that pkg/sftp answers.
func (f *filter) extended(r *request, d *decoder) (pass bool, err error) {
	name := string(d.str())
	if d.bad {
		return false, errBadMessage
	}
	switch name {
	case "hardlink@openssh.com":
		d.str()
		d.str()
		return !d.bad, badIf(d.bad)
	case "posix-rename@openssh.com":
		return false, f.rename(r.id, d, 0)
	case "lsetstat@openssh.com":
		return false, f.setstat(r.id, d, false)
	case "fsync@openssh.com", "copy-data", "check-file", "fstatvfs@openssh.com":
		return false, f.extendedHandle(r.id, name, d)
	case "statvfs@openssh.com", "expand-path@openssh.com", "hash@alkfs":
		return false, f.extendedPath(r.id, name, d)
	case "limits@openssh.com":
		e := newEncoder(fxpExtendedReply, r.id).u64(maxPacket).u64(maxData).u64(maxData).u64(maxHandles)
		return false, f.write(e.packet())
	case "users-groups-by-id@openssh.com":
		return false, f.usersAndGroups(r.id, d)
	}
	return false, f.answer(r.id, nil, errUnsupported)
}

func badIf(bad bool) error {
	if bad {
		return errBadMessage
	}
	return nil
}

func (f *filter) extendedPath(id uint32, name string, d *decoder) error {
	path := string(d.str())
	if d.bad {
		return errBadMessage
	}
	f.afterCommands()
	switch name {
	case "statvfs@openssh.com":
		return f.statvfs(id, path, nil)
	case "expand-path@openssh.com":
		p, err := f.peer.expand(path)
		e := newEncoder(fxpName, id).u32(1).str(p).str(p).attrs(attrs{})
		return f.answer(id, e.packet(), err)
	}
	h, size, err := f.peer.hash(path)
	if h.IsZero() {
		h = blobstore.Sum(nil)
	}
	e := newEncoder(fxpExtendedReply, id).str("blake3").bytes(h[:]).u64(uint64(size))
	return f.answer(id, e.packet(), err)
}

// hashRoom is the memory in bytes that check-file reads into.
const hashRoom = 64 << 10

func (f *filter) extendedHandle(id uint32, name string, d *decoder) error {
	h, _ := f.handle(d.str(), true)
	if d.bad {
		return errBadMessage
	}
	if h == nil {
		return f.answer(id, nil, errBadHandle)
	}
	t := &task{lanes: []*lane{h.lane}}
	switch name {
	case "fstatvfs@openssh.com":
		return f.statvfs(id, "", h.obj)
	case "fsync@openssh.com":
		t.shared = true
		t.run = func() []byte { return statusPacket(id, f.peer.fsync(f.ctx, h.obj)) }
	case "copy-data":
		c := copyRange{src: h.obj, srcOff: d.u64(), length: d.u64()}
		dst, _ := f.handle(d.str(), false)
		c.dstOff = d.u64()
		if d.bad {
			return errBadMessage
		}
		if dst == nil {
			return f.answer(id, nil, errBadHandle)
		}
		c.dst = dst.obj
		if dst.lane != h.lane {
			t.lanes = append(t.lanes, dst.lane)
		}
		t.run = func() []byte { return statusPacket(id, f.peer.copyData(f.ctx, c)) }
	default:
		algorithms := string(d.str())
		r := blockRange{off: d.u64(), length: d.u64(), block: d.u32()}
		if d.bad {
			return errBadMessage
		}
		t.shared, t.room = true, hashRoom
		t.run = func() []byte { return f.checkReply(id, h, algorithms, r) }
	}
	f.submit(t)
	return nil
}

func (f *filter) checkReply(id uint32, h *handle, algorithms string, r blockRange) []byte {
	used, sums, err := f.peer.check(f.ctx, h.obj, algorithms, r)
	e := newEncoder(fxpExtendedReply, id).str("check-file").str(used)
	e.b = append(e.b, sums...)
	return replyTo(id, e.packet(), err)
}

// statvfs sends what OpenSSH's PROTOCOL section 4.4 lays down.
func (f *filter) statvfs(id uint32, path string, obj any) error {
	st, err := f.peer.statvfs(path, obj)
	e := newEncoder(fxpExtendedReply, id)
	for _, v := range [...]uint64{
		uint64(st.Bsize), uint64(st.Frsize), st.Blocks, st.Bfree, st.Bavail,
		st.Files, st.Ffree, st.Ffree, 0, uint64(st.Flags), 255,
	} {
		e.u64(v)
	}
	return f.answer(id, e.packet(), err)
}

func (f *filter) usersAndGroups(id uint32, d *decoder) error {
	uids, gids := ids(d.str()), ids(d.str())
	if d.bad {
		return errBadMessage
	}
	users, groups := f.peer.names(uids, gids)
	e := newEncoder(fxpExtendedReply, id)
	for _, list := range [][]string{users, groups} {
		var all encoder
		for _, s := range list {
			all.str(s)
		}
		e.bytes(all.b)
	}
	return f.write(e.packet())
}

func ids(p []byte) []uint32 {
	var out []uint32
	for ; len(p) >= 4; p = p[4:] {
		out = append(out, binary.BigEndian.Uint32(p))
	}
	return out
}
