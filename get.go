package alkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
)

// Get copies the file or tree name of v to host: the reverse of Put. A file, and
// a tree that goes to a place where nothing is, appears at once and whole, or
// not at all; into an existing directory each file does.
func (v *View) Get(ctx context.Context, name, host string, o GetOptions) (Progress, error) {
	defer v.store.done(opGet, latency.Now())
	in, err := v.stat("get", name, false)
	if err != nil {
		return Progress{}, err
	}
	if in.IsDir() && !o.Recursive {
		return Progress{}, pathError("get", name, fmt.Errorf("is a directory: ask for a recursive get (%w)", syscall.EISDIR))
	}
	g := &get{view: v, o: o, meter: meter{report: o.Progress}}
	g.mu.links = make(map[pathtree.Ino]string)
	if in.IsRegular() {
		g.meter.mu.TotalBytes = in.Size
	}
	err = g.run(ctx, in, name, host)
	return g.meter.finish(), err
}

type get struct {
	view  *View
	o     GetOptions
	meter meter

	mu struct {
		sync.Mutex
		links map[pathtree.Ino]string // host path of the first of several names
		later []getItem               // the further ones
	}
	dirEnds []getItem
}

// getItem is one file on its way.
type getItem struct {
	in         pathtree.Inode
	name, host string
}

func (g *get) run(ctx context.Context, in pathtree.Inode, name, host string) error {
	if !in.IsDir() {
		return g.fetch(ctx, getItem{in, name, host})
	}
	top := host
	_, err := os.Lstat(host)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		if top, err = os.MkdirTemp(filepath.Dir(host), tempPattern(host)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err = g.tree(ctx, getItem{in, name, top}); err == nil && fresh {
		err = unix.Renameat2(unix.AT_FDCWD, top, unix.AT_FDCWD, host, unix.RENAME_NOREPLACE)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) {
			err = os.Rename(top, host)
		}
		if err != nil {
			err = &os.LinkError{Op: "rename", Old: top, New: host, Err: err}
		}
	}
	if err != nil && fresh {
		discardTree(top)
	}
	return err
}

// discardTree removes a tree that may hold directories it cannot write to.
func discardTree(top string) {
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(top)
}

// tempPattern names what will be renamed to host. Long names are cut, so that
// the temporary name is no longer than names may be.
func tempPattern(host string) string {
	b := filepath.Base(host)
	return "." + b[:min(len(b), 200)] + ".alkfs-*"
}

// tree fetches a directory that exists at top.host or is made there.
func (g *get) tree(ctx context.Context, top getItem) error {
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(2 * max(2, runtime.GOMAXPROCS(0)))
	err := g.dir(wctx, work, top)
	if e := work.Wait(); e != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = e // what made the walk stop
	}
	if err != nil {
		return err
	}
	for _, it := range g.mu.later {
		if err := g.link(ctx, it); err != nil {
			return err
		}
	}
	for i := len(g.dirEnds) - 1; i >= 0; i-- {
		if err := g.setAttrs(g.dirEnds[i].host, g.dirEnds[i].in); err != nil {
			return err
		}
	}
	return nil
}

func (g *get) dir(ctx context.Context, work *errgroup.Group, dir getItem) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := os.Mkdir(dir.host, 0o700)
	if errors.Is(err, fs.ErrExist) {
		st, e := os.Lstat(dir.host)
		switch {
		case e != nil:
			return e
		case !st.IsDir():
			return &fs.PathError{Op: "get", Path: dir.host, Err: syscall.ENOTDIR}
		case st.Mode().Perm()&0o700 != 0o700:
			err = os.Chmod(dir.host, st.Mode().Perm()|0o700)
		default:
			err = nil
		}
	}
	if err != nil {
		return err
	}
	g.dirEnds = append(g.dirEnds, dir)
	g.meter.add(dir.host, 0, 1, 0)
	return g.view.list(dir.in.Ino, func(in pathtree.Inode, base string) error {
		it := getItem{in, joinPath(dir.name, base), dir.host + "/" + base}
		if in.IsDir() {
			return g.dir(ctx, work, it)
		}
		if in.IsRegular() && in.Nlink > 1 && g.known(it) {
			return nil
		}
		work.Go(func() error { return g.fetch(ctx, it) })
		return ctx.Err()
	})
}

func joinPath(dir, base string) string {
	if dir == "." || dir == "" {
		return base
	}
	return dir + "/" + base
}

// known notes a file of several names, and reports whether another of them is
// being fetched, so that this one is linked to it later.
func (g *get) known(it getItem) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.mu.links[it.in.Ino]; ok {
		g.mu.later = append(g.mu.later, it)
		return true
	}
	g.mu.links[it.in.Ino] = it.host
	return false
}

