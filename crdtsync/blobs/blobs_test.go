package blobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

var bucket = [16]byte{1, 2, 3}

func inBucket(context.Context, blobstore.Hash) ([][16]byte, error) { return [][16]byte{bucket}, nil }

// node is a store with its server and its fetcher.
type node struct {
	key    identity.Key
	dir    string
	db     *schema.DB
	blobs  *blobstore.Store
	server *Server
	f      *Fetcher
	deny   atomic.Bool

	names   sync.Map    // contents that a version names, for those who ask before they drop
	forgets atomic.Bool // the bucket has none of the contents
	bad     chan identity.Key
}

func newNode(tb testing.TB, id byte, o Options) *node { return nodeIn(tb, tb.TempDir(), id, o) }

func nodeIn(tb testing.TB, dir string, id byte, o Options) *node {
	tb.Helper()
	ctx := context.Background()
	n := &node{key: identity.Key{id}, dir: dir, bad: make(chan identity.Key, 8)}
	var err error
	if n.db, err = schema.Open(ctx, dir, schema.Options{}); err != nil {
		tb.Fatal(err)
	}
	if n.blobs, err = blobstore.Open(ctx, dir, n.db, blobstore.Options{SyncAfter: -1, FetchWait: 20 * time.Second}); err != nil {
		tb.Fatal(err)
	}
	n.server = NewServer(n.blobs, n.db, ServerOptions{
		Key: func() identity.Key { return n.key },
		Allowed: func(_ context.Context, _ identity.Key, b [16]byte, _ blobstore.Hash) bool {
			return b == bucket && !n.deny.Load() && !n.forgets.Load()
		},
		Named: func(_ context.Context, _ identity.Key, _ [16]byte, hashes []blobstore.Hash) (named []bool, err error) {
			if n.deny.Load() {
				return nil, ErrNotAllowed
			}
			for _, h := range hashes {
				_, ok := n.names.Load(h)
				named = append(named, ok)
			}
			return named, nil
		},
	})
	if o.Buckets == nil {
		o.Buckets = inBucket
	}
	o.Bad = func(peer identity.Key, _ error) { n.bad <- peer }
	n.f = New(o)
	n.blobs.SetSource(n.f)
	tb.Cleanup(func() {
		n.f.Close()
		if err := errors.Join(n.blobs.Close(), n.db.Close()); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// add stores p.
func (n *node) add(tb testing.TB, p []byte) Content {
	tb.Helper()
	c := Content{blobstore.Sum(p), int64(len(p))}
	add := func(tx *schema.Tx) error {
		_, err := n.blobs.PutInline(tx, p)
		return err
	}
	if len(p) > blobstore.InlineMax {
		st, err := n.blobs.NewStaging()
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := st.WriteAt(p, 0); err != nil {
			tb.Fatal(err)
		}
		if _, err := st.Seal(context.Background(), c.Size); err != nil {
			tb.Fatal(err)
		}
		add = func(tx *schema.Tx) error { return n.blobs.AddFile(tx, c.Hash, c.Size) }
	}
	if err := n.db.Write(add); err != nil {
		tb.Fatal(err)
	}
	return c
}

func (n *node) expect(tb testing.TB, cs ...Content) {
	tb.Helper()
	err := n.db.Write(func(tx *schema.Tx) error {
		for _, c := range cs {
			if err := blobstore.Expect(tx, c.Hash, c.Size); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func (n *node) read(c Content) ([]byte, error) {
	b, err := n.blobs.Open(c.Hash, c.Size)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(io.NewSectionReader(b, 0, c.Size))
}

func (n *node) wantContent(tb testing.TB, p []byte) {
	tb.Helper()
	got, err := n.read(Content{blobstore.Sum(p), int64(len(p))})
	if err != nil || !bytes.Equal(got, p) {
		tb.Fatalf("%d bytes, %v; want %d", len(got), err, len(p))
	}
}

// link is a Peer over pipes.
type link struct {
	key  identity.Key
	from identity.Key
	to   *node
	wrap func(io.ReadWriteCloser) io.ReadWriteCloser // what the asking side has; may be nil
	open atomic.Int64
}

func (l *link) Key() identity.Key { return l.key }

func (l *link) Open(context.Context, bool) (io.ReadWriteCloser, error) {
	a, b := net.Pipe()
	l.open.Add(1)
	go l.to.server.Serve(context.Background(), l.from, b)
	if l.wrap != nil {
		return l.wrap(a), nil
	}
	return a, nil
}

// connect has n ask to.
func (n *node) connect(to *node) *link {
	l := &link{key: to.key, from: n.key, to: to}
	n.f.AddPeer(l)
	return l
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 9}).Read(p)
	return p
}

const mib = 1 << 20

func TestContentComesFromPeers(t *testing.T) {
	a, b, c := newNode(t, 1, Options{}), newNode(t, 2, Options{}), newNode(t, 3, Options{})
	for i, n := range []int{1, 16384, 16385, mib, mib + 1, 5*mib + 77, 12 * mib} {
		p := noise(uint64(i), n)
		a.add(t, p)
		b.add(t, p)
		c.expect(t, Content{blobstore.Sum(p), int64(n)})
	}
	c.connect(a)
	c.connect(b)
	for i, n := range []int{1, 16384, 16385, mib, mib + 1, 5*mib + 77, 12 * mib} {
		c.wantContent(t, noise(uint64(i), n))
	}
	if a.server.Stats().Sent == 0 || b.server.Stats().Sent == 0 {
		t.Errorf("one peer did all the work: %+v, %+v", a.server.Stats(), b.server.Stats())
	}
	rep, err := c.blobs.Check(context.Background(), blobstore.CheckOptions{Deep: true})
	if err != nil || len(rep.Damaged)+len(rep.Missing)+len(rep.Rebuilt) != 0 || rep.Absent != 0 {
		t.Errorf("check: %+v, %v", rep, err)
	}
}

// Random ranges of several contents, by many readers at once, over streams that
// break now and then, each group once.
func TestRandomReads(t *testing.T) {
	a, b, c := newNode(t, 1, Options{}), newNode(t, 2, Options{}), newNode(t, 3, Options{})
	rnd := rand.New(rand.NewPCG(1, 2))
	var texts [][]byte
	for i := range 6 {
		p := noise(uint64(50+i), 1+rnd.IntN(6*mib))
		a.add(t, p)
		b.add(t, p)
		c.expect(t, Content{blobstore.Sum(p), int64(len(p))})
		texts = append(texts, p)
	}
	for i, l := range []*link{c.connect(a), c.connect(b)} {
		left := int64(i+1) * 700_000
		l.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser { return &breaking{ReadWriteCloser: s, left: left} }
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for range 30 {
				p := texts[rnd.IntN(len(texts))]
				h, err := c.blobs.Open(blobstore.Sum(p), int64(len(p)))
				if err != nil {
					t.Error(err)
					return
				}
				q := make([]byte, 1+rnd.IntN(min(len(p), 400_000)))
				off := rnd.IntN(len(p) - len(q) + 1)
				if _, err := h.ReadAt(q, int64(off)); err != nil && err != io.EOF || !bytes.Equal(q, p[off:off+len(q)]) {
					t.Errorf("%d bytes at %d: %v", len(q), off, err)
				}
				h.Close()
			}
		})
	}
	wg.Wait()
	for _, p := range texts {
		c.wantContent(t, p)
	}
}

// breaking is a stream that breaks after so many bytes.
type breaking struct {
	io.ReadWriteCloser
	left int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadWriteCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// flipping changes one bit of what it reads, at a place from its beginning.
type flipping struct {
	io.ReadWriteCloser
	at int64
}

func (f *flipping) Read(p []byte) (int, error) {
	n, err := f.ReadWriteCloser.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 4
	}
	f.at -= int64(n)
	return n, err
}

func TestBadPeerIsDroppedAndReported(t *testing.T) {
	for _, at := range []int64{200, 5000, 100_000, 900_000} { // of the parents, and of the data
		good, bad, c := newNode(t, 1, Options{}), newNode(t, 2, Options{}), newNode(t, 3, Options{})
		p := noise(uint64(at), 9*mib)
		good.add(t, p)
		bad.add(t, p)
		c.expect(t, Content{blobstore.Sum(p), int64(len(p))})
		l := &link{key: bad.key, from: c.key, to: bad}
		l.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser { return &flipping{s, at} }
		c.f.AddPeer(l)
		ended := make(chan error)
		go func() {
			ended <- c.blobs.Fetch(context.Background(), blobstore.Sum(p), int64(len(p)), blobstore.Reading)
		}()
		if key := <-c.bad; key != bad.key {
			t.Errorf("bit %d: %v was reported", at, key)
		}
		c.connect(good)
		if err := <-ended; err != nil {
			t.Errorf("bit %d: %v", at, err)
		}
		c.wantContent(t, p)
		if len(c.f.Peers()) != 1 || c.f.Stats().BadPeers != 1 {
			t.Errorf("bit %d: %d peers, %+v", at, len(c.f.Peers()), c.f.Stats())
		}
	}
}

// silent is a stream that gives nothing more after so many bytes, until closed.
type silent struct {
	io.ReadWriteCloser
	left   int64
	closed chan struct{}
	once   sync.Once
}

func (s *silent) Read(p []byte) (int, error) {
	if s.left <= 0 {
		<-s.closed
		return 0, io.ErrClosedPipe
	}
	n, err := s.ReadWriteCloser.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

func (s *silent) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.ReadWriteCloser.Close()
}

func TestSlowPeerIsLeftBehind(t *testing.T) {
	good, slow, c := newNode(t, 1, Options{}), newNode(t, 2, Options{}), newNode(t, 3, Options{Slow: 20 * time.Millisecond})
	p := noise(7, 24*mib)
	good.add(t, p)
	slow.add(t, p)
	c.expect(t, Content{blobstore.Sum(p), int64(len(p))})
	l := &link{key: slow.key, from: c.key, to: slow}
	l.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser {
		return &silent{ReadWriteCloser: s, left: 500_000, closed: make(chan struct{})}
	}
	c.f.AddPeer(l)
	for c.f.Stats().Bytes == 0 { // until the slow one has its chunks
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_ = c.blobs.Fetch(ctx, blobstore.Sum(p), int64(len(p)), blobstore.Eager)
		cancel()
	}
	ended := make(chan error)
	go func() { ended <- c.blobs.Fetch(context.Background(), blobstore.Sum(p), int64(len(p)), blobstore.Eager) }()
	for c.f.Stats().Wanted == 0 {
		time.Sleep(time.Millisecond)
	}
	c.connect(good)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	c.wantContent(t, p)
	if c.f.Stats().Rerequests == 0 {
		t.Errorf("nothing was asked for again: %+v", c.f.Stats())
	}
}

func TestRefusals(t *testing.T) {
	a, c := newNode(t, 1, Options{}), newNode(t, 3, Options{Alone: time.Millisecond})
	p := noise(8, 3*mib)
	content := a.add(t, p)
	c.expect(t, content)
	other := Content{blobstore.Sum([]byte("other")), 5}
	c.expect(t, other)
	time.Sleep(2 * time.Millisecond) // longer than Alone
	if _, err := c.read(content); !errors.Is(err, blobstore.ErrNotHere) {
		t.Errorf("without peers: %v", err)
	}
	c.connect(a)
	if _, err := c.read(other); !errors.Is(err, blobstore.ErrNotHere) {
		t.Errorf("what nobody has: %v", err)
	}
	a.deny.Store(true)
	if _, err := c.read(content); !errors.Is(err, blobstore.ErrNotHere) {
		t.Errorf("what is not allowed: %v", err)
	}
	if st := a.server.Stats(); st.Sent != 0 || st.Refused == 0 {
		t.Errorf("server: %+v", st)
	}
	if ps, err := c.f.Where(context.Background(), content); err != nil || ps[a.key] != Absent {
		t.Errorf("presence of what is not allowed: %v, %v", ps, err)
	}
	a.deny.Store(false)
	c.wantContent(t, p)
	lying := Content{content.Hash, content.Size + 1}
	if _, err := c.read(lying); err == nil {
		t.Error("another size was read")
	}
}

// untilWhole returns when o, which n asks, has content as a blob of its own: it reads, and
// passes on, the last group before that.
func (n *node) untilWhole(t *testing.T, o *node, content Content) {
	t.Helper()
	ps, err := n.f.Where(context.Background(), content)
	for end := time.Now().Add(time.Minute); err == nil && ps[o.key] != Whole && time.Now().Before(end); {
		ps, err = n.f.Where(context.Background(), content)
	}
	if err != nil || ps[o.key] != Whole {
		t.Errorf("who has it: %v, %v", ps, err)
	}
}

func TestRelay(t *testing.T) {
	a, b, c := newNode(t, 1, Options{}), newNode(t, 2, Options{}), newNode(t, 3, Options{})
	p := noise(9, 4*mib)
	content := a.add(t, p)
	b.expect(t, content)
	c.expect(t, content)
	b.connect(a)
	b.connect(c) // which asks b in turn
	c.connect(b)
	c.wantContent(t, p)
	c.untilWhole(t, b, content)
	none := Content{blobstore.Sum([]byte("nobody has it")), 13}
	c.expect(t, none)
	if _, err := c.read(none); !errors.Is(err, blobstore.ErrNotHere) {
		t.Errorf("what nobody has: %v", err)
	}
}

func TestBusyServer(t *testing.T) {
	a, c := newNode(t, 1, Options{}), newNode(t, 3, Options{Streams: 8})
	a.server = NewServer(a.blobs, a.db, ServerOptions{Requests: 2, PerPeer: 1, Allowed: a.server.o.Allowed})
	c.connect(a)
	p := noise(10, 20*mib)
	c.expect(t, a.add(t, p))
	c.wantContent(t, p)
}

func TestMayDrop(t *testing.T) {
	a, b := newNode(t, 1, Options{}), newNode(t, 2, Options{})
	ctx := context.Background()
	p := noise(11, mib)
	content := a.add(t, p)
	a.connect(b)
	b.connect(a)
	if _, err := a.blobs.Evict(ctx, content.Hash, a.f.MayDrop); !errors.Is(err, blobstore.ErrLastCopy) {
		t.Errorf("the last copy: %v", err)
	}
	b.expect(t, content)
	b.wantContent(t, p)
	a.untilWhole(t, b, content)
	if _, err := a.blobs.Evict(ctx, content.Hash, a.f.MayDrop); err != nil {
		t.Errorf("with a copy at b: %v", err)
	}
	if _, err := b.blobs.Evict(ctx, content.Hash, b.f.MayDrop); err == nil {
		t.Error("b dropped what it promised to keep")
	}
	a.wantContent(t, p)
}

func TestWantedList(t *testing.T) {
	a := newNode(t, 1, Options{})
	dir := t.TempDir()
	c := nodeIn(t, dir, 3, Options{})
	var texts [][]byte
	err := c.db.Write(func(tx *schema.Tx) error {
		for i := range 150 {
			p := noise(uint64(1000+i), 100+i*700)
			content := a.add(t, p)
			texts = append(texts, p)
			if err := blobstore.Expect(tx, content.Hash, content.Size); err != nil {
				return err
			}
			if err := Want(tx, content, blobstore.Eager); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorker(c.f, c.blobs, c.db)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	c.connect(a)
	// Another process, with no peers of its own, reads what is on no list.
	p := noise(2000, 3*mib)
	content := a.add(t, p)
	c.expect(t, content)
	if err := c.db.Commit(); err != nil {
		t.Fatal(err)
	}
	d := nodeIn(t, dir, 4, Options{})
	d.blobs.SetSource(Ask{d.db})
	d.wantContent(t, p)
	for left := int64(1); left > 0; {
		gen := c.db.Generation()
		err := c.db.Read(func(tx *schema.Tx) (err error) {
			left, _, err = Wanted(tx)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if left > 0 {
			c.db.Wait(ctx, gen)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	c.f.Close()
	for _, p := range texts {
		c.wantContent(t, p)
	}
	if st := c.f.Stats(); st.Requests >= 150 {
		t.Errorf("%d requests for 150 small contents", st.Requests)
	}
}

func TestInterruptedFetchGoesOn(t *testing.T) {
	a, c := newNode(t, 1, Options{}), newNode(t, 3, Options{})
	p := noise(12, 12*mib)
	content := a.add(t, p)
	c.expect(t, content)
	l := &link{key: a.key, from: c.key, to: a}
	l.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser {
		return &silent{ReadWriteCloser: s, left: 1_500_000, closed: make(chan struct{})}
	}
	c.f.AddPeer(l)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for c.f.Stats().Bytes < 3_000_000 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if err := c.blobs.Fetch(ctx, content.Hash, content.Size, blobstore.Pinned); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	had := c.f.Stats().Bytes
	c.f.RemovePeer(a.key)
	c.connect(a)
	c.wantContent(t, p)
	if total := c.f.Stats().Bytes; total > content.Size+4*piece {
		t.Errorf("%d bytes came, %d of them before the interruption, of %d", total, had, content.Size)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	a, c := newNode(t, 1, Options{}), newNode(t, 3, Options{})
	c.connect(a)
	for i := range 20 {
		p := noise(uint64(3000+i), 1+i*100_000)
		c.expect(t, a.add(t, p))
		c.wantContent(t, p)
	}
	for c.f.Stats().Wanted != 0 {
		time.Sleep(time.Millisecond)
	}
	if got := fmt.Sprint(c.f.Stats().Peers); got != "1" {
		t.Errorf("%s peers", got)
	}
}
