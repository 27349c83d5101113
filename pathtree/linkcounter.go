package pathtree

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// linkCounter finds the link counts of an inode in the views of a branch, in order of
// time. Names are counted. The subdirectories of a directory are not, as there may be
// any number of entries: to what a row had, or a head showed, it adds what the import
// made of them. They are listed where there was no count, and where it may have been
// wrong: on a live branch, which shows what comes to its parent, and on one that others
// forked from a past which went on.
type linkCounter struct {
	m        *importer
	at       inodeAt
	ch       chain
	gained   int    // how many more subdirectories the head has than before the import
	turns    []turn // that are still to come
	was, is  int    // subdirectories before and after the import, by the turns so far
	n        uint32 // of the row that was counted last,
	isByThen int    // and what is was
}

// turn is a moment from which on a directory has more or fewer subdirectories, as it
// was before the import and as it is.
type turn struct {
	at      schema.Stamp
	was, is int
}

func (m *importer) newCounter(branch int64, i Ino) (*linkCounter, error) {
	ch, err := m.chain(branch)
	if err != nil {
		return nil, err
	}
	c := &linkCounter{m: m, at: inodeAt{branch, i}, ch: ch}
	for name := range m.subs[c.at] {
		e := edge{i, name}
		was := m.head(branch).edges[e]
		if was == nil {
			continue
		}
		is, err := traceDentry(m.tx, ch, e, was.since)
		if err != nil {
			return nil, err
		}
		c.gained += is.at(schema.MaxStamp).leads() - was.at(schema.MaxStamp).leads()
		was.turns(func(s schema.Stamp, n int) { c.turns = append(c.turns, turn{at: s, was: n}) })
		is.turns(func(s schema.Stamp, n int) { c.turns = append(c.turns, turn{at: s, is: n}) })
	}
	slices.SortFunc(c.turns, func(a, b turn) int { return cmp.Compare(a.at, b.at) })
	return c, nil
}

// to takes the turns up to a moment.
func (c *linkCounter) to(s schema.Stamp) {
	for len(c.turns) > 0 && c.turns[0].at <= s {
		c.was, c.is, c.turns = c.was+c.turns[0].was, c.is+c.turns[0].is, c.turns[1:]
	}
}

// past returns the count of a row of the branch, as of its end.
func (c *linkCounter) past(r *inodeRow, end schema.Stamp) (n uint32, err error) {
	then := slices.Clone(c.ch)
	for k := range then {
		then[k].bound = min(then[k].bound, end)
	}
	names, err := c.names(then)
	if !isDirIno(c.at.ino) || err != nil {
		return names, err
	}
	c.to(end)
	switch {
	case names == 0:
	case r.Nlink > 0:
		n = addLinks(r.Nlink, c.is-c.was)
	case c.n > 0: // it came with the import, as did the one before
		n = addLinks(c.n, c.is-c.isByThen)
	default:
		n, err = c.list(then)
	}
	c.n, c.isByThen = n, c.is
	return n, err
}

// head returns the count in the branch's head.
func (c *linkCounter) head() (uint32, error) {
	names, err := c.names(c.ch)
	if !isDirIno(c.at.ino) || names == 0 || err != nil {
		return names, err
	}
	if err := c.m.noteInode(c.m.exchange, c.at.branch, c.at.ino); err != nil {
		return 0, err
	}
	uncounted, err := c.m.uncounted(c.at.branch)
	if err != nil {
		return 0, err
	}
	was := c.m.head(c.at.branch).inodes[c.at.ino]
	if was == nil || was.Nlink == 0 || c.m.anew[c.at] || c.ch.hasLive() || uncounted {
		return c.list(c.ch)
	}
	return addLinks(was.Nlink, c.gained), nil
}

// names returns how many names the inode has, of a directory whether it has one.
func (c *linkCounter) names(ch chain) (n uint32, err error) {
	if c.at.ino == c.m.bucket.Root {
		return 1, nil
	}
	v := c.view(ch)
	err = v.places(c.m.tx, c.at.ino, func(name) bool { n++; return !isDirIno(c.at.ino) })
	return n, err
}

// list counts the subdirectories of a directory, which costs what it has.
func (c *linkCounter) list(ch chain) (n uint32, err error) {
	d, err := c.view(ch).scanDir(c.m.tx, c.at.ino, "")
	if err != nil {
		return 0, err
	}
	for n = 2; ; {
		e, ok, err := d.next()
		if err != nil || !ok {
			return n, err
		}
		if e.Kind == unix.S_IFDIR {
			n++
		}
	}
}

func (c *linkCounter) view(ch chain) *View {
	return &View{tree: c.m.t, bucket: c.m.bucket, chain: ch, live: ch.hasLive()}
}

// addLinks is n+d of a directory that has a name.
func addLinks(n uint32, d int) uint32 { return uint32(max(2, int(n)+d)) }

// uncounted reports whether no record of a branch counts, so that its head was never
// looked at.
func (x *exchange) uncounted(branch int64) (bool, error) {
	u, err := x.uuid(branch)
	if err != nil {
		return false, err
	}
	b, err := x.branch(u)
	return b.Deleted == uncounted, err
}

// trace is what a head shows of a dentry: the versions that it showed at some moment
// from since on, newest first, and the one before.
type trace struct {
	since schema.Stamp
	rows  []dentryRow
}

func traceDentry(tx *schema.Tx, ch chain, e edge, since schema.Stamp) (*trace, error) {
	s := tx.Stmt(selectDentry)
	s.BindInt64(1, int64(e.parent))
	s.BindBytes(2, []byte(e.name))
	t := &trace{since: since}
	for w := startWalk(s, ch, 3); len(t.rows) == 0 || t.oldest() >= since; {
		ok, err := w.next()
		if err != nil || !ok {
			return t, err
		}
		r := dentryRow{columnVersion(s), Ino(s.ColumnInt64(3)), uint32(s.ColumnInt64(4)) << 12}
		if len(t.rows) == 0 || r.stamp < t.oldest() { // else a nearer branch hides it
			t.rows = append(t.rows, r)
		}
	}
	return t, nil
}

func (t *trace) oldest() schema.Stamp { return t.rows[len(t.rows)-1].stamp }

// at returns what was there at a moment; zero: nothing ever was.
func (t *trace) at(s schema.Stamp) dentryRow {
	for _, r := range t.rows {
		if r.stamp <= s {
			return r
		}
	}
	return dentryRow{}
}

// turns yields when it came or ceased to lead to a directory, 1 and -1.
func (t *trace) turns(yield func(at schema.Stamp, n int)) {
	led := 0
	for _, r := range slices.Backward(t.rows) {
		leads := r.leads()
		if leads != led && r.stamp >= t.since {
			yield(r.stamp, leads-led)
		}
		led = leads
	}
}

// leads returns 1 for an entry that is a directory, 0 for any other.
func (r dentryRow) leads() int {
	if r.kind == unix.S_IFDIR {
		return 1
	}
	return 0
}
