package crdtsync

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// endless is a Network whose links take and give whatever is wanted, at once.
type endless struct{ kind byte }

func (n endless) Dial(context.Context, string, identity.Key) (Link, error) { return n, nil }
func (n endless) Accept(context.Context) (Link, error)                     { return n, nil }
func (n endless) Peer() identity.Key                                       { return identity.Key{} }
func (n endless) Close(string) error                                       { return nil }
func (n endless) Done() <-chan struct{}                                    { return nil }
func (n endless) Refused() bool                                            { return false }
func (n endless) OpenStream(context.Context) (io.ReadWriteCloser, error) {
	return endlessStream(n), nil
}
func (n endless) AcceptStream(context.Context) (io.ReadWriteCloser, error) {
	return endlessStream(n), nil
}

type endlessStream struct{ kind byte }

func (s endlessStream) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = s.kind
	}
	return len(p), nil
}
func (s endlessStream) Write(p []byte) (int, error) { return len(p), nil }
func (s endlessStream) Close() error                { return nil }

const mib = 1 << 20

// move opens a stream for a kind and moves n bytes over it, in pieces.
func move(t *testing.T, l Limits, net map[byte]Network, kind byte, up bool, n, piece int) (slowest time.Duration) {
	link, err := net[kind].Dial(t.Context(), "", identity.Key{})
	if err != nil {
		t.Error(err)
	}
	s, err := link.OpenStream(t.Context())
	if err != nil {
		t.Error(err)
	}
	defer s.Close()
	b := make([]byte, piece)
	for i := range b {
		b[i] = kind
	}
	for ; n > 0; n -= piece {
		began := time.Now()
		if up {
			_, err = s.Write(b)
		} else {
			_, err = io.ReadFull(s, b)
		}
		if err != nil {
			t.Error(err)
			return
		}
		slowest = max(slowest, time.Since(began))
		if kind == streamSync {
			time.Sleep(100 * time.Millisecond) // news come now and then
		}
	}
	return slowest
}

// Content and metadata of all links keep to the limit together, and metadata
// does not wait while content takes all there is. All of it in the time of the
// bubble, which is exact.
func TestLimits(t *testing.T) {
	for _, up := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := Limits{Up: mib}
			if !up {
				l = Limits{Down: mib}
			}
			both := Limit(endless{}, l).(wrapped)
			net := map[byte]Network{}
			for _, kind := range []byte{streamSync, streamBlobs} {
				both.Network = endless{kind}
				net[kind] = both
			}
			began := time.Now()
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { move(t, l, net, streamBlobs, up, 2*mib, mib/2) })
			}
			var slowest time.Duration
			wg.Go(func() { slowest = move(t, l, net, streamSync, up, 100<<10, 1<<10) })
			wg.Wait()
			if took, want := time.Since(began), 16100*time.Millisecond; took < want-100*time.Millisecond || took > want+100*time.Millisecond {
				t.Errorf("up %v: 16 MiB and 100 KiB at 1 MiB/s took %v", up, took)
			}
			if slowest > 40*time.Millisecond { // two pieces of content take 31 ms
				t.Errorf("up %v: 1 KiB of metadata took up to %v", up, slowest)
			}
			began = time.Now()
			if move(t, l, net, streamBlobs, !up, 100*mib, mib); time.Since(began) != 0 {
				t.Errorf("up %v: the other direction, which has no limit, took %v", up, time.Since(began))
			}
		})
	}
}

// Who waits for its turn goes when its stream is closed.
func TestCloseWhileLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := Limit(endless{}, Limits{Up: 1}).Dial(t.Context(), "", identity.Key{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.AfterFunc(time.Minute, func() { s.Close() })
		if _, err := s.Write(make([]byte, mib)); err == nil || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}
