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
	// Named says of each content whether a version of the bucket here names it; the
	// error is ErrNotAllowed when peer may not read the bucket. Without it nobody is
	// told. Optional.
	Named func(ctx context.Context, peer identity.Key, bucket [16]byte, hashes []blobstore.Hash) ([]bool, error)
	// Key is this node's: of two nodes that would drop the same content at once the
	// one with the greater key goes first.
	Key func() identity.Key
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
	if o.Key == nil {
		o.Key = func() identity.Key { return identity.Key{} }
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
	switch q.Op {
	case opHave:
		return w.have(ctx)
	case opDrop:
		return w.drop(ctx)
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
	var may []*item
	for i := range w.q.Items {
		it := &w.q.Items[i]
		if !w.allowed(ctx, it.hash()) {
			it = nil
		}
		may = append(may, it)
	}
	return w.sayPresences(ctx, may, nil)
}

// drop also tells which contents a version names. Of others it says what is here
// only as far as this node has to ask in turn before it drops them.
func (w *reply) drop(ctx context.Context) error {
	bucket := [16]byte(w.q.Bucket)
	var hashes []blobstore.Hash
	for i := range w.q.Items {
		hashes = append(hashes, w.q.Items[i].hash())
	}
	if w.s.o.Named == nil {
		return w.say(answer{Kind: kindFailed, Text: "this node does not say"})
	}
	names, err := w.s.o.Named(ctx, w.peer, bucket, hashes)
	if errors.Is(err, ErrNotAllowed) {
		return w.say(answer{Kind: kindNotAllowed})
	}
	if err != nil || len(names) != len(hashes) {
		return w.say(answer{Kind: kindFailed, Text: "it cannot be looked up"})
	}
	named := make([]byte, len(hashes))
	may := make([]*item, len(hashes))
	for i, h := range hashes {
		if names[i] {
			named[i] = 1
		}
		if w.s.o.Allowed(ctx, w.peer, bucket, h) {
			may[i] = &w.q.Items[i]
		}
	}
	return w.sayPresences(ctx, may, named)
}

// sayPresences tells how much there is of each item, nothing of one that is nil.
func (w *reply) sayPresences(ctx context.Context, items []*item, named []byte) error {
	have := make([]byte, len(items))
	held, err := w.hold(ctx, items)
	for i, it := range items {
		if it == nil || err != nil {
			continue
		}
		p := Held
		if !held[i] {
			p, err = w.presence(it)
		}
		have[i] = byte(p)
	}
	if err != nil {
		w.s.o.Logger.Error("content could not be looked up for a member", "peer", w.peer.String(), "error", err)
		return w.say(answer{Kind: kindFailed, Text: "it cannot be looked up"})
	}
	return w.say(answer{Kind: kindHave, Have: have, Named: named})
}

// hold promises what is here whole and on the disk, if that is asked for. A promise
// outlives a crash.
func (w *reply) hold(ctx context.Context, items []*item) (held []bool, err error) {
	held = make([]bool, len(items))
	if w.q.Hold == 0 {
		return held, nil
	}
	for _, it := range items {
		if it != nil {
			_ = w.s.blobs.Sync(ctx, it.hash()) // what fails, or is not here, is not promised
		}
	}
	until := time.Now().Add(time.Duration(w.q.Hold) * time.Second)
	own := w.s.o.Key()
	first := slices.Compare(w.peer[:], own[:]) > 0
	err = w.s.db.Write(func(tx *schema.Tx) error {
		for i, it := range items {
			if it == nil {
				continue
			}
			var err error
			if held[i], err = w.s.blobs.Hold(tx, it.hash(), w.peer.String(), until, first); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && slices.Contains(held, true) {
		err = w.s.db.Sync()
	}
	return held, err
}

func (w *reply) presence(it *item) (p Presence, err error) {
	err = w.s.db.Read(func(tx *schema.Tx) error {
		here, err := w.s.blobs.Here(tx, it.hash())
		if here {
			p = Whole
		}
		return err
	})
	if err == nil && p == Absent && w.s.blobs.HasParts(it.hash(), it.Size) {
		p = Parts
	}
	return p, err
}
