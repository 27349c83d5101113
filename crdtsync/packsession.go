package crdtsync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// How compactions and their packs get to others. A node tells its peers of every
// compaction that it knows, after the grants, and of which it has the whole pack.
// Who lacks pieces asks for them, one peer at a time.

// compacted tells of compactions.
type compacted struct {
	Bucket [16]byte   `cbor:"1,keyasint"`
	New    [][]byte   `cbor:"2,keyasint"` // that were not told of before
	Whole  [][32]byte `cbor:"3,keyasint"` // Compaction.Body of those whose packs the sender has
}

// want asks for pieces of a pack.
type want struct {
	Bucket [16]byte `cbor:"1,keyasint"`
	Body   [32]byte `cbor:"2,keyasint"` // of the compaction
	From   int      `cbor:"3,keyasint"` // number of the first
}

// pieces are an answer to want; none where the sender does not have them any more.
type pieces struct {
	want
	Data [][]byte `cbor:"4,keyasint"`
}

// packFeed is what goes to and comes from the peer about the packs of a bucket.
type packFeed struct {
	told    map[[32]byte]bool // by hash: compactions that the peer was told of, or told of
	whole   [][32]byte        // packs that the peer was told are here
	theirs  map[[32]byte]bool // by body: packs that the peer has
	asked   *want             // what the peer has yet to answer
	wanted  *want             // what is to be answered
	without map[[32]byte]bool // by body: packs that it did not have when it was asked
}

// maxTold bounds what is noted of compactions that a peer tells of; of more it is told
// itself.
const maxTold = 1 << 10

// heard notes what the peer tells.
func (p *packFeed) heard(m *compacted) {
	for _, b := range m.New {
		if len(p.told) < maxTold {
			p.told[identity.CompactionHash(b)] = true
		}
	}
	if len(m.Whole) == 0 {
		return
	}
	clear(p.theirs)
	for _, b := range m.Whole {
		p.theirs[b] = true
		delete(p.without, b)
	}
}

