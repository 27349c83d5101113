package crdtsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Bounds of what a node asks of another at once.
const (
	maxAsked    = 1024             // changes
	askPatience = 30 * time.Second // after which another node may be asked for the same
)

// need asks for changes whole of which the sender has stubs. One such question is
// open at a time.
type need struct {
	Bucket  [16]byte      `cbor:"1,keyasint"`
	Ask     uint64        `cbor:"2,keyasint"`
	Changes []changeRange `cbor:"3,keyasint"`
}

type changeRange struct {
	Author identity.Key    `cbor:"1,keyasint"`
	Stream identity.Stream `cbor:"2,keyasint"`
	From   uint64          `cbor:"3,keyasint"`
	Count  uint64          `cbor:"4,keyasint"`
}

// found is a part of the answer: what the sender has whole.
type found struct {
	Bucket    [16]byte `cbor:"1,keyasint"`
	Ask       uint64   `cbor:"2,keyasint"`
	Envelopes [][]byte `cbor:"3,keyasint,omitempty"`
	Done      bool     `cbor:"4,keyasint,omitempty"`
}

func (n *need) check() error {
	total := uint64(0)
	for _, c := range n.Changes {
		if c.Count == 0 || c.Count > maxAsked || c.From == 0 || c.From > 1<<62 {
			return fmt.Errorf("%w: a question for changes", ErrRefused)
		}
		total += c.Count
	}
	if n.Ask == 0 || total > maxAsked {
		return fmt.Errorf("%w: a question for %d changes", ErrRefused, total)
	}
	return nil
}

// changeID names a change.
type changeID struct {
	stream
	seq uint64
}

// asking is a question that waits for its answer.
type asking struct {
	id   uint64
	left map[changeID]bool
	done chan struct{} // closed when all of the answer is here
	new  int           // changes that came
}

// lacking returns the first changes, by number and after one, that are to be here
// whole and are not.
func (r *Replica) lacking(uuid [16]byte, after int64) (all []stubRow, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		s := tx.Stmt(selectStub + `WHERE t.bucket = ? AND t.arrived > ? AND b.keep IN (0, 2) ORDER BY t.arrived LIMIT ?`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindInt64(2, after)
		s.BindInt64(3, maxAsked)
		for err := range schema.Rows(s) {
			if err != nil {
				return err
			}
			all = append(all, scanStub(s))
		}
		return nil
	})
	return all, err
}

// whole returns those of the changes asked for that are here whole.
func (r *Replica) whole(q *need) (all [][]byte, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		sh, err := r.lookup(tx, q.Bucket)
		if err != nil {
			return err
		}
		for _, c := range q.Changes {
			s := tx.Stmt(`SELECT envelope FROM sync_change JOIN node ON node.id = author
				WHERE bucket = ? AND node.key = ? AND stream = ? AND seq >= ? AND seq < ? ORDER BY seq`)
			s.BindInt64(1, sh.bucket.ID)
			s.BindBytes(2, c.Author[:])
			s.BindBytes(3, c.Stream[:])
			s.BindInt64(4, int64(c.From))
			s.BindInt64(5, int64(c.From+c.Count))
			for err := range schema.Rows(s) {
				if err != nil {
					return err
				}
				all = append(all, schema.Bytes(s, 0))
			}
		}
		return nil
	})
	return all, err
}

// fill puts changes in the place of their stubs. Each must be what its stub is of.
func (r *Replica) fill(uuid [16]byte, from identity.Key, envelopes [][]byte) (res Received, err error) {
	var in []*arrival
	for _, b := range envelopes {
		a, err := open(b, uuid)
		if err == nil && a.Form != identity.Whole {
			err = fmt.Errorf("%w: a stub for an answer", ErrRefused)
		}
		if err != nil {
			return res, err
		}
		in = append(in, a)
	}
	err = r.takeIn(in, &res, func(tx *schema.Tx, in []*arrival) (Received, error) { return r.fillAll(tx, uuid, from, in) })
	if err == nil && res.New > 0 {
		if err = r.db.Commit(); err == nil {
			r.news.wake()
		}
	}
	return res, err
}

