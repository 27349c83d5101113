package pathtree

import "github.com/alkdev/alkfs/schema"

// tally finds out what a bucket's quota holds more or less after rows of inodes
// were written, removed or completed that are not a change of some head: by an
// import, a withdrawal, pruning. Only what such rows count in is counted anew.
type tally struct {
	x       *exchange
	limited bool // the bucket has a quota
	was     map[inodeAt]held
	gone    map[int64]bool // branches, by whether they were removed
}

func (x *exchange) newTally() (*tally, error) {
	a, err := openAccount(x.tx, x.bucket.ID)
	return &tally{x: x, limited: a != nil, was: map[inodeAt]held{}, gone: map[int64]bool{}}, err
}

// before is called before rows of an inode on a branch, from a stamp on, change.
// It notes what the inode counts on each branch that may see them.
func (y *tally) before(branch int64, i Ino, since schema.Stamp) error {
	if !y.limited {
		return nil
	}
	all, err := y.x.reach(branch, since)
	if err != nil {
		return err
	}
	for _, r := range all {
		k := inodeAt{r.branch, i}
		if _, ok := y.was[k]; ok {
			continue
		}
		if y.was[k], err = y.count(k); err != nil {
			return err
		}
	}
	return nil
}

// done adds what has changed to what the bucket holds, whatever its limits.
func (y *tally) done() error {
	if len(y.was) == 0 {
		return nil
	}
	a, err := openAccount(y.x.tx, y.x.bucket.ID)
	if err != nil {
		return err
	}
	for k, was := range y.was {
		is, err := y.count(k)
		if err != nil {
			return err
		}
		if d := is.minus(was); d != (held{}) {
			a.note(k.branch, d)
		}
	}
	clear(y.was)
	return nil
}

// count is what countBranches adds up.
func (y *tally) count(k inodeAt) (h held, err error) {
	gone, ok := y.gone[k.branch]
	if !ok {
		b, err := y.x.t.BranchByID(y.x.tx, k.branch)
		if err != nil {
			return h, err
		}
		gone = b.Deleted != 0
		y.gone[k.branch] = gone
	}
	if gone {
		return h, nil
	}
	ch, err := y.x.chain(k.branch)
	if err != nil {
		return h, err
	}
	own, ok, err := findInode(y.x.tx, ch[:1], false, k.ino)
	if !ok || err != nil {
		return h, err
	}
	if len(ch) == 1 || ch.hasLive() {
		return counts(&own.Inode, nil), nil
	}
	below, ok, err := findInode(y.x.tx, ch[1:], false, k.ino)
	if !ok || err != nil {
		return counts(&own.Inode, nil), err
	}
	return counts(&own.Inode, &below.Inode), nil
}

// tallies are those of all buckets.
type tallies struct {
	t        *Tree
	tx       *schema.Tx
	byBucket map[int64]*tally
	buckets  map[int64]int64 // by branch
}

// before is tally.before of the branch's bucket.
func (y *tallies) before(branch int64, i Ino, since schema.Stamp) error {
	bucket, ok := y.buckets[branch]
	if !ok {
		b, err := y.t.BranchByID(y.tx, branch)
		if err != nil {
			return err
		}
		if y.buckets == nil {
			y.buckets, y.byBucket = map[int64]int64{}, map[int64]*tally{}
		}
		bucket = b.Bucket
		y.buckets[branch] = bucket
	}
	one := y.byBucket[bucket]
	if one == nil {
		x, err := y.t.newExchange(y.tx, bucket)
		if err != nil {
			return err
		}
		if one, err = x.newTally(); err != nil {
			return err
		}
		y.byBucket[bucket] = one
	}
	return one.before(branch, i, since)
}

func (y *tallies) done() error {
	for _, one := range y.byBucket {
		if err := one.done(); err != nil {
			return err
		}
	}
	return nil
}