// exchangePacks tells, asks and answers until ctx ends.
func (s *session) exchangePacks(ctx context.Context) error {
	defer s.e.releasePacks(s)
	select {
	case <-s.greeted:
	case <-ctx.Done():
		return nil
	}
	for {
		wait, own := s.e.packs.wait(), s.packs.wait()
		s.mu.Lock()
		feeds := maps.Clone(s.buckets)
		s.mu.Unlock()
		for _, b := range slices.SortedFunc(maps.Keys(feeds), func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }) {
			if err := s.exchangePacksOf(b, feeds[b]); err != nil {
				return err
			}
		}
		select {
		case <-wait:
		case <-own:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *session) exchangePacksOf(b [16]byte, f *feed) error {
	if err := s.sendGrants(b, f); err != nil { // they say who may
		return err
	}
	have, err := s.e.packsOf(b)
	if err != nil || len(have) == 0 {
		return err
	}
	m := compacted{Bucket: b}
	s.mu.Lock()
	for _, h := range have {
		if !f.packs.told[h.c.hash] {
			f.packs.told[h.c.hash] = true
			m.New = append(m.New, h.c.encoded)
		}
		if h.whole() && !slices.Contains(m.Whole, h.body) {
			m.Whole = append(m.Whole, h.body)
		}
	}
	news := len(m.New) > 0 || !slices.Equal(m.Whole, f.packs.whole)
	f.packs.whole = m.Whole
	answer := f.packs.wanted
	f.packs.wanted = nil
	s.mu.Unlock()
	for len(m.New) > 1 { // each may be large
		if err := s.write(&message{Compacted: &compacted{Bucket: b, New: m.New[:1]}}); err != nil {
			return err
		}
		m.New = m.New[1:]
	}
	if news {
		if err := s.write(&message{Compacted: &m}); err != nil {
			return err
		}
	}
	if answer != nil {
		if err := s.answerWant(b, have, answer); err != nil {
			return err
		}
	}
	return s.askPieces(b, f, have)
}

func (s *session) answerWant(b [16]byte, have []packHeld, w *want) error {
	a := pieces{want: *w}
	i := slices.IndexFunc(have, func(h packHeld) bool { return h.body == w.Body && h.whole() })
	if i >= 0 && w.From >= 0 && w.From < len(have[i].c.Pieces) {
		var err error
		if a.Data, err = s.e.piecesOf(b, have[i].c.Pieces[w.From:], batchBytes); err != nil {
			return err
		}
	}
	return s.write(&message{Pieces: &a})
}

// askPieces asks for the next pieces of a pack that the peer has and this node has not.
func (s *session) askPieces(b [16]byte, f *feed, have []packHeld) error {
	for _, h := range have {
		if h.whole() || !h.useful {
			continue
		}
		s.mu.Lock()
		ask := f.packs.asked == nil && f.packs.theirs[h.body] && !f.packs.without[h.body] && s.e.claimPack(s, h.body)
		var w *want
		if ask {
			w = &want{Bucket: b, Body: h.body, From: h.n}
			f.packs.asked = w
		}
		s.mu.Unlock()
		if w != nil {
			return s.write(&message{Want: w})
		}
	}
	return nil
}

func (s *session) gotCompacted(m *compacted) error {
	f := s.find(m.Bucket)
	if f == nil {
		return nil
	}
	s.mu.Lock()
	f.packs.heard(m)
	s.mu.Unlock()
	_, err := s.e.AddCompactions(m.Bucket, s.peer, m.New)
	s.packs.wake()
	return err
}

func (s *session) gotWant(w *want) {
	if f := s.find(w.Bucket); f != nil {
		s.mu.Lock()
		f.packs.wanted = w
		s.mu.Unlock()
		s.packs.wake()
	}
}

func (s *session) gotPieces(p *pieces) error {
	f := s.find(p.Bucket)
	if f == nil {
		return nil
	}
	s.mu.Lock()
	asked := f.packs.asked
	f.packs.asked = nil
	if len(p.Data) == 0 && asked != nil {
		f.packs.without[asked.Body] = true
	}
	s.mu.Unlock()
	if asked == nil || *asked != p.want {
		return fmt.Errorf("%w: pieces that nobody asked for", ErrRefused)
	}
	whole, err := s.e.addPieces(p)
	if err != nil {
		return err
	}
	if whole || len(p.Data) == 0 {
		s.e.releasePacks(s)
	}
	if whole {
		s.e.packs.wake() // the others, and who folds
	}
	s.packs.wake()
	return nil
}

// packClaim is a session that fetches a pack, and until when others wait for it.
type packClaim struct {
	s     *session
	until time.Time
}

// claimPack has a session ask for pieces of a pack, unless another does, whose peer
// has some time to answer.
func (e *Engine) claimPack(s *session, body [32]byte) bool {
	now := time.Now()
	e.packsMu.Lock()
	defer e.packsMu.Unlock()
	if o, ok := e.packing[body]; ok && o.s != s && now.Before(o.until) {
		return false
	}
	e.packing[body] = packClaim{s, now.Add(askPatience)}
	return true
}

// releasePacks lets others fetch what a session was fetching.
func (e *Engine) releasePacks(s *session) {
	e.endClaims(func(c packClaim) bool { return c.s == s })
}

// releaseSilent lets others fetch what is waited for in vain.
func (e *Engine) releaseSilent() {
	now := time.Now()
	e.endClaims(func(c packClaim) bool { return !now.Before(c.until) })
}

func (e *Engine) endClaims(which func(packClaim) bool) {
	e.packsMu.Lock()
	n := len(e.packing)
	maps.DeleteFunc(e.packing, func(_ [32]byte, c packClaim) bool { return which(c) })
	n -= len(e.packing)
	e.packsMu.Unlock()
	if n > 0 {
		e.packs.wake()
	}
}

// packHeld is how many of the first pieces of a pack are here.
type packHeld struct {
	c      *compaction
	body   [32]byte
	n      int
	useful bool // it counts, or this node is to say so
}

func (h *packHeld) whole() bool { return h.n == len(h.c.Pieces) }

func (r *Replica) packsOf(uuid [16]byte) (all []packHeld, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		cs, err := r.readCompactions(tx, sh)
		if err != nil {
			return err
		}
		m, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		owns := m.Role(r.key) == identity.Owner
		for _, c := range cs {
			h := packHeld{c: c, body: c.Body(), n: len(c.Pieces), useful: c.counts || c.proposed && owns}
			if c.state == compactionNew {
				if h.n, err = countPieces(tx, sh.bucket.ID, &c.Compaction); err != nil {
					return err
				}
			}
			all = append(all, h)
		}
		return nil
	})
	return all, err
}

