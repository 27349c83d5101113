package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// dirStream is an open directory. Offset 1 is after ".", 2 after "..", i+3
// after seen[i]: what was once given an offset keeps it until the directory is
// rewound, whatever is added or removed meanwhile.
type dirStream struct {
	mu   sync.Mutex // taken before transactions
	seen []pathtree.Entry
	all  bool // seen is everything: a directory of buckets or branches
}

// dotEntries is how many entries come before those of the database.
const dotEntries = 2

// OpenDir implements OPENDIR.
func (fs *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := fs.node(in.NodeId)
	if err != nil {
		return status(err)
	}
	out.Fh = fs.handles.add(&handle{node: n, dir: &dirStream{}})
	if n.vol != nil {
		// The listing stays cached until the kernel changes the directory
		// itself or is told of a change.
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	}
	return fuse.OK
}

// ReleaseDir implements RELEASEDIR.
func (fs *fileSystem) ReleaseDir(in *fuse.ReleaseIn) { fs.handles.remove(in.Fh) }

// FsyncDir implements FSYNCDIR.
func (fs *fileSystem) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	fs.recordPending()
	return status(fs.db.Sync())
}

// ReadDir implements READDIR.
func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, out, false)
}

// ReadDirPlus implements READDIRPLUS: READDIR and a LOOKUP of each entry.
func (fs *fileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, out, true)
}

func (fs *fileSystem) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	h := fs.handles.get(in.Fh)
	if h == nil || h.dir == nil {
		return fuse.EBADF
	}
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	r := &dirReader{fs: fs, n: h.node, dir: h.dir, out: out, plus: plus, epoch: fs.epoch.Load()}
	if in.Offset == 0 {
		h.dir.seen = nil
	}
	if !r.dots(in.Offset) {
		return fuse.OK
	}
	start := 0
	if in.Offset > dotEntries {
		start = int(in.Offset - dotEntries)
	}
	if h.node.vol == nil {
		return status(r.volumes(start))
	}
	return status(r.entries(start, int(in.Size)))
}

// dirReader answers one READDIR or READDIRPLUS.
type dirReader struct {
	fs    *fileSystem
	n     *node
	dir   *dirStream
	out   *fuse.DirEntryList
	plus  bool
	epoch uint64
	open  []openEntry
}

// openEntry is an entry whose file is open: what is written and not published
// is laid over its attributes once the transaction is over.
type openEntry struct {
	file *writesession.File
	in   pathtree.Inode
	out  *fuse.EntryOut
}

// dots adds "." and ".." if they come after offset, and reports whether there
// is room for more.
func (r *dirReader) dots(offset uint64) bool {
	if offset == 0 && r.add(".", r.stIno(r.n), fuse.S_IFDIR, 1) == nil {
		return false
	}
	if offset > 1 {
		return true
	}
	parent, _ := r.fs.nodes.place(r.n)
	p := r.fs.nodes.get(parent)
	if p == nil {
		p = r.n
	}
	return r.add("..", r.stIno(p), fuse.S_IFDIR, 2) != nil
}

func (r *dirReader) stIno(n *node) uint64 {
	if n.vol == nil {
		return volumeDirIno(n.bucket)
	}
	return n.vol.stIno(n.ino)
}

// add appends an entry and returns where its attributes go, nil when it does
// not fit. Without a node id there the kernel takes no attributes.
func (r *dirReader) add(name string, stIno uint64, mode uint32, off uint64) *fuse.EntryOut {
	e := fuse.DirEntry{Name: name, Ino: stIno, Mode: mode, Off: off}
	if r.plus {
		return r.out.AddDirLookupEntry(e)
	}
	if r.out.AddDirEntry(e) {
		return &fuse.EntryOut{}
	}
	return nil
}

// volumes lists buckets or branches.
func (r *dirReader) volumes(start int) error {
	if !r.dir.all || start == 0 {
		list, err := r.fs.volumeEntries(r.n)
		if err != nil {
			return err
		}
		r.dir.seen, r.dir.all = list, true
	}
	for i := start; i < len(r.dir.seen); i++ {
		e := &r.dir.seen[i]
		if r.add(e.Name, uint64(e.Ino), e.Kind, uint64(i+1+dotEntries)) == nil {
			break
		}
	}
	return nil
}

// entryBytes is about what an entry with a short name takes in an answer.
const entryBytes, entryPlusBytes = 40, 170

// entries lists a directory of a branch from entry start on.
func (r *dirReader) entries(start, size int) error {
	if start > len(r.dir.seen) {
		return nil // an offset nobody was given
	}
	after := ""
	if start > 0 {
		after = r.dir.seen[start-1].Name
	}
	per := entryBytes
	if r.plus {
		per = entryPlusBytes
	}
	for want := size/per + 1; ; {
		full, last, got := false, after, 0
		err := r.fs.db.Read(func(tx *schema.Tx) error {
			list, inodes, err := r.read(tx, after, want)
			if err != nil {
				return err
			}
			got = len(list)
			for i := range list {
				if full = !r.entry(&start, &list[i], inodes, i); full {
					break
				}
				last = list[i].Name
			}
			return nil
		})
		if err != nil {
			return err
		}
		if full || got < want {
			break
		}
		after = last
	}
	for _, e := range r.open {
		in := overlay(e.file, e.in)
		r.fs.fillAttr(r.n.vol, &in, &e.out.Attr)
	}
	return nil
}

func (r *dirReader) read(tx *schema.Tx, after string, n int) ([]pathtree.Entry, []pathtree.Inode, error) {
	if r.plus {
		return r.n.vol.view.ReadDirPlus(tx, r.n.ino, after, n)
	}
	list, err := r.n.vol.view.ReadDir(tx, r.n.ino, after, n)
	return list, nil, err
}

// entry adds one entry at index *i of the stream or later, and reports false
// when the answer is full.
func (r *dirReader) entry(i *int, e *pathtree.Entry, inodes []pathtree.Inode, k int) bool {
	seen := r.dir.seen
	for *i < len(seen) && seen[*i].Name < e.Name {
		*i++ // removed since it was given its offset
	}
	if *i < len(seen) && seen[*i].Name > e.Name {
		return true // added since, where there is no offset left
	}
	vol := r.n.vol
	out := r.add(e.Name, vol.stIno(e.Ino), e.Kind, uint64(*i+1+dotEntries))
	if out == nil {
		return false
	}
	if *i == len(seen) {
		r.dir.seen = append(seen, *e)
	}
	*i++
	if !r.plus {
		return true
	}
	in := &inodes[k]
	n := r.fs.nodes.enter(vol, 0, in.Ino, r.n.id, e.Name)
	n.store(in)
	r.fs.fillEntry(n, in, r.epoch, out)
	if f := n.openFile(); f != nil {
		r.open = append(r.open, openEntry{f, *in, out})
	}
	return true
}
