package alkfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// A put is a pipeline of three: one goroutine walks the host tree and cuts it
// into batches, parents before children; each batch's contents are read, and
// large ones hashed and stored, by several goroutines; and batches are committed
// one transaction each, in the order of the walk.
const (
	putBatchItems = 256
	putBatchBytes = 4 << 20 // of small contents held in memory
)

// Put copies the host file or tree at host to name in v: regular files with
// their holes, directories, symlinks, special files, with modes, times and hard
// links within the tree. An existing directory is merged into, existing files
// get a new version. Every file appears whole; when ctx ends, what was committed
// before stays.
func (v *View) Put(ctx context.Context, host, name string, o PutOptions) (Progress, error) {
	defer v.store.done(opPut, latency.Now())
	if v.ReadOnly() {
		return Progress{}, pathError("put", name, syscall.EROFS)
	}
	if !validPath(name) {
		return Progress{}, pathError("put", name, fs.ErrInvalid)
	}
	st, err := os.Lstat(host)
	if err != nil {
		return Progress{}, err
	}
	if st.IsDir() && !o.Recursive {
		return Progress{}, pathError("put", host, fmt.Errorf("is a directory: ask for a recursive put (%w)", syscall.EISDIR))
	}
	p := &put{
		view: v, o: o, meter: meter{report: o.Progress},
		root: name, dirs: make(map[string]pathtree.Ino), links: make(map[hostInode]pathtree.Ino),
	}
	if st.Mode().IsRegular() {
		p.meter.mu.TotalBytes = st.Size()
	}
	err = p.run(ctx, host, st)
	return p.meter.finish(), err
}

type put struct {
	view  *View
	o     PutOptions
	meter meter
	root  string // place of the tree in the view

	// Used by the committing goroutine only.
	dirs    map[string]pathtree.Ino // by path below host; "" is host itself
	links   map[hostInode]pathtree.Ino
	dirEnds []dirEnd
	large   []blobstore.Hash
}

// hostInode tells hard links on the host apart.
type hostInode struct{ dev, ino uint64 }

// dirEnd is the time a directory gets once all in it is there.
type dirEnd struct {
	ino   pathtree.Ino
	mtime int64 // ns since 1970
}

// putItem is one host file on its way.
type putItem struct {
	host, dir, base string // dir: path of the parent below the tree's root
	st              unix.Stat_t
	target          string
	content         content
}

func (it *putItem) kind() uint32 { return it.st.Mode & unix.S_IFMT }

