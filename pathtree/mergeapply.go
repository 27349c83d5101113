package pathtree

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

func (t *Tree) newPlan(tx *schema.Tx, bases []*View, ours, theirs *View, o MergeOptions) *plan {
	p := &plan{
		nodes: newNodes(tx, bases, ours, theirs), opts: o, branch: theirs.branch.Name,
		evicted: map[edge]bool{}, given: map[edge]bool{},
	}
	made := Ino(0)
	p.newIno = func() (Ino, error) {
		if o.DryRun || o.Strategy == Ask { // never stored
			made++
			return dirBit - made, nil
		}
		return t.newFileIno(tx)
	}
	return p
}

// result says what the edit does.
func (p *plan) result(d *edit) (r MergeResult, err error) {
	if r.Applied, err = d.changes(p.tx); err != nil {
		return r, err
	}
	r.Conflicts = p.conflicts
	slices.SortStableFunc(r.Conflicts, func(a, b Conflict) int {
		return cmp.Or(strings.Compare(a.Path(), b.Path()), cmp.Compare(a.Kind, b.Kind))
	})
	for _, x := range p.texts {
		path, err := firstPath(p.tx, d, x.target)
		if err != nil {
			return r, err
		}
		r.Texts = append(r.Texts, path)
	}
	slices.Sort(r.Texts)
	return r, nil
}

// apply writes the edit and records the merge. Both states stay visible for
// the next one.
func (p *plan) apply(d *edit, src, dst *View) (int64, error) {
	for _, x := range p.texts {
		if len(x.text) == 0 {
			continue
		}
		if _, err := p.opts.Text.Store(p.tx, x.text); err != nil {
			return 0, err
		}
	}
	c, err := dst.begin(p.tx)
	if err != nil {
		return 0, err
	}
	if err := p.affirm(d); err != nil {
		return 0, err
	}
	if err := d.apply(&c); err != nil {
		return 0, err
	}
	m := Merged{Src: src.branch.ID, Dst: dst.branch.ID, SrcStamp: src.at, DstStamp: c.at.stamp, Message: p.opts.Message}
	if src.at == 0 {
		m.SrcStamp = c.at.stamp - 1 // not the same: ours contains theirs, not the other way round
	}
	if m.ID, err = recordMerge(p.tx, m); err != nil {
		return 0, err
	}
	if err := dst.tree.seal(p.tx, m.Src, m.SrcStamp); err != nil {
		return 0, err
	}
	if err := dst.tree.seal(p.tx, m.Dst, m.DstStamp); err != nil {
		return 0, err
	}
	return m.ID, c.event(notify.Event{Op: notify.OpMerge, Name: []byte(m.Message), Ref: m.ID})
}

func recordMerge(tx *schema.Tx, m Merged) (int64, error) {
	s := tx.Stmt(`INSERT INTO merge (id, src, src_stamp, dst, dst_stamp, message, created) VALUES (?, ?, ?, ?, ?, ?, ?)`)
	m.ID = tx.NextIno()
	s.BindInt64(1, m.ID)
	s.BindInt64(2, m.Src)
	s.BindInt64(3, int64(m.SrcStamp))
	s.BindInt64(4, m.Dst)
	s.BindInt64(5, int64(m.DstStamp))
	s.BindText(6, m.Message)
	s.BindInt64(7, time.Now().UnixNano())
	return m.ID, run(s)
}
