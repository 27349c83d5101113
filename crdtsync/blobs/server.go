package blobs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// ServerOptions configures a Server; only Allowed is needed.
type ServerOptions struct {
	// Allowed says whether peer may have the bytes of h as content of the bucket
	// with that uuid: that it may read the bucket, and that the bucket has h. It
	// is asked for every content of every request. Required.
	Allowed func(ctx context.Context, peer identity.Key, bucket [16]byte, h blobstore.Hash) bool
	// Requests that are worked on at once: for all peers, each with some
	// 150 KiB in memory, and for one of them. Defaults 64 and 16.
	Requests, PerPeer int
	// Stall is how long a peer may take to take a frame. Default 30 s.
	Stall  time.Duration
	Logger *slog.Logger // default: discard
}

// Server answers peers from a store. Safe for concurrent use.
type Server struct {
	blobs *blobstore.Store
	db    *schema.DB
	o     ServerOptions
	slots chan struct{}

	// mu guards how many requests of each peer are worked on.
	mu struct {
		sync.Mutex
		peers map[identity.Key]int
	}
	sent, refused atomic.Int64
}

// NewServer returns a server of the contents of a store.
func NewServer(blobs *blobstore.Store, db *schema.DB, o ServerOptions) *Server {
	if o.Requests <= 0 {
		o.Requests = 64
	}
	if o.PerPeer <= 0 {
		o.PerPeer = 16
	}
	if o.Stall <= 0 {
		o.Stall = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{blobs: blobs, db: db, o: o, slots: make(chan struct{}, o.Requests)}
	s.mu.peers = make(map[identity.Key]int)
	return s
}

// ServerStats counts what a server did.
type ServerStats struct {
	Sent    int64 // bytes of content
	Refused int64 // contents asked for without the right to
}

// Stats returns counts since NewServer.
func (s *Server) Stats() ServerStats {
	return ServerStats{Sent: s.sent.Load(), Refused: s.refused.Load()}
}

// Serve answers the requests of a stream that peer opened until it ends, ctx
// ends or peer breaks the protocol, and closes it. The error is nil at the end of
// the stream.
func (s *Server) Serve(ctx context.Context, peer identity.Key, stream io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	defer stream.Close()
	r := bufio.NewReaderSize(stream, 4<<10)
	for {
		q, err := readRequest(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.answer(ctx, peer, stream, q)
		}
		if err != nil {
			return fmt.Errorf("serve content to %s: %w", peer, err)
		}
	}
}

// enter counts a request in, or reports that there are too many.
func (s *Server) enter(peer identity.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.peers[peer] >= s.o.PerPeer {
		return false
	}
	s.mu.peers[peer]++
	return true
}

func (s *Server) leave(peer identity.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.peers[peer]--; s.mu.peers[peer] == 0 {
		delete(s.mu.peers, peer)
	}
}

// reply is the answers to one request.
type reply struct {
	s      *Server
	peer   identity.Key
	stream io.WriteCloser
	q      *request
	buf    []byte
	proof  []byte
}

var replyBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, maxAnswer+blobstore.MaxProof+piece)
	return &b
}}

