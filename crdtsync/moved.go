package crdtsync

import (
	"context"
	"slices"
	"time"
)

// answerTime is how long a link may take to answer after this node has moved.
const answerTime = 4 * time.Second

// SetAddrs says that the addresses of this machine have changed, and that others
// find this node at addrs (HOST:PORT) from now on. They are told; a connection that
// does not answer soon is closed, and who is not connected dialled at once.
func (e *Engine) SetAddrs(addrs []string) {
	e.log.Info("the addresses of this machine have changed", "addrs", addrs)
	e.mu.Lock()
	e.addrs = slices.Clone(addrs)
	e.mu.Unlock()
	if err := e.setPlaces(e.key, addrs); err != nil {
		e.log.Error("an address could not be kept", "err", err)
	}
	e.relocated.wake()
	e.grantsNews.wake()
}

// ownAddrs returns where others find this node.
func (e *Engine) ownAddrs() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addrs
}

// probe sends something over l whenever this node has moved, which shows the peer
// where it is now, and closes l when there is no answer: of a connection that the
// peer dialled it cannot hear.
func (e *Engine) probe(ctx context.Context, l Link) {
	for wait := e.relocated.wait(); ; {
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
		wait = e.relocated.wait()
		if err := answers(ctx, l); err != nil && ctx.Err() == nil {
			e.log.Info("a connection does not answer from where this node is now", "peer", l.Peer().Short(), "err", err)
			l.Close("this node has moved")
			return
		}
	}
}

// answers opens a stream, and waits until the peer has closed it.
func answers(ctx context.Context, l Link) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s, err := l.OpenStream(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if _, err := s.Write([]byte{streamProbe}); err != nil {
		return err
	}
	s.Read(make([]byte, 1)) // however it ends
	return ctx.Err()
}
