package pathtree

import (
	"encoding/binary"
	"sort"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// Inode numbers have 63 bits. A directory's has bit 62 set and is derived from
// where it was made; that of anything else is the node's tag and a counter.
const (
	dirBit    = 1 << 62
	tagBits   = 20
	countBits = 42
	countMask = 1<<countBits - 1
)

// targetMax is the greatest length of a symlink's target in bytes.
const targetMax = 4095

// dirIno derives the number of the nth directory made as name in parent, so
// that making one directory on two nodes or branches makes the same one.
func dirIno(bucket [16]byte, parent Ino, name string, n uint64) Ino {
	p := make([]byte, 0, 64)
	p = append(p, bucket[:]...)
	p = binary.BigEndian.AppendUint64(p, uint64(parent))
	p = binary.BigEndian.AppendUint64(p, n)
	p = append(p, name...)
	h := blobstore.Sum(p)
	return Ino(binary.BigEndian.Uint64(h[:])&(dirBit-1) | dirBit)
}

// newDirIno returns a number for a directory that the branch does not know: one
// that was removed or moved away is not made again, nor one that others have put
// something in and of which nothing else is here. Numbers are taken in
// order, so a free one is found by doubling and halving: a lock directory may
// be made and removed a million times.
func (v *View) newDirIno(tx *schema.Tx, parent Ino, name string) (Ino, error) {
	var failed error
	known := func(n int) bool {
		i := dirIno(v.bucket.UUID, parent, name, uint64(n))
		_, ok, err := v.inodeRow(tx, i)
		if err == nil && !ok {
			s := tx.Stmt("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1")
			s.BindInt64(1, int64(i))
			ok, err = s.Step()
		}
		if err != nil {
			failed = err
		}
		return ok
	}
	end := 0 // known(end) is false after the loop
	for known(end) && failed == nil {
		end = 2*end + 1
	}
	begin := end / 2
	n := begin + sort.Search(end-begin, func(i int) bool { return !known(begin + i) })
	return dirIno(v.bucket.UUID, parent, name, uint64(n)), failed
}

// newFileIno returns a number never given out before.
func (t *Tree) newFileIno(tx *schema.Tx) (Ino, error) {
	tag, err := t.ownTag(tx)
	return tag | Ino(tx.NextIno()), err
}

// ownTag returns the tag of this node, in its place.
func (t *Tree) ownTag(tx *schema.Tx) (Ino, error) {
	tag := t.tag.Load()
	if tag == 0 {
		key, err := tx.NodeKey(schema.LocalNode)
		if err != nil {
			return 0, err
		} else if key == nil {
			return 0, schema.ErrDamaged
		}
		h := blobstore.Sum(key)
		tag = binary.BigEndian.Uint64(h[:])>>(64-tagBits)<<countBits | tagKnown
		t.tag.Store(tag)
	}
	return Ino(tag &^ tagKnown), nil
}

// observeInos has numbers that this node gave out, and comes to know of again, be followed
// by others: the store may have been restored from a backup.
func (m *importer) observeInos(fresh []arrival) error {
	tag, err := m.t.ownTag(m.tx)
	for _, p := range fresh {
		if p.at.node == schema.LocalNode && p.Ino&^countMask == tag {
			m.tx.ObserveIno(int64(p.Ino & countMask))
		}
	}
	return err
}

// tagKnown tells a tag of zero from one that has not been read.
const tagKnown = 1 << 63

// Create makes a file, directory, symlink or special file. In a setgid
// directory it takes that one's group, and a directory is setgid too.
func (v *View) Create(tx *schema.Tx, parent Ino, name string, n NewInode) (Inode, error) {
	in, err := v.create(tx, parent, name, n)
	return in, fail("create", name, err)
}

func (v *View) create(tx *schema.Tx, parent Ino, name string, n NewInode) (Inode, error) {
	if err := checkName(name); err != nil {
		return Inode{}, err
	}
	c, err := v.begin(tx)
	if err != nil {
		return Inode{}, err
	}
	dir, err := v.dir(tx, parent)
	if err != nil {
		return Inode{}, err
	}
	cur, err := v.dentry(tx, parent, name)
	if err != nil {
		return Inode{}, err
	}
	if cur.ino != 0 {
		return Inode{}, syscall.EEXIST
	}
	in, err := c.newInode(&dir, name, n)
	if err != nil {
		return Inode{}, err
	}
	links := 0
	if in.IsDir() {
		links = 1
	}
	if err := c.addInode(&in); err != nil {
		return Inode{}, err
	}
	if err := c.setDentry(parent, name, cur, in.Ino, in.Mode&unix.S_IFMT); err != nil {
		return Inode{}, err
	}
	if err := c.touchDir(&dir, links); err != nil {
		return Inode{}, err
	}
	return in, c.event(notify.Event{
		Op: notify.OpCreate, Ino: uint64(in.Ino), Parent: uint64(parent), Name: []byte(name),
		New: hashBytes(in.Hash), Size: in.Size,
	})
}

// newInode makes up an inode with one name in dir.
func (c *change) newInode(dir *inodeRow, name string, n NewInode) (in Inode, err error) {
	in = Inode{
		Mode: n.Mode & (unix.S_IFMT | 0o7777), UID: n.UID, GID: n.GID, Nlink: 1, Home: dir.Ino,
		Atime: c.now, Mtime: c.now, Ctime: c.now, Btime: c.now,
	}
	if n.Mtime != 0 {
		in.Mtime = n.Mtime
	}
	if dir.Mode&unix.S_ISGID != 0 {
		in.GID = dir.GID
	}
	switch in.Mode & unix.S_IFMT {
	case 0, unix.S_IFREG:
		in.Mode |= unix.S_IFREG
		in.Hash, in.Size = n.Hash, n.Size
	case unix.S_IFDIR:
		in.Nlink = 2
		in.Mode |= dir.Mode & unix.S_ISGID
		in.Ino, err = c.v.newDirIno(c.tx, dir.Ino, name)
		return in, err
	case unix.S_IFLNK:
		switch {
		case n.Target == "":
			return in, syscall.ENOENT
		case len(n.Target) > targetMax:
			return in, syscall.ENAMETOOLONG
		}
		in.Mode = unix.S_IFLNK | 0o777
		in.Target, in.Size = n.Target, int64(len(n.Target))
	case unix.S_IFCHR, unix.S_IFBLK:
		in.Rdev = n.Rdev
	case unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return in, syscall.EINVAL
	}
	in.Ino, err = c.v.tree.newFileIno(c.tx)
	return in, err
}

// hashBytes is the form of a hash in events.
func hashBytes(h blobstore.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

// CreateUnlinked makes an inode without a name (O_TMPFILE), which Link can
// give one; dir gives the group if it is setgid.
func (v *View) CreateUnlinked(tx *schema.Tx, dir Ino, n NewInode) (Inode, error) {
	in, err := v.createUnlinked(tx, dir, n)
	return in, failIno("create in", dir, err)
}

func (v *View) createUnlinked(tx *schema.Tx, parent Ino, n NewInode) (Inode, error) {
	if n.Mode&unix.S_IFMT == unix.S_IFDIR {
		return Inode{}, syscall.EISDIR
	}
	c, err := v.begin(tx)
	if err != nil {
		return Inode{}, err
	}
	dir, err := v.dir(tx, parent)
	if err != nil {
		return Inode{}, err
	}
	in, err := c.newInode(&dir, "", n)
	if err != nil {
		return Inode{}, err
	}
	in.Nlink = 0
	return in, c.addInode(&in)
}

// Link makes a further name for ino, which must not be a directory (EPERM).
func (v *View) Link(tx *schema.Tx, ino, parent Ino, name string) (Inode, error) {
	in, err := v.link(tx, ino, parent, name)
	return in, fail("link", name, err)
}

func (v *View) link(tx *schema.Tx, ino, parent Ino, name string) (Inode, error) {
	if err := checkName(name); err != nil {
		return Inode{}, err
	}
	c, err := v.begin(tx)
	if err != nil {
		return Inode{}, err
	}
	r, err := v.inode(tx, ino)
	if err != nil {
		return Inode{}, err
	}
	if r.IsDir() {
		return Inode{}, syscall.EPERM
	}
	dir, err := v.dir(tx, parent)
	if err != nil {
		return Inode{}, err
	}
	cur, err := v.dentry(tx, parent, name)
	if err != nil {
		return Inode{}, err
	}
	if cur.ino != 0 {
		return Inode{}, syscall.EEXIST
	}
	if err := c.relink(&r, 1); err != nil {
		return Inode{}, err
	}
	if err := c.setDentry(parent, name, cur, ino, r.Mode&unix.S_IFMT); err != nil {
		return Inode{}, err
	}
	if err := c.touchDir(&dir, 0); err != nil {
		return Inode{}, err
	}
	return r.Inode, c.event(notify.Event{
		Op: notify.OpLink, Ino: uint64(ino), Parent: uint64(parent), Name: []byte(name),
		New: hashBytes(r.Hash), Size: r.Size,
	})
}
