package pathtree

import (
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// What a version of an inode sets (column groups). Rows are complete all the
// same: what a version does not set is as it was seen when it was written.
const (
	groupContent = 1 // size, hash, mtime
	groupAttrs   = 2 // mode, uid, gid, atime, xattrs
	groupLinks   = 4 // nlink
	groupAll     = 7
	groupMtime   = 8 // an mtime that was set explicitly
)

// version is the place of a row among the versions of its thing.
type version struct {
	branch int64
	stamp  schema.Stamp
	node   int64
}

// dentryRow is one version of a dentry; ino 0 is a tombstone.
type dentryRow struct {
	version
	ino  Ino
	kind uint32 // S_IFMT bits
}

const selectDentry = `SELECT branch, stamp, node, ino, kind FROM dentry
	WHERE parent = ? AND name = ? AND (branch, stamp) <= (?, ?)
	ORDER BY branch DESC, stamp DESC, node DESC`

// findDentry returns the version of (parent, name) that ch sees, which may be
// a tombstone; false when there is none.
func findDentry(tx *schema.Tx, ch chain, parent Ino, name string) (r dentryRow, ok bool, err error) {
	return stepDentry(tx.Stmt(selectDentry), ch, parent, name)
}

func stepDentry(s *sqlite.Stmt, ch chain, parent Ino, name string) (r dentryRow, ok bool, err error) {
	s.BindInt64(1, int64(parent))
	s.BindBytes(2, []byte(name))
	w := startWalk(s, ch, 3)
	if ok, err = w.next(); ok {
		r = dentryRow{columnVersion(s), Ino(s.ColumnInt64(3)), uint32(s.ColumnInt64(4)) << 12}
	}
	return r, ok, err
}

func columnVersion(s *sqlite.Stmt) version {
	return version{s.ColumnInt64(0), schema.Stamp(s.ColumnInt64(1)), s.ColumnInt64(2)}
}

// insertDentry adds a version; ino 0 makes it a tombstone.
func insertDentry(tx *schema.Tx, parent Ino, name string, at version, ino Ino, kind uint32) error {
	s := tx.Stmt(`INSERT INTO dentry (parent, name, branch, stamp, node, ino, kind) VALUES (?, ?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, int64(parent))
	s.BindBytes(2, []byte(name))
	bindVersion(s, 3, at)
	bindIno(s, 6, ino)
	s.BindInt64(7, int64(kind>>12))
	return run(s)
}

// replaceDentry turns the version old into one at stamp.
func replaceDentry(tx *schema.Tx, parent Ino, name string, old version, stamp schema.Stamp, ino Ino, kind uint32) error {
	s := tx.Stmt(`UPDATE dentry SET stamp = ?, ino = ?, kind = ?
		WHERE parent = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?`)
	s.BindInt64(1, int64(stamp))
	bindIno(s, 2, ino)
	s.BindInt64(3, int64(kind>>12))
	s.BindInt64(4, int64(parent))
	s.BindBytes(5, []byte(name))
	bindVersion(s, 6, old)
	return run(s)
}

// deleteDentry takes one version out of the history.
func deleteDentry(tx *schema.Tx, parent Ino, name string, at version) error {
	s := tx.Stmt(`DELETE FROM dentry WHERE parent = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?`)
	s.BindInt64(1, int64(parent))
	s.BindBytes(2, []byte(name))
	bindVersion(s, 3, at)
	return run(s)
}

// inodeRow is one version of an inode.
type inodeRow struct {
	Inode
	node   int64
	groups int
}

func (r *inodeRow) version() version { return version{r.Branch, r.Stamp, r.node} }

// inodeColumns are what scanInode reads, in its order.
const inodeColumns = `branch, stamp, node, groups, home, mode, uid, gid, rdev, nlink,
	size, hash, target, atime, mtime, ctime, btime, ino`

const selectInode = `SELECT ` + inodeColumns + ` FROM inode
	WHERE ino = ? AND (branch, stamp) <= (?, ?)
	ORDER BY branch DESC, stamp DESC, node DESC`

func scanInode(s *sqlite.Stmt, r *inodeRow) {
	r.Branch = s.ColumnInt64(0)
	r.Stamp = schema.Stamp(s.ColumnInt64(1))
	r.node = s.ColumnInt64(2)
	r.groups = int(s.ColumnInt64(3))
	r.Home = Ino(s.ColumnInt64(4))
	r.Mode = uint32(s.ColumnInt64(5))
	r.UID = uint32(s.ColumnInt64(6))
	r.GID = uint32(s.ColumnInt64(7))
	r.Rdev = uint32(s.ColumnInt64(8))
	r.Nlink = uint32(s.ColumnInt64(9))
	r.Size = s.ColumnInt64(10)
	r.Hash = blobstore.Hash{}
	if r.IsRegular() && r.Size > 0 {
		s.ColumnBytes(11, r.Hash[:])
	}
	r.Target = ""
	if r.IsSymlink() {
		r.Target = s.ColumnText(12)
	}
	r.Atime = s.ColumnInt64(13)
	r.Mtime = s.ColumnInt64(14)
	r.Ctime = s.ColumnInt64(15)
	r.Btime = s.ColumnInt64(16)
	r.Ino = Ino(s.ColumnInt64(17))
}

// findInode returns the newest version of ino that ch sees. When ch follows a
// live parent each group comes from the nearest version that sets it.
func findInode(tx *schema.Tx, ch chain, live bool, ino Ino) (r inodeRow, ok bool, err error) {
	return stepInode(tx.Stmt(selectInode), ch, live, ino)
}

func stepInode(s *sqlite.Stmt, ch chain, live bool, ino Ino) (r inodeRow, ok bool, err error) {
	s.BindInt64(1, int64(ino))
	w := startWalk(s, ch, 2)
	if ok, err = w.next(); !ok {
		return r, false, err
	}
	scanInode(s, &r)
	if live && r.groups&groupAll != groupAll {
		err = combine(&w, &r)
	}
	return r, err == nil, err
}

// combine adds to r the groups that further versions set. An mtime can be set
// with the content or, explicitly, with the attributes: the later one counts,
// by ctime, because a version overwritten in place keeps its stamp.
func combine(w *walk, r *inodeRow) error {
	if r.node == derivedNode { // it says nothing but the link count
		links := r.Nlink
		if ok, err := w.next(); err != nil || !ok {
			return err
		}
		scanInode(w.s, r)
		err := combineRest(w, r)
		r.Nlink, r.node = links, derivedNode
		r.groups &^= groupLinks
		return err
	}
	return combineRest(w, r)
}

// combineRest is combine where r was written by somebody.
func combineRest(w *walk, r *inodeRow) error {
	const setsMtime = groupContent | groupMtime
	var next inodeRow
	var setAt int64
	have := r.groups
	branch, links := r.Branch, r.Nlink // the newest row of a branch has its count
	if have&setsMtime != 0 {
		setAt = r.Ctime
	}
	for have&groupAll != groupAll {
		ok, err := w.next()
		if err != nil || !ok {
			return err
		}
		scanInode(w.s, &next)
		if next.Branch != branch {
			branch, links = next.Branch, next.Nlink
		}
		if next.node == derivedNode {
			continue
		}
		set := next.groups &^ have
		have |= set
		if set&groupContent != 0 {
			r.Size, r.Hash, r.Target = next.Size, next.Hash, next.Target
		}
		if set&groupAttrs != 0 {
			r.Mode, r.UID, r.GID, r.Atime = next.Mode, next.UID, next.GID, next.Atime
		}
		if set&groupLinks != 0 {
			r.Nlink = links
		}
		if set&setsMtime != 0 && next.Ctime > setAt {
			r.Mtime, setAt = next.Mtime, next.Ctime
		}
		r.Ctime = max(r.Ctime, next.Ctime)
	}
	return nil
}

// insertInode adds r as a version at its Branch, Stamp and node.
func insertInode(tx *schema.Tx, r *inodeRow) error {
	s := tx.Stmt(`INSERT INTO inode (` + inodeColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	bindVersion(s, 1, r.version())
	s.BindInt64(4, int64(r.groups))
	s.BindInt64(5, int64(r.Home))
	s.BindInt64(6, int64(r.Mode))
	s.BindInt64(7, int64(r.UID))
	s.BindInt64(8, int64(r.GID))
	s.BindInt64(9, int64(r.Rdev))
	s.BindInt64(10, int64(r.Nlink))
	s.BindInt64(11, r.Size)
	bindHash(s, 12, r.Hash)
	if r.Target == "" {
		s.BindNull(13)
	} else {
		s.BindBytes(13, []byte(r.Target))
	}
	s.BindInt64(14, r.Atime)
	s.BindInt64(15, r.Mtime)
	s.BindInt64(16, r.Ctime)
	s.BindInt64(17, r.Btime)
	s.BindInt64(18, int64(r.Ino))
	return run(s)
}

// updateInode writes r over the version it was read from, keeping its place.
// The columns of the index by hash are left alone unless content is set, for
// the index would be written even when they stay the same.
func updateInode(tx *schema.Tx, r *inodeRow, content bool) error {
	query := `UPDATE inode SET groups = ?, mode = ?, uid = ?, gid = ?, nlink = ?,
		atime = ?, mtime = ?, ctime = ? WHERE ino = ? AND branch = ? AND stamp = ? AND node = ?`
	if content {
		query = `UPDATE inode SET groups = ?, mode = ?, uid = ?, gid = ?, nlink = ?,
		atime = ?, mtime = ?, ctime = ?, size = ?13, hash = ?14
		WHERE ino = ?9 AND branch = ?10 AND stamp = ?11 AND node = ?12`
	}
	s := tx.Stmt(query)
	s.BindInt64(1, int64(r.groups))
	s.BindInt64(2, int64(r.Mode))
	s.BindInt64(3, int64(r.UID))
	s.BindInt64(4, int64(r.GID))
	s.BindInt64(5, int64(r.Nlink))
	s.BindInt64(6, r.Atime)
	s.BindInt64(7, r.Mtime)
	s.BindInt64(8, r.Ctime)
	s.BindInt64(9, int64(r.Ino))
	bindVersion(s, 10, r.version())
	if content {
		s.BindInt64(13, r.Size)
		bindHash(s, 14, r.Hash)
	}
	return run(s)
}

// xattrRow is one version of an extended attribute.
type xattrRow struct {
	version
	set   bool // false: a tombstone
	value []byte
}

const selectXattr = `SELECT branch, stamp, node, value FROM xattr
	WHERE ino = ? AND name = ? AND (branch, stamp) <= (?, ?)
	ORDER BY branch DESC, stamp DESC, node DESC`

// findXattr returns the version of an attribute that ch sees, which may be a
// tombstone; false when there is none.
func findXattr(tx *schema.Tx, ch chain, ino Ino, name string) (r xattrRow, ok bool, err error) {
	s := tx.Stmt(selectXattr)
	s.BindInt64(1, int64(ino))
	s.BindBytes(2, []byte(name))
	w := startWalk(s, ch, 3)
	if ok, err = w.next(); !ok {
		return r, false, err
	}
	r.version = columnVersion(s)
	if r.set = s.ColumnType(3) != sqlite.TypeNull; r.set {
		r.value = schema.Bytes(s, 3)
	}
	return r, true, nil
}

// putXattr adds a version, or replaces the one at the same place; a nil value
// makes it a tombstone, an empty one does not.
func putXattr(tx *schema.Tx, ino Ino, name string, at version, value []byte) error {
	s := tx.Stmt(`INSERT OR REPLACE INTO xattr (ino, name, branch, stamp, node, value) VALUES (?, ?, ?, ?, ?, ?)`)
	s.BindInt64(1, int64(ino))
	s.BindBytes(2, []byte(name))
	bindVersion(s, 3, at)
	switch {
	case value == nil:
		s.BindNull(6)
	case len(value) == 0:
		s.BindZeroBlob(6, 0)
	default:
		s.BindBytes(6, value)
	}
	return run(s)
}

// deleteXattr takes one version out of the history.
func deleteXattr(tx *schema.Tx, ino Ino, name string, at version) error {
	s := tx.Stmt(`DELETE FROM xattr WHERE ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?`)
	s.BindInt64(1, int64(ino))
	s.BindBytes(2, []byte(name))
	bindVersion(s, 3, at)
	return run(s)
}

func bindVersion(s *sqlite.Stmt, param int, v version) {
	s.BindInt64(param, v.branch)
	s.BindInt64(param+1, int64(v.stamp))
	s.BindInt64(param+2, v.node)
}

func bindIno(s *sqlite.Stmt, param int, ino Ino) {
	if ino == 0 {
		s.BindNull(param)
		return
	}
	s.BindInt64(param, int64(ino))
}

func bindHash(s *sqlite.Stmt, param int, h blobstore.Hash) {
	if h.IsZero() {
		s.BindNull(param)
		return
	}
	s.BindBytes(param, h[:])
}

// run executes a statement that returns no rows.
func run(s *sqlite.Stmt) error {
	_, err := s.Step()
	return err
}
