package fusefs

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// eventBatch bounds how many events are read in one transaction.
const eventBatch = 256

// settle is how long an answer may take from here to the kernel.
const settle = latency.Moment(time.Second)

// repeat is an event to go through a second time. The kernel cannot drop the
// attributes of an inode that an answer, computed before the event, is only
// bringing it. (Names are safe: it waits for lookups before it drops one.)
type repeat struct {
	at    latency.Moment
	event *notify.Event // nil: drop everything
}

// follow tells the kernel of what other surfaces change, from event after on,
// until ctx ends. It holds no lock while it does: the kernel may have to wait
// for requests that are being answered.
func (fs *fileSystem) follow(ctx context.Context, after int64) {
	var again []repeat
	for ctx.Err() == nil {
		gen := fs.db.Generation()
		events, last, err := fs.news(after)
		switch {
		case errors.Is(err, notify.ErrFellBehind) || fs.lost.Swap(false):
			fs.dropAll()
			again = []repeat{{at: latency.Now() + settle}}
		case err != nil:
			fs.log.Error("changes made elsewhere cannot be followed", keyError, err)
			sleep(ctx, time.Second)
			continue
		}
		after = last
		for i := range events {
			if e := &events[i]; fs.event(e) {
				again = append(again, repeat{latency.Now() + settle, e})
			}
		}
		for len(again) > 0 && again[0].at <= latency.Now() {
			if e := again[0].event; e != nil {
				fs.event(e)
			} else {
				fs.dropAll()
			}
			again = again[1:]
		}
		if len(events) == 0 {
			fs.wait(ctx, gen, again)
		}
	}
}

// wait returns when the database is no longer of generation gen, the first of
// again is due, or ctx ends.
func (fs *fileSystem) wait(ctx context.Context, gen uint32, again []repeat) {
	if len(again) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(again[0].at-latency.Now()))
		defer cancel()
	}
	_, _ = fs.db.Wait(ctx, gen) // its only error is that ctx has ended
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// news returns the events after the given one that this mount has not made,
// and the number of the last one looked at. Events of this process may not be
// committed yet: if they are lost, so is what was dropped for them.
func (fs *fileSystem) news(after int64) (events []notify.Event, last int64, err error) {
	except := fs.origin
	if fs.anyLive() {
		except = 0 // what is done in a branch here shows in those that follow it
	}
	err = fs.db.Read(func(tx *schema.Tx) error {
		var err error
		events, last, err = notify.SinceExcept(tx, after, except, eventBatch)
		if errors.Is(err, notify.ErrFellBehind) {
			last, _ = notify.Last(tx)
		}
		return err
	})
	return events, last, err
}

// anyLive reports whether a branch shown here follows another.
func (fs *fileSystem) anyLive() bool {
	fs.vols.Lock()
	defer fs.vols.Unlock()
	for _, v := range fs.vols.open {
		if len(v.follows) > 1 {
			return true
		}
	}
	return false
}

// followers returns the branches shown here that the change e concerns and
// whose kernel caches it has not gone through.
func (fs *fileSystem) followers(e *notify.Event) (list []*volume) {
	fs.vols.Lock()
	defer fs.vols.Unlock()
	for _, v := range fs.vols.open {
		own := e.Origin == fs.origin && v.branch == e.Branch
		if !own && slices.Contains(v.follows, e.Branch) {
			list = append(list, v)
		}
	}
	return list
}

// event goes through the kernel's caches for e, and reports whether an answer
// may be on its way that will bring back what e made stale.
func (fs *fileSystem) event(e *notify.Event) (late bool) {
	if e.Op == notify.OpBranch || e.Op == notify.OpBucket {
		fs.epoch.Add(1)
		fs.volumesChanged(e)
		return false // what is known of those is not cached for longer
	}
	for _, vol := range fs.followers(e) {
		fs.epoch.Add(1)
		late = fs.answering(vol, e) || late
		fs.invalidate(vol, e)
	}
	return late
}

// answering reports whether an inode that e is about was looked up just now.
func (fs *fileSystem) answering(vol *volume, e *notify.Event) bool {
	since := int64(latency.Now() - settle)
	for _, ino := range [...]uint64{e.Ino, e.Parent, uint64(e.Ref)} {
		n := fs.nodes.find(nodeKey{vol.branch, pathtree.Ino(ino)})
		if n != nil && n.answered.Load() > since {
			return true
		}
	}
	return false
}

// invalidate drops what the change e made stale, here and in the kernel.
func (fs *fileSystem) invalidate(vol *volume, e *notify.Event) {
	ino, parent, name := pathtree.Ino(e.Ino), pathtree.Ino(e.Parent), string(e.Name)
	switch e.Op {
	case notify.OpCreate:
		fs.entryChanged(vol, parent, name, 0)
	case notify.OpLink:
		fs.attrChanged(vol, ino)
		fs.entryChanged(vol, parent, name, 0)
	case notify.OpRemove:
		fs.attrChanged(vol, ino)
		fs.entryChanged(vol, parent, name, ino)
	case notify.OpRename:
		fs.attrChanged(vol, ino)
		fs.entryChanged(vol, pathtree.Ino(e.Ref), string(e.Old), 0)
		fs.entryChanged(vol, parent, name, 0)
	case notify.OpContent:
		fs.contentChanged(vol, ino)
	case notify.OpAttr, notify.OpXattr:
		fs.attrChanged(vol, ino)
	}
}

