package pathtree

import (
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// copyName is where the loser of a name is shown.
func copyName(name string, id VersionID) string {
	return suffixed(name, conflictMark+shortHash(id.Node.String(), int(id.Stamp)))
}

// copyOf undoes copyName, so far as the name was not cut.
func copyOf(name string) (string, bool) {
	k := len(name) - len(conflictMark) - 8
	if k <= 0 || name[k:k+len(conflictMark)] != conflictMark {
		return "", false
	}
	return name[:k], true
}

// copies shows what lost a name that it was made under, beside it. The row is of
// the stamp of the version that hid it first, so that a fork in between shows it
// once. A version that somebody wrote at the copy's name counts instead.
func (m *importer) copies(c *contest, heads []int) error {
	want := map[string]dentryRow{}
	shown := map[Ino]bool{}
	for _, k := range slices.Backward(heads[:max(0, len(heads)-1)]) {
		h, win := &c.all[k], &c.all[len(c.all)-1]
		if h.v.Ino == 0 || h.v.Ino == win.v.Ino {
			continue
		}
		if made, err := m.made(c, h); err != nil {
			return err
		} else if !made {
			continue
		}
		if win.v.Ino != 0 {
			if same, err := m.sameThing(c.branch, h.v.Ino, win.v.Ino); err != nil {
				return err
			} else if same {
				continue
			}
		}
		name := copyName(c.name, h.id)
		if touched, err := m.writtenSince(c.branch, edge{c.ino, name}, h.at.stamp); err != nil {
			return err
		} else if touched {
			continue
		}
		if shown[h.v.Ino] {
			continue // one directory, made by several
		}
		shown[h.v.Ino] = true
		want[name] = dentryRow{version{c.branch, c.all[k+1].at.stamp, copyNode}, h.v.Ino, h.v.FileType}
	}
	for k := range c.all { // of any version, once a head, there may be a copy
		if err := m.setCopy(c, copyName(c.name, c.all[k].id), want); err != nil {
			return err
		}
	}
	return nil
}

// writtenSince reports whether somebody wrote a version of e after s.
func (x *exchange) writtenSince(branch int64, e edge, s schema.Stamp) (bool, error) {
	q := x.tx.Stmt("SELECT 1 FROM dentry WHERE parent = ? AND name = ? AND branch = ? AND stamp > ? AND node < 2000000000")
	q.BindInt64(1, int64(e.parent))
	q.BindBytes(2, []byte(e.name))
	q.BindInt64(3, branch)
	q.BindInt64(4, int64(s))
	return q.Step()
}

func (m *importer) setCopy(c *contest, name string, want map[string]dentryRow) error {
	s := m.tx.Stmt("SELECT branch, stamp, node, ino, kind FROM dentry WHERE parent = ? AND name = ? AND branch = ? AND node = 2000000000")
	s.BindInt64(1, int64(c.ino))
	s.BindBytes(2, []byte(name))
	s.BindInt64(3, c.branch)
	ok, err := s.Step()
	if err != nil {
		return err
	}
	var is dentryRow
	if ok {
		is = dentryRow{columnVersion(s), Ino(s.ColumnInt64(3)), uint32(s.ColumnInt64(4)) << 12}
	}
	w := want[name]
	if is == w {
		return nil
	}
	stamp := max(is.stamp, w.stamp)
	if is.stamp != 0 && w.stamp != 0 {
		stamp = min(is.stamp, w.stamp)
	}
	all, err := m.reach(c.branch, stamp)
	if err != nil {
		return err
	}
	for _, r := range all {
		e := edge{c.ino, name}
		if _, err := m.noteEdge(m.exchange, r.branch, e, stamp); err != nil {
			return err
		}
		m.suspect(r.branch).edge(e, is.ino, w.ino)
		m.noteCount(r.branch, e, stamp, is.ino, w.ino)
		for _, i := range []Ino{is.ino, w.ino} {
			if err := m.ifContested(thingAt{r.branch, thing{kind: InodeVersion, ino: i}}); err != nil {
				return err
			}
		}
	}
	if is.stamp != 0 {
		if err := deleteDentry(m.tx, c.ino, name, is.version); err != nil {
			return err
		}
	}
	if w.stamp == 0 {
		return nil
	}
	return insertDentry(m.tx, c.ino, name, w.version, w.ino, w.kind)
}
