package crdtsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Link is a connection to another node, whose key it has proven to hold.
type Link interface {
	Peer() identity.Key
	OpenStream(ctx context.Context) (io.ReadWriteCloser, error)
	AcceptStream(ctx context.Context) (io.ReadWriteCloser, error)
	Close(reason string) error
	Done() <-chan struct{} // closed when it has ended
	Refused() bool         // it has ended since the other side does not let this node's key in
}

// Network makes links. Package transport has the one over QUIC.
type Network interface {
	Dial(ctx context.Context, addr string, k identity.Key) (Link, error)
	Accept(ctx context.Context) (Link, error)
}

// Options configure an Engine; the zero value is ready for use.
type Options struct {
	Addrs      []string      // HOST:PORT at which others find this node
	MarksEvery time.Duration // how often peers compare what they have, besides telling news at once. Default 30 s
	MinBackoff time.Duration // between attempts to reach a node. Default 500 ms, doubling to MaxBackoff
	MaxBackoff time.Duration // default 1 min
	BulkLinks  int           // connections for content with each node, besides the one of the session. Default 4
	// Joined and Left are told of the node with which a session begins and has
	// ended; Blobs is given the streams that a node opens for content, and
	// returns when it is done with one. Each may be nil.
	Joined func(*Node)
	Left   func(identity.Key)
	Blobs  func(ctx context.Context, k identity.Key, s io.ReadWriteCloser)
	// Held says what, besides what the store knows, holds a branch that is to leave.
	// May be nil.
	Held func(bucket, branch string) []string
}

// Engine keeps the shared buckets of a store the same as those of other nodes,
// for as long as Run runs.
type Engine struct {
	*Replica
	o          Options
	net        Network
	traffic    traffic
	sources    sources
	grantsNews signal        // members or buckets did
	progress   signal        // a peer acknowledged, connected or left
	compare    signal        // compare with everybody now
	round      atomic.Uint64 // of Reach
	fetched    signal        // somebody asked has answered
	moved      signal        // where a node listens was heard
	relocated  signal        // this node was
	held       signal        // who is to hold back changed

	mu       sync.Mutex // guards what follows
	addrs    []string   // where others find this node
	sessions map[identity.Key]*live
	problems map[identity.Key]problem
	tried    map[identity.Key]uint64   // newest round in which a node was dialled, and is not connected
	nearby   map[identity.Key][]string // where a node was seen on the local network, the newest first
	drained  uint32                    // generation of the database
	fetching map[[16]byte]bool         // buckets of which a node is asked for changes

	packsMu sync.Mutex             // guards packing
	packing map[[32]byte]packClaim // by Compaction.Body: who fetches its pack
}

// live is a session with its link.
type live struct {
	*session
	link   Link
	node   *Node
	dialed bool
	since  time.Time
}

// problem is why a node cannot be talked to.
type problem struct {
	err   error
	at    time.Time
	until time.Time // when it is tried, or let in, again
}

// NewEngine returns an engine that reaches other nodes through net.
func NewEngine(r *Replica, net Network, o Options) *Engine {
	if o.MarksEvery == 0 {
		o.MarksEvery = 30 * time.Second
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = 500 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = time.Minute
	}
	if o.BulkLinks == 0 {
		o.BulkLinks = 4
	}
	e := &Engine{
		Replica: r, o: o, addrs: o.Addrs, traffic: traffic{of: map[identity.Key]*meters{}},
		sessions: map[identity.Key]*live{}, problems: map[identity.Key]problem{}, tried: map[identity.Key]uint64{},
		nearby: map[identity.Key][]string{}, fetching: map[[16]byte]bool{}, packing: map[[32]byte]packClaim{},
	}
	e.sources = sources{changed: e.held.wake, from: map[[16]byte]*source{}, tired: map[*session]time.Time{}}
	e.net = e.traffic.meter(net)
	return e
}

// Run synchronises until ctx ends; ErrReplaced when the node has another key.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.setPlaces(e.key, e.ownAddrs()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { cancel(e.drainLoop(ctx)) })
	wg.Go(func() { e.foldLoop(ctx) })
	wg.Go(func() { e.dialLoop(ctx, &wg) })
	wg.Go(func() { e.release(ctx) })
	wg.Go(func() {
		for {
			l, err := e.net.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { e.talk(ctx, l, "") })
		}
	})
	<-ctx.Done()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// drainLoop makes changes of what any process on this store commits.
