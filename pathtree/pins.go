package pathtree

import (
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// pins say which versions of each branch somebody can see: at the head, at a
// fork, a snapshot, or as a merge base.
type pins struct {
	of    map[int64]*branchPins
	gone  []int64        // branches of which nothing is needed, children first
	ways  map[int64]bool // those of them over which a way leads from one branch that is needed to another
	live  bool           // some branch follows its parent
	roots map[Ino]bool   // root directories
	other schema.Stamp   // the cut of what is of no branch that is known

	shared map[int64]bool // branches of buckets that other nodes have
}

type branchPins struct {
	id, parent int64
	bucket     int64
	before     schema.Stamp // the cut of its bucket
	fork       schema.Stamp // MaxStamp when live
	live       bool
	deleted    schema.Stamp
	head       bool           // somebody sees the newest versions
	gone       bool           // nobody sees anything
	bounds     []schema.Stamp // stamps at which somebody looks, sorted in the end
}

func loadPins(tx *schema.Tx, cut Cut, now schema.Stamp) (*pins, error) {
	p := &pins{of: map[int64]*branchPins{}, roots: map[Ino]bool{}, shared: map[int64]bool{}, other: min(cut.Before, now)}
	order, err := p.loadBranches(tx, cut, now)
	if err != nil {
		return nil, err
	}
	snapshots, err := loadMoments(tx, "SELECT branch, stamp, 0, 0 FROM snapshot")
	if err != nil {
		return nil, err
	}
	needed := map[int64]bool{}
	for _, m := range snapshots {
		needed[m.from.branch] = true
	}
	merges, err := loadMoments(tx, "SELECT src, src_stamp, dst, dst_stamp FROM merge ORDER BY dst_stamp DESC")
	if err != nil {
		return nil, err
	}
	// What went to one other branch only is never a base once its own branch
	// is deleted: whoever has it has it by way of that one.
	into := map[int64]int64{}
	for _, m := range merges {
		if dst, ok := into[m.from.branch]; ok && dst != m.in.branch {
			needed[m.from.branch] = true
		}
		into[m.from.branch] = m.in.branch
	}
	for _, b := range slices.Backward(order) { // a child's id is greater
		if b.gone = !p.shared[b.id] && b.deleted != 0 && b.deleted <= b.before && !needed[b.id]; b.gone {
			p.gone = append(p.gone, b.id)
			continue
		}
		needed[b.parent] = true
		b.head = b.head || b.deleted == 0
		if q := p.of[b.parent]; q != nil {
			q.bounds = append(q.bounds, b.fork)
			q.head = q.head || b.live
		}
	}
	p.findWays(merges)
	for _, m := range snapshots {
		p.pin(m.from)
	}
	p.pinMerges(merges)
	for _, b := range p.of {
		slices.Sort(b.bounds)
	}
	return p, nil
}

func (p *pins) loadBranches(tx *schema.Tx, cut Cut, now schema.Stamp) (order []*branchPins, err error) {
	s := tx.Stmt(`SELECT b.id, coalesce(b.parent, 0), coalesce(b.fork, 0), b.live, coalesce(b.deleted, 0), k.root, k.id, k.shared
		FROM branch b JOIN bucket k ON k.id = b.bucket ORDER BY b.id`)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return order, err
		}
		b := &branchPins{
			id: s.ColumnInt64(0), parent: s.ColumnInt64(1), fork: schema.Stamp(s.ColumnInt64(2)),
			live: s.ColumnInt64(3) != 0, deleted: schema.Stamp(s.ColumnInt64(4)),
			bucket: s.ColumnInt64(6), before: min(cut.of(s.ColumnInt64(6)), now),
		}
		if b.live {
			b.fork, p.live = schema.MaxStamp, true
		}
		p.roots[Ino(s.ColumnInt64(5))] = true
		p.of[b.id] = b
		if s.ColumnInt64(7) != 0 {
			p.shared[b.id] = true
		}
		order = append(order, b)
	}
}

