package alkfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// xattrRecord is how tar programs name extended attributes in PAX headers
// (star's SCHILY.xattr).
const xattrRecord = "SCHILY.xattr."

// Export writes the file or tree name of v to w as a tar archive (POSIX.1-2001,
// "PAX"): with hard links, extended attributes and times to the nanosecond.
// Names in it are relative to name. Holes are written as zeros, and sockets,
// for which tar has nothing, are left out. Every file is whole; the tree is
// that of one moment when v is of a snapshot or a time.
func (v *View) Export(ctx context.Context, name string, w io.Writer) (Progress, error) {
	defer v.store.done(opExport, latency.Now())
	in, err := v.stat("export", name, false)
	if err != nil {
		return Progress{}, err
	}
	e := &export{ctx: ctx, v: v, w: tar.NewWriter(w), links: make(map[pathtree.Ino]string)}
	if in.IsDir() {
		err = e.tree(in, "")
	} else {
		err = e.one(in, base(name))
	}
	if err == nil {
		err = e.w.Close()
	}
	return e.done, pathError("export", name, err)
}

type export struct {
	ctx   context.Context
	v     *View
	w     *tar.Writer
	links map[pathtree.Ino]string // first name of a file with several
	done  Progress
}

// tree writes a directory and what is in it. dir is "" for the top.
func (e *export) tree(in pathtree.Inode, dir string) error {
	if err := e.one(in, dir+"/"); err != nil {
		return err
	}
	return e.v.list(in.Ino, func(in pathtree.Inode, name string) error {
		if dir != "" {
			name = dir + "/" + name
		}
		if in.IsDir() {
			return e.tree(in, name)
		}
		return e.one(in, name)
	})
}

func (e *export) one(in pathtree.Inode, name string) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(in.Mode & 0o7777), Uid: int(in.UID), Gid: int(in.GID),
		ModTime: in.ModTime(), Linkname: in.Target,
	}
	if name == "/" {
		h.Name = "./"
	}
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, in.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if in.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(in.Rdev))), int64(unix.Minor(uint64(in.Rdev)))
	default:
		return nil
	}
	if in.IsDir() {
		e.done.Dirs++
	} else {
		e.done.Files++
	}
	if first, ok := e.links[in.Ino]; ok {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return e.w.WriteHeader(h)
	}
	if in.Nlink > 1 && !in.IsDir() {
		e.links[in.Ino] = name
	}
	if err := e.xattrs(in, h); err != nil {
		return err
	}
	if err := e.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Size == 0 {
		return nil
	}
	return e.content(in, name)
}

func (e *export) xattrs(in pathtree.Inode, h *tar.Header) error {
	return e.v.store.db.Read(func(tx *schema.Tx) error {
		names, err := e.v.v.Listxattr(tx, in.Ino)
		for _, n := range names {
			value, err := e.v.v.Getxattr(tx, in.Ino, n)
			if err != nil {
				return err
			}
			if h.PAXRecords == nil {
				h.PAXRecords = make(map[string]string)
			}
			h.PAXRecords[xattrRecord+n] = string(value)
		}
		return err
	})
}

