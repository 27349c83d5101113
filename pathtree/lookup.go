package pathtree

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// NameMax is the greatest length of a name in bytes.
const NameMax = 255

// checkName refuses what cannot be the name of an entry.
func checkName(name string) error {
	switch {
	case name == "":
		return syscall.ENOENT
	case len(name) > NameMax:
		return syscall.ENAMETOOLONG
	case name == "." || name == "..":
		return syscall.EINVAL
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		return syscall.EINVAL
	}
	return nil
}

// Lookup returns the entry name of directory parent.
func (v *View) Lookup(tx *schema.Tx, parent Ino, name string) (Entry, error) {
	r, err := v.entry(tx, parent, name)
	if err != nil {
		return Entry{}, fail("lookup", name, err)
	}
	return Entry{Name: name, Ino: r.ino, Kind: r.kind}, nil
}

// entry is Lookup with the place of the version; ENOENT without one.
func (v *View) entry(tx *schema.Tx, parent Ino, name string) (headDentry, error) {
	if len(name) > NameMax {
		return headDentry{}, syscall.ENAMETOOLONG
	}
	d, err := v.dentry(tx, parent, name)
	if err == nil && (!d.found || d.ino == 0) {
		err = syscall.ENOENT
	}
	return d, err
}

// Inode returns an inode; unlinked ones have Nlink 0.
func (v *View) Inode(tx *schema.Tx, ino Ino) (Inode, error) {
	r, err := v.inode(tx, ino)
	return r.Inode, failIno("inode", ino, err)
}

// inode is Inode with the place of the version; ENOENT without one.
func (v *View) inode(tx *schema.Tx, ino Ino) (inodeRow, error) {
	r, ok, err := v.inodeRow(tx, ino)
	if err == nil && !ok {
		err = syscall.ENOENT
	}
	return r, err
}

// dir returns a directory that exists: ENOTDIR, and ENOENT once removed.
func (v *View) dir(tx *schema.Tx, ino Ino) (inodeRow, error) {
	r, err := v.inode(tx, ino)
	switch {
	case err != nil:
		return r, err
	case !r.IsDir():
		return r, syscall.ENOTDIR
	case r.Nlink == 0:
		return r, syscall.ENOENT
	}
	return r, nil
}

// LookupInode is Lookup and Inode.
func (v *View) LookupInode(tx *schema.Tx, parent Ino, name string) (Inode, error) {
	r, err := v.entry(tx, parent, name)
	if err != nil {
		return Inode{}, fail("lookup", name, err)
	}
	in, err := v.inode(tx, r.ino)
	return in.Inode, fail("lookup", name, err)
}

// Resolve walks a slash-separated path from the root. Symlinks are not
// followed; empty and "." elements are skipped, ".." is refused with EINVAL.
func (v *View) Resolve(tx *schema.Tx, path string) (Inode, error) {
	e, err := v.resolve(tx, path)
	if err != nil {
		return Inode{}, fail("resolve", path, err)
	}
	in, err := v.inode(tx, e)
	return in.Inode, fail("resolve", path, err)
}

func (v *View) resolve(tx *schema.Tx, path string) (Ino, error) {
	ino, kind := v.Root(), uint32(unix.S_IFDIR)
	for path != "" {
		var name string
		name, path, _ = strings.Cut(path, "/")
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			return 0, syscall.EINVAL
		}
		if kind != unix.S_IFDIR {
			return 0, syscall.ENOTDIR
		}
		r, err := v.entry(tx, ino, name)
		if err != nil {
			return 0, err
		}
		ino, kind = r.ino, r.kind
	}
	return ino, nil
}

// ResolveParent resolves all but the last element of path and returns that.
// The root has no parent: EINVAL.
func (v *View) ResolveParent(tx *schema.Tx, path string) (parent Inode, base string, err error) {
	trimmed := strings.TrimRight(path, "/")
	base = trimmed[strings.LastIndexByte(trimmed, '/')+1:]
	if err = checkName(base); err != nil {
		if base == "" {
			err = syscall.EINVAL
		}
		return Inode{}, "", fail("resolve", path, err)
	}
	ino, err := v.resolve(tx, trimmed[:len(trimmed)-len(base)])
	if err != nil {
		return Inode{}, "", fail("resolve", path, err)
	}
	r, err := v.dir(tx, ino)
	return r.Inode, base, fail("resolve", path, err)
}
