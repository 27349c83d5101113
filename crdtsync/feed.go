package crdtsync

import (
	"context"
	"slices"
)

// batchBytes is about how much of changes one message carries.
const batchBytes = 1 << 20

// firstBatch is about how much the first one carries to a node that may have another
// send the rest. Each further one carries twice as much.
const firstBatch = 64 << 10

// feed is what goes to the peer of one bucket.
type feed struct {
	marks    chan *marks // newest marks of the peer
	theirs   []Mark      // what the peer had when it last told
	grants   int         // how many the peer was sent
	sent     int64       // number of the newest change sent
	acked    int64       // number that the peer acknowledged
	ack      int64       // number of the peer's to acknowledge; 0: none
	got      uint64      // messages of changes of the peer that were taken in
	lacks    int64       // changes of the peer's that were not here when it last told
	answered uint64      // newest round (Engine.Reach) in which the peer said that it has sent all
	last     marks       // newest marks of the peer, without Marks
	round    uint64      // how many marks of the peer there were
	told     signal      // marks came
	filter   *filter     // what the peer keeps; nil: it did not say
	sentID   uint64      // filter that the peer was sent
	seen     uint64      // filter of the peer's that it was told to be known here
	needs    chan *need  // that the peer asks for
	asking   *asking     // what the peer was asked for; nil: nothing
	wants    cachedWants // only for what sends
	flying   flying      // only for what sends
	owed     owed        // only for what sends
	packs    packFeed
}

func newFeed() *feed {
	return &feed{
		marks: make(chan *marks, 1), needs: make(chan *need, 1),
		packs: packFeed{told: map[[32]byte]bool{}, theirs: map[[32]byte]bool{}, without: map[[32]byte]bool{}},
	}
}

// owed is an answer that the peer asked for, once it has been sent all.
type owed struct {
	ask uint64 // 0: none
	gen uint32 // of the database when it asked: what was written by then is to be sent
}

// due reports whether the answer can be given, with what was made ready for others.
func (o owed) due(drained uint32) bool { return o.ask != 0 && int32(drained-o.gen) >= 0 }

// flying is what was sent, a message of changes after the other, and not said to have
// been taken in. Marks that the peer made meanwhile lack it.
type flying struct {
	counted  bool      // the peer counts messages
	before   uint64    // messages that it took in
	messages [][]int64 // numbers of the changes in those that followed
}

func (f *flying) add(arrived []int64) {
	if f.counted {
		f.messages = append(f.messages, arrived)
	}
}

// landed takes what the marks of the peer say in Got.
func (f *flying) landed(got uint64) {
	f.counted = got > 0
	if got > f.before+1 {
		n := min(got-1-f.before, uint64(len(f.messages)))
		f.before += n
		f.messages = slices.Delete(f.messages, 0, int(n))
	}
}

// without returns what of arrived is to be sent: not what is on its way, except after
// something that was sent and held back there, as it was then held back as well.
func (f *flying) without(arrived []int64) []int64 {
	out := map[int64]bool{}
	for _, m := range f.messages {
		for _, n := range m {
			out[n] = true
		}
	}
	for len(arrived) > 0 && out[arrived[0]] {
		arrived = arrived[1:]
	}
	return arrived
}

// feed sends the peer what it lacks of a bucket, and then what comes.
func (s *session) feed(ctx context.Context, b [16]byte, f *feed) error {
	if err := s.sendGrants(b, f); err != nil {
		return err
	}
	s.packs.wake()
	if err := s.sendMarks(b, f, 0); err != nil {
		return err
	}
	var theirs *marks
	select {
	case theirs = <-f.marks:
	case <-ctx.Done():
		return nil
	}
	for {
		f.flying.landed(theirs.Got)
		if theirs.Ask > f.owed.ask {
			if err := s.e.db.Commit(); err != nil {
				return err
			}
			f.owed = owed{theirs.Ask, s.e.db.Generation()}
		}
		if s.unseen(f) {
			if err := s.sendMarks(b, f, 0); err != nil {
				return err
			}
		}
		news, err := s.catchUp(ctx, b, f, theirs)
		if err == nil && news == nil {
			var lacks bool
			if lacks, err = s.e.lacksPack(b, theirs.Marks); err == nil {
				news, err = s.follow(ctx, b, f, !lacks)
			}
		}
		if err != nil || news == nil {
			return err
		}
		theirs = news
	}
}