func (e *export) content(in pathtree.Inode, name string) error {
	blob, err := e.v.openBlob(in)
	if err != nil {
		return pathError("export", name, err)
	}
	defer blob.Close()
	buf := make([]byte, min(in.Size, copyBuffer))
	for off := int64(0); off < in.Size; {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		n, err := blob.ReadAtContext(e.ctx, buf[:min(int64(len(buf)), in.Size-off)], off)
		if n == 0 {
			return pathError("export", name, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if _, err := e.w.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
		e.done.Bytes += int64(n)
	}
	return nil
}

// Import puts what a tar archive holds into the directory name of v, which is
// made if it is missing. Existing files get a new version, existing directories
// are merged into. Nothing in the archive can name anything outside of name,
// not through symlinks either. Each file appears whole; what came before an
// error stays.
func (v *View) Import(ctx context.Context, name string, r io.Reader, o PutOptions) (Progress, error) {
	defer v.store.done(opImport, latency.Now())
	if v.ReadOnly() {
		return Progress{}, pathError("import", name, syscall.EROFS)
	}
	if err := v.MkdirAll(name, 0o755); err != nil {
		return Progress{}, err
	}
	root, err := v.stat("import", name, true)
	if err != nil {
		return Progress{}, err
	}
	i := &imports{ctx: ctx, v: v, o: o, root: root.Ino, r: tar.NewReader(r)}
	err = i.run()
	i.finishDirs(&err)
	if err == nil && o.Sync {
		err = i.sync()
	} else if err == nil {
		err = v.store.db.Commit()
	}
	return i.done, pathError("import", name, err)
}

type imports struct {
	ctx     context.Context
	v       *View
	o       PutOptions
	root    pathtree.Ino
	r       *tar.Reader
	dirEnds []dirEnd
	large   []Hash
	done    Progress
}

func (i *imports) run() error {
	for {
		if err := i.ctx.Err(); err != nil {
			return err
		}
		h, err := i.r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := i.entry(h); err != nil {
			return pathError("import", h.Name, err)
		}
		i.done.Path = h.Name
		if i.o.Progress != nil {
			i.o.Progress(i.done)
		}
	}
}

// tarPath returns the elements of a name in an archive.
func tarPath(name string) (elems []string, err error) {
	for e := range strings.SplitSeq(name, "/") {
		switch e {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%q leads out of the archive: %w", name, syscall.EINVAL)
		default:
			elems = append(elems, e)
		}
	}
	return elems, nil
}

// entry makes what one header describes.
func (i *imports) entry(h *tar.Header) error {
	path, err := tarPath(h.Name)
	if err != nil {
		return err
	}
	n := newInode(uint32(h.Mode) & 0o7777)
	if i.o.Owners {
		n.UID, n.GID = uint32(h.Uid), uint32(h.Gid)
	}
	n.Mtime = h.ModTime.UnixNano()
	var c content
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, '\x00':
		n.Mode |= unix.S_IFREG
		if c, err = i.v.store.contentFrom(i.ctx, i.r, func(k int64) { i.done.Bytes += k }); err != nil {
			return err
		}
	case tar.TypeDir:
		n.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		n.Mode |= unix.S_IFLNK
		n.Target = h.Linkname
	case tar.TypeFifo:
		n.Mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^unix.S_IFMT | unix.S_IFBLK
		}
		n.Rdev = uint32(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	case tar.TypeLink:
	default:
		return nil // of no file
	}
	var in pathtree.Inode
	err = i.v.store.db.Write(func(tx *schema.Tx) (err error) {
		if h.Typeflag == tar.TypeDir {
			in, err = i.dir(tx, path, n)
			return errors.Join(err, i.setXattrs(tx, in, h, err))
		}
		if len(path) == 0 {
			return fmt.Errorf("it has no name: %w", syscall.EINVAL)
		}
		parent, err := i.mkdirs(tx, path[:len(path)-1])
		if err != nil {
			return err
		}
		last := path[len(path)-1]
		switch {
		case h.Typeflag == tar.TypeLink:
			in, err = i.link(tx, h.Linkname, parent, last)
			return err
		case n.Mode&unix.S_IFMT == unix.S_IFREG:
			in, err = i.v.place(tx, parent, last, c, placing{
				mode: n.Mode & 0o7777, keepMode: true, uid: n.UID, gid: n.GID, owners: i.o.Owners, mtime: n.Mtime,
			})
		default:
			if in, err = i.v.v.Create(tx, parent, last, n); errors.Is(err, fs.ErrExist) {
				if _, err = i.v.v.Unlink(tx, parent, last); err == nil {
					in, err = i.v.v.Create(tx, parent, last, n)
				}
			}
		}
		return errors.Join(err, i.setXattrs(tx, in, h, err))
	})
	if err != nil {
		return err
	}
	if in.IsDir() {
		i.done.Dirs++
		return nil
	}
	i.done.Files++
	if in.IsRegular() {
		i.v.store.sessions.Refresh(i.v.v.Branch().ID, in.Ino)
		if c.size > 0 {
			i.large = append(i.large, in.Hash)
		}
	}
	return nil
}

// mkdirs returns the directory at path below the root, and makes what is
// missing. It follows no symlinks.
func (i *imports) mkdirs(tx *schema.Tx, path []string) (pathtree.Ino, error) {
	dir := i.root
	for _, name := range path {
		e, err := i.v.v.Lookup(tx, dir, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			in, err := i.v.v.Create(tx, dir, name, newInode(unix.S_IFDIR|0o755))
			if err != nil {
				return 0, err
			}
			dir = in.Ino
		case err != nil:
			return 0, err
		case !e.IsDir():
			return 0, syscall.ENOTDIR
		default:
			dir = e.Ino
		}
	}
	return dir, nil
}

// dir makes a directory, or gives one that is there the mode and owner. Its time
// is set at the end.
func (i *imports) dir(tx *schema.Tx, path []string, n pathtree.NewInode) (in pathtree.Inode, err error) {
	ino, err := i.mkdirs(tx, path)
	if err != nil {
		return in, err
	}
	mode := n.Mode & 0o7777
	set := pathtree.SetAttr{Mode: &mode}
	if i.o.Owners {
		set.UID, set.GID = &n.UID, &n.GID
	}
	if len(path) > 0 { // the root is the caller's
		if in, err = i.v.v.SetAttr(tx, ino, set); err == nil {
			i.dirEnds = append(i.dirEnds, dirEnd{ino, n.Mtime})
		}
		return in, err
	}
	return i.v.v.Inode(tx, ino)
}

func (i *imports) link(tx *schema.Tx, target string, parent pathtree.Ino, name string) (in pathtree.Inode, err error) {
	path, err := tarPath(target)
	if err != nil {
		return in, err
	}
	ino := i.root
	for _, name := range path {
		e, err := i.v.v.Lookup(tx, ino, name)
		if err != nil {
			return in, fmt.Errorf("link to %q: %w", target, err)
		}
		ino = e.Ino
	}
	p := put{view: i.v}
	return p.link(tx, ino, parent, name)
}

// setXattrs sets the extended attributes of a header, unless failed.
func (i *imports) setXattrs(tx *schema.Tx, in pathtree.Inode, h *tar.Header, failed error) error {
	if failed != nil {
		return nil
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok {
			if err := i.v.v.Setxattr(tx, in.Ino, name, []byte(value), 0); err != nil {
				return fmt.Errorf("xattr %s: %w", name, err)
			}
		}
	}
	return nil
}

// finishDirs gives directories the time they had, which what was put into them
// has changed.
func (i *imports) finishDirs(err *error) {
	for len(i.dirEnds) > 0 {
		n := min(len(i.dirEnds), putBatchItems)
		e := i.v.store.db.Write(func(tx *schema.Tx) error {
			for _, d := range i.dirEnds[:n] {
				_, err := i.v.v.SetAttr(tx, d.ino, pathtree.SetAttr{Mtime: new(d.mtime)})
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return nil
		})
		if e != nil && *err == nil {
			*err = e
		}
		i.dirEnds = i.dirEnds[n:]
	}
}

func (i *imports) sync() error {
	for _, h := range i.large {
		if err := i.v.store.blobs.Sync(i.ctx, h); err != nil {
			return err
		}
	}
	return i.v.store.db.Sync()
}
