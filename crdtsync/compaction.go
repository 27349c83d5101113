package crdtsync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// maxGenAhead is how much greater than the newest generation that was closed
// another may be: who writes in a far one would leave no number for the next
// compaction.
const maxGenAhead = 1 << 12

// maxCompactions bounds the compactions kept of one issuer in a bucket; an honest one
// has the last, and some that are not followed yet.
const maxCompactions = 32

// How far a compaction was followed here.
const (
	compactionNew     = iota
	compactionApplied // its pack is in the tree, and its ends are this node's marks; what it has no more is, too
	compactionDone    // the tree has what the changes up to its ends came to, and no more
)

// compaction is a row of sync_compaction.
type compaction struct {
	identity.Compaction
	id       int64
	hash     [32]byte
	encoded  []byte
	state    int
	taken    int  // pieces of its pack that are in the tree, while it is compactionNew
	counts   bool // the owner signed it
	proposed bool // an admin did
}

// inTree returns how many of the first pieces of the pack of c are in the tree, or what
// they have.
func (c *compaction) inTree() int {
	if c.state == compactionNew {
		return c.taken
	}
	return len(c.Pieces)
}

// readCompactions returns the compactions of a bucket, as they came.
func (r *Replica) readCompactions(tx *schema.Tx, sh shared) (all []*compaction, err error) {
	if all, err = r.rawCompactions(tx, sh.bucket.ID); err != nil || len(all) == 0 {
		return nil, err
	}
	m, err := r.membership(tx, sh)
	for _, c := range all {
		c.counts = err == nil && m.Compacts(&c.Compaction)
		c.proposed = err == nil && m.Proposes(&c.Compaction)
	}
	return all, err
}

func (r *Replica) rawCompactions(tx *schema.Tx, bucket int64) (all []*compaction, err error) {
	s := tx.Stmt(`SELECT id, hash, state, taken FROM sync_compaction WHERE bucket = ? ORDER BY id`)
	s.BindInt64(1, bucket)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		c := &compaction{id: s.ColumnInt64(0), state: int(s.ColumnInt64(2)), taken: int(s.ColumnInt64(3))}
		s.ColumnBytes(1, c.hash[:])
		all = append(all, c)
	}
	for _, c := range all {
		r.mu.Lock()
		known, ok := r.compactions[c.hash]
		r.mu.Unlock()
		if ok {
			c.Compaction, c.encoded = known.Compaction, known.encoded
			continue
		}
		s := tx.Stmt(`SELECT data FROM sync_compaction WHERE id = ?`)
		s.BindInt64(1, c.id)
		if _, err := s.Step(); err != nil {
			return nil, err
		}
		c.encoded = schema.Bytes(s, 0)
		if c.Compaction, err = identity.OpenCompaction(c.encoded); err != nil {
			return nil, err // it was checked when it came
		}
		r.mu.Lock()
		r.compactions[c.hash] = *c
		r.mu.Unlock()
	}
	return all, nil
}

// countCompactions returns a number that changes with the set of compactions.
func countCompactions(tx *schema.Tx, bucket int64) (n [2]int64, err error) {
	s := tx.Stmt(`SELECT count(*), coalesce(max(id), 0) FROM sync_compaction WHERE bucket = ?`)
	s.BindInt64(1, bucket)
	_, err = s.Step()
	return [2]int64{s.ColumnInt64(0), s.ColumnInt64(1)}, err
}

// AddCompactions takes in compactions that the node from told of, and returns how
// many were new. One by somebody who is no admin is passed over: who tells of it may
// not have heard that yet.
func (r *Replica) AddCompactions(uuid [16]byte, from identity.Key, encoded [][]byte) (n int, err error) {
	err = r.withGrants(uuid, func(tx *schema.Tx, sh shared) error {
		n = 0
		for _, b := range encoded {
			added, err := r.addCompaction(tx, sh, b)
			if errors.Is(err, errLater) {
				r.log.Warn("a compaction is passed over", "by", from.Short(), "err", err)
				continue
			}
			if err != nil {
				return err
			}
			if added {
				n++
			}
		}
		return nil
	})
	if n > 0 {
		r.packs.wake()
	}
	return n, err
}

