package writesession

import (
	"context"
	"errors"
	"time"
)

// background tells other processes which files are open, records sessions that
// are older than Options.PersistAfter, publishes what deferred flushes left, and
// follows the policies of the buckets, until ctx ends.
func (s *Sessions) background(ctx context.Context) {
	every := s.opts.PersistAfter
	t := time.NewTicker(every)
	defer t.Stop()
	var seen uint32
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s.holdOpen()
		if gen := s.db.Generation(); gen != seen {
			if err := s.Policies(); err != nil {
				s.log.Warn("policies not read", "error", err)
			} else {
				seen = gen
			}
		}
		n := now()
		for _, f := range s.open(func(f *File) bool { return f.wants(n-int64(every), n) }) {
			if ctx.Err() != nil {
				return
			}
			s.wg.Go(func() { f.attend(ctx, n) }) // one may take long
		}
	}
}

// wants reports whether f was changed before old and that is not recorded, or
// a publish is due.
func (f *File) wants(old, now int64) bool {
	since, due := f.since.Load(), f.due.Load()
	return since != 0 && since <= old || due != 0 && due <= now
}

// attend does what f wants, unless somebody is changing it right now: then it
// is looked at the next time.
func (f *File) attend(ctx context.Context, now int64) {
	if !f.change.TryLock() {
		return
	}
	defer f.release()
	var err error
	if due := f.due.Load(); due != 0 && due <= now {
		if _, err = f.publish(ctx); err == nil {
			f.due.Store(0)
			return
		}
		f.s.log.Warn("deferred publish failed; the last close tries again", "ino", f.ino, "error", err)
		f.due.Store(now + int64(time.Minute))
	}
	switch err = f.linked(); {
	case errors.Is(err, errUnlinked) || gone(err):
		f.since.Store(0) // nobody could recover it
		err = nil
	case err == nil:
		err = f.save(false)
		f.since.Store(0) // the next change counts anew
	}
	if err != nil {
		f.s.log.Warn("session not recorded", "ino", f.ino, "error", err)
	}
}