func (g *get) link(ctx context.Context, it getItem) error {
	temp, err := tempName(it.host)
	if err == nil {
		err = os.Link(g.mu.links[it.in.Ino], temp)
	}
	if errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EPERM) { // the host cannot: a copy
		return g.fetch(ctx, it)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(temp, it.host); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	_ = os.Remove(temp) // rename does nothing between two names of one file
	g.meter.add(it.host, 1, 0, 0)
	return nil
}

// tempName returns a name beside host that is not in use.
func tempName(host string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(host), tempPattern(host))
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Close(), os.Remove(f.Name()))
}

// fetch brings one file that is no directory, by a temporary name beside it.
func (g *get) fetch(ctx context.Context, it getItem) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if st, err := os.Lstat(it.host); err == nil && st.IsDir() {
		return &fs.PathError{Op: "get", Path: it.host, Err: syscall.EISDIR}
	}
	var temp string
	if it.in.IsRegular() {
		temp, err = g.copyOut(ctx, it)
	} else {
		temp, err = makeSpecial(it)
	}
	if err == nil {
		err = g.setAttrs(temp, it.in)
	}
	if err == nil {
		err = os.Rename(temp, it.host)
	}
	if err != nil {
		if temp != "" {
			_ = os.Remove(temp)
		}
		return err
	}
	g.meter.add(it.host, 1, 0, 0)
	return nil
}

// copyOut writes the content of a regular file to a temporary file and returns
// its name, also with an error.
func (g *get) copyOut(ctx context.Context, it getItem) (string, error) {
	blob, err := g.view.openBlob(it.in)
	if err != nil {
		return "", pathError("get", it.name, err)
	}
	defer blob.Close()
	f, err := os.CreateTemp(filepath.Dir(it.host), tempPattern(it.host))
	if err != nil {
		return "", err
	}
	err = copyBlob(ctx, f, blob, it, func(n int64) { g.meter.add(it.host, 0, 0, n) })
	if e := f.Close(); err == nil {
		err = e
	}
	return f.Name(), err
}

// copyBlob copies content that is verified as it is read. Zeros of a sparse blob
// become holes.
func copyBlob(ctx context.Context, f *os.File, blob *blobstore.Blob, it getItem, progress func(int64)) error {
	size := it.in.Size
	sparse := false
	if bf := blob.File(); bf != nil {
		var st unix.Stat_t
		sparse = unix.Fstat(int(bf.Fd()), &st) == nil && st.Blocks*512 < size
	}
	buf := make([]byte, min(size, copyBuffer))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := blob.ReadAtContext(ctx, buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return pathError("get", it.name, err)
		}
		if err := writePiece(f, buf[:n], off, sparse); err != nil {
			return err
		}
		off += int64(n)
		progress(int64(n))
	}
	if sparse {
		return f.Truncate(size)
	}
	return nil
}

// writePiece writes p at off, leaving out long runs of zeros if sparse.
func writePiece(f *os.File, p []byte, off int64, sparse bool) error {
	for len(p) > 0 {
		n := len(p)
		if sparse {
			if n = min(n, len(zeros)); bytes.Equal(p[:n], zeros[:n]) {
				p, off = p[n:], off+int64(n)
				continue
			}
		}
		if _, err := f.WriteAt(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// zeros is compared with content, a piece of this size at a time.
var zeros [64 << 10]byte

// makeSpecial makes a symlink, pipe, socket or device under a temporary name.
func makeSpecial(it getItem) (string, error) {
	temp, err := tempName(it.host)
	if err != nil {
		return "", err
	}
	if it.in.IsSymlink() {
		err = os.Symlink(it.in.Target, temp)
	} else if err = unix.Mknod(temp, it.in.Mode&unix.S_IFMT|0o600, int(it.in.Rdev)); err != nil {
		err = &fs.PathError{Op: "mknod", Path: it.host, Err: err}
	}
	if err != nil {
		return "", err
	}
	return temp, nil
}

// setAttrs sets owner, mode and time of a host file, in the order in which they
// do not undo each other.
func (g *get) setAttrs(host string, in pathtree.Inode) error {
	if g.o.Owners {
		if err := os.Lchown(host, int(in.UID), int(in.GID)); err != nil {
			return err
		}
	}
	if !in.IsSymlink() {
		mode := in.Mode & 0o1777
		if g.o.Owners || int(in.UID) == os.Geteuid() {
			mode = in.Mode & 0o7777 // set-id bits only for the owner they were given by
		}
		if err := unix.Chmod(host, mode); err != nil {
			return &fs.PathError{Op: "chmod", Path: host, Err: err}
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(in.Mtime)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, host, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: host, Err: err}
	}
	return nil
}
