package pathtree

import (
	"cmp"
	"slices"

	"github.com/alkdev/alkfs/schema"
)

// reach is what a state contains: of each branch all versions up to a stamp. A
// state contains its own branch's versions, those of the ancestors that it
// sees, and whatever was merged into any of them by then.
type reach map[int64]schema.Stamp

// moment is a branch at a stamp.
type moment struct {
	branch int64
	stamp  schema.Stamp
}

// reachOf follows forks and recorded merges back from the given moments.
func reachOf(tx *schema.Tx, from ...moment) (reach, error) {
	r := reach{}
	for todo := from; len(todo) > 0; {
		m := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		known := r[m.branch]
		if m.stamp <= known {
			continue
		}
		r[m.branch] = m.stamp
		parent, ok, err := parentMoment(tx, m)
		if err != nil {
			return nil, err
		}
		if ok {
			todo = append(todo, parent)
		}
		s := tx.Stmt("SELECT src, src_stamp FROM merge WHERE dst = ? AND dst_stamp > ? AND dst_stamp <= ?")
		bindVersion(s, 1, version{m.branch, known, int64(m.stamp)})
		for {
			ok, err := s.Step()
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			todo = append(todo, moment{s.ColumnInt64(0), schema.Stamp(s.ColumnInt64(1))})
		}
	}
	return r, nil
}

// parentMoment returns what m sees of its branch's parent; false without one.
func parentMoment(tx *schema.Tx, m moment) (moment, bool, error) {
	s := tx.Stmt("SELECT parent, coalesce(fork, 0), live FROM branch WHERE id = ?")
	s.BindInt64(1, m.branch)
	ok, err := s.Step()
	if err != nil || !ok || s.ColumnInt64(0) == 0 {
		return moment{}, false, err
	}
	bound := m.stamp
	if s.ColumnInt64(2) == 0 {
		bound = min(bound, schema.Stamp(s.ColumnInt64(1)))
	}
	return moment{s.ColumnInt64(0), bound}, true, nil
}

// mergeBase returns the state that src and dst last had in common, and what it
// contains. That is the newest moment both contain which no other such moment
// contains in turn. After merges that cross each other there can be two; then
// it is the newer one, and a change that came by way of the other is found
// equal on both sides.
func mergeBase(tx *schema.Tx, src, dst *View) (*View, reach, error) {
	a, err := reachOf(tx, src.moment())
	if err != nil {
		return nil, nil, err
	}
	b, err := reachOf(tx, dst.moment())
	if err != nil {
		return nil, nil, err
	}
	var common []moment
	for branch, stamp := range a {
		if s := min(stamp, b[branch]); s > 0 {
			common = append(common, moment{branch, s})
		}
	}
	if len(common) == 0 {
		return &View{tree: src.tree, bucket: src.bucket}, reach{}, nil // two beginnings: of an empty tree
	}
	// Whoever contains another is later; at one stamp, the child.
	best := slices.MaxFunc(common, func(x, y moment) int {
		return cmp.Or(cmp.Compare(x.stamp, y.stamp), cmp.Compare(x.branch, y.branch))
	})
	known, err := reachOf(tx, best)
	if err != nil {
		return nil, nil, err
	}
	ch, err := loadChain(tx, best.branch, best.stamp)
	if err != nil {
		return nil, nil, err
	}
	base := &View{tree: src.tree, bucket: src.bucket, branch: Branch{ID: best.branch}, at: best.stamp, chain: ch, live: ch.hasLive()}
	return base, known, nil
}

// moment returns the newest moment that v sees.
func (v *View) moment() moment {
	if v.at == 0 {
		return moment{v.branch.ID, schema.MaxStamp}
	}
	return moment{v.branch.ID, v.at}
}
