package crdtsync

import (
	"slices"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// compact has some node that may compact the bucket, now and then.
func (s *sim) compact() {
	c := s.compactions
	if !c.on || !s.shares.compact.draw(c.rng) {
		return
	}
	n := s.nodes[c.rng.IntN(len(s.nodes))]
	if !n.up || n.role() < identity.Admin {
		return
	}
	res, err := n.Compact(s.t.Context(), s.bucket, nil)
	s.logf("%s compacts: %+v: %v", n.name, res, err)
}

// compacted reports whether every node has done what the compactions say that count.
func (s *sim) compacted() bool {
	owner := s.nodes[0]
	done := true
	var newest [][32]byte
	for _, n := range s.lawful() {
		n.read(func(tx *schema.Tx) error {
			sh, err := n.lookup(tx, s.bucket)
			if err != nil {
				return err
			}
			all, err := n.readCompactions(tx, sh)
			if err != nil {
				return err
			}
			var known [][32]byte
			for _, c := range all {
				if c.counts {
					known = append(known, c.hash)
					done = done && c.state == compactionDone
				}
			}
			slices.SortFunc(known, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
			if n == owner {
				newest = known
			}
			done = done && slices.Equal(known, newest)
			return nil
		})
	}
	return done
}

// eachPacked calls f with each piece of the packs that n has in the place of changes.
func (n *simNode) eachPacked(f func(pathtree.Batch)) {
	n.read(func(tx *schema.Tx) error {
		sh, err := n.lookup(tx, n.s.bucket)
		if err != nil {
			return err
		}
		all, err := n.rawCompactions(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		for _, c := range all {
			for i := range c.inTree() {
				b, err := pieceAt(n.s.t.Context(), tx, sh.bucket.ID, &c.Compaction, i)
				if err != nil {
					return err
				}
				f(b.Batch)
			}
		}
		return nil
	})
}