func (r *Replica) fillAll(tx *schema.Tx, uuid [16]byte, from identity.Key, in []*arrival) (res Received, err error) {
	sh, source, m, err := r.beginImport(tx, uuid, from)
	if err != nil {
		return res, err
	}
	var b pathtree.Batch
	filled := map[[16]byte]bool{}
	for _, a := range in {
		author, err := nodeID(tx, a.Author)
		if err != nil {
			return res, err
		}
		stub, ok, err := findStub(tx, sh.bucket.ID, author, a.Stream, a.Seq)
		if err != nil {
			return res, err
		}
		if !ok {
			res.Known++ // another node was faster
			continue
		}
		if stub.Hash() != a.Envelope.Hash() {
			return res, fmt.Errorf("%w: a change of %s that is not the one of its stub", ErrRefused, a.Author.Short())
		}
		br, ok, err := findBranch(tx, sh.bucket.ID, a.Branch)
		if err != nil {
			return res, err
		}
		if !ok || !br.keep.Wanted() {
			continue
		}
		err = a.place(tx, sh, &change{arrived: stub.arrived, author: author, source: source})
		if errors.Is(err, errLater) {
			continue // what it follows comes from somebody else
		}
		if err == nil {
			err = deleteStub(tx, stub.arrived)
		}
		if err != nil {
			return res, err
		}
		res.New++
		filled[a.Branch] = true
		if a.counts(m) {
			b.Versions = append(b.Versions, a.batch.Versions...)
		} else if err := r.tree.CheckTime(&a.batch); err != nil { // as in importAll
			return res, err
		}
	}
	if err := r.importBatch(tx, sh, &b, &res); err != nil {
		return res, err
	}
	for u := range filled {
		br, ok, err := findBranch(tx, sh.bucket.ID, u)
		if err == nil && ok && br.keep == coming {
			err = r.show(tx, sh, br.id)
		}
		if err != nil {
			return res, err
		}
	}
	return res, nil
}

