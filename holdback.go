package alkfs

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/schema"
)

// defaultHoldBack is how long content waits for the word of other members where a
// bucket's policy does not say.
const defaultHoldBack = 30 * 24 * time.Hour

// collectPatience is how long the process that synchronises may take to collect.
const collectPatience = 10 * time.Minute

// HeldBack says what stays here though nothing here names it, as a version of another
// member of its bucket may.
type HeldBack struct {
	HeldBlobs, HeldBytes int64
	// Names of members: those with a version that names some of it, and those that
	// did not say, as they were not reached or have yet to hear what is known here.
	// Both are known after a collection.
	WantedBy, Unheard []string
}

// collected is what came of a collection of content that is held back.
type collected struct {
	Blobs, Bytes      int64
	WantedBy, Unheard []string
}

// collectContent removes content that nothing refers to, and no other member needs
// as far as they say.
func (s *Store) collectContent(ctx context.Context, o blobstore.GCOptions) (r blobstore.GCReport, h HeldBack, err error) {
	if r, err = s.blobs.GC(ctx, o); err != nil {
		return r, h, err
	}
	if h, err = s.heldBack(); err != nil || h.HeldBlobs == 0 || o.DryRun {
		return r, h, err
	}
	c, err := s.collectHeld(ctx, o.Grace)
	if err != nil {
		return r, h, err
	}
	r.Blobs, r.Bytes = r.Blobs+c.Blobs, r.Bytes+c.Bytes
	h, err = s.heldBack()
	h.WantedBy, h.Unheard = c.WantedBy, c.Unheard
	return r, h, err
}

func (s *Store) heldBack() (h HeldBack, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		h.HeldBlobs, h.HeldBytes, err = blobstore.HeldBack(tx)
		return err
	})
	return h, err
}

// collectHeld asks the other members, or has the process do so that is connected to
// them. Where none is, only a bucket without other members lets go.
func (s *Store) collectHeld(ctx context.Context, grace time.Duration) (collected, error) {
	if y := s.obs.syncer.Load(); y != nil {
		return y.collect(ctx, grace.String())
	}
	all, err := askSyncer[collected](ctx, s, collectPatience, askCollect, grace)
	switch {
	case err == nil && len(all) == 1:
		return all[0], nil
	case ctx.Err() != nil:
		return collected{}, ctx.Err()
	case !errors.Is(err, ErrNotSyncing):
		s.log.Warn("other members could not be asked whether they need content: it stays", "err", err)
		return collected{}, nil
	}
	r, err := s.replica()
	if err != nil {
		return collected{}, err
	}
	return s.collectAsking(ctx, grace, r, &blobs.Dropping{})
}

// collect is collectHeld in the process that synchronises; grace is a time.Duration
// as text.
func (y *Syncer) collect(ctx context.Context, grace string) (collected, error) {
	d, err := time.ParseDuration(grace)
	if err != nil {
		return collected{}, err
	}
	n := y.node.Load()
	return y.s.collectAsking(ctx, d, n.replica, &blobs.Dropping{Fetcher: y.contents.fetcher, Current: n.engine.HasAll})
}

// collectAsking removes what is held back, as far as the members d asks allow it.
func (s *Store) collectAsking(ctx context.Context, grace time.Duration, r *crdtsync.Replica, d *blobs.Dropping) (c collected, err error) {
	d.Members, d.Patience = r.Others, s.holdBackOf
	d.Wanted, d.Silent = map[NodeKey]int{}, map[NodeKey]int{}
	if c.Blobs, c.Bytes, err = s.blobs.CollectGuarded(ctx, grace, d.May); err != nil {
		return c, err
	}
	all, err := r.Status()
	name := func(counts map[NodeKey]int) (names []string) {
		for k := range counts {
			for _, b := range all {
				i := slices.IndexFunc(b.Members, func(m MemberStatus) bool { return m.Key == k })
				if i >= 0 && !slices.Contains(names, b.Members[i].Name) {
					names = append(names, b.Members[i].Name)
				}
			}
		}
		slices.Sort(names)
		return names
	}
	c.WantedBy, c.Unheard = name(d.Wanted), name(d.Silent)
	return c, err
}

// holdBackOf returns how long content of a bucket waits for the word of members;
// negative: for ever.
func (s *Store) holdBackOf(uuid [16]byte) (time.Duration, error) {
	all, err := s.Buckets()
	for _, b := range all {
		if b.UUID == uuid && b.Policy.HoldBack != 0 {
			return b.Policy.HoldBack, err
		}
	}
	return defaultHoldBack, err
}