// entryChanged makes the kernel look name up again, unless what it has is
// right: a working directory must not be cut off for nothing. removed is the
// inode that had the name, if that is known.
func (fs *fileSystem) entryChanged(vol *volume, parent pathtree.Ino, name string, removed pathtree.Ino) {
	dir := fs.nodes.find(nodeKey{vol.branch, parent})
	if dir == nil {
		return
	}
	dir.drop(false)
	fs.told(fs.server.InodeNotify(dir.id, 0, 0)) // attributes and listing
	var now pathtree.Entry
	err := fs.db.Read(func(tx *schema.Tx) (err error) {
		now, err = vol.view.Lookup(tx, parent, name)
		return err
	})
	if err == nil {
		if n := fs.nodes.find(nodeKey{vol.branch, now.Ino}); n != nil && fs.nodes.isAt(n, dir.id, name) {
			return
		}
	}
	if was := fs.nodes.find(nodeKey{vol.branch, removed}); was != nil && errors.Is(err, syscall.ENOENT) {
		if fs.told(fs.server.DeleteNotify(dir.id, was.id, name)) {
			return
		}
	}
	fs.told(fs.server.EntryNotify(dir.id, name))
}

// attrChanged drops the attributes of an inode.
func (fs *fileSystem) attrChanged(vol *volume, ino pathtree.Ino) {
	if n := fs.nodes.find(nodeKey{vol.branch, ino}); n != nil {
		n.drop(true)
		fs.told(fs.server.InodeNotify(n.id, -1, 0))
	}
}

// contentChanged drops the attributes and the pages of a file.
func (fs *fileSystem) contentChanged(vol *volume, ino pathtree.Ino) {
	if n := fs.nodes.find(nodeKey{vol.branch, ino}); n != nil {
		n.drop(false)
		fs.sessions.Refresh(vol.branch, ino)
		fs.told(fs.server.InodeNotify(n.id, 0, 0))
	}
}

// told counts a notice, and reports whether the kernel had a use for it.
func (fs *fileSystem) told(st fuse.Status) bool {
	fs.invalidations.Add(1)
	return st.Ok()
}

// volumesChanged drops the names of buckets and branches that are no longer
// right.
func (fs *fileSystem) volumesChanged(e *notify.Event) {
	names := []string{string(e.Name)}
	fs.vols.Lock()
	vol := fs.vols.open[e.Ref]
	fs.vols.Unlock()
	if vol != nil { // perhaps renamed
		if n := fs.nodes.find(nodeKey{vol.branch, vol.view.Root()}); n != nil {
			_, name := fs.nodes.place(n)
			names = append(names, name)
		}
	}
	if e.Op == notify.OpBranch {
		fs.dropVolume(e.Ref)
	}
	for _, dir := range fs.nodes.all() {
		if dir.vol != nil {
			continue
		}
		fs.told(fs.server.InodeNotify(dir.id, 0, 0))
		for _, name := range names {
			if name != "" && !fs.volumeStands(dir, name) {
				fs.told(fs.server.EntryNotify(dir.id, name))
			}
		}
	}
}

// dropVolume forgets a branch that was removed. What is open there goes on.
func (fs *fileSystem) dropVolume(branch int64) {
	gone := false
	err := fs.db.Read(func(tx *schema.Tx) error {
		b, err := fs.tree.BranchByID(tx, branch)
		gone = pathtree.Errno(err) == syscall.ENOENT || err == nil && b.Deleted != 0
		return nil
	})
	if err == nil && gone {
		fs.vols.Lock()
		delete(fs.vols.open, branch)
		fs.vols.Unlock()
	}
}

// volumeStands reports whether the kernel knows name as what it is now.
func (fs *fileSystem) volumeStands(dir *node, name string) (stands bool) {
	fs.db.Read(func(tx *schema.Tx) error {
		var k nodeKey
		if dir.bucket == 0 {
			b, err := fs.tree.Bucket(tx, name)
			if err != nil {
				return err
			}
			k = makeKey(nil, b.ID, 0)
		} else {
			b, err := fs.tree.Branch(tx, dir.bucket, name)
			if err != nil {
				return err
			}
			vol, err := fs.volume(tx, b.ID)
			if err != nil {
				return err
			}
			k = nodeKey{b.ID, vol.view.Root()}
		}
		n := fs.nodes.find(k)
		stands = n != nil && fs.nodes.isAt(n, dir.id, name)
		return nil
	})
	return stands
}

// dropAll drops everything: what changed is not known.
func (fs *fileSystem) dropAll() {
	fs.epoch.Add(1)
	for _, n := range fs.nodes.all() {
		n.drop(true)
		if n.vol != nil {
			fs.sessions.Refresh(n.vol.branch, n.ino)
		}
		fs.told(fs.server.InodeNotify(n.id, 0, 0))
		if parent, name := fs.nodes.place(n); name != "" {
			fs.told(fs.server.EntryNotify(parent, name))
		}
	}
}
