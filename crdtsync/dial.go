package crdtsync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

const (
	dialTime = 5 * time.Second        // for the attempt to reach one address
	dialNext = 250 * time.Millisecond // until the next address is tried as well (RFC 8305)
)

// dialOnce tries the addresses of k, and talks until that ends. It reports
// whether there was a connection.
func (e *Engine) dialOnce(ctx context.Context, k identity.Key, addrs []string) bool {
	l, addr, err := e.dialAny(ctx, k, addrs)
	if err != nil {
		if ctx.Err() == nil {
			e.log.Debug("a node was not reached", "peer", k.Short(), "err", err)
			e.setProblem(k, err, time.Time{})
		}
		return false
	}
	start := e.now()
	e.talk(ctx, l, addr)
	return e.now().Sub(start) > time.Second
}

// errNoAnswer is what became of whoever was dialled in vain.
var errNoAnswer = errors.New("no answer")

// plain returns err in words for people when nobody answered.
func plain(err error) error {
	var e net.Error
	var dns *net.DNSError
	if errors.As(err, &e) && e.Timeout() && !errors.As(err, &dns) {
		return errNoAnswer
	}
	return err
}

// dialAny dials addresses, each some time after the one before it or as soon as
// that has failed, and returns the link that is there first, with its address.
func (e *Engine) dialAny(ctx context.Context, k identity.Key, addrs []string) (l Link, addr string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		l    Link
		addr string
		err  error
	}
	results := make(chan result)
	running := 0
	err = errNoPlace
	for len(addrs) > 0 || running > 0 {
		var next <-chan time.Time
		if len(addrs) > 0 {
			a := addrs[0]
			addrs = addrs[1:]
			running++
			go func() {
				dctx, cancel := context.WithTimeout(ctx, dialTime)
				defer cancel()
				l, err := e.net.Dial(dctx, a, k)
				if err != nil {
					err = fmt.Errorf("%s: %w", a, plain(err))
				}
				results <- result{l, a, err}
			}()
		}
		if len(addrs) > 0 {
			next = time.After(dialNext)
		}
		select {
		case <-next:
			continue
		case r := <-results:
			running--
			if err = r.err; err != nil {
				continue
			}
			cancel()
			for range running {
				if late := <-results; late.err == nil {
					late.l.Close("another address answered first")
				}
			}
			return r.l, r.addr, nil
		}
	}
	return nil, "", err
}

// Why a rest was over.
const (
	restedEnough = iota
	wasAsked
	hasMoved
)

// rest waits for a time, or until ask is closed, this node has moved (here), k has
// other addresses than it had, or ctx ends.
func (e *Engine) rest(ctx context.Context, k identity.Key, d time.Duration, ask, here <-chan struct{}, had []string) int {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		moved := e.moved.wait()
		if !slices.Equal(e.addrsOf(k), had) {
			return hasMoved
		}
		select {
		case <-timer.C:
			return restedEnough
		case <-ask:
			return wasAsked
		case <-here:
			return hasMoved
		case <-moved:
		case <-ctx.Done():
			return wasAsked
		}
	}
}

// maxNearby bounds the addresses kept of a node on the local network: anybody
// there can make them up.
const maxNearby = 4

// Nearby says where a node was seen on the local network. It is dialled there
// unless it is connected; only the node itself can answer for its key.
func (e *Engine) Nearby(k identity.Key, addr string) {
	e.mu.Lock()
	news := !slices.Contains(e.nearby[k], addr)
	if news {
		all := slices.Insert(slices.Clone(e.nearby[k]), 0, addr)
		e.nearby[k] = all[:min(len(all), maxNearby)]
	}
	e.mu.Unlock()
	if news {
		e.moved.wake()
	}
}

// addrsOf returns where to dial a node, the best first.
func (e *Engine) addrsOf(k identity.Key) []string {
	e.mu.Lock()
	addrs := slices.Clone(e.nearby[k])
	e.mu.Unlock()
	known, _, err := e.placesOf(k)
	if err != nil {
		e.log.Error("an address could not be read", "err", err)
	}
	for _, a := range known {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
