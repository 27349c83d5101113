package pathtree

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Check looks at the structure of everything in the store and reports each
// problem in a line that says what and where. Of each branch it checks, as its
// head shows it, whatever has a version there. Its cost is that of all
// versions: run it in a schema.DB.Snapshot.
func (t *Tree) Check(tx *schema.Tx, report func(problem string)) error {
	ck := checker{tree: t, tx: tx, tell: report}
	for _, f := range []func() error{ck.branches, ck.strays, ck.heads, ck.blobs, ck.sizes, ck.quotas} {
		if err := f(); err != nil {
			return fail("check", "", err)
		}
	}
	return nil
}

type checker struct {
	tree *Tree
	tx   *schema.Tx
	tell func(string)
	// The branch being checked.
	where string // BUCKET/BRANCH
	side  *viewSide
	live  bool // follows a parent: link counts of both sides need not agree
	// shared: other nodes have the bucket, and may have what is not here.
	shared bool
}

func (ck *checker) report(format string, args ...any) {
	ck.tell(ck.where + fmt.Sprintf(format, args...))
}

// branches checks each branch against its parent.
func (ck *checker) branches() error {
	s := ck.tx.Stmt(`SELECT b.id, b.name, coalesce(b.parent, 0), coalesce(b.fork, 0), b.live, p.id IS NULL,
		coalesce(p.bucket, 0) <> b.bucket, k.name FROM branch b LEFT JOIN branch p ON p.id = b.parent
		LEFT JOIN bucket k ON k.id = b.bucket ORDER BY b.id`)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		id, parent, fork, live := s.ColumnInt64(0), s.ColumnInt64(2), s.ColumnInt64(3), s.ColumnInt64(4) != 0
		ck.where = s.ColumnText(7) + "/" + s.ColumnText(1) + ": "
		switch {
		case s.ColumnType(7) == sqlite.TypeNull:
			ck.report("the branch is of a bucket that is not there")
		case parent == 0:
		case s.ColumnInt64(5) != 0:
			ck.report("its parent branch %d is missing", parent)
		case parent >= id:
			ck.report("its id %d is not greater than its parent's, %d", id, parent)
		case s.ColumnInt64(6) != 0:
			ck.report("its parent branch %d is of another bucket", parent)
		case !live && fork == 0:
			ck.report("it does not follow its parent and has no stamp at which it left it")
		}
	}
}

// strays looks for versions of branches that do not exist.
func (ck *checker) strays() error {
	ck.where = ""
	for _, table := range []string{"dentry", "inode", "xattr"} {
		last := int64(0)
		for {
			s := ck.tx.Stmt("SELECT min(t.branch), (SELECT 1 FROM branch WHERE id = (SELECT min(branch) FROM " +
				table + " WHERE branch > ?1)) FROM " + table + " t WHERE t.branch > ?1")
			s.BindInt64(1, last)
			if _, err := s.Step(); err != nil {
				return err
			}
			if s.ColumnType(0) == sqlite.TypeNull {
				break
			}
			if last = s.ColumnInt64(0); s.ColumnInt64(1) == 0 {
				ck.report("there are %s versions of branch %d, which is missing", table, last)
			}
		}
	}
	return nil
}

// heads checks what each existing branch shows.
func (ck *checker) heads() error {
	buckets, err := ck.tree.Buckets(ck.tx)
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if err := ck.bucket(b); err != nil {
			return err
		}
	}
	return nil
}

func (ck *checker) bucket(b Bucket) error {
	s := ck.tx.Stmt("SELECT shared FROM bucket WHERE id = ?")
	s.BindInt64(1, b.ID)
	if _, err := s.Step(); err != nil {
		return err
	}
	ck.shared = s.ColumnInt64(0) != 0
	branches, err := ck.tree.Shown(ck.tx, b.ID)
	if err != nil {
		return err
	}
	for _, br := range branches {
		ck.where = b.Name + "/" + br.Name + ": "
		v, err := ck.tree.View(ck.tx, br.ID, 0)
		if Errno(err) == unix.ENOENT {
			ck.report("the root directory is missing")
			continue
		}
		if err != nil {
			return err
		}
		ck.side, ck.live = newViewSide(v), v.live
		if err := ck.edges(br.ID); err != nil {
			return err
		}
		if err := ck.inodes(br.ID); err != nil {
			return err
		}
	}
	return nil
}

