package pathtree

import (
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// ledger has the accounts of the buckets with a quota while a batch of writes
// is open: in most stores none. So counting is a sum in memory, and what it
// comes to is written once for each batch.
type ledger struct {
	accounts map[int64]*account // by bucket
	written  bool               // the Write that runs has written all to the tables
	after    *ledger            // what it has done since; nil: nothing
	stale    bool               // the tables know better
}

// account is what is known of one bucket.
type account struct {
	Quota                // with all that was added
	kept  map[int64]held // by branch, added since the batch began
	added []branchHeld   // by the Write that runs
}

type branchHeld struct {
	branch int64
	held
}

const selectQuota = "SELECT max_bytes, max_inodes, bytes, inodes, bucket FROM quota"

func columnQuota(s *sqlite.Stmt) Quota {
	return Quota{s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)}
}

// ledgerOf returns the rider of the batch, and the ledger that knows what is
// counted now: nil when the tables do.
func ledgerOf(tx *schema.Tx) (rider, current *ledger) {
	l, ok := tx.Rider().(*ledger)
	switch {
	case !ok || l.stale:
		return nil, nil
	case l.written:
		return l, l.after
	}
	return l, l
}

// openAccount returns the account of a bucket, nil when it has no quota.
func openAccount(tx *schema.Tx, bucket int64) (*account, error) {
	rider, l := ledgerOf(tx)
	if l == nil {
		var err error
		if l, err = loadLedger(tx); err != nil {
			return nil, err
		}
		if rider != nil {
			rider.after = l
		} else {
			tx.Ride(l)
		}
	}
	return l.accounts[bucket], nil
}

func loadLedger(tx *schema.Tx) (*ledger, error) {
	l := &ledger{}
	s := tx.Peek(selectQuota)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return l, err
		}
		if l.accounts == nil {
			l.accounts = map[int64]*account{}
		}
		l.accounts[s.ColumnInt64(4)] = &account{Quota: columnQuota(s), kept: map[int64]held{}}
	}
}

// add counts d for the branch that c changes, and checks that the bucket may
// hold it.
func (a *account) add(c *change, d held) error {
	if d == (held{}) {
		return nil
	}
	a.note(c.v.branch.ID, d)
	if c.many {
		return nil
	}
	return a.within(c, d)
}

func (a *account) note(branch int64, d held) {
	a.Bytes += d.bytes
	a.Inodes += d.inodes
	if n := len(a.added); n > 0 && a.added[n-1].branch == branch {
		a.added[n-1].held = a.added[n-1].plus(d)
		return
	}
	a.added = append(a.added, branchHeld{branch, d})
}

// within checks that the bucket may hold what it does after d was added.
// Whatever makes it hold less is right.
func (a *account) within(c *change, d held) error {
	name := c.v.bucket.Name
	switch {
	case d.inodes > 0 && a.MaxInodes > 0 && a.Inodes > a.MaxInodes:
		return &QuotaError{Bucket: name, Inodes: true, Max: a.MaxInodes, Held: a.Inodes - d.inodes}
	case d.bytes > 0 && a.MaxBytes > 0 && a.Bytes > a.MaxBytes:
		return &QuotaError{Bucket: name, Max: a.MaxBytes, Held: a.Bytes - d.bytes}
	}
	return nil
}

// forgetBranch takes back what a branch counts that is removed.
func forgetBranch(tx *schema.Tx, b Branch) error {
	a, err := openAccount(tx, b.Bucket)
	if a == nil || err != nil {
		return err
	}
	s := tx.Stmt("SELECT bytes, inodes FROM quota_branch WHERE branch = ?")
	s.BindInt64(1, b.ID)
	ok, err := s.Step()
	if err != nil {
		return err
	}
	h := a.kept[b.ID]
	if ok {
		h = h.plus(held{s.ColumnInt64(0), s.ColumnInt64(1)})
	}
	for _, d := range a.added {
		if d.branch == b.ID {
			h = h.plus(d.held)
		}
	}
	a.note(b.ID, held{}.minus(h))
	return nil
}

// settleQuotas writes what the batch knows to the tables, for a Write that
// changes them.
func settleQuotas(tx *schema.Tx) error {
	rider, l := ledgerOf(tx)
	if rider == nil {
		rider = &ledger{}
		tx.Ride(rider)
	}
	rider.written, rider.after = true, nil
	if l == nil {
		return nil
	}
	return l.save(tx)
}

// Keep implements schema.Rider.
func (l *ledger) Keep() {
	if l.written {
		if l.after == nil {
			l.after = &ledger{stale: true}
		}
		*l = *l.after
	}
	for _, a := range l.accounts {
		for _, d := range a.added {
			a.kept[d.branch] = a.kept[d.branch].plus(d.held)
		}
		a.added = a.added[:0]
	}
}

// Undo implements schema.Rider.
func (l *ledger) Undo() {
	l.written, l.after = false, nil
	for _, a := range l.accounts {
		for _, d := range a.added {
			a.Bytes -= d.bytes
			a.Inodes -= d.inodes
		}
		a.added = a.added[:0]
	}
}

// Save implements schema.Rider.
func (l *ledger) Save(tx *schema.Tx) error {
	if l.stale {
		return nil
	}
	return l.save(tx)
}

func (l *ledger) save(tx *schema.Tx) error {
	for bucket, a := range l.accounts {
		if len(a.kept)+len(a.added) == 0 {
			continue
		}
		s := tx.Stmt("UPDATE quota SET bytes = ?, inodes = ? WHERE bucket = ?")
		s.BindInt64(1, a.Bytes)
		s.BindInt64(2, a.Inodes)
		s.BindInt64(3, bucket)
		if err := run(s); err != nil {
			return err
		}
		for id, h := range a.kept {
			if err := addHeld(tx, id, h); err != nil {
				return err
			}
		}
		for _, d := range a.added {
			if err := addHeld(tx, d.branch, d.held); err != nil {
				return err
			}
		}
	}
	return nil
}

// addHeld adds h to what is recorded of a branch.
func addHeld(tx *schema.Tx, branch int64, h held) error {
	s := tx.Stmt(`INSERT INTO quota_branch (branch, bytes, inodes) VALUES (?1, ?2, ?3)
		ON CONFLICT DO UPDATE SET bytes = bytes + ?2, inodes = inodes + ?3`)
	s.BindInt64(1, branch)
	s.BindInt64(2, h.bytes)
	s.BindInt64(3, h.inodes)
	return run(s)
}
