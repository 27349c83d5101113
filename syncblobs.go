package alkfs

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

// elsewhere is the blobstore.Source of a process that talks to no other node: it
// asks the process of this store that does, and knows nothing while no bucket is
// shared.
type elsewhere struct {
	r   *crdtsync.Replica
	ask blobs.Ask
}

// Fetch implements blobstore.Source.
func (e elsewhere) Fetch(ctx context.Context, p *blobstore.Partial, want []blobstore.Range, prio blobstore.Priority) error {
	shares, err := e.r.Shares()
	if err != nil {
		return err
	}
	if !shares {
		return fmt.Errorf("blob %s: %w", p.Hash(), blobstore.ErrMissing)
	}
	return e.ask.Fetch(ctx, p, want, prio)
}

// contents moves content to and from the nodes that an engine is connected to.
type contents struct {
	fetcher *blobs.Fetcher
	server  *blobs.Server
	worker  *blobs.Worker
	keeper  *blobs.Keeper
}

// newContents returns what fetches and gives content of the node whose key is what
// key says. A node that takes a piece no faster than stall is given up on.
func (s *Store) newContents(r *crdtsync.Replica, key func() NodeKey, stall time.Duration) *contents {
	c := &contents{}
	c.fetcher = blobs.New(blobs.Options{
		Buckets: r.BucketsOf, Logger: s.log,
		Bad: func(k identity.Key, err error) {
			s.log.Warn("a node sent bytes that are not what they should be", "peer", k.String(), "err", err)
		},
	})
	c.server = blobs.NewServer(s.blobs, s.db, blobs.ServerOptions{
		Allowed: r.MayRead, Named: r.Named, Key: key, Stall: stall, Logger: s.log,
	})
	c.worker = blobs.NewWorker(c.fetcher, s.blobs, s.db)
	c.keeper = blobs.NewKeeper(s.db, s.tree, 0, s.log)
	s.blobs.SetSource(c.fetcher)
	return c
}

func (c *contents) serve(ctx context.Context, k identity.Key, stream io.ReadWriteCloser) {
	// What goes wrong is told to the peer, or is its own doing.
	_ = c.server.Serve(ctx, k, stream)
}

// run works off what is wanted, by policy too, until ctx ends.
func (c *contents) run(ctx context.Context, s *Store) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if err := c.keeper.Run(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("content is not fetched by policy any more", "err", err)
		}
	})
	if err := c.worker.Run(ctx); err != nil && ctx.Err() == nil {
		s.log.Error("wanted content is not fetched any more", "err", err)
	}
}

func (c *contents) close(s *Store) {
	s.blobs.SetSource(s.source)
	c.fetcher.Close()
}
