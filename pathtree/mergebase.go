package pathtree

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// moment is a branch at a stamp. It contains the versions of its branch up to
// the stamp, the moment at which the branch left its parent, and the source of
// every merge into the branch by then.
type moment struct {
	branch int64
	stamp  schema.Stamp
}

// mergeBase returns the state that src and dst last had in common, and what src
// changed since: the things of which src's history has versions that the base's
// does not have. (Versions of src itself are not enough: it may contain the
// deletion, by another branch, of what it never had.)
//
// The base is the newest moment that both contain. After merges that cross each
// other there can be two that do not contain each other; the newer one is taken
// then, and what came by way of the other is mostly found equal on both sides.
func mergeBase(tx *schema.Tx, src, dst *View) (*View, *candidates, error) {
	h := history{tx: tx, top: [2]map[int64]schema.Stamp{{}, {}}, lines: map[int64]bool{}}
	h.push(mark{moment: src.moment(), side: ofSrc})
	h.push(mark{moment: dst.moment(), side: ofDst})
	if err := h.walk(); err != nil {
		return nil, nil, err
	}
	base := &View{tree: src.tree, bucket: src.bucket}
	if h.found { // else two beginnings: of an empty tree
		var err error
		if base.chain, err = loadChain(tx, h.base.branch, h.base.stamp); err != nil {
			return nil, nil, err
		}
		base.at, base.live = h.base.stamp, base.chain.hasLive()
	}
	c := newCandidates()
	for branch, hi := range h.top[ofSrc] {
		if lo := h.top[ofDst][branch]; lo < hi {
			if err := c.add(tx, branch, lo, hi); err != nil {
				return nil, nil, err
			}
		}
	}
	return base, c, nil
}

// moment returns the newest moment that v sees.
func (v *View) moment() moment {
	if v.at == 0 {
		return moment{v.branch.ID, schema.MaxStamp}
	}
	return moment{v.branch.ID, v.at}
}

const ofSrc, ofDst = 0, 1

// mark is a moment to look at, on the way back from one of two sides.
type mark struct {
	moment
	side  int
	again bool // the branch was reached at a later stamp; this is its history
}

// history walks back from two moments, newest first, as git does to find a
// merge base. What it looks at is about what happened since the base.
type history struct {
	tx    *schema.Tx
	marks marks
	open  int                       // marks of src that wait and that dst is not known to contain
	lines map[int64]bool            // branches that have an open mark of src with again
	top   [2]map[int64]schema.Stamp // by side: until when it contains a branch
	base  moment
	found bool
}

func (h *history) push(m mark) {
	if m.stamp <= 0 {
		return
	}
	if m.side == ofSrc {
		h.open++
		if m.again {
			h.lines[m.branch] = true
		}
	}
	heap.Push(&h.marks, m)
}

// walk goes on while something of src is not known to be of dst too.
func (h *history) walk() error {
	for h.open > 0 {
		m := heap.Pop(&h.marks).(mark)
		if m.side == ofSrc && m.again {
			if !h.lines[m.branch] {
				continue // closed when dst came by
			}
			delete(h.lines, m.branch)
		}
		if m.side == ofSrc {
			h.open--
		}
		if !m.again && !h.arrive(m) {
			continue
		}
		if err := h.back(m); err != nil {
			return err
		}
	}
	return nil
}

// arrive notes that a side contains m, and reports whether to go on from there:
// not where it has been, nor, for src, where dst has been at a later stamp or
// the same.
func (h *history) arrive(m mark) bool {
	if _, known := h.top[m.side][m.branch]; known {
		return false
	}
	h.top[m.side][m.branch] = m.stamp
	_, common := h.top[1-m.side][m.branch]
	if common && h.lines[m.branch] {
		delete(h.lines, m.branch)
		h.open--
	}
	if common && !h.found {
		h.restart(m.moment)
		return false
	}
	return !common || m.side == ofDst
}

// restart takes base as the base and from now on, instead of dst, follows that:
// what src has since is to be seen even if dst has it by another way, since
// somebody may have decided against it there.
func (h *history) restart(base moment) {
	h.base, h.found = base, true
	h.marks = slices.DeleteFunc(h.marks, func(m mark) bool { return m.side == ofDst })
	heap.Init(&h.marks)
	h.top[ofDst] = map[int64]schema.Stamp{base.branch: base.stamp}
	h.push(mark{moment: base, side: ofDst, again: true})
}

// back adds what comes before m: the last merge into its branch and the time
// before it, or else the moment at which the branch left its parent.
func (h *history) back(m mark) error {
	s := h.tx.Stmt(`SELECT dst_stamp, src, src_stamp FROM merge WHERE dst = ? AND dst_stamp <= ?
		ORDER BY dst_stamp DESC LIMIT 1`)
	s.BindInt64(1, m.branch)
	s.BindInt64(2, int64(m.stamp))
	merged, err := s.Step()
	if err != nil {
		return err
	}
	if merged {
		h.push(mark{moment: moment{s.ColumnInt64(1), schema.Stamp(s.ColumnInt64(2))}, side: m.side})
		h.push(mark{moment: moment{m.branch, schema.Stamp(s.ColumnInt64(0)) - 1}, side: m.side, again: true})
		return nil
	}
	s = h.tx.Stmt("SELECT parent, coalesce(fork, 0), live FROM branch WHERE id = ?")
	s.BindInt64(1, m.branch)
	if ok, err := s.Step(); err != nil || !ok {
		return err
	}
	if s.ColumnInt64(0) == 0 {
		if m.stamp > 1 { // the beginning; dst may yet come by
			h.push(mark{moment: moment{m.branch, 1}, side: m.side, again: true})
		}
		return nil
	}
	bound := h.top[m.side][m.branch]
	if s.ColumnInt64(2) == 0 {
		bound = min(bound, schema.Stamp(s.ColumnInt64(1)))
	}
	h.push(mark{moment: moment{s.ColumnInt64(0), bound}, side: m.side})
	return nil
}

// marks is a heap: newest first; of one stamp dst's before src's, so that what
// both contain is noticed, and the child, which contains its parent, before it.
type marks []mark

func (m marks) Len() int      { return len(m) }
func (m marks) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m marks) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(m[j].stamp, m[i].stamp), cmp.Compare(m[j].side, m[i].side), cmp.Compare(m[j].branch, m[i].branch)) < 0
}
func (m *marks) Push(x any) { *m = append(*m, x.(mark)) }
func (m *marks) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}
