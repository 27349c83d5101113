package gate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Decode checks raw, one change chunk and nothing else, and returns what it
// says and its hash. Values point into raw.
func Decode(raw []byte) (*Change, Hash, error) {
	if len(raw) > MaxBytes || len(raw) < headerLen+2 || !bytes.Equal(raw[:4], magic) || raw[headerLen] != chunkChange {
		return nil, Hash{}, fmt.Errorf("%w: no change chunk in %d bytes", ErrMalformed, len(raw))
	}
	h := Hash(sha256.Sum256(raw[headerLen:]))
	if !bytes.Equal(h[:4], raw[4:headerLen]) {
		return nil, Hash{}, fmt.Errorf("%w: wrong checksum", ErrMalformed)
	}
	r := reader{b: raw[headerLen+1:]}
	if n := r.uint(); r.bad || n != uint64(len(r.b)) {
		return nil, Hash{}, fmt.Errorf("%w: wrong length", ErrMalformed)
	}
	body := r.b
	c, err := decodeBody(body)
	if err != nil {
		return nil, Hash{}, err
	}
	if err := c.check(); err != nil {
		return nil, Hash{}, err
	}
	if !bytes.Equal(encodeBody(c), body) || !canonicalLength(raw, len(body)) {
		return nil, Hash{}, fmt.Errorf("%w: not in canonical form", ErrMalformed)
	}
	return c, h, nil
}

// canonicalLength reports whether the length before a body of n bytes is in
// its shortest form.
func canonicalLength(raw []byte, n int) bool {
	return len(raw) == headerLen+1+len(appendUint(nil, uint64(n)))+n
}

func decodeBody(body []byte) (*Change, error) {
	r := reader{b: body}
	c := &Change{}
	nDeps := r.uint()
	if nDeps > MaxDeps {
		return nil, fmt.Errorf("%w: %d dependencies", ErrMalformed, nDeps)
	}
	for range nDeps {
		var d Hash
		copy(d[:], r.bytes(uint64(len(d))))
		c.Deps = append(c.Deps, d)
	}
	if n := r.uint(); n != uint64(len(c.Actor)) {
		return nil, fmt.Errorf("%w: actor of %d bytes", ErrMalformed, n)
	}
	copy(c.Actor[:], r.bytes(uint64(len(c.Actor))))
	c.Seq, c.StartOp = r.uint(), r.uint()
	r.bytes(3) // time, message, other actors: all 0, which the comparison finds
	type length struct{ spec, n uint64 }
	var lens []length
	nCols := r.uint()
	if nCols > 6 {
		return nil, fmt.Errorf("%w: %d columns", ErrMalformed, nCols)
	}
	for range nCols {
		lens = append(lens, length{r.uint(), r.uint()})
	}
	var key, meta, value []byte
	for _, l := range lens {
		data := r.bytes(l.n)
		switch l.spec {
		case colKey:
			key = data
		case colValueMeta:
			meta = data
		case colValue:
			value = data
		}
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: truncated, or with more than one change", ErrMalformed)
	}
	return c, decodeEntries(c, key, meta, value)
}

// decodeEntries reads the keys and, of each, the value. Runs are bounded by the
// number of keys, each of which takes a byte or more.
func decodeEntries(c *Change, key, meta, value []byte) error {
	keys := reader{b: key}
	n := keys.int()
	if keys.bad || n >= 0 || n < -MaxEntries || n < -int64(len(key)) {
		return fmt.Errorf("%w: keys are not one run of distinct ones", ErrMalformed)
	}
	lens, ok := decodeRuns(meta, int(-n))
	if !ok {
		return fmt.Errorf("%w: value lengths", ErrMalformed)
	}
	values := reader{b: value}
	c.Entries = make([]Entry, 0, len(lens))
	for _, l := range lens {
		if l&0xf != valueRaw || l>>4 > MaxValue {
			return fmt.Errorf("%w: a value that is not bytes, or too long", ErrMalformed)
		}
		e := Entry{Key: string(keys.bytes(keys.uint()))}
		e.Value = values.bytes(l >> 4)
		c.Entries = append(c.Entries, e)
	}
	if keys.bad || values.bad || len(keys.b) != 0 || len(values.b) != 0 {
		return fmt.Errorf("%w: keys and values do not fit", ErrMalformed)
	}
	return nil
}

// decodeRuns reads a run-length column of n values.
func decodeRuns(b []byte, n int) ([]uint64, bool) {
	r := reader{b: b}
	vs := make([]uint64, 0, n)
	for len(vs) < n {
		count := r.int()
		switch {
		case r.bad || count == 0 || count > int64(n-len(vs)) || count < -int64(n-len(vs)):
			return nil, false
		case count > 0:
			v := r.uint()
			for range count {
				vs = append(vs, v)
			}
		default:
			for range -count {
				vs = append(vs, r.uint())
			}
		}
	}
	return vs, !r.bad && len(r.b) == 0
}

// reader takes from the front of b; bad is set once there is not enough.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// uint reads an unsigned LEB128 of at most 64 bits.
func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// int reads a signed LEB128 of at most 64 bits.
func (r *reader) int() (v int64) {
	for i, b := range r.b {
		if i > 9 {
			break
		}
		v |= int64(b&0x7f) << (7 * i)
		if b&0x80 == 0 {
			if b&0x40 != 0 && i < 9 {
				v |= -1 << (7 * (i + 1))
			}
			r.b = r.b[i+1:]
			return v
		}
	}
	r.b, r.bad = nil, true
	return 0
}

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func appendInt(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}
