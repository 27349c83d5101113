package pathtree

import (
	"sync"

	"github.com/alkdev/alkfs/schema"
)

// heads keeps in memory what the heads of branches show, changes included that
// are still to be written (schema.Tx.Later): what decides on the next change is
// then read without SQLite, and whoever made it does not wait for the rows. Of
// views of the past, and of live ones, which show what others write, nothing is
// kept.
//
// It is guarded by the lock that Read and Write hold. What other processes, or
// statements that write rows at once, change resets it.
type heads struct {
	dentries map[dentryKey]headDentry
	inodes   map[inodeKey]headInode
	sealed   map[int64]schema.Stamp // of branches that exist
	undo     []headChange           // newest last
	most     int                    // dentries or inodes to keep
}

type dentryKey struct {
	branch int64
	parent Ino
	name   string
}

// headDentry is the version of a dentry that a head shows, if found.
type headDentry struct {
	dentryRow
	found bool
	alone bool // the head's chain has no older one
}

type inodeKey struct {
	branch int64
	ino    Ino
}

// headInode is the version of an inode that a head shows, if found.
type headInode struct {
	inodeRow
	found bool
	// whole: of a directory made since the last reset. Each name it ever had
	// on this branch is among the dentries.
	whole bool
	last  *inodeChange // that wrote it, nil when it was read
}

// headChange is what one key had before it was changed.
type headChange struct {
	dentry    dentryKey
	oldDentry headDentry
	inode     inodeKey // ino 0: the change was to dentry
	oldInode  headInode
	had       bool
}

// headsMost is how many dentries or inodes are kept at the end of a commit.
const headsMost = 1 << 15

func headsOf(db *schema.DB) *heads {
	c := db.Companion(func() schema.Companion {
		h := &heads{most: headsMost}
		h.Reset()
		return h
	}, "dentry", "inode", "branch", "bucket")
	return c.(*heads)
}

// Keep implements schema.Companion.
func (h *heads) Keep() { h.undo = h.undo[:0] }

// Undo implements schema.Companion.
func (h *heads) Undo() {
	for len(h.undo) > 0 {
		c := &h.undo[len(h.undo)-1]
		h.undo = h.undo[:len(h.undo)-1]
		switch {
		case c.inode.ino != 0 && c.had:
			h.inodes[c.inode] = c.oldInode
		case c.inode.ino != 0:
			delete(h.inodes, c.inode)
		case c.had:
			h.dentries[c.dentry] = c.oldDentry
		default:
			delete(h.dentries, c.dentry)
		}
	}
}

// Reset implements schema.Companion.
func (h *heads) Reset() {
	if h.dentries == nil || len(h.dentries)+len(h.inodes)+len(h.sealed) > 0 {
		h.dentries = make(map[dentryKey]headDentry)
		h.inodes = make(map[inodeKey]headInode)
		h.sealed = make(map[int64]schema.Stamp)
	}
	h.undo = h.undo[:0]
}

// Full implements schema.Companion.
func (h *heads) Full() bool { return len(h.dentries) > h.most || len(h.inodes) > h.most }

// heads returns what is kept of the head v, nil when v shows something else or
// tx is not the one that sees all changes.
func (v *View) heads(tx *schema.Tx) *heads {
	if v.at != 0 || v.live || !tx.Companion() {
		return nil
	}
	return v.tree.heads
}

// dentry is findDentry by the chain of v.
func (v *View) dentry(tx *schema.Tx, parent Ino, name string) (d headDentry, err error) {
	h := v.heads(tx)
	if h == nil {
		d.dentryRow, d.found, err = findDentry(tx, v.chain, parent, name)
		return d, err
	}
	k := dentryKey{v.branch.ID, parent, name}
	d, ok := h.dentries[k]
	if ok || h.inodes[inodeKey{v.branch.ID, parent}].whole {
		return d, nil
	}
	d.dentryRow, d.found, err = stepDentry(tx.Peek(selectDentry), v.chain, parent, name)
	if err == nil {
		h.dentries[k] = d
	}
	return d, err
}