// findWays sets ways. Forks and merges join branches; those that are gone fall
// into groups that hang together, and a group matters to merges to come only when
// it joins two branches that are needed, and to Log while a merge from it is young.
func (p *pins) findWays(merges []momentPair) {
	group := map[int64]int64{} // union-find over the gone
	var find func(id int64) int64
	find = func(id int64) int64 {
		if up, ok := group[id]; ok && up != id {
			group[id] = find(up)
			return group[id]
		}
		return id
	}
	isGone := func(id int64) bool { return p.of[id] != nil && p.of[id].gone }
	join := func(a, b int64) {
		if isGone(a) && isGone(b) {
			group[find(a)] = find(b)
		}
	}
	for _, id := range p.gone {
		join(id, p.of[id].parent)
	}
	for _, m := range merges {
		join(m.from.branch, m.in.branch)
	}
	first := map[int64]int64{} // by group: one needed branch that it touches
	ways := map[int64]bool{}   // by group
	touch := func(gone, other int64) {
		if !isGone(gone) || isGone(other) || other == 0 {
			return
		}
		g := find(gone)
		if f, ok := first[g]; ok && f != other {
			ways[g] = true
		}
		first[g] = other
	}
	for _, id := range p.gone {
		touch(id, p.of[id].parent)
	}
	for _, m := range merges {
		touch(m.from.branch, m.in.branch)
		touch(m.in.branch, m.from.branch)
		if m.in.stamp >= p.before(m.in.branch) && isGone(m.from.branch) {
			ways[find(m.from.branch)] = true
		}
	}
	p.ways = map[int64]bool{}
	for _, id := range p.gone {
		if ways[find(id)] {
			p.ways[id] = true
		}
	}
}

// momentPair is a moment that another one contains.
type momentPair struct{ from, in moment }

func loadMoments(tx *schema.Tx, query string) (all []momentPair, err error) {
	s := tx.Stmt(query)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, momentPair{
			moment{s.ColumnInt64(0), schema.Stamp(s.ColumnInt64(1))},
			moment{s.ColumnInt64(2), schema.Stamp(s.ColumnInt64(3))},
		})
	}
}

// pin keeps what can be seen of a moment, on its branch and those above.
func (p *pins) pin(m moment) {
	for b := p.of[m.branch]; b != nil; b = p.of[b.parent] {
		b.bounds = append(b.bounds, m.stamp)
		m.stamp = min(m.stamp, b.fork)
	}
}

// pinMerges keeps the state of the source of each merge that can still be a
// base: the last one between two branches, and older ones that a fork, a
// snapshot or another base of the destination knows as the last. They come
// newest first.
func (p *pins) pinMerges(merges []momentPair) {
	type pair struct{ src, dst int64 }
	later := map[pair]schema.Stamp{}
	for _, m := range merges {
		k := pair{m.from.branch, m.in.branch}
		src, dst := p.of[k.src], p.of[k.dst]
		if src == nil || src.gone || dst == nil || dst.gone {
			continue
		}
		next, older := later[k]
		if older && !slices.ContainsFunc(dst.bounds, func(s schema.Stamp) bool { return m.in.stamp <= s && s < next }) {
			continue
		}
		later[k] = m.in.stamp
		p.pin(m.from)
	}
}

// before returns the cut of a branch.
func (p *pins) before(branch int64) schema.Stamp {
	if b := p.of[branch]; b != nil {
		return b.before
	}
	return p.other
}

// needs reports whether somebody sees a version of branch that lasted from s
// until next.
func (p *pins) needs(branch int64, s, next schema.Stamp) bool {
	b, before := p.of[branch], p.before(branch)
	switch {
	case b == nil:
		return true // of a branch that is missing: not ours to judge
	case b.gone:
		return false
	case b.head && next > before:
		return true
	case !b.head && next > before && len(b.bounds) > 0 && s <= b.bounds[len(b.bounds)-1]:
		return true // a view of a child as of a time before it was forked
	}
	k, _ := slices.BinarySearch(b.bounds, s)
	return k < len(b.bounds) && b.bounds[k] < next
}
