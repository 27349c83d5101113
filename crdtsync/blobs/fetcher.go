package blobs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Options configures a Fetcher; only Buckets is needed.
type Options struct {
	// Buckets returns the uuids of the shared buckets that have h as content. A
	// peer is asked under each in turn. Required.
	Buckets func(ctx context.Context, h blobstore.Hash) ([][16]byte, error)
	// Bad is told of a peer that sent what it must not and was dropped; may be
	// nil. It is called with no lock held and must not wait for the Fetcher.
	Bad func(peer identity.Key, err error)
	// Streams is how many requests are open with each peer, besides the one that
	// is kept free for what somebody waits for. Default 8.
	Streams int
	// Slow is how long a peer may have a chunk before an idle stream of another
	// peer is used to ask for the rest of it. Default 1 s; a quarter of that
	// where somebody waits.
	Slow time.Duration
	// Alone is how long there may be no peers before fetches fail at once.
	// Default 30 s.
	Alone  time.Duration
	Hops   uint8        // how many nodes a request may go beyond the peer. Default 1, at most 3
	Logger *slog.Logger // default: discard
}

const (
	chunkGroups = 2 * blobstore.FrameGroups // 2 MiB
	smallGroups = 16                        // contents up to this size share requests
	batchItems  = 64                        // at most so many
	foreignWait = 20 * time.Millisecond     // until another process's claim is looked at again
)

// Fetcher brings content from peers, several at once. It is a blobstore.Source.
type Fetcher struct {
	o     Options
	log   *slog.Logger
	began time.Time

	// mu guards the peers and all works, demands and chunks. Under it only bits
	// of partial contents are read.
	mu struct {
		sync.Mutex
		peers   map[identity.Key]*peer
		works   []*work       // in order of arrival
		changed chan struct{} // closed when a worker should look again
		joined  chan struct{} // closed when a peer is added
		lonely  time.Time     // since when there are no peers
		closed  bool
	}
	wg     sync.WaitGroup
	counts struct{ bytes, requests, rerequests, bad atomic.Int64 }
}

// work is a content that somebody wants groups of.
type work struct {
	p       *blobstore.Partial // held
	buckets [][16]byte
	demands []*demand
	chunks  []*chunk
	refused map[identity.Key][]error // why each bucket's try failed
}

// demand is one call of Fetch.
type demand struct {
	want []blobstore.Range
	prio blobstore.Priority
	hops uint8
	done chan error // takes one

	relayed bool         // for another node's request
	from    identity.Key // which, when relayed; it is not asked
}

// chunk is groups that are being brought: by a worker, or by another process
// when peer is nil.
type chunk struct {
	w       *work
	r       blobstore.Range
	peer    *peer
	began   time.Time
	until   time.Time // when to look again at another process's
	urgent  bool
	again   bool // it was asked of another peer as well
	release func()
	cancel  context.CancelFunc // of the request
}

// peer is a member that workers ask.
type peer struct {
	Peer
	stop   context.CancelFunc
	rest   time.Time // it was slow, busy or failed: not before
	fails  int       // in a row
	urgent bool      // the worker for what somebody waits for is busy
}

// New returns a Fetcher without peers.
func New(o Options) *Fetcher {
	if o.Streams <= 0 {
		o.Streams = 8
	}
	if o.Slow <= 0 {
		o.Slow = time.Second
	}
	if o.Alone <= 0 {
		o.Alone = 30 * time.Second
	}
	if o.Hops == 0 {
		o.Hops = 1
	}
	o.Hops = min(o.Hops, maxHops)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fetcher{o: o, log: o.Logger, began: time.Now()}
	f.mu.peers = make(map[identity.Key]*peer)
	f.mu.changed, f.mu.joined = make(chan struct{}), make(chan struct{})
	f.mu.lonely = time.Now()
	return f
}

// Stats counts what a Fetcher did.
type Stats struct {
	Bytes      int64 // of content that came
	Requests   int64
	Rerequests int64 // of chunks that were asked of a second peer
	BadPeers   int64
	Peers      int
	Wanted     int // contents being fetched
}

// Stats returns counts since New and the present state.
func (f *Fetcher) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Stats{
		Bytes: f.counts.bytes.Load(), Requests: f.counts.requests.Load(), Rerequests: f.counts.rerequests.Load(),
		BadPeers: f.counts.bad.Load(), Peers: len(f.mu.peers), Wanted: len(f.mu.works),
	}
}

// AddPeer has p asked from now on, in place of an earlier one with its key.
func (f *Fetcher) AddPeer(p Peer) {
	f.RemovePeer(p.Key())
	ctx, cancel := context.WithCancel(context.Background())
	n := &peer{Peer: p, stop: cancel}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		cancel()
		return
	}
	f.mu.peers[p.Key()] = n
	f.wg.Go(func() { f.worker(ctx, n, false) })
	for range f.o.Streams {
		f.wg.Go(func() { f.worker(ctx, n, true) })
	}
	close(f.mu.joined)
	f.mu.joined = make(chan struct{})
	f.wakeLocked()
}

// RemovePeer ends all requests to a peer; what they were for is asked of others.
func (f *Fetcher) RemovePeer(key identity.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.mu.peers[key]; p != nil {
		f.removeLocked(p)
	}
}

