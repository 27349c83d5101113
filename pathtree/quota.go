package pathtree

import (
	"fmt"
	"syscall"

	"github.com/alkdev/alkfs/schema"
)

// Quota is what a bucket may hold and what counts towards that. Each branch
// counts what its head has beyond the point it was forked from: the inodes that
// have a name, and the size of every file whose content is another than there,
// each hard-linked file once and whatever shares its bytes. A branch that
// follows its parent counts all it has a version of. History does not count,
// nor a removed branch: what was replaced or removed is free at once, even
// where a snapshot or a fork still shows it.
type Quota struct {
	MaxBytes, MaxInodes int64 // 0: no limit
	Bytes, Inodes       int64 // counted
}

// Left returns how many bytes and inodes are left, at least 0, and very many
// where there is no limit.
func (q Quota) Left() (bytes, inodes int64) {
	const many = 1 << 62
	bytes, inodes = many, many
	if q.MaxBytes > 0 {
		bytes = max(0, q.MaxBytes-q.Bytes)
	}
	if q.MaxInodes > 0 {
		inodes = max(0, q.MaxInodes-q.Inodes)
	}
	return bytes, inodes
}

// Disk makes the numbers that statfs(2) has of a disk those of the quota, where
// that is less. blockSize is in bytes.
func (q Quota) Disk(blockSize int64, blocks, free, avail, files, filesFree *uint64) {
	bytes, inodes := q.Left()
	if q.MaxBytes > 0 {
		*blocks = uint64(q.MaxBytes / blockSize)
		*free = min(*free, uint64(bytes/blockSize))
		*avail = min(*avail, *free)
	}
	if q.MaxInodes > 0 {
		*files = uint64(q.MaxInodes)
		*filesFree = min(*filesFree, uint64(inodes))
	}
}

// QuotaError says that a bucket is full. It is EDQUOT.
type QuotaError struct {
	Bucket    string
	Inodes    bool // the number of inodes, not bytes
	Max, Held int64
}

func (e *QuotaError) Error() string {
	unit := "bytes"
	if e.Inodes {
		unit = "files and directories"
	}
	return fmt.Sprintf("the bucket %q holds %d %s of the %d that its quota allows (%v)", e.Bucket, e.Held, unit, e.Max, syscall.EDQUOT)
}

func (e *QuotaError) Unwrap() error { return syscall.EDQUOT }

// held is a number of bytes and inodes that count.
type held struct{ bytes, inodes int64 }

func (h held) plus(o held) held  { return held{h.bytes + o.bytes, h.inodes + o.inodes} }
func (h held) minus(o held) held { return held{h.bytes - o.bytes, h.inodes - o.inodes} }

// counts is what in counts for a branch that sees below at the point it was
// forked from.
func counts(in, below *Inode) (h held) {
	if in == nil || in.Nlink == 0 {
		return h
	}
	fresh := below == nil || below.Nlink == 0
	if fresh {
		h.inodes = 1
	}
	if in.IsRegular() && (fresh || in.Hash != below.Hash) {
		h.bytes = in.Size
	}
	return h
}

// charge counts an inode that was old, as the branch saw it (nil: not at all),
// and becomes new. It fails with EDQUOT where that is more than the bucket may
// hold.
func (c *change) charge(old, new *Inode) error {
	a, err := openAccount(c.tx, c.v.bucket.ID)
	if a == nil || err != nil || c.v.live {
		return err
	}
	var below *Inode
	own := old != nil && old.Branch == c.v.branch.ID
	switch {
	case len(c.v.chain) < 2:
	case !own:
		below = old
	case old.Hash == new.Hash && (old.Nlink == 0) == (new.Nlink == 0):
		return nil
	default:
		r, ok, err := findInode(c.tx, c.v.chain[1:], false, new.Ino)
		if err != nil {
			return err
		}
		if ok {
			below = &r.Inode
		}
	}
	d := counts(new, below)
	if own {
		d = d.minus(counts(old, below))
	}
	return a.add(c, d)
}

// chargeLive counts what write does to the version of ino on a branch that
// follows its parent, where what is seen may be the parent's.
func (c *change) chargeLive(ino Ino, write func() error) error {
	a, err := openAccount(c.tx, c.v.bucket.ID)
	if err != nil {
		return err
	}
	if a == nil {
		return write()
	}
	old, err := c.ownCount(ino)
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	new, err := c.ownCount(ino)
	if err != nil {
		return err
	}
	return a.add(c, new.minus(old))
}

// ownCount is what ino counts for a branch that follows its parent.
func (c *change) ownCount(ino Ino) (held, error) {
	r, ok, err := findInode(c.tx, c.v.chain[:1], false, ino)
	if !ok || err != nil {
		return held{}, err
	}
	return counts(&r.Inode, nil), nil
}

// inTotal calls f, which makes many changes with c that only have to keep to
// the quota together.
func (c *change) inTotal(f func() error) error {
	a, err := openAccount(c.tx, c.v.bucket.ID)
	if err != nil {
		return err
	}
	if a == nil {
		return f()
	}
	before := held{a.Bytes, a.Inodes}
	c.many = true
	err = f()
	c.many = false
	if err != nil {
		return err
	}
	return a.within(c, held{a.Bytes, a.Inodes}.minus(before))
}

// Quota returns the quota of a bucket and what counts towards it; false when it
// has none.
func (t *Tree) Quota(tx *schema.Tx, bucket int64) (q Quota, ok bool, err error) {
	if _, l := ledgerOf(tx); l != nil {
		if a := l.accounts[bucket]; a != nil {
			return a.Quota, true, nil
		}
		return q, false, nil
	}
	s := tx.Stmt(selectQuota + " WHERE bucket = ?")
	s.BindInt64(1, bucket)
	if ok, err = s.Step(); ok {
		q = columnQuota(s)
	}
	return q, ok, err
}

