package crdtsync

import (
	"context"
	"errors"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// errNoPlace says that a node can only be waited for.
var errNoPlace = errors.New("no address of it is known: it must come to this machine")

// Reached says what came of reaching for a node.
type Reached struct {
	Key identity.Key
	Err string // why not; "": it answered, and what it had is here
}

// Reach dials every member that is not connected, however long it was not
// reached, and asks those that are for what is not here. It returns when each
// has sent all it has or was not reached; at the end of ctx the rest have not.
func (e *Engine) Reach(ctx context.Context) ([]Reached, error) {
	keys, err := e.peers()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	clear(e.problems)
	e.mu.Unlock()
	round := e.round.Add(1)
	e.compare.wake()
	e.progress.wake()
	all := make([]Reached, len(keys))
	for i, k := range keys {
		all[i] = Reached{k, e.reached(ctx, k, round)}
	}
	return all, nil
}

// reached waits until what a round asked of k is settled.
func (e *Engine) reached(ctx context.Context, k identity.Key, round uint64) (why string) {
	for {
		wait := e.progress.wait()
		e.mu.Lock()
		l, tried, p := e.sessions[k], e.tried[k], e.problems[k]
		e.mu.Unlock()
		switch {
		case l != nil && l.answered(round):
			return ""
		case l == nil && tried >= round && p.err != nil:
			return p.err.Error()
		case l == nil && tried >= round:
			return "the connection was lost"
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return "no answer in time"
		}
	}
}

// answered reports whether the peer said, for every bucket in common, that it
// has sent all.
func (s *session) answered(round uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.buckets {
		if f.answered < round {
			return false
		}
	}
	return len(s.buckets) > 0
}
