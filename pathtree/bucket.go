package pathtree

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// MainBranch is the branch every bucket starts with.
const MainBranch = "main"

// Policy is how a bucket is run. The zero value is the default.
type Policy struct {
	Retention       time.Duration `json:"retention,omitempty"`        // ns superseded versions are kept; 0: 7 days, negative: for ever
	ExclusiveWrites bool          `json:"exclusive_writes,omitempty"` // a second writer of one file is refused
	QuotaBytes      int64         `json:"quota_bytes,omitempty"`      // greatest number of bytes, see Quota; 0: no limit
	QuotaInodes     int64         `json:"quota_inodes,omitempty"`     // greatest number of files, directories and the like; 0: no limit
	HoldBack        time.Duration `json:"hold_back,omitempty"`        // ns content waits for the word of members before it goes; 0: 30 days, negative: for ever
}

// Bucket is the unit of isolation and of sharing.
type Bucket struct {
	ID      int64
	UUID    [16]byte // the same on every node
	Name    string
	Root    Ino
	Policy  Policy
	Created time.Time
}

const selectBucket = `SELECT id, uuid, name, root, policy, created FROM bucket `

func scanBucket(s *sqlite.Stmt) (b Bucket, err error) {
	b.ID = s.ColumnInt64(0)
	s.ColumnBytes(1, b.UUID[:])
	b.Name = s.ColumnText(2)
	b.Root = Ino(s.ColumnInt64(3))
	if err := json.Unmarshal([]byte(s.ColumnText(4)), &b.Policy); err != nil {
		return b, fmt.Errorf("policy of bucket %q: %w", b.Name, err)
	}
	b.Created = time.Unix(0, s.ColumnInt64(5))
	return b, nil
}

// CreateBucket makes a bucket with a branch main and an empty root directory
// of mode 0755 owned by the process. EEXIST when there is one of that name.
func (t *Tree) CreateBucket(tx *schema.Tx, name string) (Bucket, error) {
	b, err := t.createBucket(tx, name)
	return b, fail("create bucket", name, err)
}

func (t *Tree) createBucket(tx *schema.Tx, name string) (Bucket, error) {
	if err := checkLabel(name); err != nil {
		return Bucket{}, err
	}
	if _, err := t.Bucket(tx, name); Errno(err) != syscall.ENOENT {
		return Bucket{}, orExists(err)
	}
	now := time.Now()
	b := Bucket{ID: tx.NextIno(), UUID: uuid.New(), Name: name, Created: now}
	b.Root = dirIno(b.UUID, 0, "", 0)
	if err := insertBucket(tx, b); err != nil {
		return Bucket{}, err
	}
	main, err := t.CreateBranch(tx, b.ID, MainBranch, Origin{})
	if err != nil {
		return Bucket{}, err
	}
	v := &View{tree: t, bucket: b, branch: main, chain: chain{{branch: main.ID, bound: schema.MaxStamp}}}
	c, err := v.begin(tx)
	if err != nil {
		return Bucket{}, err
	}
	root := Inode{
		Ino: b.Root, Mode: unix.S_IFDIR | 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Nlink: 2,
		Atime: c.now, Mtime: c.now, Ctime: c.now, Btime: c.now, Home: b.Root,
	}
	if err := c.addInode(&root); err != nil {
		return Bucket{}, err
	}
	return b, c.event(notify.Event{Op: notify.OpBucket, Ino: uint64(b.Root), Name: []byte(name), Ref: b.ID})
}

func insertBucket(tx *schema.Tx, b Bucket) error {
	s := tx.Stmt(`INSERT INTO bucket (id, uuid, name, root, created) VALUES (?, ?, ?, ?, ?)`)
	s.BindInt64(1, b.ID)
	s.BindBytes(2, b.UUID[:])
	s.BindText(3, b.Name)
	s.BindInt64(4, int64(b.Root))
	s.BindInt64(5, b.Created.UnixNano())
	return run(s)
}

// orExists turns success of a search into EEXIST.
func orExists(err error) error {
	if err == nil {
		return syscall.EEXIST
	}
	return err
}

// checkLabel refuses names of buckets, branches and snapshots that a spec
// (BUCKET/BRANCH:PATH) or a directory of a mount could not spell.
func checkLabel(name string) error {
	if err := checkName(name); err != nil {
		if name == "" {
			err = syscall.EINVAL
		}
		return err
	}
	if !utf8.ValidString(name) {
		return syscall.EILSEQ
	}
	for i := range len(name) {
		if c := name[i]; c < ' ' || c == 0x7f || c == ':' {
			return syscall.EINVAL
		}
	}
	return nil
}

