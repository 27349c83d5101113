package pathtree

import (
	"cmp"
	"container/heap"
	"syscall"

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
// changed since: the things of which src's history has versions that no base's
// does have. (Versions of src itself are not enough: it may contain the
// deletion, by another branch, of what it never had.)
//
// A base is a moment that both contain and that no other such moment contains.
// After merges that cross each other there can be several, newest first; the
// newest version that any of them has of a thing is then what was in common.
func mergeBase(tx *schema.Tx, src, dst *View) ([]*View, *candidates, error) {
	h := history{tx: tx, top: [3]map[int64]schema.Stamp{{}, {}, {}}, lines: [3]map[int64]bool{{}, {}, {}}}
	h.push(mark{moment: src.moment(), side: ofSrc})
	h.push(mark{moment: dst.moment(), side: ofDst})
	if err := h.walk(); err != nil {
		return nil, nil, err
	}
	if err := h.here(src.tree); err != nil {
		return nil, nil, err
	}
	bases := []*View{{tree: src.tree, bucket: src.bucket}} // two beginnings: of an empty tree
	for k, m := range h.bases {
		ch, err := loadChain(tx, m.branch, m.stamp)
		if err != nil {
			return nil, nil, err
		}
		v := &View{tree: src.tree, bucket: src.bucket, at: m.stamp, chain: ch, live: ch.hasLive()}
		bases = append(bases[:k:k], v)
	}
	c := newCandidates()
	for branch, hi := range h.top[ofSrc] {
		if lo := h.top[ofBase][branch]; lo < hi {
			if err := c.add(tx, branch, lo, hi); err != nil {
				return nil, nil, err
			}
		}
	}
	return bases, c, nil
}

// here refuses what a node cannot know that does not keep a branch of which src has
// versions that no base has, or of which a base is. What dst came to have besides, by
// merges of other branches, it has itself.
func (h *history) here(t *Tree) error {
	needed := map[int64]bool{}
	for branch, hi := range h.top[ofSrc] {
		if h.top[ofBase][branch] < hi {
			needed[branch] = true
		}
	}
	for _, m := range h.bases {
		needed[m.branch] = true
	}
	for branch := range needed {
		b, err := t.BranchByID(h.tx, branch)
		if Errno(err) == syscall.ENOENT {
			continue // pruned
		}
		if err == nil {
			err = t.here(h.tx, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// moment returns the newest moment that v sees.
func (v *View) moment() moment {
	if v.at == 0 {
		return moment{v.branch.ID, schema.MaxStamp}
	}
	return moment{v.branch.ID, v.at}
}

const ofSrc, ofDst, ofBase = 0, 1, 2

// mark is a moment to look at, on the way back from src, dst or a base.
type mark struct {
	moment
	side  int
	again bool // the branch was reached at a later stamp; this is its history
}

// history walks back from two moments, newest first, as git does to find merge
// bases. What it looks at is about what happened since those.
type history struct {
	tx    *schema.Tx
	marks marks
	open  int                       // marks of src that wait
	lines [3]map[int64]bool         // by side: branches that have a waiting mark with again
	top   [3]map[int64]schema.Stamp // by side: until when it contains a branch
	bases []moment
}

func (h *history) push(m mark) {
	if m.stamp <= 0 {
		return
	}
	if m.side == ofSrc {
		h.open++
	}
	if m.again {
		h.lines[m.side][m.branch] = true
	}
	heap.Push(&h.marks, m)
}

// walk goes on while something of src is not known to be of a base.
func (h *history) walk() error {
	for h.open > 0 {
		m := heap.Pop(&h.marks).(mark)
		if m.again {
			if !h.lines[m.side][m.branch] {
				continue // closed when a base came by
			}
			delete(h.lines[m.side], m.branch)
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
// not where the side has been, nor at what a base contains. What src and dst
// contain and no base does is a base.
func (h *history) arrive(m mark) bool {
	if _, known := h.top[m.side][m.branch]; known {
		return false
	}
	h.top[m.side][m.branch] = m.stamp
	if m.side == ofBase {
		h.close(m.branch)
		return true
	}
	if _, known := h.top[ofBase][m.branch]; known {
		return false
	}
	_, common := h.top[1-m.side][m.branch]
	if common { // the other side was here at a later stamp, or the same
		h.bases = append(h.bases, m.moment)
		h.top[ofBase][m.branch] = m.stamp
		h.push(mark{moment: m.moment, side: ofBase, again: true})
		h.close(m.branch)
	}
	return !common
}

// close ends what src and dst still have to look at of a branch, which is older
// than what a base contains.
func (h *history) close(branch int64) {
	for _, side := range [...]int{ofSrc, ofDst} {
		if h.lines[side][branch] {
			delete(h.lines[side], branch)
			if side == ofSrc {
				h.open--
			}
		}
	}
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
		if m.stamp > 1 { // the beginning; others may yet come by
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

// marks is a heap: newest first; of one stamp a base's before dst's before
// src's, and the child, which contains its parent, before it.
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
