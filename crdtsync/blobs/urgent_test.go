package blobs

import (
	"context"
	"io"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
)

// clogged is a peer of which the streams for bulk give nothing until let go.
type clogged struct {
	*link
	opened chan struct{}
	letGo  chan struct{}
}

func (c *clogged) Open(ctx context.Context, bulk bool) (io.ReadWriteCloser, error) {
	s, err := c.link.Open(ctx, bulk)
	if err != nil || !bulk {
		return s, err
	}
	select {
	case c.opened <- struct{}{}:
	default:
	}
	return &held{s, c.letGo}, nil
}

type held struct {
	io.ReadWriteCloser
	letGo chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	<-h.letGo
	return h.ReadWriteCloser.Read(p)
}

// What somebody waits for comes while everything else is stuck.
func TestAReadDoesNotWaitForBulk(t *testing.T) {
	a, c := newNode(t, 1, Options{}), newNode(t, 3, Options{Streams: 2})
	large, small := noise(71, 24<<20), noise(72, 100_000)
	big, read := a.add(t, large), a.add(t, small)
	c.expect(t, big, read)
	peer := &clogged{&link{key: a.key, from: c.key, to: a}, make(chan struct{}, 2), make(chan struct{})}
	c.f.AddPeer(peer)
	done := make(chan error, 1)
	go func() { done <- c.blobs.Fetch(context.Background(), big.Hash, big.Size, blobstore.Pinned) }()
	<-peer.opened
	<-peer.opened
	c.wantContent(t, small)
	select {
	case err := <-done:
		t.Errorf("the bulk came as well: %v", err)
	default:
	}
	close(peer.letGo)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