func (p *put) run(ctx context.Context, host string, st fs.FileInfo) error {
	g, ctx := errgroup.WithContext(ctx)
	walked := make(chan []*putItem, 2)
	loaded := make(chan []*putItem, 2)
	g.Go(func() error {
		defer close(walked)
		return p.walk(ctx, host, st, walked)
	})
	g.Go(func() error {
		defer close(loaded)
		for batch := range walked {
			if err := p.load(ctx, batch); err != nil {
				return err
			}
			if err := send(ctx, loaded, batch); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		for batch := range loaded {
			if err := p.commit(batch); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := p.finishDirs(); err != nil {
		return err
	}
	if !p.o.Sync {
		return p.view.store.db.Commit()
	}
	return p.sync(context.WithoutCancel(ctx))
}

func send[T any](ctx context.Context, to chan<- T, x T) error {
	select {
	case to <- x:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// walk sends the tree at host in batches.
func (p *put) walk(ctx context.Context, host string, st fs.FileInfo, out chan<- []*putItem) error {
	var batch []*putItem
	var bytes int64
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		full := batch
		batch, bytes = nil, 0
		return send(ctx, out, full)
	}
	if !st.IsDir() {
		it, err := newPutItem(host, "", base(p.root))
		if err != nil {
			return err
		}
		batch = append(batch, it)
		return flush()
	}
	err := filepath.WalkDir(host, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, path)
		if err != nil {
			return err
		}
		dir, name := filepath.Split(rel)
		it, err := newPutItem(path, filepath.Clean("/" + dir)[1:], name)
		if errors.Is(err, fs.ErrNotExist) && rel != "." {
			return nil // gone since it was listed
		}
		if err != nil {
			return err
		}
		if batch = append(batch, it); it.st.Size <= blobstore.InlineMax && it.kind() == unix.S_IFREG {
			bytes += it.st.Size
		}
		if len(batch) >= putBatchItems || bytes >= putBatchBytes {
			return flush()
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return flush()
}

func newPutItem(host, dir, name string) (*putItem, error) {
	it := &putItem{host: host, dir: dir, base: name}
	if err := unix.Lstat(host, &it.st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: host, Err: err}
	}
	if it.kind() != unix.S_IFLNK {
		return it, nil
	}
	var err error
	it.target, err = os.Readlink(host)
	return it, err
}

// load reads the contents of a batch.
func (p *put) load(ctx context.Context, batch []*putItem) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, it := range batch {
		if it.kind() == unix.S_IFREG {
			g.Go(func() error { return p.loadFile(ctx, it) })
		}
	}
	return g.Wait()
}

func (p *put) loadFile(ctx context.Context, it *putItem) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(it.host)
	if err != nil {
		return err
	}
	defer f.Close()
	it.content, err = p.view.store.contentFile(ctx, f, it.st.Size, func(n int64) { p.meter.add(it.host, 0, 0, n) })
	return pathError("put", it.host, err)
}

// commit makes the files of a batch in one transaction.
func (p *put) commit(batch []*putItem) error {
	var touched []pathtree.Ino
	var failed *putItem
	err := p.view.store.db.Write(func(tx *schema.Tx) error {
		touched = touched[:0]
		for _, it := range batch {
			in, err := p.make(tx, it)
			if err != nil {
				failed = it
				return err
			}
			touched = append(touched, in.Ino)
		}
		return nil
	})
	if err != nil {
		name := p.root
		if failed != nil && !p.isRoot(failed) {
			name = Spec{Path: p.root}.Join(failed.dir).Join(failed.base).Path
		}
		return pathError("put", name, err)
	}
	branch := p.view.v.Branch().ID
	for i, it := range batch {
		switch it.kind() {
		case unix.S_IFDIR:
			p.meter.add(it.host, 0, 1, 0)
			continue
		case unix.S_IFREG:
			p.view.store.sessions.Refresh(branch, touched[i])
			if it.content.size > blobstore.InlineMax {
				p.large = append(p.large, it.content.hash)
			}
		}
		p.meter.add(it.host, 1, 0, 0)
	}
	return nil
}

// make makes one file in its directory, which is there already.
func (p *put) make(tx *schema.Tx, it *putItem) (in pathtree.Inode, err error) {
	parent, name, err := p.parent(tx, it)
	if err != nil {
		return in, err
	}
	switch it.kind() {
	case unix.S_IFDIR:
		return p.makeDir(tx, it, parent, name)
	case unix.S_IFREG:
		return p.makeFile(tx, it, parent, name)
	}
	n := p.newInode(it)
	n.Target, n.Rdev = it.target, uint32(it.st.Rdev)
	in, err = p.view.v.Create(tx, parent, name, n)
	if !errors.Is(err, fs.ErrExist) {
		return in, err
	}
	if _, err := p.view.v.Unlink(tx, parent, name); err != nil {
		return in, err
	}
	return p.view.v.Create(tx, parent, name, n)
}

// isRoot reports whether it is what goes to p.root itself.
func (p *put) isRoot(it *putItem) bool {
	return it.dir == "" && (it.base == "." || it.kind() != unix.S_IFDIR && len(p.dirs) == 0)
}

// parent returns the directory it goes into, and its name there. name is "" for
// the root of the view, which has no parent.
func (p *put) parent(tx *schema.Tx, it *putItem) (pathtree.Ino, string, error) {
	if p.isRoot(it) {
		if p.root == "." {
			return 0, "", nil
		}
		return p.view.parent(tx, p.root)
	}
	return p.dirs[it.dir], it.base, nil
}

func (p *put) makeDir(tx *schema.Tx, it *putItem, parent pathtree.Ino, name string) (in pathtree.Inode, err error) {
	key := filepath.Clean("/" + it.dir + "/" + it.base)[1:]
	if name == "" {
		in, err = p.view.v.Inode(tx, p.view.v.Root())
	} else if in, err = p.view.v.LookupInode(tx, parent, name); err == nil && in.IsSymlink() && key == "" {
		in, err = p.view.find(tx, p.root, true)
	}
	if err == nil {
		if !in.IsDir() {
			return in, syscall.ENOTDIR
		}
		p.dirs[key] = in.Ino
		return in, nil // it keeps its mode and time: others may own it
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return in, err
	}
	n := p.newInode(it)
	if in, err = p.view.v.Create(tx, parent, name, n); err == nil {
		p.dirs[key] = in.Ino
		p.dirEnds = append(p.dirEnds, dirEnd{in.Ino, n.Mtime})
	}
	return in, err
}

func (p *put) makeFile(tx *schema.Tx, it *putItem, parent pathtree.Ino, name string) (pathtree.Inode, error) {
	id := hostInode{uint64(it.st.Dev), it.st.Ino}
	if it.st.Nlink > 1 {
		if first, ok := p.links[id]; ok {
			in, err := p.link(tx, first, parent, name)
			if !errors.Is(err, syscall.EMLINK) && !errors.Is(err, fs.ErrNotExist) {
				return in, err
			}
		}
	}
	n := p.newInode(it)
	in, err := p.view.place(tx, parent, name, it.content, placing{
		mode: n.Mode & 0o7777, keepMode: true, uid: n.UID, gid: n.GID, owners: p.o.Owners, mtime: n.Mtime,
	})
	if err == nil && it.st.Nlink > 1 {
		p.links[id] = in.Ino
	}
	return in, err
}

// link makes name a further link to first, whatever is there now.
func (p *put) link(tx *schema.Tx, first, parent pathtree.Ino, name string) (pathtree.Inode, error) {
	old, err := p.view.v.Lookup(tx, parent, name)
	switch {
	case err == nil && old.Ino == first:
		return p.view.v.Inode(tx, first)
	case err == nil && old.IsDir():
		return pathtree.Inode{}, syscall.EISDIR
	case err == nil:
		_, err = p.view.v.Unlink(tx, parent, name)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return pathtree.Inode{}, err
	}
	return p.view.v.Link(tx, first, parent, name)
}

func (p *put) newInode(it *putItem) pathtree.NewInode {
	n := newInode(it.st.Mode)
	if p.o.Owners {
		n.UID, n.GID = it.st.Uid, it.st.Gid
	}
	n.Mtime = it.st.Mtim.Nano()
	return n
}

// finishDirs gives new directories the time they had, which what was put into
// them has changed.
func (p *put) finishDirs() error {
	for len(p.dirEnds) > 0 {
		n := min(len(p.dirEnds), putBatchItems)
		batch := p.dirEnds[:n]
		p.dirEnds = p.dirEnds[n:]
		err := p.view.store.db.Write(func(tx *schema.Tx) error {
			for i := range batch {
				_, err := p.view.v.SetAttr(tx, batch[i].ino, pathtree.SetAttr{Mtime: &batch[i].mtime})
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return pathError("put", p.root, err)
		}
	}
	return nil
}

// sync waits for the disk.
func (p *put) sync(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, h := range p.large {
		g.Go(func() error { return p.view.store.blobs.Sync(ctx, h) })
	}
	if err := g.Wait(); err != nil {
		return pathError("put", p.root, err)
	}
	return p.view.store.db.Sync()
}