func (p Policy) limited() bool { return p.QuotaBytes != 0 || p.QuotaInodes != 0 }

// setQuota makes the limits of a bucket those of its policy. The first time it
// counts, for which it reads every version of an inode in the store.
func (t *Tree) setQuota(tx *schema.Tx, bucket int64, p Policy) error {
	if p.QuotaBytes < 0 || p.QuotaInodes < 0 {
		return syscall.EINVAL
	}
	if err := settleQuotas(tx); err != nil {
		return err
	}
	if !p.limited() {
		for _, q := range []string{
			"DELETE FROM quota_branch WHERE branch IN (SELECT id FROM branch WHERE bucket = ?1)",
			"DELETE FROM quota WHERE bucket = ?1",
		} {
			s := tx.Stmt(q)
			s.BindInt64(1, bucket)
			if err := run(s); err != nil {
				return err
			}
		}
		return nil
	}
	s := tx.Stmt("UPDATE quota SET max_bytes = ?2, max_inodes = ?3 WHERE bucket = ?1 RETURNING 1")
	s.BindInt64(1, bucket)
	s.BindInt64(2, p.QuotaBytes)
	s.BindInt64(3, p.QuotaInodes)
	if ok, err := s.Step(); err != nil || ok {
		return err
	}
	s = tx.Stmt("INSERT INTO quota (bucket, max_bytes, max_inodes, bytes, inodes) VALUES (?, ?, ?, 0, 0)")
	s.BindInt64(1, bucket)
	s.BindInt64(2, p.QuotaBytes)
	s.BindInt64(3, p.QuotaInodes)
	if err := run(s); err != nil {
		return err
	}
	return recount(tx, bucket)
}

// RecountQuotas limits buckets as their policies say, and counts anew what they
// hold. It reads every version of an inode in the store.
func (t *Tree) RecountQuotas(tx *schema.Tx) error {
	return fail("count", "", t.recountQuotas(tx))
}

func (t *Tree) recountQuotas(tx *schema.Tx) error {
	buckets, err := t.Buckets(tx)
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if err := t.setQuota(tx, b.ID, b.Policy); err != nil {
			return err
		}
		if !b.Policy.limited() {
			continue
		}
		if err := recount(tx, b.ID); err != nil {
			return err
		}
	}
	return nil
}

// recount replaces what is recorded of a bucket. Its quotas must be settled.
func recount(tx *schema.Tx, bucket int64) error {
	branches, err := countBranches(tx, bucket)
	if err != nil {
		return err
	}
	s := tx.Stmt("DELETE FROM quota_branch WHERE branch IN (SELECT id FROM branch WHERE bucket = ?)")
	s.BindInt64(1, bucket)
	if err := run(s); err != nil {
		return err
	}
	var sum held
	for id, h := range branches {
		sum = sum.plus(h)
		if err := addHeld(tx, id, h); err != nil {
			return err
		}
	}
	s = tx.Stmt("UPDATE quota SET bytes = ?, inodes = ? WHERE bucket = ?")
	s.BindInt64(1, sum.bytes)
	s.BindInt64(2, sum.inodes)
	s.BindInt64(3, bucket)
	return run(s)
}

// countBranches returns what each branch of a bucket counts, by reading the
// versions of all inodes in order.
func countBranches(tx *schema.Tx, bucket int64) (map[int64]held, error) {
	chains, err := chainsOf(tx, bucket)
	if err != nil {
		return nil, err
	}
	sum := map[int64]held{}
	s := tx.Stmt("SELECT " + inodeColumns + " FROM inode ORDER BY ino, branch, stamp, node")
	var rows []Inode // of one inode
	add := func() {
		for k := range rows {
			id := rows[k].Branch
			ch, ok := chains[id]
			if !ok || k+1 < len(rows) && rows[k+1].Branch == id {
				continue
			}
			h := counts(&rows[k], visible(rows, ch))
			sum[id] = sum[id].plus(h)
		}
		rows = rows[:0]
	}
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		var r inodeRow
		scanInode(s, &r)
		if len(rows) > 0 && rows[0].Ino != r.Ino {
			add()
		}
		rows = append(rows, r.Inode)
	}
	add()
	return sum, nil
}

// visible returns the newest of the versions of an inode, in order, that ch
// sees; nil when there is none.
func visible(rows []Inode, ch chain) *Inode {
	for k := len(rows) - 1; k >= 0 && len(ch) > 0; k-- {
		i := ch.from(0, rows[k].Branch)
		if i < len(ch) && ch[i].branch == rows[k].Branch && rows[k].Stamp <= ch[i].bound {
			return &rows[k]
		}
	}
	return nil
}

// chainsOf returns, for each branch of a bucket, what it sees at the point it
// was forked from; nothing where it follows a parent.
func chainsOf(tx *schema.Tx, bucket int64) (map[int64]chain, error) {
	s := tx.Stmt("SELECT id FROM branch WHERE bucket = ? AND deleted IS NULL")
	s.BindInt64(1, bucket)
	chains := map[int64]chain{}
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		chains[s.ColumnInt64(0)] = nil
	}
	for id := range chains {
		ch, err := loadChain(tx, id, schema.MaxStamp)
		if err != nil {
			return nil, err
		}
		if !ch.hasLive() && len(ch) > 1 {
			chains[id] = ch[1:]
		}
	}
	return chains, nil
}
