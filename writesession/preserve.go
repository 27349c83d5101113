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
// of. A session that cannot be recorded is dropped, with an error. A file that
// was Made and never published loses its name.
func (f *File) Preserve() error {
	if !f.unref() {
		return nil
	}
	f.change.Lock()
	defer f.release()
	id, err := f.orphan()
	if err != nil {
		f.drop()
	}
	if !f.s.forget(f) {
		return f.fail("preserve", err)
	}
	f.closeBlobs()
	if f.made.name != "" {
		if e := f.s.unmake(f.view, f.ino, f.made, id); err == nil {
			err = e
		}
	}
	if e := f.s.db.Commit(); err == nil {
		err = e
	}
	return f.fail("preserve", err)
}

// orphan records the session of f as nobody's, leaves it and returns its id, 0
// for none. change must be held.
func (f *File) orphan() (id int64, err error) {
	if !f.mu.dirty {
		f.unclaim()
		return 0, nil
	}
	if err := f.linked(); errors.Is(err, errUnlinked) || gone(err) {
		f.drop()
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	f.row.synced, f.row.stale = false, true // all of it, and not for takeOver
	if err := f.save(false); err != nil {
		return 0, err
	}
	id = f.row.id
	err = f.s.db.Write(func(tx *schema.Tx) error {
		s := tx.Stmt("UPDATE write_session SET owner = ? WHERE id = ?")
		s.BindText(1, pidOf(f.s.owner.name)+leftOwner)
		s.BindInt64(2, id)
		_, err := s.Step()
		return err
	})
	if err == nil {
		f.leave()
	}
	return id, err
}
