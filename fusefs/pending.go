package fusefs

import (
	"sync"
	"time"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// pendingFor bounds how long attributes may wait for a publish to join.
const pendingFor = 20 * time.Millisecond

// pendingNodes are the nodes that have attributes set and not yet recorded.
//
// tar, cp -p, unzip and npm set owner, mode and times of each file they have
// just written, before they close it. Recorded at once each of these would cost
// as much as the publish; so while a file is open for writing they wait for
// that, or for pendingFor. This mount shows them at once.
type pendingNodes struct {
	sync.Mutex
	list  []*node
	timer *time.Timer
	// recording is held while they are recorded, so that who asks for it waits
	// for a timer that was faster. It comes before all other locks.
	recording sync.Mutex
}

// postpone keeps set for the next publish of n and reports true, or reports
// false when it must be recorded now.
func (fs *fileSystem) postpone(n *node, set pathtree.SetAttr) bool {
	n.mu.Lock()
	ok, f := n.mayPostpone(), n.mu.file
	n.mu.Unlock()
	if !ok {
		return false
	}
	if set.Mtime != nil && f.SetMtime(*set.Mtime) {
		set.Mtime = nil // the publish records it, or that of a later write
	}
	now := time.Now().UnixNano()
	n.mu.Lock()
	if !n.mayPostpone() {
		n.mu.Unlock()
		return false
	}
	in := &n.mu.inode
	if set.UID != nil || set.GID != nil {
		chownMode(*in, &set)
	}
	now = max(now, in.Ctime+1)
	set.Ctime = &now
	set.Apply(in)
	n.mu.version++
	first := n.mu.pending == nil
	n.mu.pending = merged(n.mu.pending, &set)
	n.mu.Unlock()
	if first {
		fs.pending.add(n, fs.recordPending)
	}
	return true
}

// mayPostpone reports whether attributes of n can wait: it is open for
// writing, and nothing follows from them but themselves. mu must be held.
func (n *node) mayPostpone() bool {
	const plain = xattrsKnown
	return n.mu.writers > 0 && n.mu.fresh && n.mu.xattrs&(plain|xattrsSpecial) == plain
}

// merged returns what old and then set set. It may change old.
func merged(old, set *pathtree.SetAttr) *pathtree.SetAttr {
	if old == nil {
		return set
	}
	later(&old.Mode, set.Mode)
	later(&old.UID, set.UID)
	later(&old.GID, set.GID)
	later(&old.Atime, set.Atime)
	later(&old.Mtime, set.Mtime)
	later(&old.Ctime, set.Ctime)
	return old
}

func later[T any](p **T, v *T) {
	if v != nil {
		*p = v
	}
}

// Take implements writesession.Attrs.
func (n *node) Take() *pathtree.SetAttr {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.mu.pending
	n.mu.pending = nil
	return p
}

// Restore implements writesession.Attrs.
func (n *node) Restore(p *pathtree.SetAttr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.pending == nil {
		n.mu.pending = p
	} else {
		n.mu.pending = merged(p, n.mu.pending)
	}
}

func (n *node) hasPending() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.pending != nil
}

func (p *pendingNodes) add(n *node, flush func()) {
	p.Lock()
	defer p.Unlock()
	p.list = append(p.list, n)
	switch {
	case len(p.list) > 1:
	case p.timer == nil:
		p.timer = time.AfterFunc(pendingFor, flush)
	default:
		p.timer.Reset(pendingFor)
	}
}

func (p *pendingNodes) take() []*node {
	p.Lock()
	defer p.Unlock()
	list := p.list
	p.list = nil
	return list
}

// recordPending records the attributes that still wait.
func (fs *fileSystem) recordPending() {
	fs.pending.recording.Lock()
	defer fs.pending.recording.Unlock()
	for _, n := range fs.pending.take() {
		if err := fs.recordAttrs(n); err != nil {
			fs.log.Error("set attributes", keyInode, n.ino, keyError, err)
		}
	}
}

// recordAttrs records the attributes of n that wait, if any do.
func (fs *fileSystem) recordAttrs(n *node) error {
	if !n.hasPending() {
		return nil
	}
	var in pathtree.Inode
	var p *pathtree.SetAttr
	err := fs.db.Write(func(tx *schema.Tx) error {
		if p = n.Take(); p == nil {
			return nil
		}
		var err error
		if in, err = n.vol.view.SetAttr(tx, n.ino, *p); err == nil {
			n.store(&in)
		}
		return err
	})
	if err != nil {
		n.drop(true)
		return err
	}
	if p != nil {
		observe(n, &in)
	}
	return nil
}
