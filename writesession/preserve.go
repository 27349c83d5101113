package writesession

import (
	"errors"

	"github.com/alkdev/alkfs/schema"
)

// leftOwner follows the process id in the owner of a session that was
// preserved. No process has that name, so the session counts as an orphan.
const leftOwner = "-left"

// Preserve is Close for a user who went away in the middle: nothing is
// published. What is unpublished stays as an orphaned session, which List shows
// and which Recover, Publish and Abort take; it is never published by itself,
// not even when an fsync was answered. When f has other users it is only let go
// of. A session that cannot be recorded is dropped, with an error.
func (f *File) Preserve() error {
	if !f.unref() {
		return nil
	}
	f.change.Lock()
	defer f.release()
	err := f.orphan()
	if err != nil {
		f.drop()
	}
	if f.s.forget(f) {
		f.closeBlobs()
	}
	return f.fail("preserve", err)
}

// orphan records the session of f as nobody's and leaves it. change must be
// held.
func (f *File) orphan() error {
	if !f.mu.dirty {
		f.unclaim()
		return nil
	}
	if err := f.linked(); errors.Is(err, errUnlinked) || gone(err) {
		f.drop()
		return nil
	} else if err != nil {
		return err
	}
	f.row.synced, f.row.stale = false, true // all of it, and not for takeOver
	if err := f.save(false); err != nil {
		return err
	}
	err := f.s.db.Write(func(tx *schema.Tx) error {
		s := tx.Stmt("UPDATE write_session SET owner = ? WHERE id = ?")
		s.BindText(1, pidOf(f.s.owner.name)+leftOwner)
		s.BindInt64(2, f.row.id)
		_, err := s.Step()
		return err
	})
	if err != nil {
		return err
	}
	f.leave()
	return f.s.db.Commit()
}
