package crdtsync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// errRecount says that the tree could not be made what it is by new grants.
var errRecount = errors.New("changes could not be taken in, or back")

// recount makes the tree what it is by the changes that count now, and has this
// node say again what it alone can. See the package comment.
func (r *Replica) recount(tx *schema.Tx, sh shared, before *identity.Membership) error {
	if err := r.sayAgain(tx, sh); err != nil {
		return fmt.Errorf("%w: %w", errRecount, err)
	}
	now, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	all, err := judged(tx, sh, before, now)
	if err == nil && len(all) > 0 {
		err = r.judgeAgain(tx, sh, now, all)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRecount, err)
	}
	if err := r.keepUnsent(tx, sh, now); err != nil {
		return fmt.Errorf("%w: %w", errRecount, err)
	}
	return r.showAll(tx, sh)
}

// keepUnsent keeps the content of what this node wrote and nobody heard before it might
// not write any more: no version names it while that does not count.
func (r *Replica) keepUnsent(tx *schema.Tx, sh shared, m *identity.Membership) error {
	marks, err := readMarks(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	void := map[identity.Key]bool{}
	for _, k := range marks {
		if m.Counts(k.Author, k.Stream) < k.Seq {
			void[k.Author] = true
		}
	}
	if len(void) == 0 {
		return blobstore.KeepUnsent(tx, sh.bucket.ID, nil)
	}
	var mine []*arrival
	s := tx.Stmt(`SELECT envelope, node.key FROM sync_change JOIN node ON node.id = author WHERE +bucket = ? AND source = ?`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindInt64(2, schema.LocalNode)
	for a, err := range opened(s, sh, func(author identity.Key) bool { return void[author] }) {
		if err != nil {
			return err
		}
		if !a.counts(m) {
			mine = append(mine, a)
		}
	}
	said, err := r.said(tx, sh, m, mine)
	if err != nil {
		return err
	}
	var unsaid pathtree.Batch
	for _, a := range mine {
		if _, err := said.not(a, &unsaid); err != nil {
			return err
		}
	}
	var hashes []blobstore.Hash
	for _, v := range unsaid.Versions {
		if v.Inode != nil && !v.Inode.Hash.IsZero() {
			hashes = append(hashes, v.Inode.Hash)
		}
	}
	return blobstore.KeepUnsent(tx, sh.bucket.ID, hashes)
}

// judgeAgain takes in those of changes that count now, and takes the others back.
func (r *Replica) judgeAgain(tx *schema.Tx, sh shared, now *identity.Membership, all []*arrival) error {
	if err := r.take(tx, sh); err != nil {
		return err
	}
	var in pathtree.Batch
	var out []*arrival
	for _, a := range all {
		if kept, err := wanted(tx, sh, a); err != nil {
			return err
		} else if !kept {
			continue // takeUp looks at what counts
		}
		if a.counts(now) {
			in.Versions = append(in.Versions, a.batch.Versions...)
			in.Records = append(in.Records, a.batch.Records...)
			continue
		}
		out = append(out, a)
	}
	if err := r.takeBack(tx, sh, now, out); err != nil {
		return err
	}
	if in.Empty() {
		return nil
	}
	if _, err := r.tree.ImportAgain(tx, sh.bucket.ID, in); err != nil {
		return err
	}
	return r.refilter(tx, sh)
}

// wanted reports whether versions of a change's branch are imported.
func wanted(tx *schema.Tx, sh shared, a *arrival) (bool, error) {
	if a.OfBucket() {
		return true, nil
	}
	b, ok, err := findBranch(tx, sh.bucket.ID, a.Branch)
	return !ok || b.keep != notKept, err
}

// takeBack has the tree be without what changes said that do not count, but for what
// others say too.
func (r *Replica) takeBack(tx *schema.Tx, sh shared, now *identity.Membership, out []*arrival) error {
	said, err := r.said(tx, sh, now, out)
	if err != nil {
		return err
	}
	var gone pathtree.Batch
	for _, a := range out {
		if entries, err := said.not(a, &gone); err != nil {
			return err
		} else if len(entries) > 0 {
			r.log.Warn("a change no longer counts", "author", a.Author.String(), "number", a.Seq)
		}
	}
	if len(gone.Versions) > 0 {
		if err := r.tree.RetractVersions(tx, sh.bucket.ID, gone.Versions); err != nil {
			return err
		}
	}
	if len(gone.Records) == 0 {
		return nil
	}
	if err := r.tree.RetractRecords(tx, sh.bucket.ID, gone.Records, said.records); err != nil {
		return err
	}
	return r.refilter(tx, sh)
}

// judged returns the changes that are judged otherwise now than before, in the
// order in which they came.
func judged(tx *schema.Tx, sh shared, before, now *identity.Membership) (all []*arrival, err error) {
	marks, err := readMarks(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	changed := map[identity.Key]bool{}
	for _, m := range marks {
		if !before.Alike(now, m.Author) {
			changed[m.Author] = true
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	s := tx.Stmt(`SELECT envelope, node.key FROM sync_change JOIN node ON node.id = author WHERE +bucket = ? ORDER BY arrived`)
	s.BindInt64(1, sh.bucket.ID)
	for a, err := range opened(s, sh, func(author identity.Key) bool { return changed[author] }) {
		if err != nil {
			return nil, err
		}
		if a.counts(before) != a.counts(now) {
			all = append(all, a)
		}
	}
	return all, nil
}

// sayings are what is said in some documents by changes that count and packs in the place
// of such, or will be by what this node has yet to send.
type sayings struct {
	keys    map[identity.Document]map[string]bool // of entries, by document, of whatever generation
	records []pathtree.BucketRecord
}

// said returns what is said in the documents of changes.
func (r *Replica) said(tx *schema.Tx, sh shared, m *identity.Membership, of []*arrival) (*sayings, error) {
	t := &sayings{keys: map[identity.Document]map[string]bool{}}
	for _, a := range of {
		d := a.Document
		if d.Gen = 0; t.keys[d] != nil {
			continue
		}
		t.keys[d] = map[string]bool{}
		if err := t.inChanges(tx, sh, m, d); err != nil {
			return nil, err
		}
		if err := t.unsent(tx, sh, d, r.sender(m)); err != nil {
			return nil, err
		}
	}
	return t, r.inPacks(tx, sh, t)
}

// inPacks adds to t what the pieces of packs say that are in the tree.
func (r *Replica) inPacks(tx *schema.Tx, sh shared, t *sayings) error {
	if len(t.keys) == 0 {
		return nil
	}
	_, bucket := t.keys[identity.Document{Bucket: sh.bucket.UUID}]
	recordsAlone := bucket && len(t.keys) == 1
	all, err := r.rawCompactions(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	for _, c := range all {
		for i := range c.inTree() {
			b, err := pieceAt(context.Background(), tx, sh.bucket.ID, &c.Compaction, i)
			if err != nil {
				return err
			}
			if recordsAlone && !b.ofBucket() {
				break // they come first
			}
			if err := t.inPiece(sh, b.Batch); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *sayings) inPiece(sh shared, b pathtree.Batch) error {
	for i := range b.Versions {
		v := &b.Versions[i]
		keys := t.keys[identity.Document{Bucket: sh.bucket.UUID, Branch: v.Branch, Dir: uint64(v.Dir())}]
		if keys == nil {
			continue
		}
		e, err := encodeVersion(v, pathtree.NodeKey{})
		if err != nil {
			return err
		}
		keys[e.Key] = true
	}
	keys := t.keys[identity.Document{Bucket: sh.bucket.UUID}]
	if keys == nil {
		return nil
	}
	for i := range b.Records {
		e, err := encodeRecord(&b.Records[i], pathtree.NodeKey{})
		if err != nil {
			return err
		}
		keys[e.Key] = true
	}
	t.records = append(t.records, b.Records...)
	return nil
}

func (t *sayings) inChanges(tx *schema.Tx, sh shared, m *identity.Membership, d identity.Document) error {
	s := tx.Stmt(`SELECT envelope FROM sync_change WHERE doc IN (SELECT id FROM sync_doc WHERE bucket = ? AND branch = ? AND dir = ?)`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, d.Branch[:])
	s.BindInt64(3, int64(d.Dir))
	for a, err := range opened(s, sh, nil) {
		if err != nil {
			return err
		}
		if !a.counts(m) {
			continue
		}
		for _, e := range a.change.Entries {
			t.keys[d][e.Key] = true
		}
		t.records = append(t.records, a.batch.Records...)
	}
	return nil
}

func (t *sayings) unsent(tx *schema.Tx, sh shared, d identity.Document, author pathtree.NodeKey) error {
	s := tx.Stmt(`SELECT key, value FROM sync_out WHERE bucket = ? AND branch = ? AND dir = ?`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, d.Branch[:])
	s.BindInt64(3, int64(d.Dir))
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		e := gate.Entry{Key: s.ColumnText(0), Value: schema.Bytes(s, 1)}
		t.keys[d][e.Key] = true
		if !d.OfBucket() {
			continue
		}
		var b pathtree.Batch
		if err := decodeEntry(e, d, author, &b); err != nil {
			return err
		}
		t.records = append(t.records, b.Records...)
	}
	return nil
}

// not adds to b what a alone says, and returns the entries that say it.
func (t *sayings) not(a *arrival, b *pathtree.Batch) (entries []gate.Entry, err error) {
	d := a.Document
	d.Gen = 0
	for _, e := range a.change.Entries {
		if t.keys[d][e.Key] {
			continue
		}
		err := decodeEntry(e, a.Document, pathtree.NodeKey(a.Author), b)
		if errors.Is(err, errUnknownKind) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// sayAgain has this node say with its key what it wrote with one before it and what
// does not count. Nothing of the old key is believed for that: only what was written
// here is said again, and it counts by the new key.
func (r *Replica) sayAgain(tx *schema.Tx, sh shared) error {
	if len(r.past) == 0 {
		return nil
	}
	if _, err := r.addGrants(tx, sh, r.past); err != nil { // by which it speaks for the keys before
		return err
	}
	m, err := r.membership(tx, sh)
	if err != nil || m.Role(r.key) < identity.ReadWrite {
		return err
	}
	marks, err := readMarks(tx, sh.bucket.ID)
	if err != nil || !slices.ContainsFunc(marks, func(k Mark) bool {
		return k.Author != r.key && m.Speaks(r.key, k.Author) && m.Counts(k.Author, k.Stream) < k.Seq
	}) {
		return err
	}
	if err := r.take(tx, sh); err != nil {
		return err
	}
	all, err := r.writtenBefore(tx, sh, m)
	if err != nil {
		return err
	}
	said, err := r.said(tx, sh, m, all)
	if err != nil {
		return err
	}
	var again pathtree.Batch
	for _, a := range all {
		var b pathtree.Batch
		entries, err := said.not(a, &b)
		if err == nil {
			err = disown(tx, sh, a)
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			e, err := resign(e, a.Document, pathtree.NodeKey(a.Author), pathtree.NodeKey(r.key))
			if err == nil {
				err = putOut(tx, sh.bucket.ID, a.Document, e)
			}
			if err != nil {
				return err
			}
		}
		if len(entries) == 0 {
			continue
		}
		r.log.Info("a change that this node wrote with another key is made anew", "key", a.Author.String(), "number", a.Seq)
		if err := markFull(tx, sh, a.Document); err != nil {
			return err
		}
		if kept, err := wanted(tx, sh, a); err != nil {
			return err
		} else if kept {
			again.Versions = append(again.Versions, b.Versions...)
		}
		again.Records = append(again.Records, b.Records...)
	}
	if again.Empty() {
		return nil
	}
	if _, err := r.tree.ImportAgain(tx, sh.bucket.ID, again); err != nil {
		return err
	}
	return r.refilter(tx, sh)
}

// writtenBefore returns the changes that this node made with keys that it had before
// and that do not count, in order.
func (r *Replica) writtenBefore(tx *schema.Tx, sh shared, m *identity.Membership) (all []*arrival, err error) {
	s := tx.Stmt(`SELECT envelope, node.key FROM sync_change JOIN node ON node.id = author WHERE +bucket = ? AND source = ? ORDER BY arrived`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindInt64(2, schema.LocalNode)
	for a, err := range opened(s, sh, func(author identity.Key) bool { return author != r.key }) {
		if err != nil {
			return nil, err
		}
		if m.Speaks(r.key, a.Author) && !a.counts(m) && !slices.ContainsFunc(a.names, func(k identity.Key) bool { return !m.Speaks(r.key, k) }) {
			all = append(all, a)
		}
	}
	return all, nil
}

// disown notes of a change that was said again that it is none to be said again: what
// it said may be pruned, and then no pack has it.
func disown(tx *schema.Tx, sh shared, a *arrival) error {
	s := tx.Stmt(`UPDATE sync_change SET source = author WHERE bucket = ? AND stream = ? AND seq = ?
		AND author = (SELECT id FROM node WHERE key = ?)`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, a.Stream[:])
	s.BindInt64(3, int64(a.Seq))
	s.BindBytes(4, a.Author[:])
	_, err := s.Step()
	return err
}

// markFull has changes of a document go into its next generation: an entry is in a
// document once.
func markFull(tx *schema.Tx, sh shared, d identity.Document) error {
	o, ok, err := findDoc(tx, sh.bucket.ID, d, false)
	if err != nil || !ok {
		return err
	}
	s := tx.Stmt(`UPDATE sync_doc SET full = 1 WHERE id = ?`)
	s.BindInt64(1, o.id)
	_, err = s.Step()
	return err
}
