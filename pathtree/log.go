package pathtree

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// LogEntry is one version of a path.
type LogEntry struct {
	Stamp  schema.Stamp // its wall-clock time is Stamp.Time()
	Branch int64        // where it was written
	Path   string       // from then on; of a deletion the path that was lost
	// What changed against the version before.
	Created, Deleted, Content, Attributes, Xattrs bool
	RenamedFrom                                   string // "" when not renamed
	Inode                                         Inode  // from then on; of a deletion the last one
	Merge                                         *Merged
}

// Merged is a recorded merge.
type Merged struct {
	ID       int64
	Src, Dst int64 // branches
	SrcStamp schema.Stamp
	DstStamp schema.Stamp // that of every version the merge wrote
	Message  string
}

// replaceWithin is how old a file can be that, renamed over another, counts as
// a new version of that one: programs save so.
const replaceWithin = time.Minute

// Log returns at most limit versions (0: all) of what is, or last was, at
// path, newest first. It follows renames, and what a file replaced under the
// same name. It goes back as far as versions are kept. Versions that changed
// times or link counts only are left out. ENOENT when there never was anything.
func (t *Tree) Log(tx *schema.Tx, v *View, path string, limit int) ([]LogEntry, error) {
	l := logger{tx: tx, v: v, limit: limit}
	err := l.path(path)
	return l.entries, fail("log", path, err)
}

// logger follows one thing back in time.
type logger struct {
	tx      *schema.Tx
	v       *View
	limit   int
	entries []LogEntry
}

func (l *logger) full() bool { return l.limit > 0 && len(l.entries) >= l.limit }

// path starts at what is, or was last, at path.
func (l *logger) path(path string) error {
	at, i := edge{}, l.v.Root()
	var deleted *dentryRow
	for name := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' }) {
		at = edge{i, name}
		versions, err := l.versionsOf(at)
		if err != nil {
			return err
		}
		k := len(versions) - 1
		for deleted = nil; k >= 0 && versions[k].ino == 0; k-- {
			deleted = &versions[k]
		}
		if k < 0 {
			return syscall.ENOENT
		}
		i = versions[k].ino
	}
	if deleted == nil {
		return l.follow(at, i, schema.MaxStamp)
	}
	if err := l.ended(at, i, deleted.version); err != nil {
		return err
	}
	return l.follow(at, i, deleted.stamp)
}

// versionsOf returns the visible versions of an edge, oldest first.
func (l *logger) versionsOf(e edge) ([]dentryRow, error) {
	s := l.tx.Stmt("SELECT branch, stamp, node, ino, kind FROM dentry WHERE parent = ? AND name = ? ORDER BY stamp, node")
	s.BindInt64(1, int64(e.parent))
	s.BindBytes(2, []byte(e.name))
	var rows []dentryRow
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return rows, err
		}
		r := dentryRow{columnVersion(s), Ino(s.ColumnInt64(3)), uint32(s.ColumnInt64(4)) << 12}
		if l.v.chain.sees(r.branch, r.stamp) {
			rows = append(rows, r)
		}
	}
}

// at returns the view as of s.
func (l *logger) at(s schema.Stamp) *View {
	v := *l.v
	v.chain = slices.Clone(v.chain)
	for k := range v.chain {
		v.chain[k].bound = min(v.chain[k].bound, s)
	}
	return &v
}

// pathAt returns the path of an edge as of s, or as much of it as is known.
func (l *logger) pathAt(e edge, s schema.Stamp) (string, error) {
	path, err := pathOf(l.tx, newViewSide(l.at(s)), e)
	if err == errNoPath {
		return e.name, nil
	}
	return path, err
}

// ended tells that i lost the name e with the version at: it was deleted, or
// renamed, if it had another name right after.
func (l *logger) ended(e edge, i Ino, at version) error {
	after := newViewSide(l.at(at.stamp))
	es, err := sortedEdges(l.tx, after, i)
	if err != nil {
		return err
	}
	entry := LogEntry{Stamp: at.stamp, Branch: at.branch, Deleted: len(es) == 0}
	side := newViewSide(l.at(at.stamp - 1))
	if entry.Path, err = l.pathAt(e, at.stamp-1); err != nil {
		return err
	}
	if len(es) > 0 {
		side, entry.RenamedFrom = after, entry.Path
		if entry.Path, err = l.pathAt(es[0], at.stamp); err != nil {
			return err
		}
	}
	return l.add(entry, side, i)
}

// add completes an entry with the inode as a side shows it.
func (l *logger) add(entry LogEntry, s *viewSide, i Ino) error {
	in, err := s.inode(l.tx, i)
	if err != nil {
		return err
	}
	if in != nil {
		entry.Inode = *in
	}
	if entry.Merge, err = mergeAt(l.tx, entry.Branch, entry.Stamp); err != nil {
		return err
	}
	l.entries = append(l.entries, entry)
	return nil
}

// mergeAt returns the merge that wrote the versions of branch at stamp, nil
// without one.
func mergeAt(tx *schema.Tx, branch int64, stamp schema.Stamp) (*Merged, error) {
	s := tx.Stmt("SELECT id, src, dst, src_stamp, dst_stamp, message FROM merge WHERE dst = ? AND dst_stamp = ?")
	s.BindInt64(1, branch)
	s.BindInt64(2, int64(stamp))
	ok, err := s.Step()
	if err != nil || !ok {
		return nil, err
	}
	return &Merged{
		ID: s.ColumnInt64(0), Src: s.ColumnInt64(1), Dst: s.ColumnInt64(2),
		SrcStamp: schema.Stamp(s.ColumnInt64(3)), DstStamp: schema.Stamp(s.ColumnInt64(4)), Message: s.ColumnText(5),
	}, nil
}

