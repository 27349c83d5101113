package crdtsync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// foldRows is how many changes, or versions, one transaction goes over.
const foldRows = 1000

// Fold puts packs in the place of changes, as far as compactions that count say so
// and the packs are here. Wherever it is interrupted, it goes on when it is called
// again. It reports whether this node's marks have moved.
func (r *Replica) Fold(ctx context.Context, uuid [16]byte) (moved bool, err error) {
	r.folding <- struct{}{}
	defer func() { <-r.folding }()
	var sh shared
	var all []*compaction
	read := func(tx *schema.Tx) (err error) {
		if sh, err = r.lookup(tx, uuid); err == nil {
			all, err = r.readCompactions(tx, sh)
		}
		return err
	}
	if err := r.db.Read(read); err != nil || len(all) == 0 {
		return false, err
	}
	signed, err := r.signProposals(ctx, sh, all)
	if err == nil && signed {
		err = r.db.Read(read)
	}
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if !c.counts || r.isDistrusted(c) {
			continue
		}
		was := c.state
		if err := r.follow(ctx, sh, c); err != nil {
			return moved, err
		}
		moved = moved || was == compactionNew && c.state != was
		if c.state != compactionDone {
			continue
		}
		if err := r.foldChanges(ctx, sh, c); err != nil {
			return moved, err
		}
	}
	if len(superfluous(all)) == 0 {
		return moved, nil
	}
	return moved, r.db.Write(func(tx *schema.Tx) error {
		if err := r.dropCompactions(tx, sh); err != nil {
			return err
		}
		return r.showAll(tx, sh)
	})
}

// follow brings the tree to where the changes up to the ends of c bring it, which is
// where it is if they are here.
func (r *Replica) follow(ctx context.Context, sh shared, c *compaction) error {
	if c.state == compactionNew {
		var here int
		err := r.db.Read(func(tx *schema.Tx) (err error) {
			here, err = countPieces(tx, sh.bucket.ID, &c.Compaction)
			return err
		})
		if err != nil || here < len(c.Pieces) {
			return err
		}
		var agrees, covered bool
		err = r.db.Write(func(tx *schema.Tx) (err error) {
			agrees, covered, err = r.compare(tx, sh, c)
			if agrees && covered {
				err = r.adopt(tx, sh, c, compactionDone)
			}
			return err
		})
		if err != nil || !agrees {
			return err
		}
		if !covered {
			if err := r.importPack(ctx, sh, c); err != nil {
				return err
			}
		}
	}
	if c.state == compactionApplied {
		return r.clean(ctx, sh, c)
	}
	return nil
}

