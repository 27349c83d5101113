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

// Compacted says what a compaction came to on this node.
type Compacted struct {
	Gen                  uint32
	Proposed             bool  // by an admin: it counts once the owner has signed it
	Versions             int64 // in the pack
	Pieces               int
	PackBytes            int64
	Changes, Bytes       int64 // kept before
	NowChanges, NowBytes int64 // kept after
}

var (
	// errBusy says that something came between draining and looking.
	errBusy = errors.New("this machine writes too much just now: try again in a moment")
	// errPartial says that this node has not all of a bucket.
	errPartial = errors.New("this machine has a part of the bucket only: compact it on one that keeps all branches")
)

// Compact puts into a pack what all changes of a bucket that are here came to, signs
// that the pack may stand in their place, and, on the owner's node, has it do so
// here. Only the owner and admins may, on a node that keeps all branches. progress may
// be nil; it is told of versions.
func (r *Replica) Compact(ctx context.Context, uuid [16]byte, progress func(done int64)) (res Compacted, err error) {
	r.folding <- struct{}{}
	made, err := r.pack(ctx, uuid, &res, progress)
	<-r.folding
	if err != nil {
		return res, err
	}
	if err := r.announce(uuid, &made, &res); err != nil {
		return res, err
	}
	if _, err := r.Fold(ctx, uuid); err != nil {
		return res, err
	}
	res.NowChanges, res.NowBytes, err = r.history(uuid)
	return res, err
}

// history returns how many changes of a bucket are kept, and their bytes.
func (r *Replica) history(uuid [16]byte) (changes, bytes int64, err error) {
	err = r.db.Snapshot(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		s := tx.Stmt(`SELECT count(*), coalesce(sum(length(envelope)), 0) FROM sync_change WHERE bucket = ?`)
		s.BindInt64(1, sh.bucket.ID)
		_, err = s.Step()
		changes, bytes = s.ColumnInt64(0), s.ColumnInt64(1)
		return err
	})
	return changes, bytes, err
}

// announce signs a compaction, whose pack is here, and takes it in.
func (r *Replica) announce(uuid [16]byte, c *identity.Compaction, res *Compacted) error {
	b, err := c.Seal(r.private)
	if err != nil {
		return err
	}
	err = r.withGrants(uuid, func(tx *schema.Tx, sh shared) error {
		role, err := r.mayCompact(tx, sh)
		res.Proposed = role == identity.Admin
		if err == nil {
			_, err = r.addCompaction(tx, sh, b)
		}
		return err
	})
	if err == nil {
		r.packs.wake()
		err = r.db.Sync() // nothing goes before it is known to stay
	}
	return err
}

func (r *Replica) mayCompact(tx *schema.Tx, sh shared) (identity.Role, error) {
	m, err := r.membership(tx, sh)
	if err != nil {
		return identity.None, err
	}
	role := m.Role(r.key)
	if role < identity.Admin {
		return role, fmt.Errorf("this machine's role is %s: the owner or an admin compacts", role)
	}
	n, err := count(tx, `SELECT EXISTS (SELECT 1 FROM branch WHERE bucket = ? AND keep <> 0)`, sh.bucket.ID)
	if err == nil && n != 0 {
		err = errPartial
	}
	return role, err
}

// pack makes the pack of a compaction, and returns what is to be signed.
func (r *Replica) pack(ctx context.Context, uuid [16]byte, res *Compacted, progress func(done int64)) (c identity.Compaction, err error) {
	var sh shared
	err = r.db.Write(func(tx *schema.Tx) (err error) {
		if sh, err = r.lookup(tx, uuid); err != nil {
			return err
		}
		if _, err := r.mayCompact(tx, sh); err != nil {
			return err
		}
		return r.dropPieces(tx, sh)
	})
	if err != nil {
		return c, err
	}
	if res.Changes, res.Bytes, err = r.history(uuid); err != nil {
		return c, err
	}
	for range 20 {
		if _, err := r.Drain(ctx, uuid); err != nil {
			return c, err
		}
		c, err = r.packOnce(ctx, sh, res, progress)
		if !errors.Is(err, errBusy) {
			break
		}
	}
	return c, err
}

