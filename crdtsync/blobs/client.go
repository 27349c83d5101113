package blobs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Peer is a member of a bucket that can be asked for content.
type Peer interface {
	Key() identity.Key
	// Open opens a stream to the peer's Server.Serve. With bulk it is for what
	// is large or nobody waits for, and should not be in the way of other streams.
	Open(ctx context.Context, bulk bool) (io.ReadWriteCloser, error)
}

// ErrNotAllowed says that a node may not read a bucket.
var ErrNotAllowed = errors.New("it does not allow it")

// Errors of a peer that does not give a content, each for one item.
var (
	errNotHere = errors.New("it does not have it")
	errBusy    = errors.New("it is busy")
	errFailed  = errors.New("it failed")
)

// localError is an error of this node's disk, for which no peer is to blame.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// conn is a stream to a peer, with one request at a time.
type conn struct {
	stream io.ReadWriteCloser
	r      *bufio.Reader
}

func newConn(stream io.ReadWriteCloser) *conn {
	return &conn{stream: stream, r: bufio.NewReaderSize(stream, 8<<10)}
}

// piece is how much is read, checked and kept at once, in bytes: 8 groups, a
// byte of a bitmap.
const piece = 8 * blobstore.GroupSize

var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

// order is groups of one content in a request.
type order struct {
	p      *blobstore.Partial
	ranges []blobstore.Range
}

// get asks for up to MaxItems orders and keeps what comes. done is called after
// each item with nil or why the peer does not give it; progress after each piece
// that was kept. An error means that the stream is of no use any more: ErrProof
// or ErrProtocol when the peer is to blame, a *localError when it is not.
func (c *conn) get(ctx context.Context, q request, orders []order, progress func(item, n int), done func(item int, err error)) error {
	stop := context.AfterFunc(ctx, func() { c.stream.Close() })
	defer stop()
	q.Version, q.Op = version, opGet
	for _, o := range orders {
		h := o.p.Hash()
		it := item{Hash: h[:], Size: o.p.Size()}
		for _, r := range o.ranges {
			it.Ranges = append(it.Ranges, r.First, r.Count)
		}
		q.Items = append(q.Items, it)
	}
	b, err := appendFrame(nil, &q)
	if err == nil {
		_, err = c.stream.Write(b)
	}
	for i := 0; err == nil && i < len(orders); i++ {
		var busy bool
		busy, err = c.item(i, orders[i], progress, done)
		if busy { // this one answer was for all of them
			for k := i; k < len(orders); k++ {
				done(k, errBusy)
			}
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// item reads the answers to one order.
func (c *conn) item(i int, o order, progress func(item, n int), done func(int, error)) (busy bool, err error) {
	rest := o.ranges
	for {
		a, err := readAnswer(c.r)
		if err != nil {
			return false, err
		}
		if a.Kind == kindBusy && i == 0 {
			return true, nil
		}
		if a.Item != i {
			return false, wrong("an answer to item %d instead of %d", a.Item, i)
		}
		switch a.Kind {
		case kindData:
			if len(rest) == 0 || a.First != rest[0].First || a.Count > rest[0].Count {
				return false, wrong("groups %d+%d that were not asked for", a.First, a.Count)
			}
			if err := c.data(i, o.p, a, progress); err != nil {
				return false, err
			}
			if rest[0].Count == a.Count {
				rest = rest[1:]
			} else {
				rest = append([]blobstore.Range{{First: a.First + a.Count, Count: rest[0].Count - a.Count}}, rest[1:]...)
			}
		case kindDone:
			if len(rest) != 0 {
				return false, wrong("done with groups missing")
			}
			done(i, nil)
			return false, nil
		case kindNotHere, kindNotAllowed, kindFailed:
			done(i, map[kind]error{kindNotHere: errNotHere, kindNotAllowed: ErrNotAllowed, kindFailed: errFailed}[a.Kind])
			return false, nil
		default:
			return false, wrong("an answer of kind %d", a.Kind)
		}
	}
}

// data reads the proof and the bytes of a frame, and keeps each piece as soon as
// it is checked.
func (c *conn) data(i int, p *blobstore.Partial, a *answer, progress func(item, n int)) error {
	buf := pieces.Get().(*[piece]byte)
	defer pieces.Put(buf)
	proof := buf[:a.Proof]
	if _, err := io.ReadFull(c.r, proof); err != nil {
		return unexpected(err)
	}
	sl, err := p.Begin(blobstore.Range{First: a.First, Count: a.Count}, proof)
	if err != nil {
		return blame(err)
	}
	defer sl.Close()
	if sl.Len() != int64(a.Data) {
		return fmt.Errorf("%d bytes for %d: %w", a.Data, sl.Len(), blobstore.ErrProof)
	}
	if a.Data == 0 {
		progress(i, 0)
	}
	for left := a.Data; left > 0; {
		b := buf[:min(left, piece)]
		if _, err := io.ReadFull(c.r, b); err != nil {
			return unexpected(err)
		}
		if err := sl.Put(b); err != nil {
			return blame(err)
		}
		left -= len(b)
		progress(i, len(b))
	}
	return nil
}

// blame tells whose error it is: the peer's, or our disk's.
func blame(err error) error {
	if errors.Is(err, blobstore.ErrProof) {
		return err
	}
	return &localError{err}
}

// word is what a peer says of a content.
type word struct {
	has   Presence
	named bool // by a version there; in answers to opDrop
}

// ask puts a question of opHave or opDrop: how much of each content the peer has. It
// asks to keep it for that many seconds when hold is not 0.
func (c *conn) ask(ctx context.Context, o op, bucket [16]byte, contents []Content, hold uint32) ([]word, error) {
	stop := context.AfterFunc(ctx, func() { c.stream.Close() })
	defer stop()
	q := request{Version: version, Op: o, Bucket: bucket[:], Hold: hold}
	for _, w := range contents {
		q.Items = append(q.Items, item{Hash: w.Hash[:], Size: w.Size})
	}
	b, err := appendFrame(nil, &q)
	if err == nil {
		_, err = c.stream.Write(b)
	}
	if err != nil {
		return nil, err
	}
	a, err := readAnswer(c.r)
	switch {
	case err != nil:
		return nil, err
	case a.Kind == kindBusy:
		return nil, errBusy
	case a.Kind == kindFailed:
		return nil, errFailed
	case a.Kind == kindNotAllowed && o == opDrop:
		return nil, ErrNotAllowed
	case a.Kind != kindHave || len(a.Have) != len(contents) || o == opDrop && len(a.Named) != len(contents):
		return nil, wrong("an answer of kind %d about %d contents", a.Kind, len(a.Have))
	}
	words := make([]word, len(contents))
	for i, p := range a.Have {
		words[i].has = Presence(p)
		if o == opDrop {
			words[i].named = a.Named[i] != 0
		}
		if words[i].has > Held {
			return nil, wrong("presence %d", p)
		}
	}
	return words, nil
}

// Content names a content.
type Content struct {
	Hash blobstore.Hash
	Size int64 // bytes
}