// moments returns when something of i changed, newest first.
func (l *logger) moments(i Ino) ([]version, error) {
	found := map[schema.Stamp]version{}
	note := func(v version) {
		if l.v.chain.sees(v.branch, v.stamp) {
			found[v.stamp] = v
		}
	}
	for _, q := range [...]string{
		"SELECT branch, stamp, node FROM inode WHERE ino = ?",
		"SELECT branch, stamp, node FROM xattr WHERE ino = ?",
		"SELECT branch, stamp, node FROM dentry WHERE ino = ?",
		`SELECT e.branch, e.stamp, e.node FROM (SELECT DISTINCT parent, name FROM dentry WHERE ino = ?) d
			CROSS JOIN dentry e ON e.parent = d.parent AND e.name = d.name`, // names lost
	} {
		s := l.tx.Stmt(q)
		s.BindInt64(1, int64(i))
		for err := range schema.Rows(s) {
			if err != nil {
				return nil, err
			}
			note(columnVersion(s))
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b version) int { return cmp.Compare(b.stamp, a.stamp) }), nil
}

// follow lists what became of i, named e, before the stamp until. e is zero for
// the root.
func (l *logger) follow(e edge, i Ino, until schema.Stamp) error {
	moments, err := l.moments(i)
	if err != nil {
		return err
	}
	for _, m := range moments {
		if l.full() {
			return nil
		}
		if m.stamp >= until {
			continue
		}
		s := step{l: l, at: m, i: i, before: newViewSide(l.at(m.stamp - 1)), after: newViewSide(l.at(m.stamp))}
		end, err := s.run(&e)
		if end || err != nil {
			return err
		}
	}
	return nil
}

// step is one moment of an inode.
type step struct {
	l             *logger
	at            version
	i             Ino
	before, after *viewSide
	entry         LogEntry
}

// run lists the step, with e the edge that is followed, and changes e to where
// the thing was before. end says that its history goes no further.
func (s *step) run(e *edge) (end bool, err error) {
	tx := s.l.tx
	s.entry = LogEntry{Stamp: s.at.stamp, Branch: s.at.branch}
	if e.parent != 0 {
		if s.entry.Path, err = s.l.pathAt(*e, s.at.stamp); err != nil {
			return true, err
		}
	}
	was := s.i
	if e.parent != 0 {
		has, err := s.after.lookup(tx, *e)
		if err != nil {
			return true, err
		}
		had, err := s.before.lookup(tx, *e)
		if err != nil {
			return true, err
		}
		if has == s.i && had != s.i { // it got this name now
			if was, err = s.arrived(e, had); err != nil {
				return true, err
			}
		}
	}
	if err := s.compare(was); err != nil {
		return true, err
	}
	x := &s.entry
	if x.Created || x.Deleted || x.Content || x.Attributes || x.Xattrs || x.RenamedFrom != "" {
		if err := s.l.add(*x, s.after, s.i); err != nil {
			return true, err
		}
	}
	switch {
	case was == s.i && !x.Created:
		return false, nil
	case was != s.i && was != 0:
		return true, s.l.follow(*e, was, s.at.stamp)
	case e.parent == 0:
		return true, nil
	}
	return true, s.earlier(*e)
}

// arrived finds out where the inode came from when it got the name e, which had
// had: it returns the inode to go on with, 0 when it was made then, and moves e
// to its name before.
func (s *step) arrived(e *edge, had Ino) (Ino, error) {
	old, err := sortedEdges(s.l.tx, s.before, s.i)
	if err != nil {
		return 0, err
	}
	if len(old) == 0 {
		s.entry.Created = had == 0
		return had, nil
	}
	if had != 0 {
		in, err := s.after.inode(s.l.tx, s.i)
		if err != nil {
			return 0, err
		}
		if s.at.stamp.Time().Sub(time.Unix(0, in.Btime)) < replaceWithin {
			return had, nil
		}
	}
	now, err := sortedEdges(s.l.tx, s.after, s.i)
	if err != nil {
		return 0, err
	}
	if lost := without(old, now); len(lost) > 0 {
		*e = lost[0]
		s.entry.RenamedFrom, err = s.l.pathAt(*e, s.at.stamp-1)
		return s.i, err
	}
	*e = old[0] // a hard link was made
	return s.i, nil
}

// compare fills in what differs from the inode was before.
func (s *step) compare(was Ino) error {
	if was == 0 {
		return nil
	}
	old, err := s.before.inode(s.l.tx, was)
	if err != nil {
		return err
	}
	new, err := s.after.inode(s.l.tx, s.i)
	if err != nil || new == nil {
		return err
	}
	if old == nil {
		s.entry.Created = true
		return nil
	}
	d, err := compareInodes(s.l.tx, s.before, s.after, old, new)
	s.entry.Content, s.entry.Attributes, s.entry.Xattrs = d.content || d.kind, d.attributes && !d.kind, d.xattrs
	return err
}

// earlier goes on with what had the name e before and was deleted.
func (s *step) earlier(e edge) error {
	versions, err := s.l.versionsOf(e)
	if err != nil {
		return err
	}
	for k := len(versions) - 1; k > 0; k-- {
		d, was := versions[k], versions[k-1]
		if d.stamp >= s.at.stamp || d.ino != 0 || was.ino == 0 {
			continue
		}
		if s.l.full() {
			return nil
		}
		if err := s.l.ended(e, was.ino, d.version); err != nil {
			return err
		}
		return s.l.follow(e, was.ino, d.stamp)
	}
	return nil
}