// forget keeps the memory of a long check small.
func (ck *checker) forget(n int) {
	if n%10000 == 0 {
		ck.side = newViewSide(ck.side.v)
	}
}

func (ck *checker) edges(branch int64) error {
	s := ck.tx.Stmt("SELECT parent, name FROM dentry WHERE branch = ? ORDER BY branch, stamp")
	s.BindInt64(1, branch)
	for n := 1; ; n++ {
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		if err := ck.edge(edge{Ino(s.ColumnInt64(0)), s.ColumnText(1)}); err != nil {
			return err
		}
		ck.forget(n)
	}
}

func (ck *checker) edge(e edge) error {
	d, ok, err := findDentry(ck.tx, ck.side.v.chain, e.parent, e.name)
	if err != nil || !ok || d.ino == 0 {
		return err
	}
	dir, err := ck.side.inode(ck.tx, e.parent)
	if err != nil {
		return err
	}
	name := strconv.Quote(e.name)
	path, err := pathOf(ck.tx, ck.side, e)
	if err == nil {
		name = strconv.Quote(path)
	} else if !errors.Is(err, errNoPath) {
		return err
	}
	if dir == nil || errors.Is(err, errNoPath) {
		if waits, err := ck.waits(e.parent); waits || err != nil {
			return err
		}
	}
	switch {
	case dir == nil:
		ck.report("%s is in directory %v, which is missing", name, e.parent)
	case !dir.IsDir():
		ck.report("%s is in %v, which is not a directory", name, e.parent)
	case errors.Is(err, errNoPath):
		ck.report("%s is in directory %v, which cannot be reached", name, e.parent)
	}
	in, err := ck.side.inode(ck.tx, d.ino)
	switch {
	case err != nil:
		return err
	case in == nil:
		ck.report("the inode %v of %s is missing", d.ino, name)
	case kindOf(in) != d.kind:
		ck.report("the entry %s says type %o, its inode %v says %o", name, d.kind, d.ino, kindOf(in))
	case in.Nlink == 0 && !ck.live:
		ck.report("the inode %v of %s says that it has no name", d.ino, name)
	}
	return nil
}

func (ck *checker) inodes(branch int64) error {
	s := ck.tx.Stmt("SELECT ino FROM inode WHERE branch = ? ORDER BY branch, stamp")
	s.BindInt64(1, branch)
	for n := 1; ; n++ {
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		if err := ck.inode(Ino(s.ColumnInt64(0))); err != nil {
			return err
		}
		ck.forget(n)
	}
}

func (ck *checker) inode(i Ino) error {
	in, err := ck.side.inode(ck.tx, i)
	if in == nil || err != nil {
		return err
	}
	es, err := ck.side.edges(ck.tx, i)
	if err != nil {
		return err
	}
	names := len(es)
	if i == ck.side.root() {
		names++
	}
	if ck.live {
		return nil
	}
	switch {
	case names == 0 && in.Nlink > 0:
		ck.report("inode %v has link count %d and no name", i, in.Nlink)
	case names == 0:
	case !in.IsDir() && int(in.Nlink) != names:
		ck.report("inode %v (%s) has link count %d and %d names", i, ck.path(es), in.Nlink, names)
	case in.IsDir():
		return ck.directory(in, es, names)
	}
	return nil
}

