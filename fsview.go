package alkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// listBatch is how many directory entries are read in one transaction.
const listBatch = 1024

// View is a branch as of now, or as of a time or snapshot. It is an io/fs.FS
// (with ReadDir, ReadFile, Stat, Lstat and ReadLink) over what is published, and
// at the head of a branch the place to change it (write.go).
//
// Paths are slash-separated and relative to the root of the branch, "." being
// the root. They follow fs.ValidPath except that names may hold any bytes.
// Symlinks are followed like os does, but not out of the branch.
type View struct {
	store *Store
	v     *pathtree.View
}

var (
	_ fs.ReadDirFS  = (*View)(nil)
	_ fs.ReadFileFS = (*View)(nil)
	_ fs.StatFS     = (*View)(nil)
	_ fs.ReadLinkFS = (*View)(nil)
)

// View opens the branch that spec names, as of spec.At. Its path is not looked
// at. A view with At refuses changes with EROFS.
func (s *Store) View(spec Spec) (*View, error) {
	view := &View{store: s}
	err := s.db.Read(func(tx *schema.Tx) error {
		br, at, err := s.resolve(tx, spec)
		if err == nil {
			view.v, err = s.tree.View(tx, br.ID, at)
		}
		if at != 0 && errors.Is(err, fs.ErrNotExist) {
			err = &nameError{fmt.Sprintf("branch %q did not exist yet at %s", spec.branchName(), at.Time().Format(time.RFC3339)), err}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return view, nil
}

// Tree returns the view of the path tree, for other surfaces.
func (v *View) Tree() *pathtree.View { return v.v }

// Spec returns the spec of the root of v. At is spelt as a time.
func (v *View) Spec() Spec {
	spec := Spec{Bucket: v.v.Bucket().Name, Branch: v.v.Branch().Name}
	if at := v.v.At(); at != 0 {
		spec.At = at.Time().Format(time.RFC3339Nano)
	}
	return spec
}

// ReadOnly reports whether changes are refused.
func (v *View) ReadOnly() bool { return v.v.ReadOnly() || v.store.readOnly }

// Open opens a file or directory for reading. A file keeps the content it had
// when it was opened, and implements io.ReaderAt, io.Seeker and io.WriterTo.
func (v *View) Open(name string) (fs.File, error) {
	return v.OpenContext(context.Background(), name)
}

// OpenContext is Open of a file whose reads end with ctx, also while they wait for
// another machine.
func (v *View) OpenContext(ctx context.Context, name string) (fs.File, error) {
	defer v.store.done(opOpen, latency.Now())
	in, err := v.stat("open", name, true)
	if err != nil {
		return nil, err
	}
	info := fileInfo{name: base(name), in: in}
	if in.IsDir() {
		return &dirFile{view: v, path: name, info: info}, nil
	}
	if !in.IsRegular() {
		return nil, pathError("open", name, fmt.Errorf("not a regular file (%w)", syscall.ENXIO))
	}
	blob, err := v.openBlob(in)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &blobFile{path: name, info: info, blob: blob, SectionReader: io.NewSectionReader(blobReader{ctx, blob}, 0, in.Size)}, nil
}

func (v *View) openBlob(in pathtree.Inode) (*blobstore.Blob, error) {
	return v.store.blobs.Open(in.Hash, in.Size)
}

// ReadFile returns the content of a file.
func (v *View) ReadFile(name string) ([]byte, error) {
	defer v.store.done(opRead, latency.Now())
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	bf, ok := f.(*blobFile)
	if !ok {
		return nil, pathError("read", name, syscall.EISDIR)
	}
	p := make([]byte, bf.info.in.Size)
	if _, err := io.ReadFull(bf, p); err != nil {
		return nil, pathError("read", name, err)
	}
	return p, nil
}

// Stat describes what name leads to.
func (v *View) Stat(name string) (fs.FileInfo, error) {
	in, err := v.stat("stat", name, true)
	if err != nil {
		return nil, err
	}
	return fileInfo{base(name), in}, nil
}

// Lstat is Stat that does not follow a symlink at the end of name.
func (v *View) Lstat(name string) (fs.FileInfo, error) {
	in, err := v.stat("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return fileInfo{base(name), in}, nil
}

// ReadLink returns what the symlink name points to.
func (v *View) ReadLink(name string) (string, error) {
	in, err := v.stat("readlink", name, false)
	if err == nil && !in.IsSymlink() {
		err = pathError("readlink", name, syscall.EINVAL)
	}
	return in.Target, err
}

// ReadDir returns the entries of a directory in byte order of their names.
func (v *View) ReadDir(name string) ([]fs.DirEntry, error) {
	defer v.store.done(opList, latency.Now())
	in, err := v.stat("readdir", name, true)
	if err != nil {
		return nil, err
	}
	var list []fs.DirEntry
	err = v.list(in.Ino, func(in pathtree.Inode, name string) error {
		list = append(list, fs.FileInfoToDirEntry(fileInfo{name, in}))
		return nil
	})
	return list, pathError("readdir", name, err)
}

// list calls f for each entry of dir, in batches of one transaction each; f is
// called outside of it.
func (v *View) list(dir pathtree.Ino, f func(in pathtree.Inode, name string) error) error {
	for after := ""; ; {
		var entries []pathtree.Entry
		var inodes []pathtree.Inode
		err := v.store.db.Read(func(tx *schema.Tx) (err error) {
			entries, inodes, err = v.v.ReadDirPlus(tx, dir, after, listBatch)
			return err
		})
		if err != nil {
			return err
		}
		for i, e := range entries {
			if err := f(inodes[i], e.Name); err != nil {
				return err
			}
		}
		if len(entries) < listBatch {
			return nil
		}
		after = entries[len(entries)-1].Name
	}
}

// stat finds the inode that name leads to.
func (v *View) stat(op, name string, follow bool) (in pathtree.Inode, err error) {
	if !validPath(name) {
		return in, pathError(op, name, fs.ErrInvalid)
	}
	err = v.store.db.Read(func(tx *schema.Tx) (err error) {
		in, err = v.find(tx, name, follow)
		return err
	})
	return in, pathError(op, name, err)
}

// find resolves name, following symlinks on the way and, if asked, at the end.
func (v *View) find(tx *schema.Tx, name string, follow bool) (pathtree.Inode, error) {
	in, err := v.v.Resolve(tx, name)
	if err == nil && !(follow && in.IsSymlink()) {
		return in, nil
	}
	if err != nil && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, fs.ErrNotExist) {
		return in, err
	}
	return v.walk(tx, name, follow)
}

// maxLinks bounds the symlinks followed for one path, as Linux does.
const maxLinks = 40

func (v *View) walk(tx *schema.Tx, name string, follow bool) (pathtree.Inode, error) {
	root, err := v.v.Inode(tx, v.v.Root())
	if err != nil {
		return root, err
	}
	at := []pathtree.Inode{root} // the way from the root to here
	todo, links := strings.Split(name, "/"), 0
	for len(todo) > 0 {
		el := todo[0]
		todo = todo[1:]
		here := at[len(at)-1]
		switch {
		case el == "" || el == ".":
			continue
		case !here.IsDir():
			return here, syscall.ENOTDIR
		case el == "..":
			if len(at) == 1 {
				return here, errLeadsOut
			}
			at = at[:len(at)-1]
			continue
		}
		in, err := v.v.LookupInode(tx, here.Ino, el)
		if err != nil {
			return in, err
		}
		if in.IsSymlink() && (follow || len(todo) > 0) {
			if links++; links > maxLinks {
				return in, syscall.ELOOP
			}
			if strings.HasPrefix(in.Target, "/") {
				return in, errLeadsOut
			}
			todo = append(strings.Split(in.Target, "/"), todo...)
			continue
		}
		at = append(at, in)
	}
	return at[len(at)-1], nil
}

var errLeadsOut = fmt.Errorf("a symlink leads out of the branch (%w)", syscall.ENOENT)

// validPath is fs.ValidPath without the demand for UTF-8.
func validPath(name string) bool {
	if name == "." {
		return true
	}
	for el := range strings.SplitSeq(name, "/") {
		if el == "" || el == "." || el == ".." || strings.IndexByte(el, 0) >= 0 {
			return false
		}
	}
	return true
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