// Bucket returns the bucket of that name, ENOENT without one.
func (t *Tree) Bucket(tx *schema.Tx, name string) (Bucket, error) {
	s := tx.Stmt(selectBucket + `WHERE name = ?`)
	s.BindText(1, name)
	b, err := oneBucket(s)
	return b, fail("bucket", name, err)
}

// BucketByUUID returns the bucket of that identity, ENOENT without one.
func (t *Tree) BucketByUUID(tx *schema.Tx, uuid [16]byte) (Bucket, error) {
	s := tx.Stmt(selectBucket + `WHERE uuid = ?`)
	s.BindBytes(1, uuid[:])
	b, err := oneBucket(s)
	return b, fail("bucket", fmt.Sprintf("%x", uuid), err)
}

func (t *Tree) bucketByID(tx *schema.Tx, id int64) (Bucket, error) {
	s := tx.Stmt(selectBucket + `WHERE id = ?`)
	s.BindInt64(1, id)
	b, err := oneBucket(s)
	return b, fail("bucket", fmt.Sprint(id), err)
}

func oneBucket(s *sqlite.Stmt) (Bucket, error) {
	ok, err := s.Step()
	if err != nil {
		return Bucket{}, err
	}
	if !ok {
		return Bucket{}, syscall.ENOENT
	}
	return scanBucket(s)
}

// Buckets returns all buckets by name.
func (t *Tree) Buckets(tx *schema.Tx) ([]Bucket, error) {
	s := tx.Stmt(selectBucket + `ORDER BY name`)
	var all []Bucket
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		b, err := scanBucket(s)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
}

// RemoveBucket removes the bucket with its branches and all their versions,
// which takes time in proportion to them. Views of it then give ENOENT and
// ESTALE.
func (t *Tree) RemoveBucket(tx *schema.Tx, name string) error {
	t.moved.Add(1)
	return fail("remove bucket", name, t.removeBucket(tx, name))
}

func (t *Tree) removeBucket(tx *schema.Tx, name string) error {
	b, err := t.Bucket(tx, name)
	if err != nil {
		return err
	}
	if err := settleQuotas(tx); err != nil {
		return err
	}
	const branches = `(SELECT id FROM branch WHERE bucket = ?1)`
	for _, q := range []string{
		`DELETE FROM dentry WHERE branch IN ` + branches,
		`DELETE FROM inode WHERE branch IN ` + branches,
		`DELETE FROM xattr WHERE branch IN ` + branches,
		`DELETE FROM lineage WHERE branch IN ` + branches,
		`DELETE FROM settled WHERE branch IN ` + branches,
		`DELETE FROM aside WHERE branch IN ` + branches,
		`DELETE FROM contest WHERE branch IN ` + branches,
		`DELETE FROM stray WHERE branch IN ` + branches,
		`DELETE FROM record WHERE bucket = ?1`,
		`DELETE FROM snapshot WHERE bucket = ?1`,
		`DELETE FROM merge WHERE src IN ` + branches + ` OR dst IN ` + branches,
		`DELETE FROM branch WHERE bucket = ?1`,
		`DELETE FROM bucket WHERE id = ?1`,
	} {
		s := tx.Stmt(q)
		s.BindInt64(1, b.ID)
		if err := run(s); err != nil {
			return err
		}
	}
	if err := blobstore.KeepUnsent(tx, b.ID, nil); err != nil {
		return err
	}
	return notify.Append(tx, &notify.Event{
		Stamp: tx.NextStamp(), Node: schema.LocalNode, Bucket: b.ID,
		Op: notify.OpBucket, Ino: uint64(b.Root), Name: []byte(name), Ref: b.ID,
	})
}

// SetPolicy replaces the policy of a bucket. A first quota is counted then and
// there, which reads every version of an inode in the store.
func (t *Tree) SetPolicy(tx *schema.Tx, id int64, p Policy) error {
	js, err := json.Marshal(p)
	if err != nil {
		return fail("set policy", "", err)
	}
	s := tx.Stmt(`UPDATE bucket SET policy = ? WHERE id = ?`)
	s.BindText(1, string(js))
	s.BindInt64(2, id)
	if err := mustChange(tx, run(s)); err != nil {
		return fail("set policy", "", err)
	}
	if err := t.setQuota(tx, id, p); err != nil {
		return fail("set policy", "", err)
	}
	b, err := t.bucketByID(tx, id)
	if err != nil {
		return err
	}
	return notify.Append(tx, &notify.Event{
		Stamp: tx.NextStamp(), Node: schema.LocalNode, Bucket: id,
		Op: notify.OpBucket, Ino: uint64(b.Root), Name: []byte(b.Name), Ref: id,
	})
}

// mustChange turns an update of no rows into ENOENT.
func mustChange(tx *schema.Tx, err error) error {
	if err == nil && tx.Conn().Changes() == 0 {
		return syscall.ENOENT
	}
	return err
}
