package crdtsync

import (
	"sync"
	"time"
)

const (
	// manyChanges is how many changes a node lacks before it has but one peer send them.
	manyChanges = 100
	// sourceStall is how long that peer may send none, and sourceTurn how long it may be the
	// one; it then is not for as long.
	sourceStall = 10 * time.Second
	sourceTurn  = time.Minute
)

// sources is, of each bucket of which much is lacking here, the peer that sends it. The
// others that are connected have the same, and hold back until that one is done: or
// all would come from each.
type sources struct {
	changed func() // who is to hold back did

	mu    sync.Mutex // guards what follows
	from  map[[16]byte]*source
	tired map[*session]time.Time // when one whose turn ended may have another
}

type source struct {
	s       *session
	since   time.Time
	stalled *time.Timer
}

// holds reports whether the peer of s is to send no changes of a bucket now.
func (k *sources) holds(b [16]byte, s *session) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	from := k.from[b]
	return from != nil && from.s != s
}

// weigh notes how many changes are lacking here that the peer of s has.
func (k *sources) weigh(b [16]byte, s *session, lacks int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	from := k.from[b]
	switch {
	case from == nil && lacks > manyChanges && time.Now().After(k.tired[s]):
		k.from[b] = &source{s, time.Now(), time.AfterFunc(sourceStall, func() { k.stalls(b, s) })}
		k.changed()
	case from == nil || from.s != s:
	case lacks == 0:
		k.end(b, s)
	case time.Since(from.since) > sourceTurn:
		k.endTurn(b, s)
	default:
		from.stalled.Reset(sourceStall)
	}
}

// taking is called before changes that s brought are taken in, for as long as which
// its peer does not stall.
func (k *sources) taking(b [16]byte, s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if from := k.from[b]; from != nil && from.s == s {
		from.stalled.Stop()
	}
}

func (k *sources) stalls(b [16]byte, s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.endTurn(b, s)
}

// endTurn has s rest, unless it has left meanwhile. k.mu is held.
func (k *sources) endTurn(b [16]byte, s *session) {
	if from := k.from[b]; from != nil && from.s == s {
		k.tired[s] = time.Now().Add(sourceTurn)
		k.end(b, s)
	}
}

// left is called when s has ended.
func (k *sources) left(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for b := range k.from {
		k.end(b, s)
	}
	delete(k.tired, s)
}

// end has the others of a bucket send again if s is the one that does. k.mu is held.
func (k *sources) end(b [16]byte, s *session) {
	if from := k.from[b]; from != nil && from.s == s {
		from.stalled.Stop()
		delete(k.from, b)
		k.changed()
	}
}
