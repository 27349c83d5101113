package pathtree

import (
	"bytes"
	"cmp"
	"fmt"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// Node numbers of rows that are derived from versions, greater than any node's
// number, so that such a row comes before a version of its stamp.
const (
	derivedNode = 2_000_000_001 // a row of the overlay, or of an inode for the sake of its link count
	copyNode    = 2_000_000_000 // a conflict copy
	nodeLimit   = 2_000_000_000 // all others are below
)

// exchange is one export or import: what it has looked up.
type exchange struct {
	t       *Tree
	tx      *schema.Tx
	bucket  Bucket
	keys    map[int64]NodeKey
	ids     map[NodeKey]int64
	uuids   map[int64][16]byte
	byUUID  map[[16]byte]Branch
	chains  map[int64]chain
	reaches map[reachKey][]reach
}

func (t *Tree) newExchange(tx *schema.Tx, bucket int64) (*exchange, error) {
	b, err := t.bucketByID(tx, bucket)
	if err != nil {
		return nil, err
	}
	x := &exchange{
		t: t, tx: tx, bucket: b, keys: map[int64]NodeKey{}, ids: map[NodeKey]int64{},
		uuids: map[int64][16]byte{}, byUUID: map[[16]byte]Branch{}, chains: map[int64]chain{},
		reaches: map[reachKey][]reach{},
	}
	return x, nil
}

// key returns the key of a node.
func (x *exchange) key(id int64) (k NodeKey, err error) {
	if k, ok := x.keys[id]; ok || id == 0 {
		return k, nil
	}
	s := x.tx.Stmt("SELECT key FROM node WHERE id = ?")
	s.BindInt64(1, id)
	ok, err := s.Step()
	if err != nil {
		return k, err
	}
	if !ok || s.ColumnLen(0) != len(k) {
		return k, fmt.Errorf("node %d has no key of %d bytes: %w", id, len(k), schema.ErrDamaged)
	}
	s.ColumnBytes(0, k[:])
	x.keys[id], x.ids[k] = k, id
	return k, nil
}

// node returns the number of a node, giving it one if it has none.
func (x *exchange) node(k NodeKey) (id int64, err error) {
	if k == (NodeKey{}) {
		return 0, nil
	}
	if id, ok := x.ids[k]; ok {
		return id, nil
	}
	for range 2 {
		s := x.tx.Stmt("SELECT id FROM node WHERE key = ?")
		s.BindBytes(1, k[:])
		ok, err := s.Step()
		if err != nil {
			return 0, err
		}
		if ok {
			id = s.ColumnInt64(0)
			x.keys[id], x.ids[k] = k, id
			return id, nil
		}
		s = x.tx.Stmt("INSERT INTO node (key) VALUES (?)")
		s.BindBytes(1, k[:])
		if err := run(s); err != nil {
			return 0, err
		}
	}
	return 0, schema.ErrDamaged
}

// id returns the identity of a version that travels.
func (x *exchange) id(v version) (VersionID, error) {
	k, err := x.key(v.node)
	return VersionID{v.stamp, k}, err
}

// place returns where a version of branch stands in the tables.
func (x *exchange) place(branch int64, id VersionID) (version, error) {
	n, err := x.node(id.Node)
	return version{branch, id.Stamp, n}, err
}

// uuid returns that of a branch.
func (x *exchange) uuid(branch int64) (u [16]byte, err error) {
	if u, ok := x.uuids[branch]; ok {
		return u, nil
	}
	b, err := x.t.BranchByID(x.tx, branch)
	if err == nil {
		x.uuids[branch], x.byUUID[b.UUID] = b.UUID, b
	}
	return b.UUID, err
}

// branch returns the branch of a uuid; an *UnknownBranchError without one.
func (x *exchange) branch(u [16]byte) (Branch, error) {
	if b, ok := x.byUUID[u]; ok {
		return b, nil
	}
	s := x.tx.Stmt(selectBranch + "WHERE uuid = ? AND bucket = ?")
	s.BindBytes(1, u[:])
	s.BindInt64(2, x.bucket.ID)
	ok, err := s.Step()
	if err != nil {
		return Branch{}, err
	}
	if !ok {
		return Branch{}, &UnknownBranchError{u}
	}
	b := scanBranch(s)
	x.uuids[b.ID], x.byUUID[u] = u, b
	return b, nil
}

// chain returns that of a branch's head.
func (x *exchange) chain(branch int64) (chain, error) {
	if ch, ok := x.chains[branch]; ok {
		return ch, nil
	}
	ch, err := loadChain(x.tx, branch, schema.MaxStamp)
	if err == nil {
		x.chains[branch] = ch
	}
	return ch, err
}

// reach is a branch that sees versions of another up to a bound.
type reach struct {
	branch int64
	bound  schema.Stamp
}

type reachKey struct {
	branch int64
	from   schema.Stamp
}

const selectReach = `
WITH RECURSIVE r (id, bound) AS (
	SELECT ?1, ?3
	UNION ALL
	SELECT b.id, min(r.bound, coalesce(b.fork, ?3)) FROM r JOIN branch b ON b.parent = r.id AND b.fork >= ?2 WHERE b.keep <> 1
	UNION ALL
	SELECT b.id, r.bound FROM r JOIN branch b ON b.parent = r.id AND b.fork IS NULL WHERE b.keep <> 1
) SELECT id, bound FROM r ORDER BY id`

// reach returns the branches that see a version of branch at the stamp from:
// that one first, and parents before children. Those that are not kept here show
// nothing, and nothing is derived for them.
func (x *exchange) reach(branch int64, from schema.Stamp) ([]reach, error) {
	k := reachKey{branch, from}
	if all, ok := x.reaches[k]; ok {
		return all, nil
	}
	s := x.tx.Stmt(selectReach)
	s.BindInt64(1, branch)
	s.BindInt64(2, int64(from))
	s.BindInt64(3, int64(schema.MaxStamp))
	var all []reach
	for {
		ok, err := s.Step()
		if err != nil {
			return nil, err
		}
		if !ok {
			x.reaches[k] = all
			return all, nil
		}
		all = append(all, reach{s.ColumnInt64(0), schema.Stamp(s.ColumnInt64(1))})
	}
}

// thing is what versions are of: (kind, ino, name) is (1, directory, name), (2,
// inode, "") or (3, inode, attribute).
type thing struct {
	kind VersionKind
	ino  Ino
	name string
}

func (v *Version) thing() thing {
	switch v.Kind {
	case DentryVersion:
		return thing{v.Kind, v.Parent, v.Name}
	case InodeVersion:
		return thing{v.Kind, v.Ino, ""}
	}
	return thing{v.Kind, v.Ino, v.Name}
}

func compareThings(a, b thing) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.ino, b.ino), cmp.Compare(a.name, b.name))
}

