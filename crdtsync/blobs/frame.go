package blobs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/codec"
)

// Bounds of frames.
const (
	MaxItems    = 256       // contents in one request
	maxRanges   = 64        // of one content
	maxGroups   = 1024      // in one request, 16 MiB
	maxRequest  = 64 << 10  // bytes of a header
	maxAnswer   = 4 << 10   // bytes of a header
	maxText     = 200       // bytes
	maxSize     = 1<<63 - 1 // bytes of a content
	version     = 1
	maxHops     = 3
	maxHoldSecs = 3600
)

// ErrProtocol is the error for what the other side must not send.
var ErrProtocol = errors.New("not the protocol of content transfer")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// op is what a request asks for.
type op uint8

const (
	opGet  op = 1
	opHave op = 2
	opDrop op = 3 // as opHave, by one who has no version that names them: what do you have, and which do you name?
)

// request asks for groups of contents, or whether they are there.
type request struct {
	Version  uint8  `cbor:"1,keyasint"`
	Op       op     `cbor:"2,keyasint"`
	Bucket   []byte `cbor:"3,keyasint"` // uuid, 16 bytes
	Items    []item `cbor:"4,keyasint"`
	Priority uint8  `cbor:"5,keyasint,omitempty"` // blobstore.Priority
	Hops     uint8  `cbor:"6,keyasint,omitempty"` // how many nodes further the request may go
	Hold     uint32 `cbor:"7,keyasint,omitempty"` // of opHave and opDrop: seconds to keep what is there
}

// item is one content of a request. Ranges are pairs of first group and count,
// ascending and apart; of opGet only.
type item struct {
	_      struct{} `cbor:",toarray"`
	Hash   []byte
	Size   int64
	Ranges []int64
}

func (i *item) hash() (h blobstore.Hash) { return blobstore.HashOf(i.Hash) }

func (i *item) ranges() []blobstore.Range {
	rs := make([]blobstore.Range, len(i.Ranges)/2)
	for k := range rs {
		rs[k] = blobstore.Range{First: i.Ranges[2*k], Count: i.Ranges[2*k+1]}
	}
	return rs
}

// valid checks a request that a stranger made.
func (r *request) valid() error {
	switch {
	case r.Version != version:
		return wrong("version %d, this node speaks %d", r.Version, version)
	case r.Op < opGet || r.Op > opDrop:
		return wrong("operation %d", r.Op)
	case len(r.Bucket) != 16:
		return wrong("a bucket of %d bytes", len(r.Bucket))
	case len(r.Items) == 0 || len(r.Items) > MaxItems:
		return wrong("%d contents in a request", len(r.Items))
	case r.Hops > maxHops || r.Hold > maxHoldSecs:
		return wrong("%d hops, %d seconds", r.Hops, r.Hold)
	}
	total := int64(0)
	for k := range r.Items {
		n, err := r.Items[k].valid(r.Op)
		if err != nil {
			return err
		}
		if total += n; total > maxGroups {
			return wrong("more than %d groups in a request", maxGroups)
		}
	}
	return nil
}

// valid returns how many groups i asks for.
func (i *item) valid(o op) (groups int64, err error) {
	if len(i.Hash) != len(blobstore.Hash{}) || i.hash().IsZero() || i.Size <= 0 {
		return 0, wrong("a content with a hash of %d bytes and size %d", len(i.Hash), i.Size)
	}
	if len(i.Ranges)%2 != 0 || len(i.Ranges) > 2*maxRanges || (len(i.Ranges) == 0) != (o != opGet) {
		return 0, wrong("%d numbers as ranges", len(i.Ranges))
	}
	all, end := blobstore.Groups(i.Size), int64(0)
	for _, r := range i.ranges() {
		if r.First < end || r.Count <= 0 || r.Count > maxGroups || r.First > all-r.Count {
			return 0, wrong("groups %d+%d of %d", r.First, r.Count, all)
		}
		groups += r.Count
		end = r.End()
	}
	return groups, nil
}

// kind is what an answer is.
type kind uint8

const (
	kindData       kind = 1 // groups of an item: proof and bytes follow
	kindDone       kind = 2 // an item is complete
	kindNotHere    kind = 3
	kindNotAllowed kind = 4
	kindBusy       kind = 5 // too much at once: ask later
	kindFailed     kind = 6
	kindHave       kind = 7 // answer to opHave and opDrop
)

// answer is the header of an answer.
type answer struct {
	Kind  kind   `cbor:"1,keyasint"`
	Item  int    `cbor:"2,keyasint,omitempty"`
	First int64  `cbor:"3,keyasint,omitempty"`
	Count int64  `cbor:"4,keyasint,omitempty"`
	Proof int    `cbor:"5,keyasint,omitempty"` // bytes that follow the header
	Data  int    `cbor:"6,keyasint,omitempty"` // and bytes after those
	Have  []byte `cbor:"7,keyasint,omitempty"` // a Presence per item
	Text  string `cbor:"8,keyasint,omitempty"`
	Named []byte `cbor:"9,keyasint,omitempty"` // answer to opDrop, per item: 1 when a version names it, else 0
}

// valid checks an answer that a stranger made, as far as that goes without the
// request.
func (a *answer) valid() error {
	if a.Kind < kindData || a.Kind > kindHave || a.Item < 0 || a.Item >= MaxItems || len(a.Have) > MaxItems || len(a.Named) > MaxItems || len(a.Text) > maxText {
		return wrong("an answer of kind %d to item %d", a.Kind, a.Item)
	}
	data := a.Kind == kindData
	if !data && a.Proof|a.Data != 0 || a.Proof < 0 || a.Proof > blobstore.MaxProof ||
		a.Data < 0 || a.Data > blobstore.FrameGroups*blobstore.GroupSize ||
		data && (a.First < 0 || a.Count <= 0 || a.Count > blobstore.MaxSlice || a.First > maxSize-a.Count) {
		return wrong("an answer with groups %d+%d, %d bytes of proof and %d of data", a.First, a.Count, a.Proof, a.Data)
	}
	return nil
}

// Presence is how much of a content a node has.
type Presence uint8

// Presences.
const (
	Absent Presence = iota
	Parts           // some groups
	Whole
	Held // whole, and promised to stay
)

var encMode, decMode = codec.Modes(cbor.DecOptions{
	DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 6, MaxArrayElements: 2 * MaxItems, MaxMapPairs: 32,
})

// appendFrame appends a header with its length.
func appendFrame(b []byte, header any) ([]byte, error) {
	at := len(b)
	buf := bytes.NewBuffer(append(b, 0, 0, 0, 0))
	if err := encMode.NewEncoder(buf).Encode(header); err != nil {
		return b, err
	}
	b = buf.Bytes()
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b, nil
}

// readFrame reads a header of at most limit bytes. The error is io.EOF where the
// stream ends before it.
func readFrame(r *bufio.Reader, limit int, header any) error {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > uint32(limit) {
		return wrong("a header of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return unexpected(err)
	}
	if err := decMode.Unmarshal(b, header); err != nil {
		return wrong("%v", err)
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func readRequest(r *bufio.Reader) (*request, error) {
	q := new(request)
	if err := readFrame(r, maxRequest, q); err != nil {
		return nil, err
	}
	return q, q.valid()
}

func readAnswer(r *bufio.Reader) (*answer, error) {
	a := new(answer)
	if err := readFrame(r, maxAnswer, a); err != nil {
		return nil, unexpected(err)
	}
	return a, a.valid()
}

func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return s
}
