package pathtree

import (
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// link is an element of a chain: the versions of branch up to bound, that
// included, can be seen.
type link struct {
	branch int64
	bound  schema.Stamp
	live   bool // the child follows this branch: it is not bounded by a fork
}

// chain is what a view sees, nearest branch first. Branch ids fall along it,
// because a child is made after its parent. It never changes: a fork's bound
// is fixed, and a live branch's is the view's own.
type chain []link

const selectChain = `
WITH RECURSIVE c (id, parent, fork, live) AS (
	SELECT id, parent, fork, live FROM branch WHERE id = ?
	UNION ALL
	SELECT b.id, b.parent, b.fork, b.live FROM c JOIN branch b ON b.id = c.parent
) SELECT id, coalesce(fork, 0), live FROM c`

// loadChain returns the chain of branch as of the stamp at.
func loadChain(tx *schema.Tx, branch int64, at schema.Stamp) (chain, error) {
	s := tx.Stmt(selectChain)
	s.BindInt64(1, branch)
	var ch chain
	bound, live := at, false
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return ch, err
		}
		ch = append(ch, link{s.ColumnInt64(0), bound, live})
		if live = s.ColumnInt64(2) != 0; !live {
			bound = min(bound, schema.Stamp(s.ColumnInt64(1)))
		}
	}
}

// hasLive reports whether ch follows a parent without bound, so that the
// groups of an inode may come from different branches.
func (ch chain) hasLive() bool {
	for _, l := range ch {
		if l.live {
			return true
		}
	}
	return false
}

// from returns the first index at or after i whose branch is at most id.
func (ch chain) from(i int, id int64) int {
	if i < len(ch) && ch[i].branch <= id {
		return i
	}
	lo, hi := i, len(ch)
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); ch[m].branch > id {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// sees reports whether a version of branch id at stamp s is visible at all,
// nearer ones aside.
func (ch chain) sees(id int64, s schema.Stamp) bool {
	i := ch.from(0, id)
	return i < len(ch) && ch[i].branch == id && s <= ch[i].bound
}

// walk steps through the visible versions of one thing, nearest and newest
// first. Its query selects branch and stamp as columns 0 and 1, has the
// condition (branch, stamp) <= (?, ?) last, and is ordered by branch, stamp,
// node, all descending. Versions that cannot be seen (of branches that are not
// in the chain, or beyond a bound) are stepped over; after a few of them the
// walk seeks the next place where there can be one (leapfrog). So the cost
// neither grows with the length of the chain nor with the number of other
// branches.
type walk struct {
	s      *sqlite.Stmt
	ch     chain
	param  int // number of the branch parameter; the stamp's follows
	i      int // ch[i] is the nearest element that the walk may yet find
	missed int
}

// leapAfter is how many invisible versions in a row are worth stepping over:
// a step costs about a third of a seek.
const leapAfter = 3

// startWalk begins at the first place of ch; the caller has bound the other
// parameters of s.
func startWalk(s *sqlite.Stmt, ch chain, param int) walk {
	w := walk{s: s, ch: ch, param: param}
	if len(ch) > 0 {
		w.seek()
	}
	return w
}

func (w *walk) seek() {
	w.s.BindInt64(w.param, w.ch[w.i].branch)
	w.s.BindInt64(w.param+1, int64(w.ch[w.i].bound))
}

// next moves to the next visible version.
func (w *walk) next() (bool, error) {
	if w.i >= len(w.ch) {
		return false, nil
	}
	for {
		ok, err := w.s.Step()
		if err != nil || !ok {
			w.i = len(w.ch)
			return false, err
		}
		id := w.s.ColumnInt64(0)
		if w.i = w.ch.from(w.i, id); w.i == len(w.ch) {
			return false, nil
		}
		if l := &w.ch[w.i]; l.branch == id && schema.Stamp(w.s.ColumnInt64(1)) <= l.bound {
			w.missed = 0
			return true, nil
		}
		if w.missed++; w.missed%leapAfter == 0 {
			_ = w.s.Reset()
			w.seek()
		}
	}
}
