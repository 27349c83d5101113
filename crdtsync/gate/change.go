package gate

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Limits of one change. A larger batch is several changes.
const (
	MaxBytes   = 8 << 20 // of the encoded change
	MaxEntries = 1 << 14
	MaxKey     = 1 << 10   // bytes
	MaxValue   = 256 << 10 // bytes
	MaxDeps    = 1 << 10
	maxOp      = 1 << 40
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("not a change of ours")

// Hash is the SHA-256 that identifies a change, as in automerge.
type Hash [32]byte

// Actor is one writer of changes; alkfs makes a new one at every start.
type Actor [16]byte

// Entry is a key of a document, set once, and its value.
type Entry struct {
	Key   string // UTF-8, not empty
	Value []byte
}

// Change is what one automerge change says.
type Change struct {
	Deps    []Hash // ascending
	Actor   Actor
	Seq     uint64  // of Actor in this document, from 1
	StartOp uint64  // counter of the first entry, from 1
	Entries []Entry // with distinct keys
}

// MaxOp returns the operation counter of the last entry.
func (c *Change) MaxOp() uint64 { return c.StartOp + uint64(len(c.Entries)) - 1 }

// check reports what makes c no change of ours.
func (c *Change) check() error {
	switch {
	case len(c.Entries) == 0 || len(c.Entries) > MaxEntries:
		return fmt.Errorf("%w: %d entries", ErrMalformed, len(c.Entries))
	case len(c.Deps) > MaxDeps:
		return fmt.Errorf("%w: %d dependencies", ErrMalformed, len(c.Deps))
	case c.Seq == 0 || c.Seq > maxOp || c.StartOp == 0 || c.StartOp > maxOp:
		return fmt.Errorf("%w: sequence %d, operation %d", ErrMalformed, c.Seq, c.StartOp)
	}
	for i := 1; i < len(c.Deps); i++ {
		if bytes.Compare(c.Deps[i-1][:], c.Deps[i][:]) >= 0 {
			return fmt.Errorf("%w: dependencies out of order", ErrMalformed)
		}
	}
	seen := make(map[string]struct{}, len(c.Entries))
	for _, e := range c.Entries {
		if e.Key == "" || len(e.Key) > MaxKey || len(e.Value) > MaxValue || !utf8.ValidString(e.Key) {
			return fmt.Errorf("%w: entry with a key of %d and a value of %d bytes", ErrMalformed, len(e.Key), len(e.Value))
		}
		seen[e.Key] = struct{}{}
	}
	if len(seen) != len(c.Entries) {
		return fmt.Errorf("%w: a key is set twice", ErrMalformed)
	}
	return nil
}

// Chunk layout.
const (
	headerLen   = 8 // magic and checksum
	chunkChange = 1
)

var magic = []byte{0x85, 0x6f, 0x4a, 0x83}

// Column specifications: id<<4 | type.
const (
	colKey       = 0x15
	colInsert    = 0x34
	colAction    = 0x42
	colValueMeta = 0x56
	colValue     = 0x57
	colPred      = 0x70

	actionSet = 1
	valueRaw  = 7 // type of a byte value, in the low four bits of its meta
)

// Encode returns the bytes that automerge has for c, and their hash.
func Encode(c *Change) ([]byte, Hash, error) {
	if err := c.check(); err != nil {
		return nil, Hash{}, err
	}
	body := encodeBody(c)
	chunk := append([]byte{chunkChange}, appendUint(nil, uint64(len(body)))...)
	chunk = append(chunk, body...)
	h := Hash(sha256.Sum256(chunk))
	raw := make([]byte, 0, headerLen+len(chunk))
	raw = append(append(raw, magic...), h[:4]...)
	return append(raw, chunk...), h, nil
}

func encodeBody(c *Change) []byte {
	cols := encodeColumns(c.Entries)
	b := appendUint(nil, uint64(len(c.Deps)))
	for _, d := range c.Deps {
		b = append(b, d[:]...)
	}
	b = appendUint(b, uint64(len(c.Actor)))
	b = append(b, c.Actor[:]...)
	b = appendUint(b, c.Seq)
	b = appendUint(b, c.StartOp)
	b = append(b, 0, 0, 0) // time, message, other actors
	b = appendUint(b, uint64(len(cols)))
	for _, col := range cols {
		b = appendUint(appendUint(b, col.spec), uint64(len(col.data)))
	}
	for _, col := range cols {
		b = append(b, col.data...)
	}
	return b
}

type column struct {
	spec uint64
	data []byte
}

func encodeColumns(entries []Entry) []column {
	n := uint64(len(entries))
	var key, meta, value []byte
	lens := make([]uint64, len(entries))
	key = appendInt(key, -int64(n)) // distinct keys are one literal run
	for i, e := range entries {
		key = append(appendUint(key, uint64(len(e.Key))), e.Key...)
		lens[i] = uint64(len(e.Value))<<4 | valueRaw
		value = append(value, e.Value...)
	}
	meta = appendRuns(nil, lens)
	cols := []column{
		{colKey, key},
		{colInsert, appendUint(nil, n)},
		{colAction, appendRun(nil, n, actionSet)},
		{colValueMeta, meta},
		{colValue, value},
		{colPred, appendRun(nil, n, 0)},
	}
	return slices.DeleteFunc(cols, func(c column) bool { return len(c.data) == 0 })
}

// appendRun appends n equal values as a run-length column does.
func appendRun(b []byte, n, v uint64) []byte {
	if n == 1 {
		return appendUint(appendInt(b, -1), v)
	}
	return appendUint(appendInt(b, int64(n)), v)
}

// appendRuns appends a run-length column: equal neighbours as a count and the
// value, stretches of different ones as a negative count and the values.
func appendRuns(b []byte, vs []uint64) []byte {
	for i := 0; i < len(vs); {
		j := i + 1
		for j < len(vs) && vs[j] == vs[i] {
			j++
		}
		if j-i > 1 {
			b = appendRun(b, uint64(j-i), vs[i])
			i = j
			continue
		}
		for j < len(vs) && vs[j] != vs[j-1] {
			j++
		}
		if j < len(vs) {
			j-- // the value that begins a run is not part of the stretch
		}
		b = appendInt(b, -int64(j-i))
		for ; i < j; i++ {
			b = appendUint(b, vs[i])
		}
	}
	return b
}