func (r *Replica) addCompaction(tx *schema.Tx, sh shared, encoded []byte) (bool, error) {
	c := compaction{hash: identity.CompactionHash(encoded), encoded: encoded}
	var err error
	if c.Compaction, err = identity.OpenCompaction(encoded); err == nil && c.Bucket != sh.bucket.UUID {
		err = errors.New("a compaction of another bucket")
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return false, err
	}
	all, err := r.readCompactions(tx, sh)
	if err != nil {
		return false, err
	}
	c.counts, c.proposed = m.Compacts(&c.Compaction), m.Proposes(&c.Compaction)
	same := 0
	for _, o := range all {
		if o.hash == c.hash || o.replaces(&c) {
			return false, nil
		}
		if o.Issuer == c.Issuer {
			same++
		}
	}
	newest, err := newestGen(tx, sh)
	switch {
	case err != nil:
		return false, err
	case !c.counts && !c.proposed:
		return false, fmt.Errorf("%w: %s is no admin", errLater, c.Issuer.Short())
	case same >= maxCompactions:
		return false, fmt.Errorf("%w: there are %d compactions by %s", errLater, same, c.Issuer.Short())
	case c.Gen > newest+maxGenAhead:
		return false, fmt.Errorf("%w: generation %d, where %d is the newest", errLater, c.Gen, newest)
	}
	s := tx.Stmt(`INSERT INTO sync_compaction (bucket, hash, data) VALUES (?, ?, ?)`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, c.hash[:])
	s.BindBytes(3, encoded)
	if _, err := s.Step(); err != nil {
		return false, err
	}
	s = tx.Stmt(`UPDATE sync_bucket SET gen = max(gen, ?) WHERE bucket = ?`)
	s.BindInt64(1, int64(c.Gen))
	s.BindInt64(2, sh.bucket.ID)
	_, err = s.Step()
	return true, err
}

// replaces reports whether c, which was followed to the end, makes o superfluous.
func (c *compaction) replaces(o *compaction) bool {
	return c.counts && c.state == compactionDone && (c.Gen > o.Gen || c.Gen == o.Gen && !o.counts) && c.Covers(&o.Compaction)
}

// newestGen returns the greatest generation that anything here is of.
func newestGen(tx *schema.Tx, sh shared) (uint32, error) {
	n, err := count(tx, `SELECT coalesce(max(gen), 0) FROM sync_doc WHERE bucket = ?`, sh.bucket.ID)
	return max(sh.gen, uint32(n)), err
}

// placeLate adds a change whose document a compaction has closed: what it depends
// on may not be here any more. It counts by the chain of its stream alone, whether
// that is here or not.
func placeLate(tx *schema.Tx, c *change, d doc) error {
	s := tx.Stmt(`SELECT 1 FROM sync_change WHERE doc = ? AND hash = ?`)
	s.BindInt64(1, d.id)
	s.BindBytes(2, c.hash[:])
	if twice, err := s.Step(); err != nil {
		return err
	} else if twice {
		return fmt.Errorf("%w: a change that was made twice", ErrRefused)
	}
	return placeChange(tx, c, d, nil)
}

// signProposals signs, as the owner, what admins compacted: only what this node can
// prove, as all others are to believe it. It reports whether it signed anything.
func (r *Replica) signProposals(ctx context.Context, sh shared, all []*compaction) (signed bool, err error) {
	for _, c := range all {
		if !c.proposed || r.isDistrusted(c) {
			continue
		}
		ok, err := r.proves(ctx, sh, c)
		if err != nil {
			return signed, err
		}
		if !ok {
			continue
		}
		err = r.withGrants(sh.bucket.UUID, func(tx *schema.Tx, sh shared) error {
			if ok, err := r.maySign(tx, sh, c); err != nil || !ok {
				return err
			}
			again := c.Compaction
			b, err := again.Seal(r.private)
			if err == nil {
				_, err = r.addCompaction(tx, sh, b)
			}
			return err
		})
		if err != nil {
			return signed, err
		}
		signed = true
	}
	if signed {
		r.packs.wake()
		err = r.db.Sync() // nothing goes before it is known to stay
	}
	return signed, err
}

