package fusefs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/writesession"
)

// volume is one branch as the mount shows it.
type volume struct {
	view   *pathtree.View
	branch int64
	// mix is XORed into inode numbers so that the branches of one mount do not
	// share any; 0 in a mount of a single branch.
	mix uint64
	// follows are the branches whose events concern this one: itself, and its
	// ancestors as far as it is live. Empty in a view of the past.
	follows []int64
}

// stIno returns the st_ino of an inode of v.
func (v *volume) stIno(ino pathtree.Ino) uint64 { return uint64(ino) ^ v.mix }

// node is an inode the kernel knows by its id. A node with neither vol nor
// bucket is the directory of all buckets, one without vol the directory of a
// bucket's branches.
type node struct {
	id     uint64
	vol    *volume
	bucket int64
	ino    pathtree.Ino

	// Guarded by nodes.mu: how often the kernel was given the id, and under
	// which name it was last.
	lookups uint64
	parent  uint64
	name    string

	// releasing is held by a RELEASE up to where it is no longer counted, so
	// that one of several at a time knows to be the last and publishes. It
	// comes before all other locks.
	releasing sync.Mutex

	// answered is when, by latency.Now, a lookup was last answered with
	// this inode. The answer may still be on its way.
	answered atomic.Int64

	listing atomic.Pointer[listing] // of a directory that was opened

	// mu may be taken inside a database transaction, and nothing is called
	// while it is held. What is kept here is stored inside the transaction
	// that read or made it, which orders it against all others.
	mu struct {
		sync.Mutex
		inode   pathtree.Inode
		fresh   bool   // inode is what the database holds
		version uint64 // counts what was stored or dropped
		xattrs  xattrFlags
		file    *writesession.File // while the kernel has it open
		opens   int
		writers int // of opens, those that may write
		io      ioMode
		pending *pathtree.SetAttr // set, laid over inode, and not recorded
	}
}

// list returns the listing of a directory.
func (n *node) list() *listing {
	if l := n.listing.Load(); l != nil {
		return l
	}
	n.listing.CompareAndSwap(nil, &listing{})
	return n.listing.Load()
}

// store keeps in as what the database holds, after laying over it what waits
// to be recorded. Call it inside the transaction.
func (n *node) store(in *pathtree.Inode) {
	n.mu.Lock()
	if n.mu.pending != nil {
		n.mu.pending.Apply(in)
	}
	n.mu.inode, n.mu.fresh = *in, true
	n.mu.version++
	n.mu.Unlock()
}

// drop forgets the inode kept, and what is known of its attributes if all.
func (n *node) drop(all bool) {
	n.mu.Lock()
	n.mu.fresh = false
	n.mu.version++
	if all {
		n.mu.xattrs = 0
	}
	n.mu.Unlock()
}

// openFile returns the open file, nil without one.
func (n *node) openFile() *writesession.File {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.file
}

// nodeKey identifies what a node shows.
type nodeKey struct {
	branch int64 // 0: a synthetic directory, and ino a bucket id or 0
	ino    pathtree.Ino
}

func makeKey(vol *volume, bucket int64, ino pathtree.Ino) nodeKey {
	if vol == nil {
		return nodeKey{0, pathtree.Ino(bucket)}
	}
	return nodeKey{vol.branch, ino}
}

func (n *node) key() nodeKey { return makeKey(n.vol, n.bucket, n.ino) }

// nodes is the table of nodes. Its lock may be taken inside a transaction.
type nodes struct {
	mu    sync.Mutex
	byID  map[uint64]*node
	byKey map[nodeKey]*node
	// single is set when all nodes are of one branch: an id is then the inode
	// number, and so a file handle (NFS) stays good over a remount.
	single bool
	next   uint64 // next id that is no inode number
	count  atomic.Int64
}

