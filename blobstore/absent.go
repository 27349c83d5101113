package blobstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/alkdev/alkfs/schema"
)

// ErrNotHere says that the bytes of a content are elsewhere and could not be
// brought: nobody who has them was reached in time. errors.As finds
// syscall.EHOSTUNREACH, so that tools say that the network is to blame and not
// the disk.
var ErrNotHere = fmt.Errorf("content is not here (%w)", syscall.EHOSTUNREACH)

// NotHere wraps ErrNotHere with what is missing and why.
func NotHere(h Hash, why string) error { return fmt.Errorf("blob %s: %w: %s", h, ErrNotHere, why) }

// Priority orders what is to be brought; greater goes first.
type Priority uint8

// Priorities.
const (
	Eager   Priority = iota // by policy, when there is nothing else to do
	Pinned                  // by a user's wish
	Ahead                   // what a sequential reader will want next
	Reading                 // somebody waits
)

// Source brings bytes from elsewhere. A Store asks it; package crdtsync/blobs
// has one.
type Source interface {
	// Fetch brings the groups of want into p, by Claim and Begin, and returns
	// when p has them, or with an error: one that is ErrNotHere when nobody has
	// them. It may be called at once for ranges that overlap, and brings each
	// group once, with the greatest priority asked for. A caller that cannot
	// wait any longer ends ctx. What uses p longer than the call Holds it.
	Fetch(ctx context.Context, p *Partial, want []Range, prio Priority) error
}

// SetSource says where to get content that is not here; nil: nowhere.
func (s *Store) SetSource(src Source) {
	if src == nil {
		s.source.Store(nil)
		return
	}
	s.source.Store(&src)
}

func (s *Store) sourceNow() Source {
	if p := s.source.Load(); p != nil {
		return *p
	}
	return nil
}

// Expect notes that versions name the content h of size bytes, whose bytes are
// elsewhere. It does nothing when they are here. Whoever records versions of
// other nodes calls it in the same transaction.
func Expect(tx *schema.Tx, h Hash, size int64) error {
	if h.IsZero() {
		return nil
	}
	q := tx.Stmt(`INSERT INTO blob (hash, size, synced, state, created) VALUES (?, ?, 1, ?, ?)
		ON CONFLICT (hash) DO NOTHING`)
	q.BindBytes(1, h[:])
	q.BindInt64(2, size)
	q.BindInt64(3, stateAbsent)
	q.BindInt64(4, now())
	_, err := q.Step()
	return err
}

// Here reports whether the bytes of h are in the store, all of them.
func (s *Store) Here(tx *schema.Tx, h Hash) (bool, error) {
	if h.IsZero() {
		return true, nil
	}
	r, found, err := lookup(tx, h)
	return found && (r.state == stateGood || r.state == stateSuspect), err
}

// Content returns a whole content inside a transaction. It never waits: the
// error is a *NotHereError when bytes have to be brought first, with Store.Fetch
// and outside of the transaction.
func (s *Store) Content(tx *schema.Tx, h Hash, size int64) ([]byte, error) {
	b, err := s.OpenTx(tx, h, size)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	p := make([]byte, size)
	if b.part != nil && !b.part.p.complete() {
		return nil, &NotHereError{Hash: h, Size: size}
	}
	_, err = b.ReadAt(p, 0)
	return p, err
}

// NotHereError names a content that has to be brought first. It is ErrNotHere.
type NotHereError struct {
	Hash Hash
	Size int64
}

func (e *NotHereError) Error() string { return NotHere(e.Hash, "it has to be fetched first").Error() }
func (e *NotHereError) Unwrap() error { return ErrNotHere }

// Fetch asks for fetchWindow groups, 128 MiB, fetchWindows times at once, so that
// there is always more to bring.
const (
	fetchWindow  = 8192
	fetchWindows = 2
)

// Fetch brings all of a content and returns when it is here.
func (s *Store) Fetch(ctx context.Context, h Hash, size int64, prio Priority) error {
	b, err := s.Open(h, size)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.part == nil {
		return s.vouch(ctx, b)
	}
	return b.part.p.fetchAll(ctx, Range{0, b.part.p.groups}, prio)
}

// FetchRange brings groups of a content, as far as it has them.
func (s *Store) FetchRange(ctx context.Context, h Hash, size int64, r Range, prio Priority) error {
	if r.First <= 0 && r.End() >= groupCount(size) {
		return s.Fetch(ctx, h, size, prio)
	}
	b, err := s.Open(h, size)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.part == nil {
		return nil
	}
	return b.part.p.fetchAll(ctx, r, prio)
}

func (p *Partial) fetchAll(ctx context.Context, r Range, prio Priority) error {
	r = r.clip(p.groups)
	windows, each := errgroup.WithContext(ctx)
	windows.SetLimit(fetchWindows)
	for first := r.First; first < r.End() && each.Err() == nil; first += fetchWindow {
		windows.Go(func() error { return p.fetch(each, Range{first, min(fetchWindow, r.End()-first)}, prio) })
	}
	if err := errors.Join(windows.Wait(), ctx.Err()); err != nil {
		return err
	}
	return p.finish()
}

// vouch adds the row of a file that is there without one, as a process leaves it
// that dies between moving it in and committing.
func (s *Store) vouch(ctx context.Context, b *Blob) error {
	if b.file == nil {
		return nil
	}
	here := false
	look := func(tx *schema.Tx) (err error) {
		here, err = s.Here(tx, b.hash)
		return err
	}
	if err := s.db.Read(look); err != nil || here {
		return err
	}
	if err := b.Verify(ctx); err != nil {
		return err
	}
	err := s.db.Write(func(tx *schema.Tx) error { return s.AddFile(tx, b.hash, b.size) })
	if errors.Is(err, ErrMissing) { // collected meanwhile; the next Fetch brings it
		return NotHere(b.hash, "it was collected while it was looked at: try again")
	}
	return err
}

