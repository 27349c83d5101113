package crdtsync

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// session is the talk with one other node over the sync stream of a connection.
// Either side may send at any time; what is sent for a bucket begins with what
// the other's marks say it lacks.
type session struct {
	e    *Engine
	peer identity.Key
	w    io.Writer
	send chan struct{} // holds one while a message is written

	greeted chan struct{} // closed once hello was sent, before which nothing else is

	mu      sync.Mutex // guards what follows
	buckets map[[16]byte]*feed
	addrs   []string     // where the peer listens, as it says
	knows   []peerPlaces // where others do, as it says
	told    [][16]byte   // buckets in the last hello
	own     []string     // addresses in the last hello
	others  []peerPlaces // in the last hello
	acks    signal

	granting chan struct{} // holds one while grants are sent
	packs    signal        // something is to be told, asked or answered about packs
}

func newSession(e *Engine, peer identity.Key, w io.Writer) *session {
	return &session{
		e: e, peer: peer, w: w, send: make(chan struct{}, 1), granting: make(chan struct{}, 1), greeted: make(chan struct{}), buckets: map[[16]byte]*feed{},
	}
}

func (s *session) write(m *message) error {
	s.send <- struct{}{}
	defer func() { <-s.send }()
	return writeMessage(s.w, m)
}

// run talks until the stream or ctx ends, or this side has no reason to go on, and
// closes the stream. What it returns says why.
func (s *session) run(ctx context.Context, stream io.ReadCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { stream.Close() })() // or a read would wait for the other side
	var wg sync.WaitGroup
	defer s.e.sources.left(s)
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		err := s.hello()
		if err == nil {
			close(s.greeted)
			err = s.announce(ctx)
		}
		cancel(err)
	})
	wg.Go(func() { cancel(s.acknowledge(ctx)) })
	wg.Go(func() { cancel(s.exchangePacks(ctx)) })
	wg.Go(func() { cancel(s.read(ctx, &wg, cancel, bufio.NewReaderSize(stream, 64<<10))) })
	<-ctx.Done()
	return context.Cause(ctx)
}

// hello tells the peer what both belong to, and what there is of each.
func (s *session) hello() error {
	common, err := s.e.CommonWith(s.peer)
	if err != nil {
		return err
	}
	if len(common) == 0 {
		return fmt.Errorf("%s is no member of any bucket", s.peer.Short())
	}
	own, others := s.e.places(s.peer)
	s.mu.Lock()
	s.told, s.own, s.others = common, own, others
	s.mu.Unlock()
	return s.write(&message{Hello: &hello{Version: protocolVersion, Buckets: common, Addrs: own, Others: others}})
}

// read takes in what the peer sends. It never sends itself: two sides that
// both wait for the other to read would wait for ever.
func (s *session) read(ctx context.Context, wg *sync.WaitGroup, cancel context.CancelCauseFunc, r io.Reader) error {
	for {
		m, err := readMessage(r)
		if err != nil {
			return err
		}
		switch {
		case m.Hello != nil:
			err = s.gotHello(ctx, wg, cancel, m.Hello)
		case m.Grants != nil:
			err = s.gotGrants(m.Grants)
		case m.Marks != nil:
			err = s.gotMarks(m.Marks)
		case m.Changes != nil:
			err = s.gotChanges(m.Changes)
		case m.Ack != nil:
			s.gotAck(m.Ack)
		case m.Filter != nil:
			s.gotFilter(m.Filter)
		case m.Need != nil:
			err = s.gotNeed(m.Need)
		case m.Found != nil:
			err = s.gotFound(m.Found)
		case m.Compacted != nil:
			err = s.gotCompacted(m.Compacted)
		case m.Want != nil:
			s.gotWant(m.Want)
		case m.Pieces != nil:
			err = s.gotPieces(m.Pieces)
		}
		if err != nil {
			return err
		}
	}
}

// gotHello begins a feed for every bucket that both sides name.
func (s *session) gotHello(ctx context.Context, wg *sync.WaitGroup, cancel context.CancelCauseFunc, h *hello) error {
	if h.Version > protocolVersion {
		s.e.log.Info("the other node speaks a newer protocol", "peer", s.peer.Short(), "version", h.Version)
	}
	s.mu.Lock()
	s.addrs, s.knows = h.Addrs, h.Others
	s.mu.Unlock()
	s.e.heard(s.peer, h)
	common, err := s.e.CommonWith(s.peer)
	if err != nil {
		return err
	}
	for _, b := range common {
		if !slices.Contains(h.Buckets, b) {
			continue
		}
		s.mu.Lock()
		_, have := s.buckets[b]
		f := newFeed()
		if !have {
			s.buckets[b] = f
		}
		s.mu.Unlock()
		if have {
			continue
		}
		for _, run := range []func(context.Context, [16]byte, *feed) error{s.feed, s.fetch, s.answer} {
			wg.Go(func() {
				select {
				case <-s.greeted:
				case <-ctx.Done():
					return
				}
				if err := run(ctx, b, f); err != nil {
					cancel(err)
				}
			})
		}
	}
	return nil
}

func (s *session) sendGrants(b [16]byte, f *feed) error {
	s.granting <- struct{}{}
	defer func() { <-s.granting }()
	s.mu.Lock()
	after := f.grants
	s.mu.Unlock()
	all, more, err := s.e.Grants(b, after)
	if err != nil || !more {
		return err
	}
	s.mu.Lock()
	f.grants = len(all)
	s.mu.Unlock()
	return s.write(&message{Grants: &grants{Bucket: b, Grants: all}})
}

