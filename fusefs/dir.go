package fusefs

import (
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// OpenDir implements OPENDIR.
func (fs *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := fs.node(in.NodeId)
	if err != nil {
		return status(err)
	}
	out.Fh = fs.handles.add(&handle{node: n, dir: n.list()})
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
	if !r.dots(in.Offset) {
		return fuse.OK
	}
	if h.node.vol == nil {
		return status(r.volumes(in.Offset))
	}
	return status(r.entries(in.Offset, int(in.Size)))
}

// dirReader answers one READDIR or READDIRPLUS.
type dirReader struct {
	fs    *fileSystem
	n     *node
	dir   *listing
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
	if offset == 0 && r.add(".", r.stIno(r.n), fuse.S_IFDIR, dotOffset) == nil {
		return false
	}
	if offset > dotOffset {
		return true
	}
	parent, _ := r.fs.nodes.place(r.n)
	p := r.fs.nodes.get(parent)
	if p == nil {
		p = r.n
	}
	return r.add("..", r.stIno(p), fuse.S_IFDIR, dotDotOffset) != nil
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

// volumes lists buckets or branches from offset on.
func (r *dirReader) volumes(offset uint64) error {
	list, err := r.fs.volumeEntries(r.n)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b pathtree.Entry) int { return strings.Compare(a.Name, b.Name) })
	for i, p := range r.dir.place("", 0, list, true) {
		if p.offset > offset && r.add(p.name, uint64(list[i].Ino), list[i].Kind, p.offset) == nil {
			break
		}
	}
	return nil
}

// entryBytes is about what an entry with a short name takes in an answer.
const entryBytes, entryPlusBytes = 40, 170

// entries lists a directory of a branch from offset on.
func (r *dirReader) entries(offset uint64, size int) error {
	per := entryBytes
	if r.plus {
		per = entryPlusBytes
	}
	after, beyond := r.dir.before(offset)
	for want := size/per + 1; ; {
		full, got := false, 0
		err := r.fs.db.Read(func(tx *schema.Tx) error {
			list, inodes, err := r.read(tx, after, want)
			if err != nil {
				return err
			}
			got = len(list)
			for i, p := range r.dir.place(after, offset, list, got < want) {
				if beyond && p.offset <= offset {
					continue // listed before by a process that was here before
				}
				if full = !r.entry(p.offset, &list[i], inodes, i); full {
					break
				}
			}
			if got > 0 {
				after = list[got-1].Name
			}
			return nil
		})
		if err != nil {
			return err
		}
		if full || got < want {
			break
		}
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

// entry adds one entry, and reports false when the answer is full.
func (r *dirReader) entry(offset uint64, e *pathtree.Entry, inodes []pathtree.Inode, k int) bool {
	vol := r.n.vol
	out := r.add(e.Name, vol.stIno(e.Ino), e.Kind, offset)
	if out == nil {
		return false
	}
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
