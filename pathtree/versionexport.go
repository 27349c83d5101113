package pathtree

import (
	"math"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// ExportBucket returns everything that this node itself wrote to the bucket and
// has not returned before, and remembers that it did: store the batch in the
// same transaction. What is returned is never overwritten in place afterwards;
// what was superseded in place before is not in it. Its cost is that of what
// changed. From the first export or import on the bucket is shared, and keeps
// what its replicas need to agree (see Prune).
//
// What an import brings is not exported again: other nodes' versions are passed
// on as they came.
func (t *Tree) ExportBucket(tx *schema.Tx, bucket int64) (Batch, error) {
	b, _, err := t.exportBucket(tx, bucket, math.MaxInt32)
	return b, fail("export", "", err)
}

// ExportSome is ExportBucket of the oldest that there is: some limit versions of each
// kind, and all records. more says that there are others. Between its calls nothing may
// be imported without an ExportBucket.
func (t *Tree) ExportSome(tx *schema.Tx, bucket int64, limit int) (b Batch, more bool, err error) {
	b, more, err = t.exportBucket(tx, bucket, limit)
	return b, more, fail("export", "", err)
}

// Exported reports whether ExportBucket would find nothing, since nothing happened
// in the store after the last one.
func (t *Tree) Exported(tx *schema.Tx, bucket int64) (bool, error) {
	s := tx.Stmt("SELECT shared AND looked = (SELECT coalesce(max(seq), 0) FROM event) FROM bucket WHERE id = ?")
	s.BindInt64(1, bucket)
	_, err := s.Step()
	return err == nil && s.ColumnInt64(0) != 0, fail("export", "", err)
}

func (t *Tree) exportBucket(tx *schema.Tx, bucket int64, limit int) (b Batch, more bool, err error) {
	x, err := t.newExchange(tx, bucket)
	if err != nil {
		return b, false, err
	}
	dirty, records, err := x.dirty()
	if err != nil {
		return b, false, err
	}
	b.UpTo = tx.NextStamp()
	var made []int64
	if records {
		news, err := x.newRecords()
		if err != nil {
			return b, false, err
		}
		if len(news) > 0 { // one that was removed or renamed leaves its name to another
			m, err := newImporter(x)
			if err == nil {
				err = m.applyNames()
			}
			if err != nil {
				return b, false, err
			}
		}
		for _, r := range news {
			if r.Kind == BranchRecord {
				c, err := x.branch(r.UUID)
				if err != nil {
					return b, false, err
				}
				made = append(made, c.ID)
			}
		}
		if b.Records, err = x.advanceRecords(tx.NextStamp()); err != nil {
			return b, false, err
		}
	}
	var written []arrival
	for _, branch := range dirty {
		if more = len(written) >= limit; more {
			break
		}
		upTo, err := x.upTo(branch, b.UpTo, limit)
		if err != nil {
			return b, false, err
		}
		more = upTo < b.UpTo
		after, err := x.advance(branch, upTo)
		if err != nil {
			return b, false, err
		}
		vs, at, err := x.rows(branch, after, upTo, schema.LocalNode)
		if err != nil {
			return b, false, err
		}
		for k := range vs {
			written = append(written, arrival{&vs[k], at[k]})
		}
		if more {
			break
		}
	}
	if more {
		if err := x.lookAgain(); err != nil {
			return b, false, err
		}
	}
	if err := x.settleExport(written, made); err != nil {
		return b, false, err
	}
	for _, p := range written {
		if err := x.finish(p.Version, p.at); err != nil {
			return b, false, err
		}
		b.Versions = append(b.Versions, *p.Version)
	}
	return b, more, nil
}

// settleExport has what is derived follow what this node wrote, where anything
// is derived at all, and looks at forks, which may be of the past.
func (x *exchange) settleExport(written []arrival, made []int64) error {
	s := x.tx.Stmt(`SELECT EXISTS (SELECT 1 FROM contest) OR EXISTS (SELECT 1 FROM stray)
		OR EXISTS (SELECT 1 FROM dentry WHERE node > 2000000000) OR EXISTS (SELECT 1 FROM inode WHERE node > 2000000000)
		OR EXISTS (SELECT 1 FROM branch WHERE bucket = ? AND live)`)
	s.BindInt64(1, x.bucket.ID)
	if _, err := s.Step(); err != nil {
		return err
	}
	if s.ColumnInt64(0) == 0 {
		written = nil
	}
	if len(written)+len(made) == 0 {
		return nil
	}
	m, err := newImporter(x)
	if err != nil {
		return err
	}
	for _, p := range written {
		p.Branch = x.uuids[p.at.branch]
		if p.ID, err = x.id(p.at); err != nil {
			return err
		}
	}
	return m.settleLocal(written, made)
}

// ExportAll yields every version of the bucket that is kept, of every node, and
// returns every record: what a replica can be made from, and the documents. It
// marks nothing as exported. v is only valid during the call.
func (t *Tree) ExportAll(tx *schema.Tx, bucket int64, yield func(v *Version) error) ([]BucketRecord, error) {
	records, err := t.exportAll(tx, bucket, yield)
	return records, fail("export", "", err)
}

func (t *Tree) exportAll(tx *schema.Tx, bucket int64, yield func(v *Version) error) ([]BucketRecord, error) {
	x, err := t.newExchange(tx, bucket)
	if err != nil {
		return nil, err
	}
	records, err := x.records()
	if err != nil {
		return nil, err
	}
	ids, err := x.branchIDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := x.versions(id, 0, 0, yield); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// branchIDs returns the branches of the bucket, deleted ones included, parents
// before children.
func (x *exchange) branchIDs() ([]int64, error) {
	s := x.tx.Stmt("SELECT id FROM branch WHERE bucket = ? ORDER BY id")
	s.BindInt64(1, x.bucket.ID)
	return columnInts(s)
}

func columnInts(s *sqlite.Stmt) (all []int64, err error) {
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, s.ColumnInt64(0))
	}
}