// compare reports whether what is here of the streams of c agrees with it, and whether
// that is all of them, whole where branches are kept.
func (r *Replica) compare(tx *schema.Tx, sh shared, c *compaction) (agrees, covered bool, err error) {
	covered = true
	for _, e := range c.Ends {
		author, err := findNode(tx, e.Author)
		if err != nil {
			return false, false, err
		}
		at, last, err := streamEnd(tx, sh.bucket.ID, author, e.Stream)
		if err != nil {
			return false, false, err
		}
		if at < e.Seq {
			covered = false
			continue
		}
		if at > e.Seq {
			var here bool
			if last, here, err = hashOf(tx, sh.bucket.ID, author, e.Stream, e.Seq); err != nil {
				return false, false, err
			}
			if !here {
				continue // it was folded before
			}
		}
		if last != e.Last {
			r.distrust(c, fmt.Errorf("what it says of number %d of a stream of %s is not what is here", e.Seq, e.Author))
			return false, false, nil
		}
		s := tx.Stmt(`SELECT 1 FROM sync_stub t JOIN branch b ON b.id = t.branch
			WHERE t.bucket = ? AND t.author = ? AND t.stream = ? AND t.seq <= ? AND b.keep IN (0, 2) LIMIT 1`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindInt64(2, author)
		s.BindBytes(3, e.Stream[:])
		s.BindInt64(4, int64(e.Seq))
		lacks, err := s.Step()
		if err != nil {
			return false, false, err
		}
		covered = covered && !lacks
	}
	return true, covered, nil
}

// hashOf returns the hash of an envelope, which may be here as a stub; false when it is
// not here.
func hashOf(tx *schema.Tx, bucket, author int64, stream identity.Stream, seq uint64) (hash [32]byte, here bool, err error) {
	stub, here, err := findStub(tx, bucket, author, stream, seq)
	if err != nil || here {
		return stub.Hash(), here, err
	}
	s := tx.Stmt(`SELECT envelope FROM sync_change WHERE bucket = ? AND author = ? AND stream = ? AND seq = ?`)
	s.BindInt64(1, bucket)
	s.BindInt64(2, author)
	s.BindBytes(3, stream[:])
	s.BindInt64(4, int64(seq))
	if here, err = s.Step(); err != nil || !here {
		return hash, false, err
	}
	o, err := identity.DecodeEnvelope(schema.Bytes(s, 0))
	return o.Hash(), true, err
}

// adopt makes the ends of c this node's marks, where those are less, and says that
// changes up to there are missing.
func (r *Replica) adopt(tx *schema.Tx, sh shared, c *compaction, state int) error {
	for _, e := range c.Ends {
		author, err := nodeID(tx, e.Author)
		if err != nil {
			return err
		}
		s := tx.Stmt(`INSERT INTO sync_stream (bucket, author, stream, seq, last, folded) VALUES (?1, ?2, ?3, ?4, ?5, ?4)
			ON CONFLICT DO UPDATE SET last = CASE WHEN seq < ?4 THEN ?5 ELSE last END, seq = max(seq, ?4), folded = max(folded, ?4)`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindInt64(2, author)
		s.BindBytes(3, e.Stream[:])
		s.BindInt64(4, int64(e.Seq))
		s.BindBytes(5, e.Last[:])
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	return setState(tx, c, state)
}

func setState(tx *schema.Tx, c *compaction, state int) error {
	s := tx.Stmt(`UPDATE sync_compaction SET state = ? WHERE id = ?`)
	s.BindInt64(1, int64(state))
	s.BindInt64(2, c.id)
	_, err := s.Step()
	c.state = state
	return err
}

// importPack takes in a pack, piece after piece, and then the ends of its compaction.
// Parts of a tree can be imported in any order (pathtree.ImportBucket); in that of a
// pack names come after what they name.
func (r *Replica) importPack(ctx context.Context, sh shared, c *compaction) error {
	for more := true; more; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := r.db.Write(func(tx *schema.Tx) (err error) {
			more, err = r.importPiece(ctx, tx, sh, c)
			return err
		})
		switch {
		case err == nil:
		case errors.Is(err, pathtree.ErrFuture):
			r.log.Warn("the pack of a compaction is held back", "by", c.Issuer.String(), "err", err)
			return nil
		case errors.Is(err, pathtree.ErrInvalid), errors.Is(err, pathtree.ErrForged), errors.Is(err, pathtree.ErrUnknownBranch), errors.Is(err, errPack):
			r.distrust(c, err)
			return nil
		default:
			return err
		}
	}
	state := c.state
	err := r.db.Write(func(tx *schema.Tx) error {
		c.state = state
		n, err := takenOf(tx, c)
		if err != nil || n < len(c.Pieces) {
			return err // a branch was taken up meanwhile: from the beginning
		}
		agrees, _, err := r.compare(tx, sh, c)
		if err != nil || !agrees {
			return err
		}
		if err := r.adopt(tx, sh, c, compactionApplied); err != nil {
			return err
		}
		return r.showAll(tx, sh)
	})
	if err != nil {
		c.state = state
		return err
	}
	return r.db.Commit()
}

// importPiece imports the next piece of the pack of c, or all that have records, and
// reports whether there was one.
func (r *Replica) importPiece(ctx context.Context, tx *schema.Tx, sh shared, c *compaction) (bool, error) {
	n, err := takenOf(tx, c)
	if err != nil || n >= len(c.Pieces) {
		return false, err
	}
	if err := r.take(tx, sh); err != nil {
		return false, err
	}
	b, err := pieceAt(ctx, tx, sh.bucket.ID, &c.Compaction, n)
	if err != nil {
		return false, err
	}
	for n++; b.ofBucket() && n < len(c.Pieces); n++ { // they name each other
		more, err := pieceAt(ctx, tx, sh.bucket.ID, &c.Compaction, n)
		if err != nil {
			return false, err
		}
		if !more.ofBucket() {
			break
		}
		b.Records, b.void, b.Versions = append(b.Records, more.Records...), append(b.void, more.void...), append(b.Versions, more.Versions...)
	}
	if b.ofBucket() { // which says what branches there are
		if err := r.importRecords(tx, sh, &b); err != nil {
			return false, err
		}
	}
	versions := pathtree.Batch{Versions: b.Versions}
	if versions.Versions, err = keptOf(tx, sh, b.Versions); err != nil {
		return false, err
	}
	if err := r.importBatch(tx, sh, &versions, &Received{}); err != nil {
		return false, err
	}
	s := tx.Stmt(`UPDATE sync_compaction SET taken = ? WHERE id = ?`)
	s.BindInt64(1, int64(n))
	s.BindInt64(2, c.id)
	_, err = s.Step()
	return true, err
}

// importRecords imports what a pack says of the bucket. A branch that is new is not
// shown before all of the pack is here: it has no root yet.
func (r *Replica) importRecords(tx *schema.Tx, sh shared, p *packed) error {
	before, err := branchRows(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	if len(p.void) > 0 { // those that count may descend from one that does not
		if err := r.tree.NoteBranches(tx, sh.bucket.ID, append(p.void, p.Records...)); err != nil {
			return err
		}
	}
	if err := r.importBatch(tx, sh, &pathtree.Batch{Records: p.Records}, &Received{}); err != nil {
		return err
	}
	now, err := branchRows(tx, sh.bucket.ID)
	for _, b := range now {
		known := slices.ContainsFunc(before, func(o branchRow) bool { return o.id == b.id })
		if err == nil && !known && b.keep == kept {
			err = r.setKeep(tx, sh, b.id, coming)
		}
	}
	return err
}

// takenOf returns how many pieces of the pack of c are in the tree.
func takenOf(tx *schema.Tx, c *compaction) (int, error) {
	n, err := count(tx, `SELECT taken FROM sync_compaction WHERE id = ?`, c.id)
	return int(n), err
}

// keptOf returns those of some versions whose branches are here, or unknown.
func keptOf(tx *schema.Tx, sh shared, vs []pathtree.Version) ([]pathtree.Version, error) {
	rows, err := branchRows(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	not := map[[16]byte]bool{}
	for _, b := range rows {
		not[b.uuid] = b.keep == notKept
	}
	return slices.DeleteFunc(vs, func(v pathtree.Version) bool { return not[v.Branch] }), nil
}

// importFolded imports what the packs that were followed have of a branch that is taken
// up. A pack that is being taken in is so from the beginning.
func (r *Replica) importFolded(tx *schema.Tx, sh shared, branch [16]byte) error {
	all, err := r.rawCompactions(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.state == compactionNew {
			s := tx.Stmt(`UPDATE sync_compaction SET taken = 0 WHERE id = ?`)
			s.BindInt64(1, c.id)
			if _, err := s.Step(); err != nil {
				return err
			}
			continue
		}
		for i := range c.Pieces {
			b, err := pieceAt(context.Background(), tx, sh.bucket.ID, &c.Compaction, i)
			if err != nil {
				return err
			}
			vs := slices.DeleteFunc(b.Versions, func(v pathtree.Version) bool { return v.Branch != branch })
			if len(vs) == 0 {
				continue
			}
			if _, err := r.tree.ImportAgain(tx, sh.bucket.ID, pathtree.Batch{Versions: vs}); err != nil {
				return err
			}
		}
	}
	return nil
}

// clean takes back the versions that came in changes which count up to the ends of c,
// or in a pack that c covers, and that neither its pack has nor anything else that is
// here: where c was made something had come in their place, of which this node may
// not have heard. A version that no such change or pack is known to have brought stays.
func (r *Replica) clean(ctx context.Context, sh shared, c *compaction) error {
	out, err := r.outdated(ctx, sh, c)
	for err == nil {
		n := min(len(out), foldRows)
		err = r.db.Write(func(tx *schema.Tx) error {
			if n > 0 {
				if err := r.take(tx, sh); err != nil {
					return err
				}
				if err := r.tree.RetractVersions(tx, sh.bucket.ID, out[:n]); err != nil {
					return err
				}
			}
			if n == len(out) {
				return setState(tx, c, compactionDone)
			}
			return nil
		})
		if n == len(out) {
			break
		}
		out = out[n:]
	}
	return err
}

// outdated returns what clean takes back.
func (r *Replica) outdated(ctx context.Context, sh shared, c *compaction) (out []pathtree.Version, err error) {
	keep, covered := sums{}, sums{}
	var packs, before []*compaction
	err = r.db.Snapshot(func(tx *schema.Tx) (err error) {
		if packs, before, err = r.packsBeside(tx, sh, c); err != nil {
			return err
		}
		return r.noteChanges(tx, sh, c, covered.add, keep.add)
	})
	if err != nil {
		return nil, err
	}
	for _, o := range before {
		if err := r.eachPiece(ctx, sh.bucket.ID, &o.Compaction, covered.addPacked); err != nil {
			return nil, err
		}
	}
	if len(covered) == 0 { // it has just joined
		return nil, nil
	}
	for _, o := range packs {
		if err := r.eachPiece(ctx, sh.bucket.ID, &o.Compaction, keep.addPacked); err != nil {
			return nil, err
		}
	}
	err = r.db.Snapshot(func(tx *schema.Tx) error {
		none := func(_, _ []pathtree.BucketRecord) error { return nil }
		return r.tree.ExportKept(tx, sh.bucket.ID, none, func(v *pathtree.Version) error {
			if sum := versionSum(v); covered[sum] && !keep[sum] {
				out = append(out, *v)
			}
			return ctx.Err()
		})
	})
	return out, err
}

// packsBeside returns c and the compactions that have come to be in the place of
// changes after its ends, and those that it covers of which anything is in the tree.
func (r *Replica) packsBeside(tx *schema.Tx, sh shared, c *compaction) (packs, before []*compaction, err error) {
	all, err := r.rawCompactions(tx, sh.bucket.ID)
	for _, o := range all {
		switch {
		case o.id == c.id || o.state != compactionNew && !c.Covers(&o.Compaction):
			packs = append(packs, o)
		case c.Covers(&o.Compaction) && (o.state != compactionNew || o.taken > 0):
			before = append(before, o)
		}
	}
	return packs, before, err
}

// noteChanges calls covered with what is in the changes that count up to the ends of c,
// and later with what is in others, and in what is to become one.
func (r *Replica) noteChanges(tx *schema.Tx, sh shared, c *compaction, covered, later func(pathtree.Batch) error) error {
	ends := map[stream]uint64{}
	for _, e := range c.Ends {
		ends[stream{e.Author, e.Stream}] = e.Seq
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	s := tx.Stmt(`SELECT envelope FROM sync_change WHERE bucket = ?`)
	s.BindInt64(1, sh.bucket.ID)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		a, err := reopen(schema.Bytes(s, 0))
		if err != nil {
			return err
		}
		note := later
		if a.Seq <= ends[stream{a.Author, a.Stream}] && a.counts(m) {
			note = covered
		}
		if err := note(a.batch); err != nil {
			return err
		}
	}
	s = tx.Stmt(`SELECT branch, dir, key, value FROM sync_out WHERE bucket = ?`)
	s.BindInt64(1, sh.bucket.ID)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		d := identity.Document{Bucket: sh.bucket.UUID, Dir: uint64(s.ColumnInt64(1))}
		s.ColumnBytes(0, d.Branch[:])
		var b pathtree.Batch
		if err := decodeEntry(gate.Entry{Key: s.ColumnText(2), Value: schema.Bytes(s, 3)}, d, pathtree.NodeKey(m.Heir(r.key)), &b); err != nil {
			return err
		}
		if err := later(b); err != nil {
			return err
		}
	}
	return nil
}

// foldChanges deletes the changes and stubs up to the ends of c, but for those with
// something in them that a newer alkfs says. Where nothing is left it writes nothing.
func (r *Replica) foldChanges(ctx context.Context, sh shared, c *compaction) error {
	for _, e := range c.Ends {
		for after := uint64(0); after < e.Seq; {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var gone []int64
			err := r.db.Read(func(tx *schema.Tx) (err error) {
				gone, after, err = foldable(tx, sh, c, e, after)
				return err
			})
			if err == nil && len(gone) > 0 {
				err = r.db.Write(func(tx *schema.Tx) error { return deleteChanges(tx, gone) })
			}
			if err != nil {
				return err
			}
		}
	}
	some := false
	err := r.db.Read(func(tx *schema.Tx) (err error) {
		n, err := count(tx, `SELECT EXISTS (SELECT 1 FROM sync_stub t JOIN sync_stream s USING (bucket, author, stream) WHERE bucket = ?1 AND t.seq <= folded)
			OR EXISTS (SELECT 1 `+emptyDocs+`)`, sh.bucket.ID, int64(c.Gen))
		some = n != 0
		return err
	})
	if err != nil || !some {
		return err
	}
	return r.db.Write(func(tx *schema.Tx) error { return r.deleteFolded(tx, sh, c) })
}

// foldable returns which of some changes of a stream after a number can be deleted, and
// the number up to which it looked.
func foldable(tx *schema.Tx, sh shared, c *compaction, e identity.End, after uint64) (gone []int64, upTo uint64, err error) {
	author, err := findNode(tx, e.Author)
	if err != nil {
		return nil, after, err
	}
	s := tx.Stmt(`SELECT arrived, seq, envelope FROM sync_change WHERE bucket = ? AND author = ? AND stream = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindInt64(2, author)
	s.BindBytes(3, e.Stream[:])
	s.BindInt64(4, int64(after))
	s.BindInt64(5, int64(e.Seq))
	s.BindInt64(6, foldRows)
	n := 0
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, after, err
		}
		n++
		after = uint64(s.ColumnInt64(1))
		a, err := reopen(schema.Bytes(s, 2))
		if err != nil {
			return nil, after, err
		}
		if a.unknown == 0 && a.Gen < c.Gen {
			gone = append(gone, s.ColumnInt64(0))
		}
	}
	if n < foldRows {
		after = e.Seq
	}
	return gone, after, nil
}

func deleteChanges(tx *schema.Tx, arrived []int64) error {
	for _, id := range arrived {
		s := tx.Stmt(`DELETE FROM sync_change WHERE arrived = ?`)
		s.BindInt64(1, id)
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	return nil
}

// emptyDocs are the documents that a compaction has closed and nothing is left of.
const emptyDocs = `FROM sync_doc WHERE bucket = ?1 AND gen < ?2 AND NOT EXISTS (SELECT 1 FROM sync_change WHERE doc = sync_doc.id)`

// deleteFolded deletes the stubs up to the ends of c, and the documents of which nothing
// is left, and shows the branches that have come.
func (r *Replica) deleteFolded(tx *schema.Tx, sh shared, c *compaction) error {
	for _, e := range c.Ends {
		author, err := nodeID(tx, e.Author)
		if err != nil {
			return err
		}
		s := tx.Stmt(`DELETE FROM sync_stub WHERE bucket = ? AND author = ? AND stream = ? AND seq <= ?`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindInt64(2, author)
		s.BindBytes(3, e.Stream[:])
		s.BindInt64(4, int64(e.Seq))
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	s := tx.Stmt(`DELETE ` + emptyDocs)
	s.BindInt64(1, sh.bucket.ID)
	s.BindInt64(2, int64(c.Gen))
	if _, err := s.Step(); err != nil {
		return err
	}
	return r.showAll(tx, sh)
}

// superfluous returns the compactions that another makes so, or whose issuer is no admin
// any more.
func superfluous(all []*compaction) []*compaction {
	return slices.DeleteFunc(slices.Clone(all), func(o *compaction) bool {
		revoked := !o.counts && !o.proposed && o.state == compactionNew
		return !revoked && !slices.ContainsFunc(all, func(c *compaction) bool { return c.replaces(o) })
	})
}

// dropCompactions deletes the compactions that are superfluous, and the packs of none.
func (r *Replica) dropCompactions(tx *schema.Tx, sh shared) error {
	all, err := r.readCompactions(tx, sh)
	if err != nil {
		return err
	}
	for _, o := range superfluous(all) {
		s := tx.Stmt(`DELETE FROM sync_compaction WHERE id = ?`)
		s.BindInt64(1, o.id)
		if _, err := s.Step(); err != nil {
			return err
		}
		r.mu.Lock()
		delete(r.compactions, o.hash)
		r.mu.Unlock()
	}
	return r.dropPieces(tx, sh)
}

// dropPieces deletes the pieces that no compaction names.
func (r *Replica) dropPieces(tx *schema.Tx, sh shared) error {
	all, err := r.rawCompactions(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	named := map[[32]byte]bool{}
	for _, c := range all {
		for _, h := range c.Pieces {
			named[h] = true
		}
	}
	s := tx.Stmt(`SELECT id, hash FROM sync_piece WHERE bucket = ?`)
	s.BindInt64(1, sh.bucket.ID)
	var gone []int64
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		var h [32]byte
		if s.ColumnBytes(1, h[:]); !named[h] {
			gone = append(gone, s.ColumnInt64(0))
		}
	}
	for _, id := range gone {
		s := tx.Stmt(`DELETE FROM sync_piece WHERE id = ?`)
		s.BindInt64(1, id)
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	return nil
}
