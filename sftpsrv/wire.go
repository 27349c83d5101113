package sftpsrv

import "encoding/binary"

// Packet types of SFTP version 3 (draft-ietf-secsh-filexfer-02, section 3).
const (
	fxpInit          = 1
	fxpVersion       = 2
	fxpOpen          = 3
	fxpClose         = 4
	fxpRead          = 5
	fxpWrite         = 6
	fxpLstat         = 7
	fxpFstat         = 8
	fxpSetstat       = 9
	fxpFsetstat      = 10
	fxpOpendir       = 11
	fxpReaddir       = 12
	fxpMkdir         = 14
	fxpStat          = 17
	fxpRename        = 18
	fxpSymlink       = 20
	fxpStatus        = 101
	fxpHandle        = 102
	fxpData          = 103
	fxpName          = 104
	fxpAttrs         = 105
	fxpExtended      = 200
	fxpExtendedReply = 201
)

// Flags of an attribute block (section 5).
const (
	attrSize     = 1 << 0
	attrOwner    = 1 << 1
	attrMode     = 1 << 2
	attrTimes    = 1 << 3
	attrExtended = 1 << 31
)

// Bits of the pflags of an open (section 6.3).
const (
	openRead   = 1 << 0
	openWrite  = 1 << 1
	openAppend = 1 << 2
	openCreate = 1 << 3
	openTrunc  = 1 << 4
	openExcl   = 1 << 5
)

// maxPacket is the longest packet accepted or sent, in bytes after the length
// word; it is OpenSSH's limit and pkg/sftp's. maxData leaves room for a header.
const (
	maxPacket = 256 << 10
	maxData   = maxPacket - 1024
)

// decoder takes apart a packet's body. After a read beyond its end bad is set
// and everything reads as zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.b, d.bad = nil, true
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// str returns the bytes of a string; they belong to the packet.
func (d *decoder) str() []byte {
	n := d.u32()
	if n > maxPacket {
		d.b, d.bad = nil, true
		return nil
	}
	return d.take(int(n))
}

// attrs is an attribute block; flags says which fields are set.
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32 // seconds since 1970
}

// attrs reads the fields known to version 3. Extended pairs are passed over.
func (d *decoder) attrs() attrs { return d.attrFields(d.u32()) }

func (d *decoder) attrFields(flags uint32) attrs {
	a := attrs{flags: flags}
	if a.flags&attrSize != 0 {
		a.size = d.u64()
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = d.u32(), d.u32()
	}
	if a.flags&attrMode != 0 {
		a.mode = d.u32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = d.u32(), d.u32()
	}
	if a.flags&attrExtended != 0 {
		for n := d.u32(); n > 0 && !d.bad; n-- {
			d.str()
			d.str()
		}
	}
	return a
}

// encoder builds a packet, starting with room for its length word.
type encoder struct{ b []byte }

func newEncoder(kind byte, id uint32) *encoder {
	e := &encoder{make([]byte, 4, 64)}
	e.b = append(e.b, kind)
	return e.u32(id)
}

func (e *encoder) u32(v uint32) *encoder {
	e.b = binary.BigEndian.AppendUint32(e.b, v)
	return e
}

func (e *encoder) u64(v uint64) *encoder {
	e.b = binary.BigEndian.AppendUint64(e.b, v)
	return e
}

func (e *encoder) str(s string) *encoder {
	e.u32(uint32(len(s)))
	e.b = append(e.b, s...)
	return e
}

func (e *encoder) bytes(p []byte) *encoder {
	e.u32(uint32(len(p)))
	e.b = append(e.b, p...)
	return e
}

func (e *encoder) attrs(a attrs) *encoder {
	e.u32(a.flags)
	if a.flags&attrSize != 0 {
		e.u64(a.size)
	}
	if a.flags&attrOwner != 0 {
		e.u32(a.uid).u32(a.gid)
	}
	if a.flags&attrMode != 0 {
		e.u32(a.mode)
	}
	if a.flags&attrTimes != 0 {
		e.u32(a.atime).u32(a.mtime)
	}
	return e
}

// packet returns the finished packet with its length word.
func (e *encoder) packet() []byte {
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4))
	return e.b
}

func statusPacket(id uint32, err error) []byte {
	s := statusOf(err)
	return newEncoder(fxpStatus, id).u32(uint32(s.code)).str(s.text).str("").packet()
}

// dataPacket makes p, whose data begins after 13 bytes, a DATA packet.
func dataPacket(p []byte, id uint32) []byte {
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	p[4] = fxpData
	binary.BigEndian.PutUint32(p[5:], id)
	binary.BigEndian.PutUint32(p[9:], uint32(len(p)-13))
	return p
}