// dirty returns the branches that this node may have written to since the last
// export, and whether there may be news about the bucket. What has no event, an
// inode without a name, waits for the next one of its branch.
func (x *exchange) dirty() (branches []int64, records bool, err error) {
	s := x.tx.Stmt(`SELECT shared, looked, (SELECT coalesce(max(seq), 0) FROM event),
		(SELECT coalesce(min(seq), 0) FROM event) FROM bucket WHERE id = ?`)
	s.BindInt64(1, x.bucket.ID)
	if _, err := s.Step(); err != nil {
		return nil, false, err
	}
	shared, looked, last, first := s.ColumnInt64(0) != 0, s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)
	if shared && looked == last {
		return nil, false, nil
	}
	if !shared || looked+1 < first {
		branches, err = x.branchIDs()
		records = true
	} else {
		s = x.tx.Stmt(`SELECT branch, max(op IN (8, 9, 10, 11)) FROM event WHERE seq > ? AND bucket = ? AND node = 2
			GROUP BY branch ORDER BY branch`)
		s.BindInt64(1, looked)
		s.BindInt64(2, x.bucket.ID)
		for err := range schema.Rows(s) {
			if err != nil {
				return nil, false, err
			}
			records = records || s.ColumnInt64(1) != 0
			if id := s.ColumnInt64(0); id != 0 {
				branches = append(branches, id)
			}
		}
	}
	if err != nil {
		return nil, false, err
	}
	s = x.tx.Stmt("UPDATE bucket SET shared = 1, looked = ? WHERE id = ?")
	s.BindInt64(1, last)
	s.BindInt64(2, x.bucket.ID)
	return branches, records, run(s)
}

// lookAgain has the next export look at every branch.
func (x *exchange) lookAgain() error {
	s := x.tx.Stmt("UPDATE bucket SET looked = -2 WHERE id = ?")
	s.BindInt64(1, x.bucket.ID)
	return run(s)
}

// upTo returns the stamp up to which a branch has about limit versions of a kind that
// this node wrote and did not export, at most until.
func (x *exchange) upTo(branch int64, until schema.Stamp, limit int) (schema.Stamp, error) {
	for _, table := range []string{"dentry", "inode", "xattr", "aside"} {
		s := x.tx.Stmt("SELECT stamp FROM " + table + ` WHERE branch = ?1 AND stamp > (SELECT exported FROM branch WHERE id = ?1)
			AND node = ?2 ORDER BY stamp LIMIT 1 OFFSET ?3`)
		s.BindInt64(1, branch)
		s.BindInt64(2, schema.LocalNode)
		s.BindInt64(3, int64(limit))
		ok, err := s.Step()
		if err != nil {
			return 0, err
		}
		if ok {
			until = min(until, schema.Stamp(s.ColumnInt64(0)))
		}
	}
	return until, nil
}

