package pathtree

import (
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

func (w *swarm) limit(t *rapid.T) {
	_, k := w.pick(t)
	p := Policy{
		QuotaBytes:  rapid.SampledFrom([]int64{0, 20, 60, 1 << 40}).Draw(t, "bytes"),
		QuotaInodes: rapid.SampledFrom([]int64{0, 4, 1 << 40}).Draw(t, "inodes"),
	}
	w.try(k, "limit", func(tx *schema.Tx) error { return w.all[k].tree.SetPolicy(tx, w.all[k].bucket.ID, p) })
}

func (w *swarm) removeBranch(t *rapid.T) {
	r, k := w.pick(t)
	b := w.head(t, r).branch
	if b.Name == MainBranch {
		t.Skip("it stays")
	}
	w.try(k, "remove branch "+b.Name, func(tx *schema.Tx) error { return r.tree.RemoveBranch(tx, b.ID) })
}

func (w *swarm) prune(t *rapid.T) {
	r, k := w.pick(t)
	w.try(k, "prune", func(tx *schema.Tx) error {
		for more := true; more; {
			var err error
			if _, more, err = r.tree.Prune(tx, Cut{Before: w.clock[k]}, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// withdraw undoes what nobody was told of: what others have is on the disk.
func (w *swarm) withdraw(t *rapid.T) {
	r, k := w.pick(t)
	h, ok := w.unsent[k]
	if !ok {
		t.Skip("all is told")
	}
	w.try(k, "withdraw", func(tx *schema.Tx) error { _, err := r.tree.Withdraw(tx, h); return err })
}

func (w *swarm) resolve(t *rapid.T) {
	r, k := w.pick(t)
	all := r.conflicts()
	if len(all) == 0 {
		t.Skip("no conflict")
	}
	f := rapid.SampledFrom(all).Draw(t, "conflict")
	keep := rapid.SampledFrom([]Keep{KeepShown, KeepOther, KeepBoth}).Draw(t, "keep")
	w.try(k, "resolve "+f.Path, func(tx *schema.Tx) error {
		return r.tree.ResolveSyncConflict(tx, f, keep, f.Others[0].ID)
	})
}

// counts checks that what each replica has counted is what counting anew says.
func (w *swarm) counts(t *rapid.T) {
	for k, r := range w.all {
		r.read(func(tx *schema.Tx) error {
			b, err := r.tree.bucketByID(tx, r.bucket.ID)
			if err != nil {
				return err
			}
			q, ok, err := r.tree.Quota(tx, b.ID)
			if err != nil {
				return err
			}
			sum, err := countBranches(tx, b.ID)
			var want held
			for _, h := range sum {
				want = want.plus(h)
			}
			if !ok {
				want = held{}
			}
			if q != (Quota{b.Policy.QuotaBytes, b.Policy.QuotaInodes, want.bytes, want.inodes}) {
				t.Fatalf("replica %d: %+v is counted, %+v is there, the policy is %+v\n%s", k, q, want, b.Policy, strings.Join(w.trace, "\n"))
			}
			return err
		})
	}
}

// What comes from other nodes counts in the transaction that imports it, whatever
// becomes of it there, and a quota that somebody else set counts what is here.
func TestQuotaOfReplicas(t *testing.T) {
	stores, runs := newStores(t), 1000
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w, done := newSwarm(t, stores, runs)
		defer done()
		do := w.operations()
		maps.Copy(do, map[string]func(*rapid.T){
			"limit": w.limit, "remove branch": w.removeBranch, "prune": w.prune, "withdraw": w.withdraw,
			"resolve": w.resolve, "resolve2": w.resolve, "": w.counts,
		})
		w.limit(t)
		t.Repeat(do)
		w.finish(t)
		w.counts(t)
	})
}

// What others wrote is never refused, or nodes would differ; but who writes
// where it is too much then is, until there is room.
func TestQuotaFilledByOthers(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.limit(1000, 0)
	meet(a, b)
	b.holds(0, 1)
	var files []Inode
	for k, r := range all { // each has room for its own
		in := r.make(r.main, fmt.Sprint("/f", k))
		r.fill(r.main, in.Ino, int64(k), 900)
		files = append(files, in)
	}
	meet(a, b)
	wantEqual(t, a, b)
	for k, r := range all {
		r.holds(1800, 3)
		r.fails(syscall.EDQUOT, func(tx *schema.Tx) error { return fill(tx, r.main, files[k].Ino, 10, 901) })
		g := r.make(r.main, fmt.Sprint("/g", k))
		r.fails(syscall.EDQUOT, func(tx *schema.Tx) error { return fill(tx, r.main, g.Ino, 10, 1) })
	}
	a.remove(a.main, "f1")
	meet(a, b)
	b.holds(900, 4)
	b.fill(b.main, files[0].Ino, 11, 1000)

	// The loser of a conflict counts once it is chosen, and must fit.
	a.age()
	a.fill(a.main, files[0].Ino, 12, 400)
	meet(a, b)
	b.holds(400, 4)
	f := onlyConflict(t, ContentConflict, "f0", a, b)
	b.limit(500, 0)
	b.fails(syscall.EDQUOT, func(tx *schema.Tx) error { return b.tree.ResolveSyncConflict(tx, f, KeepOther, f.Others[0].ID) })
	b.limit(0, 50)
	b.resolve(f, KeepOther, f.Others[0].ID)
	meet(a, b)
	for _, r := range all {
		r.holds(1000, 4)
		r.check()
	}
}