func (r *Replica) packOnce(ctx context.Context, sh shared, res *Compacted, progress func(done int64)) (c identity.Compaction, err error) {
	c = identity.Compaction{Bucket: sh.bucket.UUID, Made: r.now().UnixNano()}
	p := packer{most: r.pieceVersions, done: func(b []byte) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		res.PackBytes += int64(len(b))
		return r.db.Write(func(tx *schema.Tx) error {
			h, err := putPiece(tx, sh.bucket.ID, b)
			c.Pieces = append(c.Pieces, h)
			return err
		})
	}}
	err = r.db.Snapshot(func(tx *schema.Tx) error {
		waiting, err := count(tx, `SELECT count(*) FROM sync_out WHERE bucket = ?`, sh.bucket.ID)
		if err != nil {
			return err
		}
		if waiting > 0 {
			return errBusy
		}
		sh, _, err := findShared(tx, sh.bucket)
		if err != nil {
			return err
		}
		newest, err := newestGen(tx, sh)
		if err != nil {
			return err
		}
		c.Gen = newest + 1
		if c.Ends, err = r.ends(ctx, tx, sh); err != nil {
			return err
		}
		return r.tree.ExportKept(tx, sh.bucket.ID, p.records, func(v *pathtree.Version) error {
			if progress != nil && p.versions%1024 == 0 {
				progress(p.versions)
			}
			return p.version(v)
		})
	})
	if err == nil {
		err = p.cut()
	}
	if err == nil && len(c.Pieces) == 0 {
		err = errors.New("there is nothing in the bucket yet")
	}
	res.Gen, res.Versions, res.Pieces = c.Gen, p.versions, len(c.Pieces)
	return c, err
}

// ends returns how far each stream has come whose changes all count and are
// understood here. From the first that is not so the changes stay.
func (r *Replica) ends(ctx context.Context, tx *schema.Tx, sh shared) (ends []identity.End, err error) {
	m, err := r.membership(tx, sh)
	if err != nil {
		return nil, err
	}
	s := tx.Stmt(`SELECT node.key, stream, seq, last FROM sync_stream JOIN node ON node.id = author WHERE bucket = ? ORDER BY node.key, stream`)
	s.BindInt64(1, sh.bucket.ID)
	at := map[stream]int{}
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		e := identity.End{Seq: uint64(s.ColumnInt64(2))}
		s.ColumnBytes(0, e.Author[:])
		s.ColumnBytes(1, e.Stream[:])
		s.ColumnBytes(3, e.Last[:])
		at[stream{e.Author, e.Stream}] = len(ends)
		ends = append(ends, e)
	}
	stopBefore := func(o *identity.Envelope) {
		if e := &ends[at[stream{o.Author, o.Stream}]]; o.Seq <= e.Seq {
			e.Seq, e.Last = o.Seq-1, o.Prev
		}
	}
	s = tx.Stmt(`SELECT envelope FROM sync_change WHERE bucket = ?`)
	s.BindInt64(1, sh.bucket.ID)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		a, err := reopen(schema.Bytes(s, 0))
		if err != nil {
			return nil, err
		}
		if a.unknown > 0 || !a.counts(m) {
			stopBefore(&a.Envelope)
		}
	}
	s = tx.Stmt(selectStub + `WHERE t.bucket = ?`)
	s.BindInt64(1, sh.bucket.ID)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		o := scanStub(s)
		if m.Accepts(o.Author, o.Stream, o.Seq) {
			return nil, errPartial
		}
		stopBefore(&o.Envelope)
	}
	return slices.DeleteFunc(ends, func(e identity.End) bool { return e.Seq == 0 }), nil
}

// reopen reads an envelope that was checked when it came.
func reopen(b []byte) (*arrival, error) {
	e, err := identity.DecodeEnvelope(b)
	if err != nil {
		return nil, err
	}
	a := &arrival{Envelope: e, encoded: b}
	return a, a.read()
}
