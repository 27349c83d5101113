package crdtsync

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// The sync stream carries messages both ways, each as four bytes of length and
// CBOR. A message has one of its fields set; fields that are not known are
// passed over.

const protocolVersion = 1

// maxMessage bounds a message, in bytes: a batch of changes and one more.
const maxMessage = 12 << 20

type message struct {
	Hello   *hello   `cbor:"1,keyasint,omitempty"`
	Grants  *grants  `cbor:"2,keyasint,omitempty"`
	Marks   *marks   `cbor:"3,keyasint,omitempty"`
	Changes *changes `cbor:"4,keyasint,omitempty"`
	Ack     *ack     `cbor:"5,keyasint,omitempty"`
	Filter  *filter  `cbor:"6,keyasint,omitempty"`
	Need    *need    `cbor:"7,keyasint,omitempty"`
	Found   *found   `cbor:"8,keyasint,omitempty"`

	Compacted *compacted `cbor:"9,keyasint,omitempty"`
	Want      *want      `cbor:"10,keyasint,omitempty"`
	Pieces    *pieces    `cbor:"11,keyasint,omitempty"`
}

// hello is the first message of each side, and may come again when something
// in it has changed.
type hello struct {
	Version int          `cbor:"1,keyasint"`
	Buckets [][16]byte   `cbor:"2,keyasint"` // those that both belong to, as the sender knows
	Addrs   []string     `cbor:"3,keyasint"` // where the sender listens
	Others  []peerPlaces `cbor:"4,keyasint"` // where other members of those buckets listen
}

type peerPlaces struct {
	Key   identity.Key `cbor:"1,keyasint"`
	Addrs []string     `cbor:"2,keyasint"`
	Heard int64        `cbor:"3,keyasint,omitempty"` // ns since 1970, when the sender or another last did
}

// grants are all that the sender has of a bucket.
type grants struct {
	Bucket [16]byte `cbor:"1,keyasint"`
	Grants [][]byte `cbor:"2,keyasint"`
}

// marks say which changes the sender has of a bucket; the receiver then sends
// what it has besides, and goes on sending what comes.
type marks struct {
	Bucket [16]byte `cbor:"1,keyasint"`
	Marks  []Mark   `cbor:"2,keyasint"`
	Ask    uint64   `cbor:"3,keyasint,omitempty"`  // not 0: answer with marks when everything was sent
	Answer uint64   `cbor:"4,keyasint,omitempty"`  // the Ask that this answers
	Lacks  int64    `cbor:"5,keyasint,omitempty"`  // of these, changes that are there as stubs, and are to be there whole
	Filter uint64   `cbor:"6,keyasint,omitempty"`  // that of the sender, which it has sent before
	Seen   uint64   `cbor:"7,keyasint,omitempty"`  // the newest filter that it has of the receiver
	Void   int64    `cbor:"8,keyasint,omitempty"`  // like Lacks, of changes that do not count, and need not be there whole
	Got    uint64   `cbor:"9,keyasint,omitempty"`  // 1 + how many of the receiver's changes messages were taken in before; 0: it does not say
	Hold   bool     `cbor:"10,keyasint,omitempty"` // send nothing until other marks come: another sends it
}

type changes struct {
	Bucket    [16]byte `cbor:"1,keyasint"`
	Envelopes [][]byte `cbor:"2,keyasint"`
	Upto      int64    `cbor:"3,keyasint"` // for the acknowledgement; the sender's own number
}

// ack says that changes are on the receiver's disk, or were refused.
type ack struct {
	Bucket [16]byte `cbor:"1,keyasint"`
	Upto   int64    `cbor:"2,keyasint"`
}

func writeMessage(w io.Writer, m *message) error {
	b, err := encMode.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes", len(b))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

func readMessage(r io.Reader) (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, fmt.Errorf("%w: message of %d bytes", ErrRefused, n)
	}
	b, err := readN(r, int(n))
	if err != nil {
		return nil, err
	}
	return decodeMessage(b)
}

// readN reads n bytes, and takes memory only as they come.
func readN(r io.Reader, n int) ([]byte, error) {
	const step = 256 << 10
	b := make([]byte, 0, min(n, step))
	for len(b) < n {
		k := min(n-len(b), step)
		b = append(b, make([]byte, k)...)
		if _, err := io.ReadFull(r, b[len(b)-k:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Limits of what a message may hold.
const (
	maxMarks  = 1 << 16
	maxPlaces = 1024
	maxAddrs  = 32
	maxAddr   = 256 // bytes
)

func decodeMessage(b []byte) (*message, error) {
	var m message
	if err := decMode.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: message: %v", ErrRefused, err)
	}
	if h := m.Hello; h != nil {
		if len(h.Others) > maxPlaces || !validAddrs(h.Addrs) {
			return nil, fmt.Errorf("%w: hello", ErrRefused)
		}
		for _, o := range h.Others {
			if !validAddrs(o.Addrs) {
				return nil, fmt.Errorf("%w: hello", ErrRefused)
			}
		}
	}
	if m.Marks != nil && len(m.Marks.Marks) > maxMarks {
		return nil, fmt.Errorf("%w: %d marks", ErrRefused, len(m.Marks.Marks))
	}
	if m.Filter != nil {
		if err := m.Filter.check(); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

func validAddrs(addrs []string) bool {
	if len(addrs) > maxAddrs {
		return false
	}
	for _, a := range addrs {
		if len(a) > maxAddr {
			return false
		}
	}
	return true
}