// splitRecords returns the records that others may have, those that this node made since
// the last export, and up to when that was.
func (x *exchange) splitRecords() (told, news []BucketRecord, exported schema.Stamp, err error) {
	all, err := x.records()
	if err != nil {
		return nil, nil, 0, err
	}
	own, err := x.key(schema.LocalNode)
	if err != nil {
		return nil, nil, 0, err
	}
	s := x.tx.Stmt("SELECT exported FROM bucket WHERE id = ?")
	s.BindInt64(1, x.bucket.ID)
	if _, err := s.Step(); err != nil {
		return nil, nil, 0, err
	}
	exported = schema.Stamp(s.ColumnInt64(0))
	for _, r := range all {
		if r.ID.Node == own && r.ID.Stamp > exported {
			news = append(news, r)
		} else {
			told = append(told, r)
		}
	}
	return told, news, exported, nil
}

// advanceRecords returns this node's records since the last export.
func (x *exchange) advanceRecords(upTo schema.Stamp) ([]BucketRecord, error) {
	_, news, exported, err := x.splitRecords()
	if err != nil {
		return nil, err
	}
	s := x.tx.Stmt("UPDATE bucket SET exported = ? WHERE id = ?")
	s.BindInt64(1, int64(max(upTo, exported)))
	s.BindInt64(2, x.bucket.ID)
	return news, run(s)
}

// advance seals a branch up to a stamp and returns the one before.
func (x *exchange) advance(branch int64, upTo schema.Stamp) (after schema.Stamp, err error) {
	s := x.tx.Stmt("SELECT exported FROM branch WHERE id = ?")
	s.BindInt64(1, branch)
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	after = schema.Stamp(s.ColumnInt64(0))
	if err := x.seal(branch, upTo); err != nil {
		return 0, err
	}
	s = x.tx.Stmt("UPDATE branch SET exported = ? WHERE id = ?")
	s.BindInt64(1, int64(upTo))
	s.BindInt64(2, branch)
	return after, run(s)
}

// passOver seals a branch up to a stamp that follows all that is there and comes, so
// that the next export need not look through what others wrote. What this node wrote
// and did not export, as it had no event, keeps it from that: the next export looks at
// it first.
func (x *exchange) passOver(branch int64, upTo schema.Stamp) error {
	own, err := x.ownBehind(branch)
	if err != nil {
		return err
	}
	if !own {
		_, err = x.advance(branch, upTo)
		return err
	}
	if err := x.seal(branch, upTo); err != nil {
		return err
	}
	return x.lookAgain()
}

// ownBehind reports whether a branch has versions of this node's that were not exported.
func (x *exchange) ownBehind(branch int64) (bool, error) {
	until, err := x.upTo(branch, schema.MaxStamp, 0)
	return until < schema.MaxStamp, err
}

// seal keeps a branch's versions up to a stamp from being overwritten.
func (x *exchange) seal(branch int64, upTo schema.Stamp) error {
	s := x.tx.Stmt("UPDATE branch SET sealed = max(sealed, ?) WHERE id = ?")
	s.BindInt64(1, int64(upTo))
	s.BindInt64(2, branch)
	return run(s)
}

// versions yields those of a branch after a stamp that a node wrote, 0 for all
// nodes, by kind and stamp.
func (x *exchange) versions(branch int64, after schema.Stamp, node int64, yield func(*Version) error) error {
	vs, at, err := x.rows(branch, after, math.MaxInt64, node)
	if err != nil {
		return err
	}
	for k := range vs {
		if err := x.finish(&vs[k], at[k]); err != nil {
			return err
		}
		if err := yield(&vs[k]); err != nil {
			return err
		}
	}
	return nil
}

// rows returns what versions yields, up to a stamp and without the lineage.
func (x *exchange) rows(branch int64, after, upTo schema.Stamp, node int64) (all []Version, places []version, err error) {
	if _, err := x.uuid(branch); err != nil {
		return nil, nil, err
	}
	for _, list := range []func(int64, schema.Stamp, schema.Stamp, int64) ([]Version, []version, error){
		x.dentryVersions, x.inodeVersions, x.xattrVersions, x.asideVersions,
	} {
		vs, at, err := list(branch, after, upTo, node)
		if err != nil {
			return nil, nil, err
		}
		all, places = append(all, vs...), append(places, at...)
	}
	return all, places, nil
}