func (s *Server) answer(ctx context.Context, peer identity.Key, stream io.WriteCloser, q *request) error {
	w := &reply{s: s, peer: peer, stream: stream, q: q}
	buf := replyBuffers.Get().(*[]byte)
	defer replyBuffers.Put(buf)
	w.buf = *buf
	if !s.enter(peer) {
		return w.say(answer{Kind: kindBusy, Text: "too many requests at once"})
	}
	defer s.leave(peer)
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if q.Op == opHave {
		return w.have(ctx)
	}
	for i := range q.Items {
		if err := w.item(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// say sends an answer without data.
func (w *reply) say(a answer) error {
	a.Text = clip(a.Text)
	b, err := appendFrame(w.buf[:0], &a)
	if err != nil {
		return err
	}
	return w.write(b)
}

// write sends b, and ends the stream when the peer does not take it in time.
func (w *reply) write(b []byte) error {
	late := time.AfterFunc(w.s.o.Stall, func() { w.stream.Close() })
	defer late.Stop()
	_, err := w.stream.Write(b)
	return err
}

func (w *reply) allowed(ctx context.Context, h blobstore.Hash) bool {
	if w.s.o.Allowed(ctx, w.peer, [16]byte(w.q.Bucket), h) {
		return true
	}
	w.s.refused.Add(1)
	w.s.o.Logger.Warn("content refused", "peer", w.peer.String(), "hash", h.String())
	return false
}

// item sends the groups of one content.
func (w *reply) item(ctx context.Context, i int) error {
	it := &w.q.Items[i]
	if !w.allowed(ctx, it.hash()) {
		return w.say(answer{Kind: kindNotAllowed, Item: i})
	}
	b, err := w.s.blobs.Open(it.hash(), it.Size)
	if err != nil {
		return w.say(w.failure(i, err))
	}
	defer b.Close()
	for _, r := range it.ranges() {
		for r.Count > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			got, err := w.groups(ctx, i, b, r)
			if err != nil {
				return err
			}
			if got.Count == 0 { // it was said why
				return nil
			}
			r = blobstore.Range{First: got.End(), Count: r.End() - got.End()}
		}
	}
	return w.say(answer{Kind: kindDone, Item: i})
}

// failure tells what of an error is the peer's business.
func (w *reply) failure(i int, err error) answer {
	if errors.Is(err, blobstore.ErrNotHere) || errors.Is(err, blobstore.ErrMissing) {
		return answer{Kind: kindNotHere, Item: i}
	}
	w.s.o.Logger.Error("content not sent", "hash", w.q.Items[i].hash().String(), "error", err)
	return answer{Kind: kindFailed, Item: i, Text: "it cannot be read"}
}

// groups sends the first groups of r; none, and the reason, when it cannot.
func (w *reply) groups(ctx context.Context, i int, b *blobstore.Blob, r blobstore.Range) (got blobstore.Range, err error) {
	if w.q.Hops > 0 {
		n := min(r.Count, blobstore.FrameGroups-r.First%blobstore.FrameGroups)
		err = b.Fetch(forwarded(ctx, w.peer, w.q.Hops-1), r.First*blobstore.GroupSize, n*blobstore.GroupSize)
	}
	a := answer{Kind: kindData, Item: i}
	var zero bool
	if err == nil {
		w.proof, got, zero, err = b.Proof(w.proof[:0], r)
	}
	if err == nil {
		a.First, a.Count, a.Proof = got.First, got.Count, len(w.proof)
		if !zero {
			a.Data = int(min(got.End()*blobstore.GroupSize, b.Size()) - got.First*blobstore.GroupSize)
		}
		w.buf, err = w.begin(&a, b)
	}
	if err != nil {
		return blobstore.Range{}, w.say(w.failure(i, err))
	}
	w.s.sent.Add(int64(a.Data))
	return got, w.send(&a, b)
}

// begin puts the header of a frame, the proof and the first piece of its data into
// the buffer.
func (w *reply) begin(a *answer, b *blobstore.Blob) ([]byte, error) {
	f, err := appendFrame(w.buf[:0], a)
	if err != nil {
		return w.buf, err
	}
	f = append(f, w.proof...)
	return w.piece(f, a, b, 0)
}

// send sends the buffer and the rest of the data, piece by piece, so that the
// bytes are in the processor's cache from the file to the packet. When it fails the
// stream has to end, as the peer waits for the rest.
func (w *reply) send(a *answer, b *blobstore.Blob) (err error) {
	for at := piece; ; at += piece {
		if err := w.write(w.buf); err != nil || at >= a.Data {
			return err
		}
		if w.buf, err = w.piece(w.buf[:0], a, b, at); err != nil {
			return err
		}
	}
}

// piece appends the data of a frame from at on. Bytes that do not match the hash
// are not sent.
func (w *reply) piece(f []byte, a *answer, b *blobstore.Blob, at int) ([]byte, error) {
	n := min(piece, a.Data-at)
	if n <= 0 {
		return f, nil
	}
	f = slices.Grow(f, n)
	_, err := b.ReadHere(f[len(f):len(f)+n], a.First*blobstore.GroupSize+int64(at))
	if err == io.EOF { // the end of the content
		err = nil
	}
	return f[:len(f)+n], err
}

// have tells how much there is of each content, and holds what is asked to be.
func (w *reply) have(ctx context.Context) error {
	have := make([]byte, len(w.q.Items))
	for i := range w.q.Items {
		it := &w.q.Items[i]
		if !w.allowed(ctx, it.hash()) {
			continue
		}
		p, err := w.presence(it)
		if err != nil {
			return w.say(answer{Kind: kindFailed, Text: "it cannot be looked up"})
		}
		have[i] = byte(p)
	}
	return w.say(answer{Kind: kindHave, Have: have})
}

func (w *reply) presence(it *item) (p Presence, err error) {
	look := func(tx *schema.Tx) error {
		here, err := w.s.blobs.Here(tx, it.hash())
		if here {
			p = Whole
		}
		return err
	}
	if w.q.Hold > 0 {
		until := time.Now().Add(time.Duration(w.q.Hold) * time.Second)
		err = w.s.db.Write(func(tx *schema.Tx) error {
			if err := look(tx); err != nil || p != Whole {
				return err
			}
			held, err := w.s.blobs.Hold(tx, it.hash(), w.peer.String(), until)
			if held {
				p = Held
			}
			return err
		})
		if err == nil && p == Held {
			err = w.s.db.Sync() // a promise outlives a crash
		}
	} else {
		err = w.s.db.Read(look)
	}
	if err != nil || p != Absent {
		return p, err
	}
	if w.s.blobs.HasParts(it.hash(), it.Size) {
		p = Parts
	}
	return p, nil
}