func (f *Fetcher) removeLocked(p *peer) {
	if f.mu.peers[p.Key()] != p {
		return
	}
	delete(f.mu.peers, p.Key())
	p.stop()
	if len(f.mu.peers) == 0 {
		f.mu.lonely = time.Now()
	}
	for _, w := range slices.Clone(f.mu.works) {
		delete(w.refused, p.Key())
		f.settleLocked(w)
	}
	f.wakeLocked()
}

// Peers returns the keys of the peers.
func (f *Fetcher) Peers() (keys []identity.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.mu.peers {
		keys = append(keys, k)
	}
	return keys
}

// Close removes all peers and waits for their requests to end.
func (f *Fetcher) Close() {
	f.mu.Lock()
	f.mu.closed = true
	for _, p := range f.mu.peers {
		f.removeLocked(p)
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// wakeLocked makes all workers look for something to do. mu must be held.
func (f *Fetcher) wakeLocked() {
	close(f.mu.changed)
	f.mu.changed = make(chan struct{})
}

// forward is what the context of a request that is served says to a Fetch for
// it.
type forward struct {
	from identity.Key
	hops uint8
}

type forwardKey struct{}

func forwarded(ctx context.Context, from identity.Key, hops uint8) context.Context {
	return context.WithValue(ctx, forwardKey{}, forward{from, hops})
}

// Fetch implements blobstore.Source.
func (f *Fetcher) Fetch(ctx context.Context, p *blobstore.Partial, want []blobstore.Range, prio blobstore.Priority) error {
	buckets, err := f.o.Buckets(ctx, p.Hash())
	if err != nil {
		return err
	}
	if len(buckets) == 0 {
		return blobstore.NotHere(p.Hash(), "no shared bucket has it")
	}
	d := &demand{want: want, prio: prio, hops: f.o.Hops, done: make(chan error, 1)}
	if fwd, ok := ctx.Value(forwardKey{}).(forward); ok {
		d.relayed, d.from, d.hops = true, fwd.from, fwd.hops
	}
	f.mu.Lock()
	alone := f.o.Alone - time.Since(f.mu.lonely)
	if len(f.mu.peers) == 0 && alone <= 0 {
		f.mu.Unlock()
		return blobstore.NotHere(p.Hash(), "no other member is connected")
	}
	w := f.workLocked(p, buckets)
	w.demands = append(w.demands, d)
	f.settleLocked(w)
	f.wakeLocked()
	f.mu.Unlock()
	timer := time.NewTimer(max(alone, 0) + time.Millisecond)
	defer timer.Stop()
	for {
		select {
		case err := <-d.done:
			return err
		case <-ctx.Done():
			f.withdraw(w, d)
			return ctx.Err()
		case <-timer.C:
			f.mu.Lock()
			alone := len(f.mu.peers) == 0
			f.mu.Unlock()
			if alone {
				f.withdraw(w, d)
				return blobstore.NotHere(p.Hash(), "no other member is connected")
			}
		}
	}
}

// workLocked returns the work on p, made if need be. mu must be held.
func (f *Fetcher) workLocked(p *blobstore.Partial, buckets [][16]byte) *work {
	for _, w := range f.mu.works {
		if w.p == p {
			w.buckets = buckets
			return w
		}
	}
	p.Hold()
	w := &work{p: p, buckets: buckets, refused: make(map[identity.Key][]error)}
	f.mu.works = append(f.mu.works, w)
	return w
}

// withdraw ends a demand that is no longer waited for.
func (f *Fetcher) withdraw(w *work, d *demand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.demands = slices.DeleteFunc(w.demands, func(o *demand) bool { return o == d })
	for _, c := range w.chunks { // nobody waits for it: its stream is better used otherwise
		if len(w.demands) == 0 && c.cancel != nil {
			c.cancel()
		}
	}
	f.settleLocked(w)
}

// settleLocked ends the demands on w that are met or that nobody can meet, and w
// itself when there are none. mu must be held.
func (f *Fetcher) settleLocked(w *work) {
	w.demands = slices.DeleteFunc(w.demands, func(d *demand) bool {
		var err error
		if len(w.missing(d)) > 0 {
			if err = f.hopelessLocked(w, d); err == nil {
				return false
			}
		}
		d.done <- err
		return true
	})
	if len(w.demands) == 0 && len(w.chunks) == 0 {
		if i := slices.Index(f.mu.works, w); i >= 0 {
			f.mu.works = slices.Delete(f.mu.works, i, i+1)
			w.p.Release()
		}
	}
}

// missing returns what d still lacks.
func (w *work) missing(d *demand) (all []blobstore.Range) {
	for _, r := range d.want {
		all = append(all, w.p.Lacks(r)...)
	}
	return all
}

// hopelessLocked returns the error of a demand when every peer has said no. mu
// must be held.
func (f *Fetcher) hopelessLocked(w *work, d *demand) error {
	asked := 0
	for key := range f.mu.peers {
		if d.relayed && key == d.from {
			continue
		}
		if len(w.refused[key]) < len(w.buckets) {
			return nil
		}
		asked++
	}
	switch {
	case asked > 0:
		return blobstore.NotHere(w.p.Hash(), fmt.Sprintf("%d connected members were asked, and none gives it", asked))
	case d.relayed: // it is for the one that asks to wait
		return blobstore.NotHere(w.p.Hash(), "no member but the one that asks is connected")
	}
	return nil // until Options.Alone
}

// failLocked ends all demands on w. mu must be held.
func (f *Fetcher) failLocked(w *work, err error) {
	for _, d := range w.demands {
		d.done <- err
	}
	w.demands = nil
	f.settleLocked(w)
}
