package alkfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// WriteFile makes data the content of name, at once for everybody. perm is the
// mode of a new file.
func (v *View) WriteFile(name string, data []byte, perm fs.FileMode) error {
	defer v.store.done(opWrite, latency.Now())
	_, err := v.writeFile(context.Background(), name, perm, func(ctx context.Context) (content, error) {
		return v.store.contentOf(ctx, data)
	})
	return err
}

// WriteFrom is WriteFile with the data that r gives; it returns their size.
// When r or ctx fails, name stays as it was.
func (v *View) WriteFrom(ctx context.Context, name string, r io.Reader, perm fs.FileMode) (int64, error) {
	defer v.store.done(opWrite, latency.Now())
	return v.writeFile(ctx, name, perm, func(ctx context.Context) (content, error) {
		return v.store.contentFrom(ctx, r, func(int64) {})
	})
}

func (v *View) writeFile(ctx context.Context, name string, perm fs.FileMode, take func(context.Context) (content, error)) (int64, error) {
	if !validPath(name) {
		return 0, pathError("write", name, fs.ErrInvalid)
	}
	if v.ReadOnly() {
		return 0, pathError("write", name, syscall.EROFS)
	}
	c, err := take(ctx)
	if err != nil {
		return 0, pathError("write", name, err)
	}
	n := newInode(unixPerm(perm))
	var in pathtree.Inode
	err = v.store.db.Write(func(tx *schema.Tx) (err error) {
		if in, err = v.find(tx, name, true); err == nil && in.IsRegular() {
			hash, err := c.add(tx, v.store.blobs)
			if err == nil {
				in, err = v.setContent(tx, in.Ino, pathtree.Content{Hash: hash, Size: c.size})
			}
			return err
		}
		parent, base, err := v.parent(tx, name)
		if err == nil {
			in, err = v.place(tx, parent, base, c, placing{mode: n.Mode, uid: n.UID, gid: n.GID})
		}
		return err
	})
	if err == nil {
		v.store.sessions.Refresh(v.v.Branch().ID, in.Ino)
	}
	return c.size, pathError("write", name, err)
}

// Mkdir makes a directory.
func (v *View) Mkdir(name string, perm fs.FileMode) error {
	defer v.store.done(opMkdir, latency.Now())
	return v.change("mkdir", name, func(tx *schema.Tx, parent pathtree.Ino, base string) error {
		_, err := v.v.Create(tx, parent, base, newInode(unix.S_IFDIR|unixPerm(perm)))
		return err
	})
}