// maySign reports whether this node is the owner, an admin still proposes c, all that
// c covers counts, and its pack and changes are here.
func (r *Replica) maySign(tx *schema.Tx, sh shared, c *compaction) (bool, error) {
	m, err := r.membership(tx, sh)
	if err != nil || m.Role(r.key) != identity.Owner || !m.Proposes(&c.Compaction) {
		return false, err
	}
	for _, e := range c.Ends {
		if !m.Accepts(e.Author, e.Stream, e.Seq) {
			return false, nil
		}
	}
	n, err := countPieces(tx, sh.bucket.ID, &c.Compaction)
	if err != nil || n < len(c.Pieces) {
		return false, err
	}
	agrees, covered, err := r.compare(tx, sh, c)
	return agrees && covered, err
}

// proves reports whether maySign, and all of the pack of c was said by a change, or a
// pack that was followed, that this node has; but for branches that it does not keep.
func (r *Replica) proves(ctx context.Context, sh shared, c *compaction) (ok bool, err error) {
	said := sums{}
	var followed []*compaction
	var void []pathtree.BucketRecord
	branches := map[[16]byte]bool{} // that are kept
	err = r.db.Snapshot(func(tx *schema.Tx) (err error) {
		if ok, err = r.maySign(tx, sh, c); err != nil || !ok {
			return err
		}
		rows, err := branchRows(tx, sh.bucket.ID)
		for _, b := range rows {
			branches[b.uuid] = b.keep == kept
		}
		if err == nil {
			void, err = r.tree.VoidBranches(tx, sh.bucket.ID)
		}
		if err == nil {
			followed, err = r.rawCompactions(tx, sh.bucket.ID)
			followed = slices.DeleteFunc(followed, func(o *compaction) bool { return o.state == compactionNew })
		}
		if err == nil {
			err = r.noteChanges(tx, sh, c, said.add, func(pathtree.Batch) error { return ctx.Err() })
		}
		return err
	})
	if err != nil || !ok {
		return false, err
	}
	for _, o := range followed {
		if err := r.eachPiece(ctx, sh.bucket.ID, &o.Compaction, said.addPacked); err != nil {
			return false, err
		}
	}
	err = r.eachPiece(ctx, sh.bucket.ID, &c.Compaction, func(b packed) error {
		for i := range b.Versions {
			v := &b.Versions[i]
			if here, known := branches[v.Branch]; (here || !known) && !said[versionSum(v)] {
				return fmt.Errorf("%w: it has version %s, which no change said", errPack, v.ID)
			}
		}
		for _, v := range b.void {
			same := func(o pathtree.BucketRecord) bool {
				return o.UUID == v.UUID && o.Parent == v.Parent && o.Fork == v.Fork && o.Live == v.Live
			}
			if !slices.ContainsFunc(void, same) {
				return fmt.Errorf("%w: it has a branch of which a record counts, or that is not here", errPack)
			}
		}
		for i := range b.Records {
			if !said[recordSum(&b.Records[i])] {
				return fmt.Errorf("%w: it has record %s, which no change said", errPack, b.Records[i].ID)
			}
		}
		return nil
	})
	if errors.Is(err, errPack) {
		r.distrust(c, err)
		return false, nil
	}
	return err == nil, err
}

// distrust has c not be looked at again until this node is started anew.
func (r *Replica) distrust(c *compaction, err error) {
	r.log.Error("a compaction is not followed", "by", c.Issuer.String(), "generation", c.Gen, "err", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.distrusted[c.hash] = true
}

func (r *Replica) isDistrusted(c *compaction) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.distrusted[c.hash]
}
