package blobs

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/alkdev/alkfs/blobstore"
)

// task is the chunks of one request.
type task struct {
	bucket [16]byte
	prio   blobstore.Priority
	hops   uint8
	chunks []*chunk
}

// next waits for something for a worker of p to do. ok is false when ctx ended.
func (f *Fetcher) next(ctx context.Context, p *peer, bulk bool) (t *task, ok bool) {
	for ctx.Err() == nil {
		f.mu.Lock()
		if !bulk {
			p.urgent = false
		}
		now := time.Now()
		var again time.Time
		if p.rest.After(now) && len(f.mu.peers) > 0 {
			again = p.rest
		} else {
			t, again = f.pickLocked(p, now, bulk)
		}
		if !bulk && t != nil {
			p.urgent = true
			f.wakeLocked() // the other workers help
		}
		changed := f.mu.changed
		f.mu.Unlock()
		if t != nil {
			return t, true
		}
		var timer *time.Timer
		var alarm <-chan time.Time
		if !again.IsZero() {
			timer = time.NewTimer(time.Until(again))
			alarm = timer.C
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-alarm:
		}
		if timer != nil {
			timer.Stop()
		}
	}
	return nil, false
}

// offer is groups that a peer could be asked for.
type offer struct {
	w *work
	d *demand
	r blobstore.Range
}

// pickLocked returns the most urgent chunk that p can bring, with other small
// ones when it is not urgent; else one that a slow peer has; else when to look
// again, zero for not before something changes. What somebody waits for is for the
// worker that does nothing else, unless it is busy. mu must be held.
func (f *Fetcher) pickLocked(p *peer, now time.Time, bulk bool) (t *task, again time.Time) {
	var best []offer
	for _, w := range slices.Clone(f.mu.works) {
		again = earlier(again, f.dropForeignLocked(w, now))
		if len(w.refused[p.Key()]) >= len(w.buckets) {
			continue
		}
		if o, ok := f.offerLocked(w, p); ok {
			if waits := o.d.prio == blobstore.Reading; bulk && (!waits || p.urgent) || !bulk && waits {
				best = append(best, o)
			}
		}
	}
	slices.SortStableFunc(best, func(a, b offer) int { return cmp.Compare(b.d.prio, a.d.prio) })
	for _, o := range best {
		var a time.Time
		if t, a = f.addLocked(t, o, p, now); t == nil { // another process is at it, or was
			again = earlier(again, a)
			continue
		}
		if o.d.prio >= blobstore.Ahead || o.w.p.Groups() > smallGroups || len(t.chunks) == batchItems {
			break
		}
	}
	if t != nil {
		return t, again
	}
	return f.rescueLocked(p, now, again, bulk)
}

// offerLocked returns the first groups of the most urgent demand on w that
// nobody is bringing. mu must be held.
func (f *Fetcher) offerLocked(w *work, p *peer) (o offer, ok bool) {
	for _, d := range w.demands {
		if ok && d.prio <= o.d.prio || d.relayed && d.from == p.Key() {
			continue
		}
		for _, r := range w.missing(d) {
			if r, free := w.free(r); free {
				o, ok = offer{w, d, r}, true
				break
			}
		}
	}
	return o, ok
}

// free returns the first groups of r, a chunk at most, that are in no chunk.
func (w *work) free(r blobstore.Range) (blobstore.Range, bool) {
	at, end := r.First, r.End()
	for at < end {
		stop := end
		inside := false
		for _, c := range w.chunks {
			if c.r.First <= at && at < c.r.End() {
				at, inside = c.r.End(), true
				break
			}
			if c.r.First > at {
				stop = min(stop, c.r.First)
			}
		}
		if inside {
			continue
		}
		// Chunks end where frames do.
		return blobstore.Range{First: at, Count: min(stop-at, chunkGroups-at%blobstore.FrameGroups)}, true
	}
	return r, false
}

// earlier returns the earlier of two times, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// addLocked adds an offer to a task, made if need be, unless it does not fit.
// When another process has claimed it, or has brought it meanwhile, it returns
// when to look again. mu must be held.
func (f *Fetcher) addLocked(t *task, o offer, p *peer, now time.Time) (*task, time.Time) {
	bucket := o.w.buckets[len(o.w.refused[p.Key()])]
	if t != nil && (t.bucket != bucket || o.w.p.Groups() > smallGroups || o.d.prio >= blobstore.Ahead) {
		return t, time.Time{}
	}
	release, ok, err := o.w.p.Claim(o.r)
	if err != nil {
		f.failLocked(o.w, err)
		return t, now
	}
	if !ok {
		until := now.Add(foreignWait)
		o.w.chunks = append(o.w.chunks, &chunk{w: o.w, r: o.r, until: until})
		return t, until
	}
	missing := o.w.p.Lacks(o.r)
	if len(missing) == 0 {
		release()
		f.settleLocked(o.w)
		return t, now
	}
	o.r = missing[0]
	if t == nil {
		t = &task{bucket: bucket, prio: o.d.prio, hops: o.d.hops}
	}
	c := &chunk{w: o.w, r: o.r, peer: p, began: now, urgent: o.d.prio == blobstore.Reading, release: release}
	o.w.chunks = append(o.w.chunks, c)
	t.chunks = append(t.chunks, c)
	return t, time.Time{}
}

// dropForeignLocked forgets claims of other processes that are due to be looked
// at, and returns when the next is. mu must be held.
func (f *Fetcher) dropForeignLocked(w *work, now time.Time) (next time.Time) {
	dropped := false
	w.chunks = slices.DeleteFunc(w.chunks, func(c *chunk) bool {
		if c.peer != nil {
			return false
		}
		if !c.until.After(now) {
			_, _ = w.p.Missing(c.r) // takes in what the other process brought
			dropped = true
			return true
		}
		next = earlier(next, c.until)
		return false
	})
	if dropped {
		f.settleLocked(w)
	}
	return next
}

// rescueLocked returns what is left of the chunk that another peer has had for
// longest, if that is too long. mu must be held.
func (f *Fetcher) rescueLocked(p *peer, now, again time.Time, bulk bool) (*task, time.Time) {
	var late *chunk
	var missing []blobstore.Range
	for _, w := range f.mu.works {
		if len(w.demands) == 0 || len(w.refused[p.Key()]) >= len(w.buckets) {
			continue
		}
		if d := w.demands[0]; d.relayed && d.from == p.Key() {
			continue
		}
		for _, c := range w.chunks {
			if c.peer == nil || c.peer == p || c.again || !bulk && !c.urgent {
				continue
			}
			patience := f.o.Slow
			if c.urgent {
				patience /= 4
			}
			due := c.began.Add(patience)
			if due.After(now) {
				again = earlier(again, due)
			} else if late == nil || c.began.Before(late.began) {
				if m := w.p.Lacks(c.r); len(m) > 0 {
					late, missing = c, m
				}
			}
		}
	}
	if late == nil {
		return nil, again
	}
	d := late.w.demands[0]
	o := offer{late.w, d, blobstore.Range{First: missing[0].First, Count: late.r.End() - missing[0].First}}
	t, a := f.addLocked(nil, o, p, now)
	again = earlier(again, a)
	if t != nil {
		late.again = true
		t.chunks[0].again = true
		f.counts.rerequests.Add(1)
		f.log.Info("chunk asked of a second member", "hash", late.w.p.Hash().String(), "slow", late.peer.Key().Short(), "other", p.Key().Short())
	}
	return t, again
}
