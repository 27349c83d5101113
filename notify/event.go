package notify

import (
	"strconv"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// Op says what an event is about.
type Op uint8

// The numbers are stored; do not change them.
const (
	OpCreate   Op = 1  // a new inode with its first dentry
	OpRemove   Op = 2  // a dentry removed (unlink, rmdir)
	OpRename   Op = 3  // Parent, Name: the new place; Ref, Old: the old one
	OpLink     Op = 4  // a further dentry for an inode
	OpContent  Op = 5  // content published; Old, New: hashes
	OpAttr     Op = 6  // mode, owner or times
	OpXattr    Op = 7  // Name: the attribute
	OpBranch   Op = 8  // a branch made, renamed or removed; Ref: its id
	OpSnapshot Op = 9  // a snapshot made or removed; Ref: its id
	OpBucket   Op = 10 // a bucket made or removed
	OpMerge    Op = 11 // a merge, after the events of what it changed; Ref: its id
	OpRestore  Op = 12 // a restore, after the events of what it changed
	OpConflict Op = 13 // versions of several nodes exclude each other; Ref: the kind of pathtree.SyncConflict
)

var opNames = [...]string{
	OpCreate: "create", OpRemove: "remove", OpRename: "rename", OpLink: "link",
	OpContent: "content", OpAttr: "attr", OpXattr: "xattr", OpBranch: "branch",
	OpSnapshot: "snapshot", OpBucket: "bucket", OpMerge: "merge", OpRestore: "restore",
	OpConflict: "conflict",
}

func (op Op) String() string {
	if int(op) < len(opNames) && opNames[op] != "" {
		return opNames[op]
	}
	return "op" + strconv.Itoa(int(op))
}

// Event is one change. Fields that do not apply to an Op are zero.
type Event struct {
	Seq            int64 // as read; not looked at by Append
	Stamp          schema.Stamp
	Node           int64 // node that made the change
	Bucket, Branch int64
	Origin         int64 // surface of this store that made it; 0 none
	Op             Op
	Ino, Parent    uint64
	Name           []byte
	Old, New       []byte // content hashes before and after
	Size           int64  // bytes, after
	Ref            int64
}

const insertEvent = `INSERT INTO event
	(stamp, node, bucket, branch, origin, op, ino, parent, name, old, new, size, ref)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// Append records e in tx. It must not be changed any more.
func Append(tx *schema.Tx, e *Event) error { return tx.Later(e) }

// Apply implements schema.Change.
func (e *Event) Apply(tx *schema.Tx) error {
	s := tx.Stmt(insertEvent)
	for i, v := range [...]int64{int64(e.Stamp), e.Node, e.Bucket, e.Branch, e.Origin, int64(e.Op), int64(e.Ino), int64(e.Parent)} {
		s.BindInt64(i+1, v)
	}
	bindBytes(s, 9, e.Name)
	bindHash(s, 10, e.Old)
	bindHash(s, 11, e.New)
	s.BindInt64(12, e.Size)
	s.BindInt64(13, e.Ref)
	_, err := s.Step()
	return err
}

// bindBytes binds an empty p as a zero-length blob, which the library's
// BindBytes would make NULL.
func bindBytes(s *sqlite.Stmt, param int, p []byte) {
	if len(p) == 0 {
		s.BindZeroBlob(param, 0)
		return
	}
	s.BindBytes(param, p)
}

func bindHash(s *sqlite.Stmt, param int, p []byte) {
	if len(p) == 0 {
		s.BindNull(param)
		return
	}
	s.BindBytes(param, p)
}

func scan(s *sqlite.Stmt) Event {
	return Event{
		Seq: s.ColumnInt64(0), Stamp: schema.Stamp(s.ColumnInt64(1)), Node: s.ColumnInt64(2),
		Bucket: s.ColumnInt64(3), Branch: s.ColumnInt64(4), Origin: s.ColumnInt64(5),
		Op: Op(s.ColumnInt64(6)), Ino: uint64(s.ColumnInt64(7)), Parent: uint64(s.ColumnInt64(8)),
		Name: columnBytes(s, 9), Old: columnBytes(s, 10), New: columnBytes(s, 11),
		Size: s.ColumnInt64(12), Ref: s.ColumnInt64(13),
	}
}

func columnBytes(s *sqlite.Stmt, col int) []byte {
	n := s.ColumnLen(col)
	if n == 0 {
		return nil
	}
	p := make([]byte, n)
	s.ColumnBytes(col, p)
	return p
}
