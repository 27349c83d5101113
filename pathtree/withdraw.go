package pathtree

import (
	"slices"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Withdraw undoes every publish of the content h, on every branch and in the
// past, as if it had not happened: the content before shows again, and a file
// that had none stays, empty, so that its name and attributes are not lost. It
// returns the paths that showed h at some head, as BUCKET/BRANCH:PATH, sorted.
func (t *Tree) Withdraw(tx *schema.Tx, h blobstore.Hash) ([]string, error) {
	paths, err := t.withdraw(tx, h)
	return paths, fail("withdraw", h.String(), err)
}

func (t *Tree) withdraw(tx *schema.Tx, h blobstore.Hash) ([]string, error) {
	s := tx.Stmt("SELECT " + inodeColumns + " FROM inode WHERE hash = ? ORDER BY ino, stamp, node")
	s.BindBytes(1, h[:])
	var rows []inodeRow
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var r inodeRow
		scanInode(s, &r)
		rows = append(rows, r)
	}
	paths, err := t.showing(tx, h, rows)
	if err != nil {
		return nil, err
	}
	counted := tallies{t: t, tx: tx}
	for _, r := range rows { // oldest first: what is before is right already
		if err := counted.before(r.Branch, r.Ino, r.Stamp); err != nil {
			return nil, err
		}
		if err := t.withdrawRow(tx, r); err != nil {
			return nil, err
		}
	}
	return paths, counted.done()
}

// showing returns the paths at which some head shows h, given the versions that
// name it.
func (t *Tree) showing(tx *schema.Tx, h blobstore.Hash, rows []inodeRow) ([]string, error) {
	buckets, err := t.Buckets(tx)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	var paths []string
	for _, b := range buckets {
		branches, err := t.Shown(tx, b.ID)
		if err != nil {
			return nil, err
		}
		for _, br := range branches {
			v, err := t.View(tx, br.ID, 0)
			if err != nil {
				return nil, err
			}
			last := Ino(0)
			for _, r := range rows {
				if r.Ino == last {
					continue
				}
				last = r.Ino
				in, ok, err := findInode(tx, v.chain, v.live, r.Ino)
				if err != nil {
					return nil, err
				}
				if !ok || in.Hash != h {
					continue
				}
				at, err := v.paths(tx, r.Ino)
				if err != nil {
					return nil, err
				}
				for _, p := range at {
					paths = append(paths, b.Name+"/"+br.Name+":"+p)
				}
			}
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// withdrawRow gives a version the content that was visible before it, or takes
// it out of the history when it set nothing else.
func (t *Tree) withdrawRow(tx *schema.Tx, r inodeRow) error {
	ch, err := loadChain(tx, r.Branch, r.Stamp-1)
	if err != nil {
		return err
	}
	old, ok, err := findInode(tx, ch, ch.hasLive(), r.Ino)
	if err != nil {
		return err
	}
	e := notify.Event{Op: notify.OpContent, Ino: uint64(r.Ino), Branch: r.Branch, Old: hashBytes(r.Hash)}
	if ok && r.groups == groupContent {
		err = deleteInode(tx, r.Ino, r.version())
	} else {
		r.Size, r.Hash = 0, blobstore.Hash{}
		if ok {
			r.Size, r.Hash, r.Mtime = old.Size, old.Hash, old.Mtime
		}
		err = updateInode(tx, &r, true)
	}
	if err != nil {
		return err
	}
	b, err := t.BranchByID(tx, r.Branch)
	if err != nil {
		return err
	}
	e.Stamp, e.Node, e.Bucket = tx.NextStamp(), schema.LocalNode, b.Bucket
	e.New, e.Size = hashBytes(old.Hash), old.Size
	return notify.Append(tx, &e)
}