func (ck *checker) directory(in *Inode, es []edge, names int) error {
	if names > 1 {
		ck.report("directory %v (%s) has %d names", in.Ino, ck.path(es), names)
	}
	if _, err := ck.side.dirPath(ck.tx, in.Ino); errors.Is(err, errNoPath) {
		if waits, err := ck.waits(in.Ino); waits || err != nil {
			return err
		}
		ck.report("directory %v cannot be reached from the root", in.Ino)
	} else if err != nil {
		return err
	}
	entries, err := ck.side.list(ck.tx, in.Ino)
	if err != nil {
		return err
	}
	links := uint32(2)
	for _, e := range entries {
		if e.IsDir() {
			links++
		}
	}
	if in.Nlink != links {
		ck.report("directory %v (%s) has link count %d and %d subdirectories", in.Ino, ck.path(es), in.Nlink, links-2)
	}
	return nil
}

// waits reports whether a directory is not shown since one above it is of other
// nodes and has not come, or was taken back.
func (ck *checker) waits(dir Ino) (bool, error) {
	if !ck.shared {
		return false, nil
	}
	seen := map[Ino]bool{}
	for dir != ck.side.root() && !seen[dir] {
		seen[dir] = true
		if in, err := ck.side.inode(ck.tx, dir); in == nil || err != nil {
			return true, err
		}
		es, err := ck.side.edges(ck.tx, dir)
		if len(es) == 0 || err != nil {
			return false, err
		}
		dir = es[0].parent
	}
	return false, nil
}

// path names an inode in a report.
func (ck *checker) path(es []edge) string {
	if len(es) == 0 {
		return `""`
	}
	p, err := pathOf(ck.tx, ck.side, es[0])
	if err != nil {
		p = es[0].name
	}
	return strconv.Quote(p)
}

// blobs looks for content that versions name and the blob store does not know.
func (ck *checker) blobs() error {
	ck.where = ""
	s := ck.tx.Stmt(`SELECT hash, min(ino), count(*) FROM inode i WHERE hash IS NOT NULL
		AND NOT EXISTS (SELECT 1 FROM blob b WHERE b.hash = i.hash) GROUP BY hash`)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		var h blobstore.Hash
		s.ColumnBytes(0, h[:])
		ck.report("content %v of inode %v (%d versions) is not in the blob store", h, Ino(s.ColumnInt64(1)), s.ColumnInt64(2))
	}
}

// quotas counts anew what buckets with a quota hold.
func (ck *checker) quotas() error {
	buckets, err := ck.tree.Buckets(ck.tx)
	if err != nil {
		return err
	}
	for _, b := range buckets {
		q, ok, err := ck.tree.Quota(ck.tx, b.ID)
		if err != nil {
			return err
		}
		if ok != b.Policy.limited() {
			ck.report("bucket %q: its policy and what is counted disagree about whether it has a quota; `alkfs fsck --repair` counts anew", b.Name)
		}
		if !ok {
			continue
		}
		branches, err := countBranches(ck.tx, b.ID)
		if err != nil {
			return err
		}
		var sum held
		for _, h := range branches {
			sum = sum.plus(h)
		}
		if sum != (held{q.Bytes, q.Inodes}) {
			ck.report("bucket %q was counted as %d bytes in %d inodes and holds %d bytes in %d inodes; `alkfs fsck --repair` counts anew",
				b.Name, q.Bytes, q.Inodes, sum.bytes, sum.inodes)
		}
	}
	return nil
}

// sizes compares the sizes that versions have with those of their content.
func (ck *checker) sizes() error {
	s := ck.tx.Stmt(`SELECT i.ino, i.size, coalesce(b.size, 0) FROM inode i LEFT JOIN blob b ON b.hash = i.hash
		WHERE i.size <> coalesce(b.size, 0) AND (i.hash IS NULL OR b.hash IS NOT NULL) AND i.mode & ?1 = ?2`)
	s.BindInt64(1, unix.S_IFMT)
	s.BindInt64(2, unix.S_IFREG)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		ck.report("a version of inode %v has size %d, its content %d", Ino(s.ColumnInt64(0)), s.ColumnInt64(1), s.ColumnInt64(2))
	}
}