// MkdirAll makes a directory and those it is in, as far as they are missing.
func (v *View) MkdirAll(name string, perm fs.FileMode) error {
	if name == "." {
		return nil
	}
	in, err := v.stat("mkdir", name, true)
	if err == nil {
		if !in.IsDir() {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		if err := v.MkdirAll(name[:i], perm); err != nil {
			return err
		}
	}
	if err := v.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Symlink makes name a symlink to target, which may be any string.
func (v *View) Symlink(target, name string) error {
	return v.change("symlink", name, func(tx *schema.Tx, parent pathtree.Ino, base string) error {
		n := newInode(unix.S_IFLNK | 0o777)
		n.Target = target
		_, err := v.v.Create(tx, parent, base, n)
		return err
	})
}

// Link makes name a further name of the file old.
func (v *View) Link(old, name string) error {
	return v.change("link", name, func(tx *schema.Tx, parent pathtree.Ino, base string) error {
		in, err := v.find(tx, old, false)
		if err == nil {
			_, err = v.v.Link(tx, in.Ino, parent, base)
		}
		return err
	})
}

// Remove removes a file or an empty directory.
func (v *View) Remove(name string) error {
	defer v.store.done(opRemove, latency.Now())
	return v.change("remove", name, func(tx *schema.Tx, parent pathtree.Ino, base string) error {
		return v.remove(tx, parent, base)
	})
}

func (v *View) remove(tx *schema.Tx, parent pathtree.Ino, base string) error {
	e, err := v.v.Lookup(tx, parent, base)
	if err != nil {
		return err
	}
	if e.IsDir() {
		_, err = v.v.Rmdir(tx, parent, base)
	} else {
		_, err = v.v.Unlink(tx, parent, base)
	}
	return err
}

// removeBatch is how many entries RemoveAll removes in one transaction.
const removeBatch = 256

// RemoveAll removes name and all below it; a missing name is no error. It works
// in batches, so that others need not wait long, and is not atomic.
func (v *View) RemoveAll(ctx context.Context, name string) error {
	defer v.store.done(opRemove, latency.Now())
	in, err := v.stat("remove", name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && v.ReadOnly() {
		err = syscall.EROFS
	}
	if err == nil && in.IsDir() {
		err = v.removeBelow(ctx, in.Ino)
	}
	if err == nil && name != "." {
		err = v.Remove(name)
	}
	return pathError("remove", name, err)
}

func (v *View) removeBelow(ctx context.Context, dir pathtree.Ino) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var subs []pathtree.Ino
		var n int
		err := v.store.db.Write(func(tx *schema.Tx) error {
			subs = subs[:0]
			entries, err := v.v.ReadDir(tx, dir, "", removeBatch)
			n = len(entries)
			for _, e := range entries {
				if err != nil {
					break
				}
				err = v.remove(tx, dir, e.Name)
				if e.IsDir() && errors.Is(err, syscall.ENOTEMPTY) {
					subs, err = append(subs, e.Ino), nil
				}
			}
			return err
		})
		if err != nil || n == 0 {
			return err
		}
		for _, sub := range subs {
			if err := v.removeBelow(ctx, sub); err != nil {
				return err
			}
		}
	}
}

// Rename moves old to name, replacing what is there as rename(2) does.
func (v *View) Rename(old, name string) error {
	defer v.store.done(opRename, latency.Now())
	return v.change("rename", name, func(tx *schema.Tx, parent pathtree.Ino, base string) error {
		oldParent, oldBase, err := v.parent(tx, old)
		if err == nil {
			_, err = v.v.Rename(tx, oldParent, oldBase, parent, base, 0)
		}
		return err
	})
}

// Chmod sets the permission bits of what name leads to.
func (v *View) Chmod(name string, mode fs.FileMode) error {
	m := unixPerm(mode)
	return v.setAttr("chmod", name, pathtree.SetAttr{Mode: &m})
}

// Chown sets owner and group; -1 leaves one as it is.
func (v *View) Chown(name string, uid, gid int) error {
	var a pathtree.SetAttr
	if uid >= 0 {
		a.UID = new(uint32(uid))
	}
	if gid >= 0 {
		a.GID = new(uint32(gid))
	}
	return v.setAttr("chown", name, a)
}

// Chtimes sets the times of access and modification; a zero time leaves one.
func (v *View) Chtimes(name string, atime, mtime time.Time) error {
	var a pathtree.SetAttr
	if !atime.IsZero() {
		a.Atime = new(atime.UnixNano())
	}
	if !mtime.IsZero() {
		a.Mtime = new(mtime.UnixNano())
	}
	return v.setAttr("chtimes", name, a)
}

func (v *View) setAttr(op, name string, a pathtree.SetAttr) error {
	if !validPath(name) {
		return pathError(op, name, fs.ErrInvalid)
	}
	if v.ReadOnly() {
		return pathError(op, name, syscall.EROFS)
	}
	return pathError(op, name, v.store.db.Write(func(tx *schema.Tx) error {
		in, err := v.find(tx, name, true)
		if err == nil {
			_, err = v.v.SetAttr(tx, in.Ino, a)
		}
		return err
	}))
}

// change runs f on the directory that name is in, in one transaction.
func (v *View) change(op, name string, f func(tx *schema.Tx, parent pathtree.Ino, base string) error) error {
	if !validPath(name) {
		return pathError(op, name, fs.ErrInvalid)
	}
	if v.ReadOnly() {
		return pathError(op, name, syscall.EROFS)
	}
	return pathError(op, name, v.store.db.Write(func(tx *schema.Tx) error {
		parent, base, err := v.parent(tx, name)
		if err != nil {
			return err
		}
		return f(tx, parent, base)
	}))
}

// parent resolves the directory that name is in.
func (v *View) parent(tx *schema.Tx, name string) (pathtree.Ino, string, error) {
	dir, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i], name[i+1:]
	}
	if base == "" || base == "." {
		return 0, "", syscall.EBUSY
	}
	in, err := v.find(tx, dir, true)
	if err == nil && !in.IsDir() {
		err = syscall.ENOTDIR
	}
	return in.Ino, base, err
}

func newInode(mode uint32) pathtree.NewInode {
	return pathtree.NewInode{Mode: mode, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// unixPerm returns the permission bits of mode as st_mode has them.
func unixPerm(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}
