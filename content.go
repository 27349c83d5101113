package alkfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// copyBuffer is the size in bytes of reads and writes when files are copied.
const copyBuffer = 1 << 20

// content is a file's content on its way in: small content is in memory until
// the transaction that names it, large content is already a blob file.
type content struct {
	inline []byte
	hash   blobstore.Hash // of a blob file
	size   int64
}

// add makes the blob row and returns the hash.
func (c content) add(tx *schema.Tx, blobs *blobstore.Store) (blobstore.Hash, error) {
	if c.size <= blobstore.InlineMax {
		return blobs.PutInline(tx, c.inline)
	}
	return c.hash, blobs.AddFile(tx, c.hash, c.size)
}

// contentOf takes p in. p may be kept until add.
func (s *Store) contentOf(ctx context.Context, p []byte) (content, error) {
	if len(p) <= blobstore.InlineMax {
		return content{inline: p, size: int64(len(p))}, nil
	}
	return s.stage(ctx, func(st *blobstore.Staging) (int64, error) {
		n, err := st.WriteAt(p, 0)
		return int64(n), err
	})
}

// contentFrom takes in all that r gives, telling progress of each piece.
func (s *Store) contentFrom(ctx context.Context, r io.Reader, progress func(n int64)) (content, error) {
	head := make([]byte, blobstore.InlineMax+1)
	n, err := io.ReadFull(r, head)
	progress(int64(n))
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return content{inline: head[:n], size: int64(n)}, nil
	}
	if err != nil {
		return content{}, err
	}
	return s.stage(ctx, func(st *blobstore.Staging) (int64, error) {
		if _, err := st.WriteAt(head, 0); err != nil {
			return 0, err
		}
		off := int64(len(head))
		buf := make([]byte, copyBuffer)
		for {
			if err := ctx.Err(); err != nil {
				return off, err
			}
			n, err := r.Read(buf)
			if n > 0 {
				if _, err := st.WriteAt(buf[:n], off); err != nil {
					return off, err
				}
				off += int64(n)
				progress(int64(n))
			}
			if errors.Is(err, io.EOF) {
				return off, nil
			}
			if err != nil {
				return off, err
			}
		}
	})
}

// contentFile takes in a host file, holes as holes.
func (s *Store) contentFile(ctx context.Context, f *os.File, size int64, progress func(n int64)) (content, error) {
	if size <= blobstore.InlineMax {
		return s.contentFrom(ctx, f, progress)
	}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Blocks*512 >= size {
		return s.contentFrom(ctx, f, progress)
	}
	return s.stage(ctx, func(st *blobstore.Staging) (int64, error) { return stageSparse(ctx, st, f, size, progress) })
}

// stageSparse copies the data of f, leaving out its holes.
func stageSparse(ctx context.Context, st *blobstore.Staging, f *os.File, size int64, progress func(n int64)) (int64, error) {
	buf := make([]byte, copyBuffer)
	for off := int64(0); off < size; {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		if err != nil {
			return off, err
		}
		end, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return off, err
		}
		for off = data; off < min(end, size); {
			if err := ctx.Err(); err != nil {
				return off, err
			}
			n, err := f.ReadAt(buf[:min(int64(len(buf)), min(end, size)-off)], off)
			if n == 0 {
				if err == io.EOF { // it shrank while being read
					return off, st.Truncate(off)
				}
				return off, err
			}
			if _, err := st.WriteAt(buf[:n], off); err != nil {
				return off, err
			}
			off += int64(n)
			progress(int64(n))
		}
	}
	return size, st.Truncate(size)
}

// stage lets fill write a staging file and seals what it says it wrote.
func (s *Store) stage(ctx context.Context, fill func(st *blobstore.Staging) (int64, error)) (c content, err error) {
	st, err := s.blobs.NewStaging()
	if err != nil {
		return c, err
	}
	size, err := fill(st)
	if err == nil && size <= blobstore.InlineMax { // shorter than it was said to be
		c = content{inline: make([]byte, size), size: size}
		_, err = st.ReadAt(c.inline, 0)
		return c, errors.Join(err, st.Discard())
	}
	if err != nil {
		return c, errors.Join(err, st.Discard())
	}
	c.size = size
	if c.hash, err = st.Seal(ctx, size); err != nil {
		return content{}, err
	}
	return c, nil
}

// placing says how a file comes to its place in a directory.
type placing struct {
	mode     uint32 // permission bits of a new file; with keepMode of an old one too
	keepMode bool
	uid, gid uint32
	owners   bool  // set the owner of an old file too
	mtime    int64 // ns since 1970; 0: now
	excl     bool  // an existing file is an error
}

// place makes base in parent a regular file with content c: a new one, or the
// next version of the one that is there. Anything else there but a directory is
// replaced.
func (v *View) place(tx *schema.Tx, parent pathtree.Ino, base string, c content, p placing) (pathtree.Inode, error) {
	hash, err := c.add(tx, v.store.blobs)
	if err != nil {
		return pathtree.Inode{}, err
	}
	old, err := v.v.LookupInode(tx, parent, base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v.v.Create(tx, parent, base, pathtree.NewInode{
			Mode: unix.S_IFREG | p.mode, UID: p.uid, GID: p.gid, Hash: hash, Size: c.size, Mtime: p.mtime,
		})
	case err != nil:
		return old, err
	case p.excl:
		return old, syscall.EEXIST
	case old.IsDir():
		return old, syscall.EISDIR
	case !old.IsRegular():
		if _, err := v.v.Unlink(tx, parent, base); err != nil {
			return old, err
		}
		return v.place(tx, parent, base, c, p)
	}
	in, err := v.setContent(tx, old.Ino, pathtree.Content{Hash: hash, Size: c.size, Mtime: p.mtime})
	if err != nil || !(p.keepMode || p.owners) {
		return in, err
	}
	set := pathtree.SetAttr{}
	if p.keepMode && in.Mode&0o7777 != p.mode {
		set.Mode = &p.mode
	}
	if p.owners && (in.UID != p.uid || in.GID != p.gid) {
		set.UID, set.GID = &p.uid, &p.gid
	}
	if set == (pathtree.SetAttr{}) {
		return in, nil
	}
	return v.v.SetAttr(tx, old.Ino, set)
}

// setContent gives an inode its next content, unless its bucket allows one
// writer at a time and it has one.
func (v *View) setContent(tx *schema.Tx, ino pathtree.Ino, c pathtree.Content) (pathtree.Inode, error) {
	if err := v.store.sessions.MayReplace(tx, v.v, ino); err != nil {
		return pathtree.Inode{}, err
	}
	return v.v.SetContent(tx, ino, c)
}
