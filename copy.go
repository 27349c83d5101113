package alkfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// CopyOptions configures Copy.
type CopyOptions struct {
	Recursive bool // copy directories with what is in them
	Preserve  bool // keep times and owners; otherwise copies are new and belong to this process
}

// Copy copies name to dstName in dst, which may be another branch of the same
// store. Content is shared, not copied, so that the size of files does not
// matter. Modes are kept. An existing directory is merged into, existing files
// get a new version.
func (v *View) Copy(ctx context.Context, name string, dst *View, dstName string, o CopyOptions) error {
	defer v.store.done(opCopy, latency.Now())
	in, err := v.stat("copy", name, false)
	if err != nil {
		return err
	}
	if !validPath(dstName) {
		return pathError("copy", dstName, fs.ErrInvalid)
	}
	switch {
	case dst.ReadOnly():
		return pathError("copy", dstName, syscall.EROFS)
	case in.IsDir() && !o.Recursive:
		return pathError("copy", name, fmt.Errorf("is a directory: ask for a recursive copy (%w)", syscall.EISDIR))
	case in.IsDir() && v.v.Branch().ID == dst.v.Branch().ID && (name == "." || within(dstName, name)):
		return pathError("copy", dstName, fmt.Errorf("cannot copy %q into itself (%w)", name, syscall.EINVAL))
	}
	c := &copying{src: v, dst: dst, o: o, links: make(map[pathtree.Ino]pathtree.Ino)}
	err = dst.store.db.Write(func(tx *schema.Tx) error {
		if dstName == "." {
			c.top = dst.v.Root()
			return nil
		}
		parent, base, err := dst.parent(tx, dstName)
		if err == nil {
			c.top, err = c.one(tx, in, parent, base)
		}
		return err
	})
	if err == nil && in.IsDir() {
		err = c.below(ctx, in.Ino, c.top)
	} else if err == nil {
		dst.store.sessions.Refresh(dst.v.Branch().ID, c.top)
	}
	return pathError("copy", strings.TrimPrefix(dstName, "./"), err)
}

type copying struct {
	src, dst *View
	o        CopyOptions
	top      pathtree.Ino
	links    map[pathtree.Ino]pathtree.Ino // copies of files with several names
}

// below copies the entries of the directory from into the directory to.
func (c *copying) below(ctx context.Context, from, to pathtree.Ino) error {
	var entries []pathtree.Inode
	var names []string
	err := c.src.list(from, func(in pathtree.Inode, name string) error {
		entries, names = append(entries, in), append(names, name)
		return nil
	})
	if err != nil {
		return err
	}
	made := make([]pathtree.Ino, len(entries))
	for i := 0; i < len(entries); i += putBatchItems {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(i+putBatchItems, len(entries))
		err := c.dst.store.db.Write(func(tx *schema.Tx) (err error) {
			for k := i; k < end && err == nil; k++ {
				made[k], err = c.one(tx, entries[k], to, names[k])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for i, in := range entries {
		if in.IsDir() {
			if err := c.below(ctx, in.Ino, made[i]); err != nil {
				return err
			}
		} else if in.IsRegular() {
			c.dst.store.sessions.Refresh(c.dst.v.Branch().ID, made[i])
		}
	}
	return nil
}

// one copies a single inode to a name, and returns what is there then.
func (c *copying) one(tx *schema.Tx, in pathtree.Inode, parent pathtree.Ino, base string) (pathtree.Ino, error) {
	old, err := c.dst.v.LookupInode(tx, parent, base)
	there := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	case there && in.IsDir() && old.IsDir():
		return old.Ino, nil
	case there && in.IsDir():
		return 0, syscall.ENOTDIR
	case there && old.IsDir():
		return 0, syscall.EISDIR
	case there && old.Ino == in.Ino && c.src.v.Branch().ID == c.dst.v.Branch().ID && c.src.v.At() == 0:
		return 0, &nameError{"source and destination are the same file", syscall.EINVAL}
	}
	n := newInode(in.Mode)
	n.Target, n.Rdev, n.Hash, n.Size = in.Target, in.Rdev, in.Hash, in.Size
	if c.o.Preserve {
		n.UID, n.GID, n.Mtime = in.UID, in.GID, in.Mtime
	}
	first, linked := c.links[in.Ino]
	if there {
		if old.IsRegular() && in.IsRegular() && !linked {
			out, err := c.dst.setContent(tx, old.Ino, pathtree.Content{Hash: n.Hash, Size: n.Size, Mtime: n.Mtime})
			return out.Ino, err
		}
		if _, err := c.dst.v.Unlink(tx, parent, base); err != nil {
			return 0, err
		}
	}
	if linked {
		out, err := c.dst.v.Link(tx, first, parent, base)
		return out.Ino, err
	}
	out, err := c.dst.v.Create(tx, parent, base, n)
	if err == nil && in.Nlink > 1 && !in.IsDir() {
		c.links[in.Ino] = out.Ino
	}
	if err == nil && c.o.Preserve {
		err = c.copyXattrs(tx, in.Ino, out.Ino)
	}
	return out.Ino, err
}

func (c *copying) copyXattrs(tx *schema.Tx, from, to pathtree.Ino) error {
	names, err := c.src.v.Listxattr(tx, from)
	for _, name := range names {
		value, e := c.src.v.Getxattr(tx, from, name)
		if e == nil {
			e = c.dst.v.Setxattr(tx, to, name, value, 0)
		}
		err = errors.Join(err, e)
	}
	return err
}
