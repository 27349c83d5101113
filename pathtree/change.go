package pathtree

import (
	"syscall"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// coalesce is how long a version may be overwritten in place by its own branch
// and node, so long as no fork, snapshot or merge can see it: making, writing
// and touching a file leaves one row, not four. History is this coarse.
const coalesce = 1000 // ms

// change is one operation on the head of a branch: all it writes has one stamp.
type change struct {
	keepOld bool // overwrite no version in place
	v       *View
	tx      *schema.Tx
	at      version      // place of new rows
	sealed  schema.Stamp // greatest stamp that somebody else can see
	now     int64        // ns since 1970
	many    bool         // the quota is checked at the end
}

// begin starts a change: EROFS on a view of the past, ESTALE when the branch
// has been removed.
func (v *View) begin(tx *schema.Tx) (c change, err error) {
	if v.at != 0 {
		return c, syscall.EROFS
	}
	sealed, err := v.sealed(tx)
	if err != nil {
		return c, err
	}
	return change{
		v: v, tx: tx, sealed: sealed, now: time.Now().UnixNano(),
		at: version{v.branch.ID, tx.NextStamp(), schema.LocalNode},
	}, nil
}

// sealed returns the greatest stamp of the branch that somebody else can see,
// ESTALE when it has been removed.
func (v *View) sealed(tx *schema.Tx) (schema.Stamp, error) {
	h := v.heads(tx)
	if h != nil {
		if s, ok := h.sealed[v.branch.ID]; ok {
			return s, nil
		}
	}
	s := tx.Peek(`SELECT sealed FROM branch WHERE id = ? AND deleted IS NULL`)
	s.BindInt64(1, v.branch.ID)
	ok, err := s.Step()
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, syscall.ESTALE
	}
	sealed := schema.Stamp(s.ColumnInt64(0))
	if h != nil {
		h.sealed[v.branch.ID] = sealed
	}
	return sealed, nil
}

// owns reports whether the version at o may be overwritten in place.
func (c *change) owns(o version) bool {
	return !c.keepOld && o.branch == c.at.branch && o.node == c.at.node && o.stamp > c.sealed &&
		c.at.stamp>>16-o.stamp>>16 < coalesce
}

// setDentry makes (parent, name) name ino, or nothing when ino is 0. cur is the
// version seen now. What was made and removed within a second leaves
// nothing, except where a parent is followed, which might make one later.
func (c *change) setDentry(parent Ino, name string, cur headDentry, ino Ino, kind uint32) error {
	if cur.found && cur.node == derivedNode && cur.branch == c.at.branch { // what was written shows from now on
		err := deleteDentry(c.tx, parent, name, cur.version)
		if err == nil {
			cur, err = c.v.dentry(c.tx, parent, name)
		}
		if err != nil {
			return err
		}
	}
	w := dentryChange{parent: parent, name: name, at: c.at, ino: ino, kind: kind}
	next := headDentry{dentryRow{c.at, ino, kind}, true, !cur.found || cur.alone && c.owns(cur.version)}
	if !cur.found || !c.owns(cur.version) {
		if ino == 0 && (!cur.found || cur.ino == 0) {
			return nil
		}
		return c.writeDentry(w, next)
	}
	w.op, w.at, w.stamp = rowUpdate, cur.version, c.at.stamp
	if ino == 0 && !c.v.live {
		older := headDentry{}
		if !cur.alone {
			var err error
			if older.dentryRow, older.found, err = findDentry(c.tx, c.below(cur.version), parent, name); err != nil {
				return err
			}
		}
		if !older.found || older.ino == 0 {
			w.op = rowDelete
			return c.writeDentry(w, older)
		}
	}
	return c.writeDentry(w, next)
}

// below returns the chain of what was visible before the version o, which is
// of the view's own branch.
func (c *change) below(o version) chain {
	ch := make(chain, len(c.v.chain))
	copy(ch, c.v.chain)
	ch[0].bound = o.stamp - 1
	return ch
}

// addInode writes the first version of a new inode.
func (c *change) addInode(in *Inode) error {
	if err := c.charge(nil, in); err != nil {
		return err
	}
	in.Branch, in.Stamp = c.at.branch, c.at.stamp
	return c.insert(&inodeRow{Inode: *in, node: c.at.node, groups: groupAll}, true)
}

// setInode writes r, of which the given groups have changed. A version
// overwritten in place keeps its stamp: that spares the indexes, and what a
// time between the two sees is the later state rather than nothing.
func (c *change) setInode(r *inodeRow, groups int) error {
	if c.owns(r.version()) {
		r.groups |= groups
		content := groups&groupContent != 0 && r.IsRegular()
		if c.v.live {
			return c.chargeLive(r.Ino, func() error { return c.writeInode(rowUpdate, r, content, false) })
		}
		return c.writeInode(rowUpdate, r, content, false)
	}
	r.groups = groups
	r.Branch, r.Stamp, r.node = c.at.branch, c.at.stamp, c.at.node
	return c.insert(r, false)
}

// insert adds a version of an inode; made says that it is the first one.
func (c *change) insert(r *inodeRow, made bool) error {
	if c.v.live {
		return c.chargeLive(r.Ino, func() error { return c.writeInode(rowInsert, r, true, made) })
	}
	return c.writeInode(rowInsert, r, true, made)
}

// touchDir records that a directory's entries changed; links is what that
// adds to its nlink. The bound matters where a parent is followed, whose
// subdirectories were not counted.
func (c *change) touchDir(dir *inodeRow, links int) error {
	dir.Mtime, dir.Ctime = c.now, c.now
	groups := groupContent
	if links != 0 {
		dir.Nlink = uint32(max(2, int(dir.Nlink)+links))
		groups |= groupLinks
	}
	return c.setInode(dir, groups)
}

// relink changes the number of names of r.
func (c *change) relink(r *inodeRow, links int) error {
	was := r.Inode
	r.Nlink = uint32(max(0, int(r.Nlink)+links))
	r.Ctime = c.now
	if err := c.charge(&was, &r.Inode); err != nil {
		return err
	}
	return c.setInode(r, groupLinks)
}

// setXattr sets an attribute, or removes it when value is nil.
func (c *change) setXattr(ino Ino, name string, cur xattrRow, found bool, value []byte) error {
	if !found || !c.owns(cur.version) {
		return putXattr(c.tx, ino, name, c.at, value)
	}
	if value == nil && !c.v.live {
		older, ok, err := findXattr(c.tx, c.below(cur.version), ino, name)
		if err != nil {
			return err
		}
		if !ok || !older.set {
			return deleteXattr(c.tx, ino, name, cur.version)
		}
	}
	return putXattr(c.tx, ino, name, cur.version, value)
}

// event records e, of which the caller gives Op and what that needs.
func (c *change) event(e notify.Event) error {
	e.Stamp, e.Node = c.at.stamp, c.at.node
	e.Bucket, e.Branch, e.Origin = c.v.bucket.ID, c.v.branch.ID, c.v.origin
	return notify.Append(c.tx, &e)
}