func (e *Engine) drainLoop(ctx context.Context) error {
	members := map[[16]byte]int{}
	filters := map[[16]byte]string{}
	for {
		gen, whole := e.db.Generation(), true
		if yes, err := e.replaced(); err != nil || yes {
			return cmp.Or(err, ErrReplaced)
		}
		uuids, err := e.Buckets()
		if err != nil {
			return err
		}
		for _, b := range uuids {
			// First, so that who was shut out does not hear of what was written since.
			if all, more, err := e.Grants(b, members[b]); err == nil && more {
				members[b] = len(all)
				e.membersChanged()
			}
			_, err := e.Drain(ctx, b)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				e.log.Error("changes could not be made ready for other nodes", "err", err)
				whole = false
			}
			if state, err := e.filterState(b); err == nil && state != filters[b] {
				filters[b] = state
				e.compare.wake()
				e.news.wake() // some may have to be fetched
			}
		}
		if whole {
			e.mu.Lock()
			e.drained = gen
			e.mu.Unlock()
			e.progress.wake()
		}
		if _, err := e.db.Wait(ctx, gen); err != nil {
			return nil
		}
	}
}

// Drained returns the generation of the database (schema.DB.Generation) up to
// which everything is in changes.
func (e *Engine) Drained() uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.drained
}

// connected returns the sessions that there are.
func (e *Engine) connected() []*live {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.sessions))
}

// membersChanged has everybody look anew at who belongs where, and drops those
// that no longer do. Where new members are may have been said before.
func (e *Engine) membersChanged() {
	for _, l := range e.connected() {
		if !e.Admits(l.peer) {
			e.log.Warn("a machine that is no member any more is dropped", "peer", l.peer.Short())
			l.link.Close("no longer a member")
			continue
		}
		l.session.mu.Lock()
		knows := l.knows
		l.session.mu.Unlock()
		e.heardOfAll(l.peer, knows)
	}
	e.grantsNews.wake()
}

// received is called after a peer's changes were taken in.
func (e *Engine) received(b [16]byte, from identity.Key, res Received) {
	if res.New > 0 {
		e.log.Debug("changes received", "peer", from.Short(), "changes", res.New, "versions", res.Versions)
	}
}

// talk runs the session of a link until it ends, or serves content on one that
// the other side opened for that. addr is what was dialled, "" when the other side
// did. Of two links with one node that came about at once the one that the lesser
// key dialled stays.
func (e *Engine) talk(ctx context.Context, l Link, addr string) {
	defer l.Close("done")
	k, dialed := l.Peer(), addr != ""
	if p := e.problem(k); !dialed && errors.Is(p.err, ErrRefused) && e.now().Before(p.until) {
		l.Close("sent what is refused; try again later")
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close("the node is stopping") })
	defer stop()
	go func() {
		select {
		case <-l.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	s, kind, err := e.firstStream(ctx, l, dialed)
	if err != nil {
		e.noteRefusal(l)
		return
	}
	defer s.Close()
	if kind == streamBlobs {
		e.talkBulk(l, s)
		return
	}
	own := &live{session: newSession(e, k, s), link: l, node: newNode(e, l, addr), dialed: dialed, since: e.now()}
	if !e.enter(own) {
		return
	}
	defer e.leave(own)
	e.log.Info("connected", "peer", k.Short(), "dialed", dialed)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { e.serveStreams(ctx, l, nil, nil) })
	wg.Go(func() { e.probe(ctx, l) })
	err = own.run(ctx, s)
	cancel()
	l.Close("done")
	e.log.Info("disconnected", "peer", k.Short(), "err", err)
	e.noteRefusal(l)
	if errors.Is(err, ErrRefused) {
		e.log.Warn("a machine sent what is refused", "peer", k.String(), "err", err)
		e.setProblem(k, err, e.now().Add(e.o.MaxBackoff))
	}
}

// errShutOut is why a link ends whose other side does not admit this node's key.
var errShutOut = errors.New("it does not let this machine in, which may have been shut out: ask an admin of the bucket")

// noteRefusal has it known when a link ended for that. Over TLS 1.3 whoever dials is
// connected before the other side has looked at its key (RFC 8446, 4.4.2.4).
func (e *Engine) noteRefusal(l Link) {
	if l.Refused() {
		e.setProblem(l.Peer(), errShutOut, time.Time{})
	}
}

// The first bytes of streams.
const (
	streamSync  = 's'
	streamBlobs = 'b'
	streamProbe = 'p' // whoever gets it closes it, as any of a kind that it does not know
)