// piecesOf returns pieces until they come to maxBytes, and at least one that is here.
func (r *Replica) piecesOf(uuid [16]byte, hashes [][32]byte, maxBytes int) (all [][]byte, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		size := 0
		for _, h := range hashes {
			b, err := readPiece(tx, sh.bucket.ID, h)
			if err != nil || b == nil {
				return err
			}
			all = append(all, b)
			if size += len(b); size >= maxBytes {
				return nil
			}
		}
		return nil
	})
	return all, err
}

// addPieces stores pieces that were asked for, and reports whether the pack is whole.
func (r *Replica) addPieces(p *pieces) (whole bool, err error) {
	err = r.db.Write(func(tx *schema.Tx) error {
		whole = false
		sh, err := r.lookup(tx, p.Bucket)
		if err != nil {
			return err
		}
		all, err := r.rawCompactions(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(c *compaction) bool { return c.Body() == p.Body })
		if i < 0 {
			return nil // another took its place meanwhile
		}
		c := all[i]
		for k, b := range p.Data {
			if n := p.From + k; n >= len(c.Pieces) || sha256.Sum256(b) != c.Pieces[n] {
				return fmt.Errorf("%w: piece %d of a pack is another", ErrRefused, n)
			}
			if _, err := putPiece(tx, sh.bucket.ID, b); err != nil {
				return err
			}
		}
		whole = p.From+len(p.Data) == len(c.Pieces)
		return nil
	})
	return whole, err
}

// lacksPack reports whether a node with these marks lacks changes that are not here
// any more, and gets them by a pack alone.
func (r *Replica) lacksPack(uuid [16]byte, theirs []Mark) (lacks bool, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		lacks, err = lacksFolded(tx, sh.bucket.ID, byStream(theirs))
		return err
	})
	return lacks, err
}

func lacksFolded(tx *schema.Tx, bucket int64, have map[stream]uint64) (bool, error) {
	s := tx.Stmt(`SELECT node.key, stream, folded FROM sync_stream JOIN node ON node.id = author WHERE bucket = ? AND folded > 0`)
	s.BindInt64(1, bucket)
	for err := range schema.Rows(s) {
		if err != nil {
			return false, err
		}
		var k stream
		s.ColumnBytes(0, k.author[:])
		s.ColumnBytes(1, k.stream[:])
		if have[k] < uint64(s.ColumnInt64(2)) {
			return true, nil
		}
	}
	return false, nil
}

// foldLoop puts packs in the place of changes as they come.
func (e *Engine) foldLoop(ctx context.Context) {
	tick := time.NewTicker(e.o.MarksEvery) // what is from the future, or did not succeed, is tried again
	defer tick.Stop()
	for {
		wait, members := e.packs.wait(), e.grantsNews.wait()
		uuids, err := e.Buckets()
		for _, b := range uuids {
			moved, err := e.Fold(ctx, b)
			if err != nil && ctx.Err() == nil {
				e.log.Error("a bucket could not be compacted", "err", err)
			}
			if moved {
				e.news.wake()
				e.compare.wake()
			}
		}
		if err != nil {
			e.log.Error("shared buckets could not be listed", "err", err)
		}
		select {
		case <-wait:
		case <-members:
		case <-tick.C:
			e.releaseSilent()
		case <-ctx.Done():
			return
		}
	}
}