// sendMarks tells the peer what there is here of a bucket; answer is what it
// asked that with, 0 for nothing.
func (s *session) sendMarks(b [16]byte, f *feed, answer uint64) error {
	own, err := s.e.filter(b)
	if err != nil {
		return err
	}
	m := &marks{Bucket: b, Answer: answer, Filter: own.id(), Hold: s.e.sources.holds(b, s)}
	s.mu.Lock()
	m.Got = 1 + f.got // before looking at the marks
	news := f.sentID != m.Filter
	f.sentID = m.Filter
	partial := f.filter != nil && !f.filter.All
	if f.filter != nil {
		m.Seen = f.filter.id()
	}
	s.mu.Unlock()
	if news {
		if err := s.write(&message{Filter: own}); err != nil {
			return err
		}
	}
	if m.Marks, m.Lacks, m.Void, err = s.e.marksAndLacks(b); err != nil {
		return err
	}
	if partial { // it may let go what is here
		if err := s.e.db.Sync(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	f.seen = m.Seen
	if round := s.e.round.Load(); f.answered < round {
		m.Ask = round
	}
	s.mu.Unlock()
	return s.write(&message{Marks: m})
}

func (s *session) find(b [16]byte) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buckets[b]
}

func (s *session) gotGrants(g *grants) error {
	if s.find(g.Bucket) == nil {
		return nil // not a bucket that both belong to, as far as is known here
	}
	n, err := s.e.AddGrants(g.Bucket, g.Grants)
	if n > 0 {
		s.e.membersChanged()
	}
	return err
}

func (s *session) gotMarks(m *marks) error {
	f := s.find(m.Bucket)
	if f == nil {
		return nil
	}
	s.mu.Lock()
	f.theirs, f.last = m.Marks, *m
	f.last.Marks = nil
	f.round++
	f.answered = max(f.answered, m.Answer)
	s.mu.Unlock()
	f.told.wake()
	s.e.progress.wake()
	select { // the newest ones count
	case old := <-f.marks:
		m.Ask = max(m.Ask, old.Ask)
	default:
	}
	f.marks <- m
	return s.weigh(m.Bucket, f)
}

// weigh sees how much is lacking here of what the peer has.
func (s *session) weigh(b [16]byte, f *feed) error {
	ours, err := s.e.Marks(b)
	if err != nil {
		return err
	}
	s.mu.Lock()
	f.lacks = lead(f.theirs, ours)
	lacks := f.lacks
	s.mu.Unlock()
	s.e.sources.weigh(b, s, lacks)
	return nil
}

func (s *session) gotChanges(c *changes) error {
	f := s.find(c.Bucket)
	if f == nil {
		return fmt.Errorf("%w: changes of a bucket that is not shared with %s", ErrRefused, s.peer.Short())
	}
	s.e.sources.taking(c.Bucket, s)
	res, err := s.e.Receive(c.Bucket, s.peer, c.Envelopes)
	s.e.received(c.Bucket, s.peer, res)
	if err != nil {
		return err
	}
	s.mu.Lock()
	f.ack = max(f.ack, c.Upto)
	f.got++
	lacks := f.lacks
	s.mu.Unlock()
	s.acks.wake()
	if lacks > 0 {
		return s.weigh(c.Bucket, f)
	}
	return nil
}

// acknowledge sends the acknowledgements that read notes down.
func (s *session) acknowledge(ctx context.Context) error {
	for {
		wait := s.acks.wait()
		var due []*ack
		s.mu.Lock()
		for b, f := range s.buckets {
			if f.ack != 0 {
				due = append(due, &ack{Bucket: b, Upto: f.ack})
				f.ack = 0
			}
		}
		s.mu.Unlock()
		for _, a := range due {
			if err := s.write(&message{Ack: a}); err != nil {
				return err
			}
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *session) gotAck(a *ack) {
	if f := s.find(a.Bucket); f != nil {
		s.mu.Lock()
		f.acked = max(f.acked, a.Upto)
		s.mu.Unlock()
		s.e.progress.wake()
	}
}

// members returns who belongs to a bucket now; errRevoked when the peer does not. Asked
// after changes were read and before they are sent, it keeps from whom was shut out
// here all that was made after that.
func (s *session) members(b [16]byte) (*identity.Membership, error) {
	m, err := s.e.Membership(b)
	if err == nil && m.Role(s.peer) < identity.ReadOnly {
		err = errRevoked
	}
	return m, err
}

// announce tells the peer of new members and buckets as they come, and what there is
// here: then, when who is to hold back has changed, and now and then, should anything
// have been held back or lost.
func (s *session) announce(ctx context.Context) error {
	tick := time.NewTicker(s.e.o.MarksEvery)
	defer tick.Stop()
	for {
		wait, compare, held := s.e.grantsNews.wait(), s.e.compare.wait(), s.e.held.wait()
		common, err := s.e.CommonWith(s.peer)
		if err != nil {
			return err
		}
		if len(common) == 0 {
			return errRevoked
		}
		own, others := s.e.places(s.peer)
		s.mu.Lock()
		feeds := maps.Clone(s.buckets)
		news := !slices.Equal(s.told, common) || !slices.Equal(s.own, own) || !samePlaces(s.others, others)
		s.mu.Unlock()
		for b, f := range feeds {
			if err := s.sendGrants(b, f); err != nil {
				return err
			}
		}
		for b := range feeds {
			if !slices.Contains(common, b) {
				return errRevoked // a fresh connection has what is left
			}
		}
		if news {
			if err := s.hello(); err != nil {
				return err
			}
		}
		for b, f := range feeds {
			if err := s.sendMarks(b, f, 0); err != nil {
				return err
			}
		}
		select {
		case <-wait:
		case <-compare:
		case <-held:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// errRevoked ends a session with a node that is no member any more.
var errRevoked = errors.New("no longer a member")