// inodeRow is findInode by the chain of v.
func (v *View) inodeRow(tx *schema.Tx, ino Ino) (r inodeRow, ok bool, err error) {
	h := v.heads(tx)
	if h == nil {
		return findInode(tx, v.chain, v.live, ino)
	}
	k := inodeKey{v.branch.ID, ino}
	if i, ok := h.inodes[k]; ok {
		return i.inodeRow, i.found, nil
	}
	r, ok, err = stepInode(tx.Peek(selectInode), v.chain, false, ino)
	if err == nil {
		h.inodes[k] = headInode{inodeRow: r, found: ok}
	}
	return r, ok, err
}

// setDentry keeps d, which the current change makes of (parent, name).
func (h *heads) setDentry(branch int64, parent Ino, name string, d headDentry) {
	k := dentryKey{branch, parent, name}
	old, had := h.dentries[k]
	h.undo = append(h.undo, headChange{dentry: k, oldDentry: old, had: had})
	h.dentries[k] = d
}

// setInode keeps the inode that the current change w writes; made if it is new.
func (h *heads) setInode(branch int64, w *inodeChange, made bool) {
	k := inodeKey{branch, w.row.Ino}
	old, had := h.inodes[k]
	h.undo = append(h.undo, headChange{inode: k, oldInode: old, had: had})
	h.inodes[k] = headInode{inodeRow: w.row, found: true, whole: old.whole || made && w.row.IsDir(), last: w}
	if old.last != nil && w.op == rowUpdate {
		w.over = old.last.merged()
	}
}

// dentryChange is a version of a dentry to be written.
type dentryChange struct {
	op     rowOp
	parent Ino
	name   string
	at     version      // the version to add, or the one that is there
	stamp  schema.Stamp // of what replaces it
	ino    Ino
	kind   uint32
}

type rowOp uint8

const (
	rowInsert rowOp = iota
	rowUpdate
	rowDelete
)

// Apply implements schema.Change.
func (c *dentryChange) Apply(tx *schema.Tx) error {
	switch c.op {
	case rowInsert:
		return insertDentry(tx, c.parent, c.name, c.at, c.ino, c.kind)
	case rowUpdate:
		return replaceDentry(tx, c.parent, c.name, c.at, c.stamp, c.ino, c.kind)
	}
	return deleteDentry(tx, c.parent, c.name, c.at)
}

// inodeChange is a version of an inode to be written. While it waits, a later
// one that overwrites the same version joins it: a directory is written once
// for many entries, and a new file once with its content.
type inodeChange struct {
	op   rowOp
	over *inodeChange // an earlier one of the same version, which may still wait
	into *inodeChange // what this one has joined

	mu      sync.Mutex // guards what follows
	content bool       // of an update: the content too
	row     inodeRow
	applied bool
}

// Apply implements schema.Change.
func (c *inodeChange) Apply(tx *schema.Tx) error {
	c.mu.Lock()
	c.applied = true // the row does not change from here on
	c.mu.Unlock()
	if c.op == rowInsert {
		return insertInode(tx, &c.row)
	}
	return updateInode(tx, &c.row, c.content)
}

// Join implements schema.Joiner.
func (c *inodeChange) Join() bool {
	if c.over == nil {
		return false
	}
	into := c.over.merged()
	c.over = nil
	into.mu.Lock()
	defer into.mu.Unlock()
	if into.applied {
		return false
	}
	into.row, into.content = c.row, into.content || c.content
	c.into = into
	return true
}

// merged returns the change that c has become part of, or c.
func (c *inodeChange) merged() *inodeChange {
	for c.into != nil {
		c = c.into
	}
	return c
}

// writeDentry writes w and keeps what d is then.
func (c *change) writeDentry(w dentryChange, d headDentry) error {
	if err := c.tx.Later(&w); err != nil {
		return err
	}
	if h := c.v.heads(c.tx); h != nil {
		h.setDentry(c.v.branch.ID, w.parent, w.name, d)
	}
	return nil
}

// writeInode writes r; made says that it is the first version.
func (c *change) writeInode(op rowOp, r *inodeRow, content, made bool) error {
	w := &inodeChange{op: op, content: content, row: *r}
	if err := c.tx.Later(w); err != nil {
		return err
	}
	if h := c.v.heads(c.tx); h != nil {
		h.setInode(c.v.branch.ID, w, made)
	}
	return nil
}
