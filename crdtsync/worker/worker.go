package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/alkdev/alkfs/crdtsync/gate"
)

// Worker makes changes of documents.
type Worker interface {
	// Append makes one change that puts entries on top of the document at
	// heads (ascending), by actor, whose earlier changes of the document are
	// below heads. history returns the changes of the document in an order in
	// which each follows its dependencies; it may not be called. The change is
	// not part of the document for history until the caller has kept it.
	Append(ctx context.Context, id DocID, heads []gate.Hash, actor gate.Actor, entries []gate.Entry, history func() ([][]byte, error)) ([]byte, error)
	// Close ends the worker.
	Close() error
}

// ErrDocument says that the core does not take a document's history, which is
// then to be replaced by a fresh generation.
var ErrDocument = errors.New("automerge does not take the document")

// Local is a Worker in this process. The zero value is ready for use.
type Local struct {
	mu   sync.Mutex // guards docs
	docs docs
}

// Append implements Worker.
func (l *Local) Append(_ context.Context, id DocID, heads []gate.Hash, actor gate.Actor, entries []gate.Entry, history func() ([][]byte, error)) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	raw, err := l.docs.append(id, heads, actor, entries)
	if errors.Is(err, errHistory) {
		changes, err := history()
		if err != nil {
			return nil, err
		}
		if _, err := l.docs.load(id, changes); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrDocument, err)
		}
		return l.docs.append(id, heads, actor, entries)
	}
	return raw, err
}

// Close implements Worker.
func (l *Local) Close() error { return nil }