// MayDrop is asked before bytes go that versions here name, and answers for each
// whether some other member is known to have it and to keep it for
// now. It may ask the network and so runs in no transaction.
type MayDrop func(ctx context.Context, hashes []Hash) ([]bool, error)

// ErrLastCopy says that nobody else is known to have a content.
var ErrLastCopy = fmt.Errorf("no other member is known to have it (%w)", syscall.EBUSY)

// Owners of leases with a meaning of their own.
const (
	leavingOwner = "leaving" // Evict or CollectGuarded is about to remove it; see Hold
	holdOwner    = "hold-"   // and a member's name: promised to it
	unsentOwner  = "unsent-" // and a bucket's number: of what this node may not send; see KeepUnsent
	leavingFor   = 2 * time.Minute
)

// Hold promises member that h, if it is here whole, stays until the time given,
// and reports whether it does. It is how another node is answered that is about to
// drop its copy: two nodes that would both drop theirs because the other has one
// are kept from it. When h is about to go here as well it is promised only if
// member goes first, of which the two nodes must think alike, and then stays.
func (s *Store) Hold(tx *schema.Tx, h Hash, member string, until time.Time, first bool) (bool, error) {
	r, found, err := lookup(tx, h)
	if err != nil || !found || r.state != stateGood || !r.inline && !r.synced {
		return false, err
	}
	if leaving, err := leased(tx, h, leavingOwner); err != nil || leaving && !first {
		return false, err
	}
	return true, s.Lease(tx, h, holdOwner+member, until)
}

// leased reports whether a lease of owner, or of one whose name begins with it
// if it ends in '-', is in force.
func leased(tx *schema.Tx, h Hash, owner string) (bool, error) {
	q := tx.Stmt("SELECT EXISTS (SELECT 1 FROM lease WHERE hash = ?1 AND substr(owner, 1, length(?2)) = ?2 AND expires > ?3)")
	q.BindBytes(1, h[:])
	q.BindText(2, owner)
	q.BindInt64(3, now())
	_, err := q.Step()
	return err == nil && q.ColumnInt64(0) != 0, err
}

// Evict removes the bytes of h, which versions go on naming, to make room: a
// later read brings them again. It asks may first, and returns the bytes freed.
// Content that is promised, being sealed or the base of an open write session
// stays, with EBUSY.
func (s *Store) Evict(ctx context.Context, h Hash, may MayDrop) (freed int64, err error) {
	err = s.db.Write(func(tx *schema.Tx) error {
		if err := s.mayLeave(tx, h); err != nil {
			return err
		}
		return s.Lease(tx, h, leavingOwner, time.Now().Add(leavingFor))
	})
	if err != nil {
		return 0, fmt.Errorf("evict %s: %w", h, err)
	}
	defer func() {
		e := s.db.Write(func(tx *schema.Tx) error { return s.Unlease(tx, h, leavingOwner) })
		if err == nil {
			err = e
		}
	}()
	if err := s.db.Commit(); err != nil { // for the processes that answer Hold
		return 0, err
	}
	if ok, err := may(ctx, []Hash{h}); err != nil || len(ok) != 1 || !ok[0] {
		return 0, fmt.Errorf("evict %s: %w", h, errors.Join(ErrLastCopy, err))
	}
	return s.evict(h)
}

// mayLeave returns an error when h has to stay.
func (s *Store) mayLeave(tx *schema.Tx, h Hash) error {
	r, found, err := lookup(tx, h)
	switch {
	case err != nil:
		return err
	case !found || r.state != stateGood:
		return ErrNotHere
	}
	q := tx.Stmt(`SELECT EXISTS (SELECT 1 FROM write_session WHERE base = ?1)
		OR EXISTS (SELECT 1 FROM lease WHERE hash = ?1 AND expires > ?2 AND owner <> ?3)`)
	q.BindBytes(1, h[:])
	q.BindInt64(2, now())
	q.BindText(3, leavingOwner)
	if _, err := q.Step(); err != nil {
		return err
	}
	if q.ColumnInt64(0) != 0 {
		return fmt.Errorf("it is in use or promised to a member (%w)", syscall.EBUSY)
	}
	return nil
}

// evict makes the row of h one of absent content, durably, and then removes the
// file.
func (s *Store) evict(h Hash) (freed int64, err error) {
	file := false
	err = s.db.Write(func(tx *schema.Tx) error {
		if err := s.mayLeave(tx, h); err != nil {
			return fmt.Errorf("evict %s: %w", h, err)
		}
		r, _, err := lookup(tx, h)
		if err != nil {
			return err
		}
		freed, file = r.size, !r.inline
		q := tx.Stmt("UPDATE blob SET state = ?2, data = NULL, synced = 1, created = ?3 WHERE hash = ?1")
		q.BindBytes(1, h[:])
		q.BindInt64(2, stateAbsent)
		q.BindInt64(3, now())
		_, err = q.Step()
		return err
	})
	if err != nil || !file {
		return freed, err
	}
	if err := s.db.Sync(); err != nil {
		return 0, err
	}
	_, err = s.removeFiles([]Hash{h})
	return freed, err
}

// HasParts reports whether some groups of a content that is not here as a whole
// may be.
func (s *Store) HasParts(h Hash, size int64) bool {
	_, err := os.Stat(s.partialPath(h, size) + haveExt)
	return err == nil
}