// fetch asks the peer for changes that are here as stubs and are to be here whole,
// until ctx ends.
func (s *session) fetch(ctx context.Context, b [16]byte, f *feed) error {
	var after int64  // number of the last change that the peer was asked for
	var round uint64 // of the marks when asking began
	for n := uint64(1); ; n++ {
		wait, told := s.e.news.wait(), f.told.wait()
		s.mu.Lock()
		now := f.round
		s.mu.Unlock()
		if now != round {
			round, after = now, 0
		}
		var all []stubRow
		var err error
		if round > 0 {
			all, err = s.e.lacking(b, after)
		}
		if err != nil {
			return err
		}
		leave := func() {}
		if len(all) > 0 {
			leave = s.e.mayFetch(b)
		}
		if len(all) == 0 || leave == nil {
			select {
			case <-wait:
			case <-told:
			case <-s.e.fetched.wait():
			case <-ctx.Done():
				return nil
			}
			continue
		}
		after = all[len(all)-1].arrived
		err = s.ask(ctx, f, n, b, all, leave)
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// ask asks for changes and waits for the answer. leave is called when another peer
// may be asked.
func (s *session) ask(ctx context.Context, f *feed, n uint64, b [16]byte, all []stubRow, leave func()) error {
	defer leave()
	q := &need{Bucket: b, Ask: n}
	a := &asking{id: n, left: map[changeID]bool{}, done: make(chan struct{})}
	for i := range all {
		e := &all[i].Envelope
		at := stream{e.Author, e.Stream}
		a.left[changeID{at, e.Seq}] = true
		last := len(q.Changes) - 1
		if last >= 0 && q.Changes[last].Author == e.Author && q.Changes[last].Stream == e.Stream && q.Changes[last].From+q.Changes[last].Count == e.Seq {
			q.Changes[last].Count++
		} else {
			q.Changes = append(q.Changes, changeRange{e.Author, e.Stream, e.Seq, 1})
		}
	}
	s.mu.Lock()
	f.asking = a
	s.mu.Unlock()
	if err := s.write(&message{Need: q}); err != nil {
		return err
	}
	patience := time.NewTimer(askPatience)
	defer patience.Stop()
	for {
		select {
		case <-a.done:
			return nil
		case <-patience.C:
			leave()
		case <-ctx.Done():
			return nil
		}
	}
}

// mayFetch takes the turn to ask for changes of a bucket, nil when another session
// has it; call what it returns, any number of times, to give it back.
func (e *Engine) mayFetch(b [16]byte) func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fetching[b] {
		return nil
	}
	e.fetching[b] = true
	given := false
	return func() {
		e.mu.Lock()
		if !given {
			given = true
			delete(e.fetching, b)
		}
		e.mu.Unlock()
		e.fetched.wake()
	}
}

// gotNeed hands a question to the one who answers it.
func (s *session) gotNeed(q *need) error {
	if err := q.check(); err != nil {
		return err
	}
	f := s.find(q.Bucket)
	if f == nil {
		return nil
	}
	select {
	case f.needs <- q:
		return nil
	default:
		return fmt.Errorf("%w: a question before the last was answered", ErrRefused)
	}
}

// answer answers the peer's questions until ctx ends.
func (s *session) answer(ctx context.Context, b [16]byte, f *feed) error {
	for {
		var q *need
		select {
		case q = <-f.needs:
		case <-ctx.Done():
			return nil
		}
		all, err := s.e.whole(q)
		if err != nil {
			return err
		}
		for done := false; !done; {
			size, n := 0, 0
			for n < len(all) && size < batchBytes {
				size += len(all[n])
				n++
			}
			done = n == len(all)
			if err := s.write(&message{Found: &found{Bucket: b, Ask: q.Ask, Envelopes: all[:n], Done: done}}); err != nil {
				return err
			}
			all = all[n:]
		}
	}
}

// gotFound takes in what was asked for, and nothing else.
func (s *session) gotFound(r *found) error {
	f := s.find(r.Bucket)
	if f == nil {
		return fmt.Errorf("%w: an answer about a bucket that is not shared with %s", ErrRefused, s.peer.Short())
	}
	s.mu.Lock()
	a := f.asking
	s.mu.Unlock()
	if a == nil || a.id != r.Ask {
		return fmt.Errorf("%w: an answer to no question", ErrRefused)
	}
	for _, b := range r.Envelopes {
		e, err := identity.DecodeEnvelope(b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		id := changeID{stream{e.Author, e.Stream}, e.Seq}
		if !a.left[id] {
			return fmt.Errorf("%w: a change that was not asked for", ErrRefused)
		}
		delete(a.left, id)
	}
	res, err := s.e.fill(r.Bucket, s.peer, r.Envelopes)
	if a.new += res.New; err != nil || !r.Done {
		return err
	}
	s.mu.Lock()
	f.asking = nil
	s.mu.Unlock()
	close(a.done)
	if a.new > 0 {
		s.e.progress.wake()
		if left, err := s.e.lacking(r.Bucket, 0); err == nil && len(left) == 0 {
			s.e.compare.wake() // others may wait for what is here now
		}
	}
	return nil
}

// release lets the branches go that are leaving and that a connected node keeps, has
// all of, and knows this one not to keep: of two that let go at once, each hears of
// the other first.
func (e *Engine) release(ctx context.Context) {
	for {
		wait := e.progress.wait()
		if err := e.releaseAll(); err != nil {
			e.log.Error("branches that are not kept any more could not leave", "err", err)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) releaseAll() error {
	uuids, err := e.Buckets()
	if err != nil {
		return err
	}
	for _, b := range uuids {
		var all []branchRow
		var name string
		err := e.db.Read(func(tx *schema.Tx) error {
			sh, err := e.lookup(tx, b)
			if err != nil {
				return err
			}
			name = sh.bucket.Name
			n, err := count(tx, `SELECT EXISTS (SELECT 1 FROM branch WHERE bucket = ? AND keep = 3 AND keep <> 0)`, sh.bucket.ID)
			if err == nil && n > 0 {
				all, err = leavingBranches(tx, sh.bucket.ID)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, br := range all {
			if err := e.releaseOne(b, name, br); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) releaseOne(b [16]byte, bucket string, br branchRow) error {
	if e.o.Held != nil && len(e.o.Held(bucket, br.name)) > 0 {
		return nil
	}
	own, err := e.filter(b)
	if err != nil {
		return err
	}
	id := own.id()
	for _, l := range e.connected() {
		has, void, why := l.rely(b, br.uuid, id)
		if why != "" {
			continue
		}
		err := e.drop(b, br.uuid, has, void)
		if err == nil {
			e.log.Info("a branch that is not kept any more has left", "bucket", bucket, "branch", br.name, "kept by", l.peer.Short())
			return e.db.Commit()
		}
		if !errors.Is(err, errHeld) {
			return err
		}
		e.log.Debug("a branch stays for now", "bucket", bucket, "branch", br.name, "err", err)
	}
	return nil
}
