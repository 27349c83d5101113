package writesession

import (
	"math"

	"github.com/alkdev/alkfs/blobstore"
)

// What an fsync recorded of a session is what the next process publishes when
// this one dies, so its bytes in the staging file must not change: a version
// would show some of what was written after the fsync, and not the rest. Bytes
// written over them go to the overlay, a second sparse file; all others are
// written in place, as before an fsync.
//
// The next fsync records the overlay too. From then on its bytes can be copied
// into the staging file, as often as crashes make it start anew, since whoever
// reads the record lays the overlay over what it finds. That is done by the first
// change that follows; the overlay's file stays until a record without it is on
// the disk, and is then the next overlay, so that a database that syncs all the
// time has two that take turns and makes no files. What is written over recorded
// bytes is written twice, and nothing else is.

// guards reports whether byte off of st is one that an fsync recorded, and up to
// where that holds.
func (r *row) guards(st *blobstore.Staging, off int64) (in bool, end int64) {
	switch {
	case off >= r.guarded(st):
		return false, math.MaxInt64
	case off >= r.baseSize:
		return true, r.size
	}
	in, end = r.saved.run(off)
	return in, min(end, r.baseSize, r.size)
}

// guarded returns the size up to which an fsync recorded bytes of st.
func (r *row) guarded(st *blobstore.Staging) int64 {
	if !r.synced || r.file.of != st {
		return 0
	}
	return r.size
}

// put changes [off, end) of content that has a staging file, by calling do for
// each run with the file that it is to be written to. do returns how many bytes
// it has written; put goes on when that is all. change must be held, and fold
// must have been called.
func (f *File) put(off, end int64, do func(st *blobstore.Staging, at span) (int64, error)) (done int64, err error) {
	c := &f.mu.content
	for at := off; at < end; {
		over, stop := f.row.guards(c.staging, at)
		st := c.staging
		if over {
			if st, err = f.openOverlay(); err != nil {
				return done, err
			}
		}
		run := span{at, min(stop, end)}
		n, err := do(st, run)
		if n > 0 {
			// Bytes of either file are not looked at before they are marked
			// here, so readers need not wait for the disk.
			f.mu.Lock()
			c.overwritten(at, at+n)
			if over {
				c.over.add(at, at+n)
			}
			f.touch()
			f.mu.Unlock()
		}
		done += n
		if err != nil || n < run.len() {
			return done, err
		}
		at = run.end
	}
	return done, nil
}

// punch makes a run read as zeros.
func punch(st *blobstore.Staging, at span) (int64, error) {
	if err := st.Punch(at.off, at.len()); err != nil {
		return 0, err
	}
	return at.len(), nil
}

// openOverlay returns the overlay, made if need be. It may have bytes of old
// outside over. change must be held.
func (f *File) openOverlay() (*blobstore.Staging, error) {
	c := &f.mu.content
	if c.overlay != nil {
		return c.overlay, nil
	}
	st := f.row.spare.of
	if st == nil {
		var err error
		if st, err = f.s.blobs.NewStaging(); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	c.overlay = st
	f.mu.Unlock()
	return st, nil
}

// cut makes the files ready for content of size bytes: what they have beyond
// reads as zeros. change must be held, and fold must have been called.
func (f *File) cut(size int64) error {
	c := &f.mu.content
	guarded := f.row.guarded(c.staging)
	if err := c.staging.Truncate(max(size, guarded)); err != nil {
		return err
	}
	_, err := f.put(size, min(guarded, c.size), punch)
	return err
}

// confirm returns when the record of the last fsync is on the disk. change must
// be held.
func (f *File) confirm() error {
	for r := &f.row; r.synced && !r.sure; {
		if err := f.s.db.Sync(); err != nil {
			return err
		}
		if f.s.db.Losses() == r.losses {
			r.sure = true
			break
		}
		r.stale = true
		if err := f.save(true); err != nil {
			return err
		}
	}
	return nil
}

// unfolded reports whether fold has something to do. change must be held.
func (f *File) unfolded() bool {
	r, c := &f.row, &f.mu.content
	return r.synced && !r.sure || c.overlay != nil && c.overlay == r.over.of
}

// fold copies the overlay, when it is recorded, into the staging file. Whatever
// changes the content calls it first. change must be held.
func (f *File) fold() error {
	if !f.unfolded() {
		return nil
	}
	if err := f.confirm(); err != nil {
		return err
	}
	c := &f.mu.content
	if c.overlay == nil {
		return nil
	}
	if n := len(c.over); n > 0 && c.over[n-1].end > c.size { // it was cut
		if err := c.staging.Truncate(c.size); err != nil {
			return err
		}
	}
	for _, r := range c.over {
		r.end = min(r.end, c.size)
		n, err := c.staging.CopyRange(c.overlay, c.overlay.File(), r.off, r.off, r.len())
		if err == nil {
			err = c.staging.Punch(r.off+n, r.len()-n)
		}
		if err != nil {
			return err
		}
	}
	f.mu.Lock()
	c.over, c.overlay = nil, nil // the file is the row's
	f.mu.Unlock()
	return nil
}

// flatten leaves all that is not the base's in the staging file. change must be
// held.
func (f *File) flatten() error {
	c := &f.mu.content
	if c.overlay != nil && c.overlay != f.row.over.of {
		if err := f.save(true); err != nil {
			return err
		}
	}
	return f.fold()
}
