package pathtree

import (
	"maps"
	"slices"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// orphanAge is how long an inode without a name is kept at least: whoever opens
// it needs a moment to say so (KeepWhile).
const orphanAge = time.Minute

// pruner remembers where the last Prune stopped.
type pruner struct {
	mu    sync.Mutex
	inUse func(Ino) bool // see KeepWhile; may be nil
	cut   Cut
	pass  int
	at    []any // key of the last group seen in the pass: parent and name, ino, or ino and name
}

// KeepWhile has Prune spare inodes without a name as long as inUse says that some
// process has them open. It is called once, before anything is pruned.
func (t *Tree) KeepWhile(inUse func(Ino) bool) { t.prune.inUse = inUse }

// Cut says before when history may go.
type Cut struct {
	Before schema.Stamp
	Of     map[int64]schema.Stamp // by bucket, where it is another stamp
}

func (c Cut) of(bucket int64) schema.Stamp {
	if s, ok := c.Of[bucket]; ok {
		return s
	}
	return c.Before
}

// Prune removes versions that were superseded before the cut and that no head,
// fork, snapshot or merge base shows, inodes that no version names any more, and
// what is left of branches deleted before the cut. A view as of a time before the
// cut may show less afterwards; nothing else changes. It looks at about limit rows
// (0: 10,000) and returns how many it removed and whether there is more to look
// at; the next call with the same cut goes on from there.
func (t *Tree) Prune(tx *schema.Tx, cut Cut, limit int) (n int, more bool, err error) {
	p := &t.prune
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut.Before != cut.Before || !maps.Equal(p.cut.Of, cut.Of) {
		p.cut, p.pass, p.at = Cut{cut.Before, maps.Clone(cut.Of)}, 0, nil
	}
	if limit <= 0 {
		limit = 10000
	}
	now := tx.NextStamp()
	s := sweep{tx: tx, settled: schema.StampAt(now.Time().Add(-orphanAge)), counted: &tallies{t: t, tx: tx}}
	if s.pins, err = loadPins(tx, cut, now); err != nil {
		return 0, false, fail("prune", "", err)
	}
	passes := []func(*pruner, int) error{s.dentries, s.inodes, s.xattrs, s.branches}
	if err = passes[p.pass](p, limit); err == nil {
		err = s.counted.done()
	}
	if err == nil && p.at == nil {
		p.pass = (p.pass + 1) % len(passes)
	}
	return s.n, p.pass != 0 || p.at != nil, fail("prune", "", err)
}

// sweep is one call of Prune.
type sweep struct {
	tx      *schema.Tx
	settled schema.Stamp // an inode without a name must be older than that to go
	pins    *pins
	counted *tallies
	n       int // rows removed
}

// versionRow is a version as far as pruning looks at it.
type versionRow struct {
	version
	set    bool // not a tombstone
	groups int  // of an inode
	dir    bool // a dentry that names a directory
}

// superseded marks the versions of one thing, sorted by branch and stamp, that
// nobody can see.
func (s *sweep) superseded(rows []versionRow) []bool {
	gone := make([]bool, len(rows))
	for k, r := range rows {
		next := schema.MaxStamp
		last := k+1 == len(rows) || rows[k+1].branch != r.branch
		if !last {
			next = rows[k+1].stamp
		}
		if s.pins.needs(r.branch, r.stamp, next) {
			continue
		}
		// A view that follows a live parent takes each group from the newest
		// version that sets it.
		gone[k] = last || !s.pins.live || r.groups&^rows[k+1].groups == 0
		if s.pins.shared[r.branch] {
			gone[k] = s.sharedGone(rows[k:])
		}
	}
	return gone
}

// sharedGone decides about the first of some versions in a bucket that other
// nodes have. One of them may yet come with a version from before: it must find
// here what it would find there. So the newest version that sets a group of an
// inode stays, and where a directory was; the last version of all, a tombstone
// too; and what is derived.
func (s *sweep) sharedGone(rows []versionRow) bool {
	const newer = 1 << 8
	r, later := rows[0], 0
	if r.dir || r.node >= nodeLimit {
		return false
	}
	for _, o := range rows[1:] {
		if o.branch == r.branch && o.node < nodeLimit {
			later |= o.groups | newer
		}
	}
	if later&groupContent != 0 {
		later |= groupMtime
	}
	return later&newer != 0 && r.groups&^(later|groupLinks) == 0
}

// kept reports whether a thing must stay as it is: versions of it are in
// conflict, or so are those of a name that it had.
func (s *sweep) kept(th thing) (bool, error) {
	q := s.tx.Stmt(`SELECT EXISTS (SELECT 1 FROM contest WHERE kind = ?1 AND ino = ?2 AND name = ?3) OR ?1 = 2 AND EXISTS
		(SELECT 1 FROM dentry d JOIN contest c ON c.kind = 1 AND c.ino = d.parent AND c.name = d.name WHERE d.ino = ?2)`)
	bindThing(q, 1, th)
	_, err := q.Step()
	return q.ColumnInt64(0) != 0, err
}

// tombstones also marks tombstones with nothing older in their branch, when no
// other branch ever had the thing: there is nothing left to hide, nor for a
// merge to delete.
func (s *sweep) tombstones(rows []versionRow, gone []bool) {
	var having int64
	for k, r := range rows {
		if r.set && !gone[k] {
			if having != 0 && having != r.branch {
				return
			}
			having = r.branch
		}
	}
	for k, r := range rows {
		if gone[k] {
			continue
		}
		first := true
		for j := k - 1; j >= 0 && rows[j].branch == r.branch; j-- {
			first = first && gone[j]
		}
		if first && !r.set && !s.pins.shared[r.branch] && r.stamp < s.pins.before(r.branch) && (having == 0 || having == r.branch) && !s.pins.live {
			gone[k] = true
		}
	}
}

const pruneDentry = `SELECT branch, stamp, node, ino IS NOT NULL, 0, parent, name, kind = 4 FROM dentry
	WHERE (parent, name) > (?, ?) ORDER BY parent, name, branch, stamp, node`

func (s *sweep) dentries(p *pruner, limit int) error {
	if p.at == nil {
		p.at = []any{int64(0), ""}
	}
	return s.groups(p, limit, pruneDentry, func(key []any, rows []versionRow) error {
		if kept, err := s.kept(thing{DentryVersion, Ino(key[0].(int64)), key[1].(string)}); kept || err != nil {
			return err
		}
		gone := s.superseded(rows)
		s.tombstones(rows, gone)
		for k, r := range rows {
			if gone[k] {
				if err := deleteDentry(s.tx, Ino(key[0].(int64)), key[1].(string), r.version); err != nil {
					return err
				}
				s.n++
			}
		}
		return nil
	})
}

const pruneInode = `SELECT branch, stamp, node, 1, groups, ino FROM inode
	WHERE ino > ? ORDER BY ino, branch, stamp, node`

func (s *sweep) inodes(p *pruner, limit int) error {
	if p.at == nil {
		p.at = []any{int64(0)}
	}
	return s.groups(p, limit, pruneInode, func(key []any, rows []versionRow) error {
		ino := Ino(key[0].(int64))
		if kept, err := s.kept(thing{InodeVersion, ino, ""}); kept || err != nil {
			return err
		}
		gone := s.superseded(rows)
		orphan, err := s.orphan(ino, rows)
		if err != nil {
			return err
		}
		orphan = orphan && (p.inUse == nil || !p.inUse(ino))
		for k, r := range rows {
			if orphan { // on a branch that follows its parent it may count; what is superseded does nowhere
				if err := s.counted.before(r.branch, ino, r.stamp); err != nil {
					return err
				}
			}
			if gone[k] || orphan {
				if err := s.dropInode(ino, r.version); err != nil {
					return err
				}
				s.n++
			}
		}
		return nil
	})
}

// dropInode deletes a version. Content that it was the last to name in a bucket
// that other nodes have is guarded: a version of theirs may name it. A write session
// that began on it keeps it only until it ends.
func (s *sweep) dropInode(ino Ino, at version) error {
	if !s.pins.shared[at.branch] {
		return deleteInode(s.tx, ino, at)
	}
	q := s.tx.Stmt("DELETE FROM inode WHERE ino = ? AND branch = ? AND stamp = ? AND node = ? RETURNING hash")
	q.BindInt64(1, int64(ino))
	bindVersion(q, 2, at)
	if ok, err := q.Step(); err != nil || !ok {
		return err
	}
	var h blobstore.Hash
	q.ColumnBytes(0, h[:])
	if _, err := q.Step(); err != nil || h.IsZero() {
		return err
	}
	bucket := s.pins.of[at.branch].bucket
	shown, err := shownIn(s.tx, bucket, h)
	if err != nil || shown {
		return err
	}
	return blobstore.Guard(s.tx, bucket, h)
}

// orphan reports whether no version of any branch and no write session names
// ino, and none is young.
func (s *sweep) orphan(ino Ino, rows []versionRow) (bool, error) {
	for _, r := range rows {
		if r.stamp > min(s.settled, s.pins.before(r.branch)) || s.pins.roots[ino] {
			return false, nil
		}
	}
	q := s.tx.Stmt("SELECT 1 FROM dentry WHERE ino = ?1 UNION ALL SELECT 1 FROM write_session WHERE ino = ?1 LIMIT 1")
	q.BindInt64(1, int64(ino))
	named, err := q.Step()
	return !named, err
}

func deleteInode(tx *schema.Tx, ino Ino, at version) error {
	s := tx.Stmt("DELETE FROM inode WHERE ino = ? AND branch = ? AND stamp = ? AND node = ?")
	s.BindInt64(1, int64(ino))
	bindVersion(s, 2, at)
	return run(s)
}

const pruneXattr = `SELECT branch, stamp, node, value IS NOT NULL, 0, ino, name, 0 FROM xattr
	WHERE (ino, name) > (?, ?) ORDER BY ino, name, branch, stamp, node`

func (s *sweep) xattrs(p *pruner, limit int) error {
	if p.at == nil {
		p.at = []any{int64(0), ""}
	}
	return s.groups(p, limit, pruneXattr, func(key []any, rows []versionRow) error {
		ino := Ino(key[0].(int64))
		if kept, err := s.kept(thing{XattrVersion, ino, key[1].(string)}); kept || err != nil {
			return err
		}
		gone := s.superseded(rows)
		s.tombstones(rows, gone)
		q := s.tx.Stmt("SELECT 1 FROM inode WHERE ino = ? LIMIT 1")
		q.BindInt64(1, int64(ino))
		there, err := q.Step()
		if err != nil {
			return err
		}
		for k, r := range rows {
			if gone[k] || !there {
				if err := deleteXattr(s.tx, ino, key[1].(string), r.version); err != nil {
					return err
				}
				s.n++
			}
		}
		return nil
	})
}

// groups reads about limit rows after p.at, calls do for the versions of each
// thing, and moves p.at on; nil at the end. Column 5, and 6 where the key has
// a name, are the key.
func (s *sweep) groups(p *pruner, limit int, query string, do func(key []any, rows []versionRow) error) error {
	q := s.tx.Stmt(query)
	q.BindInt64(1, p.at[0].(int64))
	if len(p.at) == 2 {
		bindName(q, 2, p.at[1].(string))
	}
	type group struct {
		key  []any
		rows []versionRow
	}
	var found []group
	for n := 0; ; n++ {
		ok, err := q.Step()
		if err != nil {
			return err
		}
		if !ok {
			p.at = nil
			break
		}
		key := []any{q.ColumnInt64(5)}
		if len(p.at) == 2 {
			key = append(key, q.ColumnText(6))
		}
		if len(found) == 0 || !slices.Equal(found[len(found)-1].key, key) {
			if n >= limit {
				p.at = found[len(found)-1].key
				break
			}
			found = append(found, group{key: key})
		}
		g := &found[len(found)-1]
		g.rows = append(g.rows, versionRow{columnVersion(q), q.ColumnInt64(3) != 0, int(q.ColumnInt64(4)), len(key) == 2 && q.ColumnInt64(7) != 0})
	}
	_ = q.Reset()
	for _, g := range found {
		if err := do(g.key, g.rows); err != nil {
			return err
		}
	}
	return nil
}

func bindName(s *sqlite.Stmt, param int, name string) {
	if name == "" {
		s.BindZeroBlob(param, 0)
		return
	}
	s.BindBytes(param, []byte(name))
}

// branches removes the rows of branches of which nothing is left, and those of
// their merges. One stays as long as a way leads over it: the next merge between
// the branches at its ends may need it.
func (s *sweep) branches(p *pruner, _ int) error {
	p.at = nil
	for _, id := range s.pins.gone {
		if s.pins.ways[id] {
			continue
		}
		q := s.tx.Stmt(`SELECT EXISTS (SELECT 1 FROM dentry WHERE branch = ?1) OR EXISTS (SELECT 1 FROM inode WHERE branch = ?1)
			OR EXISTS (SELECT 1 FROM xattr WHERE branch = ?1) OR EXISTS (SELECT 1 FROM branch WHERE parent = ?1)
			OR EXISTS (SELECT 1 FROM write_session WHERE branch = ?1)`)
		q.BindInt64(1, id)
		if _, err := q.Step(); err != nil {
			return err
		}
		if q.ColumnInt64(0) != 0 {
			continue
		}
		for _, query := range []string{"DELETE FROM merge WHERE dst = ?1 OR src = ?1", "DELETE FROM branch WHERE id = ?1"} {
			q := s.tx.Stmt(query)
			q.BindInt64(1, id)
			if err := run(q); err != nil {
				return err
			}
			s.n++
		}
	}
	return nil
}