// catchUp sends everything that a node with these marks lacks, but for what is on its
// way there. Should newer marks come it returns those.
func (s *session) catchUp(ctx context.Context, b [16]byte, f *feed, theirs *marks) (news *marks, err error) {
	if theirs.Hold {
		select {
		case news = <-f.marks:
		case <-ctx.Done():
		}
		return news, nil
	}
	arrived, newest, err := s.e.Missing(b, theirs.Marks)
	if err != nil {
		return nil, err
	}
	if len(arrived) == 0 {
		s.mu.Lock()
		f.sent, f.acked = max(f.sent, newest), max(f.acked, newest)
		s.mu.Unlock()
		s.e.progress.wake()
		return nil, nil
	}
	arrived = f.flying.without(arrived)
	for size := firstBatch; len(arrived) > 0 && ctx.Err() == nil; size = min(2*size, batchBytes) {
		select {
		case news = <-f.marks:
			return news, nil
		default:
		}
		all, err := s.e.Envelopes(arrived, size)
		if err != nil {
			return nil, err
		}
		sent := arrived[:len(all)]
		arrived = arrived[len(all):]
		all = slices.DeleteFunc(all, func(e []byte) bool { return e == nil })
		if _, err := s.members(b); err != nil {
			return nil, err
		}
		if all, err = s.outgoing(b, f, all); err != nil {
			return nil, err
		}
		if err := s.sendChanges(b, f, all, sent, sent[len(sent)-1]); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	f.sent = max(f.sent, newest)
	s.mu.Unlock()
	return nil, nil
}

// follow sends what comes in after what was sent, until the peer sends marks
// again, which it returns; nil when ctx ends. With pay it answers what the peer asked.
func (s *session) follow(ctx context.Context, b [16]byte, f *feed, pay bool) (news *marks, err error) {
	for {
		wait, progress, drained := s.e.news.wait(), s.e.progress.wait(), s.e.Drained() // before looking
		all, err := s.e.Since(b, f.sent, batchBytes)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 {
			m, err := s.members(b)
			if err != nil {
				return nil, err
			}
			upto := all[len(all)-1].Arrived
			var out [][]byte
			var sent []int64
			for _, c := range all {
				void := c.Author == s.e.key && !m.Accepts(c.Author, c.Stream, c.Seq) // see Missing
				if c.Source != s.peer && c.Author != s.peer && !void {
					out, sent = append(out, c.Envelope), append(sent, c.Arrived)
				}
			}
			if out, err = s.outgoing(b, f, out); err != nil {
				return nil, err
			}
			if err := s.sendChanges(b, f, out, sent, upto); err != nil {
				return nil, err
			}
			continue
		}
		if pay && f.owed.due(drained) {
			if err := s.sendMarks(b, f, f.owed.ask); err != nil {
				return nil, err
			}
			f.owed = owed{}
		}
		if f.owed.ask == 0 {
			progress = nil
		}
		select {
		case <-wait:
		case <-progress:
		case m := <-f.marks:
			return m, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// sendChanges sends changes, with which the peer has been sent all up to a number;
// arrived are their own.
func (s *session) sendChanges(b [16]byte, f *feed, all [][]byte, arrived []int64, upto int64) error {
	s.mu.Lock()
	f.sent = max(f.sent, upto)
	if len(all) == 0 {
		f.acked = max(f.acked, upto) // nothing of it was for the peer
	}
	s.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	f.flying.add(arrived)
	return s.write(&message{Changes: &changes{Bucket: b, Envelopes: all, Upto: upto}})
}