// firstStream opens the sync stream, or accepts the other side's first.
func (e *Engine) firstStream(ctx context.Context, l Link, dialed bool) (s io.ReadWriteCloser, kind byte, err error) {
	if dialed {
		if s, err = l.OpenStream(ctx); err != nil {
			return nil, 0, err
		}
		_, err = s.Write([]byte{streamSync})
		return s, streamSync, err
	}
	if s, err = l.AcceptStream(ctx); err != nil {
		return nil, 0, err
	}
	if kind, err = streamKind(s); err != nil || kind != streamSync && kind != streamBlobs {
		s.Close()
		return nil, 0, fmt.Errorf("%w: the first stream is of kind %q", ErrRefused, kind)
	}
	return s, kind, nil
}

func streamKind(s io.Reader) (byte, error) {
	var kind [1]byte
	_, err := io.ReadFull(s, kind[:])
	return kind[0], err
}

// atOnce is how far apart two nodes that dial each other at the same time may
// have their links.
const atOnce = 5 * time.Second

// enter makes l the session with its peer, unless there is a better one. Who
// dials has no other link that works, so an older one is what a crash left.
func (e *Engine) enter(l *live) bool {
	e.mu.Lock()
	old := e.sessions[l.peer]
	better := old == nil || l.dialed == (compareKeys(e.key, l.peer) < 0) || l.dialed == old.dialed || l.since.Sub(old.since) > atOnce
	if better {
		e.sessions[l.peer] = l
		delete(e.problems, l.peer)
	}
	e.mu.Unlock()
	if better && old != nil {
		old.link.Close("replaced by another connection")
	}
	if better && e.o.Joined != nil {
		e.o.Joined(l.node)
	}
	e.progress.wake()
	return better
}

func (e *Engine) leave(l *live) {
	e.mu.Lock()
	last := e.sessions[l.peer] == l
	if last {
		delete(e.sessions, l.peer)
	}
	e.mu.Unlock()
	if last && e.o.Left != nil {
		e.o.Left(l.peer)
	}
	l.node.close()
	e.progress.wake()
}

func compareKeys(a, b identity.Key) int { return slices.Compare(a[:], b[:]) }

func (e *Engine) problem(k identity.Key) problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.problems[k]
}

func (e *Engine) setProblem(k identity.Key, err error, until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problems[k] = problem{err: err, at: e.now(), until: until}
}

// dialLoop keeps a dialler for every member that is not connected.
func (e *Engine) dialLoop(ctx context.Context, wg *sync.WaitGroup) {
	diallers := map[identity.Key]bool{}
	for {
		wait := e.grantsNews.wait()
		peers, err := e.peers()
		if err != nil {
			e.log.Error("members could not be listed", "err", err)
		}
		for _, k := range peers {
			if !diallers[k] {
				diallers[k] = true
				wg.Go(func() { e.dialPeer(ctx, k) })
			}
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
}

// peers returns the other members of the buckets shared here.
func (e *Engine) peers() (keys []identity.Key, err error) {
	uuids, err := e.Buckets()
	if err != nil {
		return nil, err
	}
	for _, b := range uuids {
		others, err := e.Others(b)
		if err != nil {
			return nil, err
		}
		for _, k := range others {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys, nil
}

// dialPeer connects to k whenever there is no session with it.
func (e *Engine) dialPeer(ctx context.Context, k identity.Key) {
	backoff := e.o.MinBackoff
	for {
		wait := e.progress.wait()
		e.mu.Lock()
		connected := e.sessions[k] != nil
		e.mu.Unlock()
		if connected {
			backoff = e.o.MinBackoff
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return
			}
		}
		here := e.relocated.wait()
		now, round := e.compare.wait(), e.round.Load() // a Reach from here on is one more try
		addrs := e.addrsOf(k)
		if e.Admits(k) && !e.now().Before(e.problem(k).until) && e.dialOnce(ctx, k, addrs) {
			continue
		}
		e.mu.Lock()
		e.tried[k] = round
		e.mu.Unlock()
		e.progress.wake()
		switch e.rest(ctx, k, backoff/2+rand.N(backoff), now, here, addrs) {
		case restedEnough:
			backoff = min(2*backoff, e.o.MaxBackoff)
		case hasMoved:
			backoff = e.o.MinBackoff
		}
		if ctx.Err() != nil {
			return
		}
	}
}
