package crdtsync

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Operations on branches, snapshots and conflicts.

func (o *simDoing) anyBranch() (pathtree.Branch, error) {
	all, err := o.n.tree.Branches(o.tx, o.v.Bucket().ID)
	if err != nil || len(all) == 0 {
		return pathtree.Branch{}, err
	}
	return all[o.s.rng.IntN(len(all))], nil
}

func (o *simDoing) fork() error {
	name := string(rune('x' + o.s.rng.IntN(3)))
	from := pathtree.Origin{Branch: o.v.Branch().ID, Live: o.s.rng.IntN(5) == 0}
	if !from.Live && o.s.rng.IntN(3) == 0 {
		from.At = schema.StampAt(o.n.now()) - schema.Stamp(o.s.rng.IntN(60_000))<<16
	}
	o.what = fmt.Sprintf("%s, live %v, at %d", name, from.Live, from.At)
	b, err := o.n.tree.CreateBranch(o.tx, o.v.Bucket().ID, name, from)
	if err == nil {
		_, err = o.n.tree.View(o.tx, b.ID, 0) // not from before there was anything
	}
	return err
}

func (o *simDoing) renameBranch() error {
	name := string(rune('x' + o.s.rng.IntN(3)))
	if o.what = "to " + name; o.v.Branch().Name == pathtree.MainBranch {
		return unix.EBUSY
	}
	return o.n.tree.RenameBranch(o.tx, o.v.Branch().ID, name)
}

func (o *simDoing) removeBranch() error {
	if o.v.Branch().Name == pathtree.MainBranch {
		return unix.EBUSY
	}
	return o.n.tree.RemoveBranch(o.tx, o.v.Branch().ID)
}

func (o *simDoing) merge() error {
	b, err := o.anyBranch()
	if err != nil {
		return err
	}
	src, err := o.n.tree.View(o.tx, b.ID, 0)
	if err != nil {
		return err
	}
	how := []pathtree.Strategy{pathtree.Both, pathtree.Ours, pathtree.Theirs}[o.s.rng.IntN(3)]
	o.what = fmt.Sprintf("of %s, strategy %v", b.Name, how)
	_, err = o.n.tree.Merge(o.tx, src, o.v, pathtree.MergeOptions{Strategy: how})
	return err
}

func (o *simDoing) snapshot() error {
	o.what = string(rune('s' + o.s.rng.IntN(2)))
	_, err := o.n.tree.CreateSnapshot(o.tx, o.v.Branch().ID, o.what, "")
	return err
}

func (o *simDoing) removeSnapshot() error {
	all, err := o.n.tree.Snapshots(o.tx, o.v.Bucket().ID)
	if err != nil || len(all) == 0 {
		return err
	}
	sn := all[o.s.rng.IntN(len(all))]
	o.what = sn.Name
	return o.n.tree.RemoveSnapshot(o.tx, sn.ID)
}

func (o *simDoing) restore() error {
	_, _, at, err := o.existing()
	if o.what = at; err != nil {
		return err
	}
	from, err := o.n.tree.View(o.tx, o.v.Branch().ID, schema.StampAt(o.n.now())-schema.Stamp(o.s.rng.IntN(60_000))<<16)
	if err != nil {
		return err
	}
	_, err = o.n.tree.Restore(o.tx, o.v, at[1:], from)
	return err
}

func (o *simDoing) resolve() error {
	all, err := o.n.tree.SyncConflicts(o.tx, o.v.Bucket().ID)
	if err != nil || len(all) == 0 {
		return err
	}
	f := all[o.s.rng.IntN(len(all))]
	keep := []pathtree.Keep{pathtree.KeepShown, pathtree.KeepOther, pathtree.KeepBoth}[o.s.rng.IntN(3)]
	if keep == pathtree.KeepBoth && f.Kind == pathtree.AttributeConflict {
		keep = pathtree.KeepOther
	}
	o.what = fmt.Sprintf("%v of %s, %d %d %q, keep %d", f.Kind, f.Path, f.Thing, f.Ino, f.Name, keep)
	return o.n.tree.ResolveSyncConflict(o.tx, f, keep, f.Others[o.s.rng.IntN(len(f.Others))].ID)
}
