package writesession

import (
	"fmt"
	"math"
	"syscall"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// policies are the buckets that are not like most.
type policies struct {
	exclusive map[int64]bool // allow one writer of a file at a time
	limited   map[int64]bool // have a quota of bytes
}

// Policies rereads what buckets allow. It is
// called by itself within Options.PersistAfter of a change by any process, and
// by whoever changes a policy.
func (s *Sessions) Policies() error {
	p := policies{exclusive: map[int64]bool{}, limited: map[int64]bool{}}
	err := s.db.Read(func(tx *schema.Tx) error {
		buckets, err := s.tree.Buckets(tx)
		for _, b := range buckets {
			if b.Policy.ExclusiveWrites {
				p.exclusive[b.ID] = true
			}
			if b.Policy.QuotaBytes > 0 {
				p.limited[b.ID] = true
			}
		}
		return err
	})
	if err == nil {
		s.policies.Store(&p)
	}
	return err
}

func (s *Sessions) isExclusive(v *pathtree.View) bool {
	p := s.policies.Load()
	return p != nil && p.exclusive[v.Bucket().ID]
}

// MayReplace fails with EBUSY, and names the writer, when the bucket of v allows
// one writer of a file at a time and ino has one. It is for callers that put
// content in place without a session, in the transaction in which they do.
func (s *Sessions) MayReplace(tx *schema.Tx, v *pathtree.View, ino pathtree.Ino) error {
	if !s.isExclusive(v) {
		return nil
	}
	owners, err := writers(tx, v, ino, math.MaxInt64)
	if err != nil {
		return err
	}
	return s.refused(owners)
}

// claim makes f the only session of its inode on its branch, or fails with
// EBUSY. The session's row is the lock; it goes with the publish, and counts
// for nothing when its process is dead: a lock that had to be renewed would be
// lost when the machine sleeps, and would keep others out after a crash. Of two
// that come at once the one with the smaller id has it. change must be held.
func (f *File) claim() error {
	var id int64
	var owners []string
	err := f.s.db.Write(func(tx *schema.Tx) (err error) {
		if id, _, err = f.putSession(tx, 0, &row{}); err == nil {
			owners, err = writers(tx, f.view, f.ino, id)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := f.s.refused(owners); err != nil {
		f.s.log.Warn("a second writer was refused", "ino", f.ino, "error", err)
		if e := f.s.db.Write(func(tx *schema.Tx) error { return deleteRow(tx, id) }); e != nil {
			err = e
		}
		return err
	}
	f.row = row{id: id, full: true}
	return nil
}

// writers returns the owners of the sessions of ino with ids below before.
func writers(tx *schema.Tx, v *pathtree.View, ino pathtree.Ino, before int64) (owners []string, err error) {
	s := tx.Stmt("SELECT owner FROM write_session WHERE branch = ? AND ino = ? AND id < ? AND synced <> 2")
	s.BindInt64(1, v.Branch().ID)
	s.BindInt64(2, int64(ino))
	s.BindInt64(3, before)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return owners, err
		}
		owners = append(owners, s.ColumnText(0))
	}
}

// refused returns EBUSY when one of the owners lives. What a crash left does
// not write.
func (s *Sessions) refused(owners []string) error {
	for _, o := range owners {
		if o == s.owner.name || alive(s.db.Dir(), o) {
			return &WriterError{PID: pidOf(o), Process: describe(s.db.Dir(), o)}
		}
	}
	return nil
}

// WriterError names the process that writes a file of which its bucket allows one
// writer at a time. It is EBUSY.
type WriterError struct {
	PID     string
	Process string // with its command line
}

func (e *WriterError) Error() string { return e.text(e.Process) }

// Discreet is Error without what the command line might give away.
func (e *WriterError) Discreet() string { return e.text("process " + e.PID) }

func (e *WriterError) text(who string) string {
	return fmt.Sprintf("%s is writing it, and its bucket allows one writer at a time (%v)", who, syscall.EBUSY)
}

// Unwrap gives EBUSY.
func (e *WriterError) Unwrap() error { return syscall.EBUSY }