// bindThing binds kind, ino and name.
func bindThing(s *sqlite.Stmt, param int, th thing) {
	s.BindInt64(param, int64(th.kind))
	s.BindInt64(param+1, int64(th.ino))
	bindName(s, param+2, th.name)
}

// toInode turns a row into what travels.
func toInode(r *inodeRow) *InodeState {
	in := &InodeState{Groups: r.groups, Mode: kindOf(&r.Inode), Rdev: r.Rdev, Ctime: r.Ctime, Btime: r.Btime}
	if r.groups&groupContent != 0 {
		in.Target = r.Target
		if !r.IsDir() {
			in.Size = r.Size
		}
		if r.IsRegular() && r.Size > 0 {
			in.Hash = r.Hash
		}
	}
	if r.groups&groupAttrs != 0 {
		in.Mode, in.UID, in.GID, in.Atime = r.Mode, r.UID, r.GID, r.Atime
	}
	if r.groups&(groupContent|groupMtime) != 0 {
		in.Mtime = r.Mtime
	}
	return in
}

// fromInode turns what travels into a row, of which only the groups that it
// sets count.
func fromInode(v *Version, at version) *inodeRow {
	in := v.Inode
	return &inodeRow{
		Inode: Inode{
			Ino: v.Ino, Home: v.Home, Mode: in.Mode, UID: in.UID, GID: in.GID, Rdev: in.Rdev, Size: in.Size,
			Hash: in.Hash, Target: in.Target, Atime: in.Atime, Mtime: in.Mtime, Ctime: in.Ctime, Btime: in.Btime,
			Stamp: at.stamp, Branch: at.branch,
		},
		node: at.node, groups: in.Groups,
	}
}

// take completes r with what it does not set itself, as it was before.
func (r *inodeRow) take(before *inodeRow) {
	if r.groups&groupContent == 0 {
		r.Size, r.Hash, r.Target = before.Size, before.Hash, before.Target
	}
	if r.groups&groupAttrs == 0 {
		r.Mode, r.UID, r.GID, r.Atime = before.Mode, before.UID, before.GID, before.Atime
	}
	if r.groups&(groupContent|groupMtime) == 0 {
		r.Mtime = before.Mtime
	}
}

// sameVersion compares all that two versions of one identity say of the thing.
func sameVersion(a, b *Version) bool {
	if a.Ino != b.Ino || a.FileType != b.FileType || a.Home != b.Home || !bytes.Equal(a.Value, b.Value) ||
		(a.Value == nil) != (b.Value == nil) || (a.Inode == nil) != (b.Inode == nil) {
		return false
	}
	return a.Inode == nil || *a.Inode == *b.Inode
}