// finish adds what a row does not say itself.
func (x *exchange) finish(v *Version, at version) (err error) {
	v.Branch = x.uuids[at.branch]
	if v.ID, err = x.id(at); err != nil {
		return err
	}
	th := v.thing()
	p, err := x.prev(th, at)
	if err != nil {
		return err
	}
	if v.Prev, err = x.id(p); err != nil {
		return err
	}
	if v.Kind == XattrVersion && v.Home == 0 {
		if v.Home, err = x.home(v.Ino); err != nil {
			return err
		}
	}
	v.Settles, err = x.settles(th, at)
	return err
}

// home returns the home of an inode, 0 when nothing is known of it.
func (x *exchange) home(i Ino) (Ino, error) {
	s := x.tx.Stmt("SELECT home FROM inode WHERE ino = ? LIMIT 1")
	s.BindInt64(1, int64(i))
	ok, err := s.Step()
	if ok {
		return Ino(s.ColumnInt64(0)), err
	}
	return 0, err
}

const ofBranch = " WHERE branch = ?1 AND stamp > ?2 AND stamp <= ?4 AND (node = ?3 OR ?3 = 0) AND node < 2000000000 ORDER BY stamp"

func (x *exchange) list(query string, branch int64, after, upTo schema.Stamp, node int64, scan func(s *sqlite.Stmt) (Version, version, error)) (vs []Version, at []version, err error) {
	s := x.tx.Stmt(query + ofBranch)
	s.BindInt64(1, branch)
	s.BindInt64(2, int64(after))
	s.BindInt64(3, node)
	s.BindInt64(4, int64(upTo))
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, nil, err
		}
		v, p, err := scan(s)
		if err != nil {
			return nil, nil, err
		}
		vs, at = append(vs, v), append(at, p)
	}
	return vs, at, nil
}

func (x *exchange) dentryVersions(branch int64, after, upTo schema.Stamp, node int64) (vs []Version, at []version, err error) {
	return x.list("SELECT branch, stamp, node, parent, name, ino, kind FROM dentry", branch, after, upTo, node, scanDentryVersion)
}

func scanDentryVersion(s *sqlite.Stmt) (Version, version, error) {
	return Version{
		Kind: DentryVersion, Parent: Ino(s.ColumnInt64(3)), Name: s.ColumnText(4),
		Ino: Ino(s.ColumnInt64(5)), FileType: uint32(s.ColumnInt64(6)) << 12,
	}, columnVersion(s), nil
}

func (x *exchange) inodeVersions(branch int64, after, upTo schema.Stamp, node int64) (vs []Version, at []version, err error) {
	return x.list("SELECT "+inodeColumns+" FROM inode", branch, after, upTo, node, scanInodeVersion)
}

func scanInodeVersion(s *sqlite.Stmt) (Version, version, error) {
	var r inodeRow
	scanInode(s, &r)
	return Version{Kind: InodeVersion, Ino: r.Ino, Home: r.Home, Inode: toInode(&r)}, r.version(), nil
}

func (x *exchange) xattrVersions(branch int64, after, upTo schema.Stamp, node int64) (vs []Version, at []version, err error) {
	return x.list("SELECT branch, stamp, node, ino, name, value FROM xattr", branch, after, upTo, node, scanXattrVersion)
}

func scanXattrVersion(s *sqlite.Stmt) (Version, version, error) {
	return Version{Kind: XattrVersion, Ino: Ino(s.ColumnInt64(3)), Name: s.ColumnText(4), Value: columnValue(s, 5)}, columnVersion(s), nil
}

func (x *exchange) asideVersions(branch int64, after, upTo schema.Stamp, node int64) (vs []Version, at []version, err error) {
	return x.list("SELECT branch, stamp, node, body FROM aside", branch, after, upTo, node, scanAsideVersion)
}

func scanAsideVersion(s *sqlite.Stmt) (Version, version, error) {
	v, err := decodeVersion(schema.Bytes(s, 3))
	return v, columnVersion(s), err
}