func newNodes(root *node) *nodes {
	root.id, root.lookups = fuse.FUSE_ROOT_ID, 1
	t := &nodes{
		byID:   map[uint64]*node{root.id: root},
		byKey:  map[nodeKey]*node{root.key(): root},
		single: root.vol != nil,
		next:   1 << 63,
	}
	t.count.Store(1)
	return t
}

// get returns the node of an id the kernel sent, nil when it is not known:
// then a file handle outlived it.
func (t *nodes) get(id uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// find returns the node of a key, nil when the kernel does not know it.
func (t *nodes) find(k nodeKey) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[k]
}

// enter returns the node of inode ino of vol, or without a vol that of a
// bucket's directory, and counts one more lookup of it, under (parent, name).
func (t *nodes) enter(vol *volume, bucket int64, ino pathtree.Ino, parent uint64, name string) *node {
	k := makeKey(vol, bucket, ino)
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byKey[k]
	if n == nil {
		n = &node{vol: vol, bucket: bucket, ino: ino, id: uint64(ino)}
		if !t.single || t.byID[n.id] != nil {
			n.id = t.next
			t.next++
		}
		t.byID[n.id] = n
		t.byKey[k] = n
		t.count.Add(1)
	}
	n.lookups++
	if n.id != fuse.FUSE_ROOT_ID {
		n.parent, n.name = parent, name
	}
	return n
}

// forget takes back n lookups of id.
func (t *nodes) forget(id, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	nd := t.byID[id]
	if nd == nil || id == fuse.FUSE_ROOT_ID {
		return
	}
	if nd.lookups > n {
		nd.lookups -= n
		return
	}
	delete(t.byID, id)
	if k := nd.key(); t.byKey[k] == nd {
		delete(t.byKey, k)
	}
	t.count.Add(-1)
}

// detach makes the next lookup of what n shows give another node.
func (t *nodes) detach(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := n.key(); t.byKey[k] == n {
		delete(t.byKey, k)
	}
}

// moved records the name under which n is known now.
func (t *nodes) moved(n *node, parent uint64, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.parent, n.name = parent, name
}

// place returns where n was last seen.
func (t *nodes) place(n *node) (parent uint64, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.parent, n.name
}

// isAt reports whether n was last seen under (parent, name).
func (t *nodes) isAt(n *node, parent uint64, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.parent == parent && n.name == name
}

// all returns every node.
func (t *nodes) all() []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*node, 0, len(t.byID))
	for _, n := range t.byID {
		list = append(list, n)
	}
	return list
}

// handles is the table of open files and directories.
type handles struct {
	mu    sync.Mutex
	open  []*handle // by fh - 1
	free  []uint64
	count atomic.Int64
}

// handle is one open file or directory.
type handle struct {
	node        *node
	file        *writesession.File // of a regular file
	writable    bool
	writers     writers
	passthrough bool
	dir         *listing
}

func (t *handles) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count.Add(1)
	if n := len(t.free); n > 0 {
		fh := t.free[n-1]
		t.free = t.free[:n-1]
		t.open[fh-1] = h
		return fh
	}
	t.open = append(t.open, h)
	return uint64(len(t.open))
}

func (t *handles) get(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fh == 0 || fh > uint64(len(t.open)) {
		return nil
	}
	return t.open[fh-1]
}

// remove returns the handle taken out, nil when there is none.
func (t *handles) remove(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fh == 0 || fh > uint64(len(t.open)) || t.open[fh-1] == nil {
		return nil
	}
	h := t.open[fh-1]
	t.open[fh-1] = nil
	t.free = append(t.free, fh)
	t.count.Add(-1)
	return h
}

func (t *handles) all() []*handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list()
}

// takeAll removes every handle and returns them.
func (t *handles) takeAll() []*handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.list()
	clear(t.open)
	return list
}

// list returns every handle. mu must be held.
func (t *handles) list() []*handle {
	var list []*handle
	for _, h := range t.open {
		if h != nil {
			list = append(list, h)
		}
	}
	return list
}
