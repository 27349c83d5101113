package crdtsync

import (
	"errors"
	"slices"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// take moves what this node wrote since the last time into sync_out, from
// which changes are made. Whatever imports versions does it first and in the
// same transaction: so what a version of ours had seen is what was there when it
// was written.
func (r *Replica) take(tx *schema.Tx, sh shared) error {
	b, err := r.tree.ExportBucket(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	return r.putAll(tx, sh, b)
}

// takeVersions is how many versions of a kind takeSome moves: a transaction that others
// of the store wait for, and what is in memory for it.
const takeVersions = 10_000

// takeSome is take of the oldest of it, and reports whether there is more.
func (r *Replica) takeSome(tx *schema.Tx, sh shared) (more bool, err error) {
	b, more, err := r.tree.ExportSome(tx, sh.bucket.ID, takeVersions)
	if err == nil {
		err = r.putAll(tx, sh, b)
	}
	return more, err
}

// sender returns the key that will send what is in sync_out: once this node's key has
// named an heir it sends nothing, even if somebody had revoked it before.
func (r *Replica) sender(m *identity.Membership) pathtree.NodeKey {
	if heir := m.Heir(r.key); heir != r.key {
		return pathtree.NodeKey(heir)
	}
	return pathtree.NodeKey(m.Named(r.key))
}

// putAll puts what was exported into sync_out.
func (r *Replica) putAll(tx *schema.Tx, sh shared, b pathtree.Batch) error {
	if b.Empty() {
		return nil
	}
	if len(b.Records) > 0 {
		if err := r.refilter(tx, sh); err != nil {
			return err
		}
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	author := r.sender(m)
	for i := range b.Records {
		e, err := encodeRecord(&b.Records[i], author)
		if err == nil {
			err = putOut(tx, sh.bucket.ID, identity.Document{}, e)
		}
		if err != nil {
			return err
		}
	}
	for i := range b.Versions {
		v := &b.Versions[i]
		e, err := encodeVersion(v, author)
		if err == nil {
			err = putOut(tx, sh.bucket.ID, identity.Document{Branch: v.Branch, Dir: uint64(v.Dir())}, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func putOut(tx *schema.Tx, bucket int64, d identity.Document, e gate.Entry) error {
	s := tx.Stmt(`INSERT INTO sync_out (bucket, branch, dir, key, value) VALUES (?, ?, ?, ?, ?)`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, d.Branch[:])
	s.BindInt64(3, int64(d.Dir))
	s.BindText(4, e.Key)
	s.BindBytes(5, e.Value)
	_, err := s.Step()
	return err
}

// Bounds of one round of makeChanges.
const (
	roundEntries = 20_000
	roundBytes   = 4 << 20
)

// pending is what goes into one change.
type pending struct {
	doc     doc
	entries []gate.Entry
	keys    map[string]bool // of entries
	size    int             // of entries, in bytes
	rows    []int64         // of sync_out
}

// makeChanges makes a change for each document that the oldest rows of
// sync_out are for, and returns how many.
func (r *Replica) makeChanges(uuid [16]byte) (n int, err error) {
	err = r.db.Write(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		all, err := readOut(tx, sh)
		if n = len(all); err != nil || n == 0 {
			return err
		}
		return r.keep(tx, sh, all)
	})
	if errors.Is(err, errMayNot) {
		return 0, nil
	}
	return n, err
}

// errMayNot says that this node, or its key, may not write any more.
var errMayNot = errors.New("this node may not write")

// readOut groups the oldest rows of sync_out by document, the bucket's own
// first, so that others hear of a branch before what is in it.
func readOut(tx *schema.Tx, sh shared) ([]*pending, error) {
	type row struct {
		id    int64
		doc   identity.Document
		entry gate.Entry
	}
	s := tx.Stmt(`SELECT id, branch, dir, key, value FROM sync_out WHERE bucket = ? ORDER BY id`)
	s.BindInt64(1, sh.bucket.ID)
	var rows []row
	for size := 0; len(rows) < roundEntries && size < roundBytes; {
		ok, err := s.Step()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		o := row{id: s.ColumnInt64(0), doc: identity.Document{Bucket: sh.bucket.UUID, Dir: uint64(s.ColumnInt64(2))}}
		s.ColumnBytes(1, o.doc.Branch[:])
		o.entry = gate.Entry{Key: s.ColumnText(3), Value: schema.Bytes(s, 4)}
		size += len(o.entry.Value)
		rows = append(rows, o)
	}
	var all []*pending
	open := map[identity.Document]*pending{}
	for _, o := range rows {
		p := open[o.doc]
		if p == nil {
			d, err := writableDoc(tx, sh, o.doc)
			if err != nil {
				return nil, err
			}
			p = &pending{doc: d, keys: map[string]bool{}}
			open[o.doc] = p
			all = append(all, p)
		}
		if len(p.entries) == gate.MaxEntries || p.size > gate.MaxBytes/2 {
			continue // the next round's
		}
		p.rows = append(p.rows, o.id)
		if !p.keys[o.entry.Key] {
			p.keys[o.entry.Key] = true
			p.entries = append(p.entries, o.entry)
			p.size += len(o.entry.Key) + len(o.entry.Value)
		}
	}
	return all, nil
}

// writableDoc returns the newest generation of d, a fresh one where the last is full.
func writableDoc(tx *schema.Tx, sh shared, d identity.Document) (doc, error) {
	d.Gen = sh.gen
	r, err := makeDoc(tx, sh.bucket.ID, d, true)
	if err != nil || !r.full {
		return r, err
	}
	d.Gen = r.name.Gen + 1
	return makeDoc(tx, sh.bucket.ID, d, false)
}

// encode fills in c, the change that is made of p, whose place in its stream is set, and
// returns it as automerge would have written it: it follows the heads of its document
// and, as there may be more of these than a change can name, its stream's last change.
func (p *pending) encode(tx *schema.Tx, c *change) (*gate.Change, []byte, error) {
	docseq, last, err := lastIn(tx, p.doc.id, c)
	if err != nil {
		return nil, nil, err
	}
	deps := slices.Clone(p.doc.heads[:min(len(p.doc.heads), gate.MaxDeps-1)])
	if docseq > 0 && !slices.Contains(deps, last) {
		deps = append(deps, last)
		slices.SortFunc(deps, compareHashes)
	}
	op, ok, err := opAfter(tx, p.doc.id, deps)
	if err == nil && !ok {
		err = errors.New("a head of a document is not there")
	}
	if err != nil {
		return nil, nil, err
	}
	g := &gate.Change{Deps: deps, Actor: c.stream, Seq: docseq + 1, StartOp: op, Entries: p.entries}
	raw, h, err := gate.Encode(g)
	c.hash, c.docseq, c.maxop = h, g.Seq, g.MaxOp()
	return g, raw, err
}

// keep stores the changes of a round as this node's, under the next numbers of
// its stream, and removes what they were made of.
func (r *Replica) keep(tx *schema.Tx, sh shared, all []*pending) error {
	if m, err := r.membership(tx, sh); err != nil {
		return err
	} else if m.Role(r.key) < identity.ReadWrite {
		return errMayNot // nobody would let the changes count; they wait
	}
	author, err := nodeID(tx, r.key)
	if err != nil {
		return err
	}
	seq, last, err := streamEnd(tx, sh.bucket.ID, author, r.stream)
	if err != nil {
		return err
	}
	for _, p := range all {
		seq++
		c := &change{bucket: sh.bucket.ID, author: author, stream: r.stream, seq: seq, source: schema.LocalNode}
		g, raw, err := p.encode(tx, c)
		if err != nil {
			return err
		}
		e := identity.Envelope{Document: p.doc.name, Stream: r.stream, Seq: seq, Raw: raw, Prev: last}
		if c.envelope, err = e.Seal(r.private); err != nil {
			return err
		}
		last = e.Hash()
		c.last = last
		if err := insertChange(tx, c, p.doc, g.Deps); err != nil {
			return err
		}
		for _, id := range p.rows {
			s := tx.Stmt(`DELETE FROM sync_out WHERE id = ?`)
			s.BindInt64(1, id)
			if _, err := s.Step(); err != nil {
				return err
			}
		}
	}
	return nil
}
