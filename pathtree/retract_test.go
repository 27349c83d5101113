package pathtree

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

// outlaws is a swarm in which pieces come not to count, of which each replica
// hears at some time, before or after the piece itself or never of that.
type outlaws struct {
	*swarm
	out   map[int]Batch  // by piece
	knows []map[int]bool // by replica
}

func newOutlaws(t *rapid.T, stores []*replica, run int) (w *outlaws, done func()) {
	s, done := newSwarm(t, stores, run)
	w = &outlaws{swarm: s, out: map[int]Batch{}}
	w.noted = map[int][]BucketRecord{}
	for range w.all {
		w.knows = append(w.knows, map[int]bool{})
	}
	return w, done
}

// outlawOperations are those of the swarm, and what has its pieces not count.
func (w *outlaws) outlawOperations() map[string]func(*rapid.T) {
	ops := w.operations()
	ops["hear"], ops["hear2"], ops["outlaw"], ops["hear of"] = w.hear, w.hear, w.outlaw, w.hearOf
	ops["remove branch"], ops["limit"] = w.removeBranch, w.limit
	return ops
}

func (w *outlaws) outlaw(t *rapid.T) {
	if len(w.parts) <= 2 {
		t.Skip("only the bucket itself")
	}
	p := rapid.IntRange(2, len(w.parts)-1).Draw(t, "outlawed")
	if _, out := w.out[p]; !out {
		w.out[p] = w.parts[p]
		w.log("%d no longer counts", p)
	}
}

func (w *outlaws) hearOf(t *rapid.T) {
	if len(w.out) == 0 {
		t.Skip("all counts")
	}
	k := rapid.IntRange(0, len(w.all)-1).Draw(t, "replica")
	w.learn(t, k, rapid.SampledFrom(slices.Sorted(maps.Keys(w.out))).Draw(t, "piece"))
}

func (w *outlaws) learn(t *rapid.T, k, p int) {
	r := w.all[k]
	w.publish(t, r, k)
	w.knows[k][p] = true
	var others []BucketRecord
	for o, part := range w.parts {
		if w.told[k][o] && !w.knows[k][o] {
			others = append(others, part.Records...)
		}
	}
	err := r.db.Write(func(tx *schema.Tx) error {
		if err := r.tree.RetractVersions(tx, r.bucket.ID, w.out[p].Versions); err != nil {
			return err
		}
		return r.tree.RetractRecords(tx, r.bucket.ID, w.out[p].Records, others)
	})
	w.log("%d: hears that %d does not count: %v", k, p, err)
	if err != nil {
		t.Fatalf("replica %d takes back %d: %v\n%s", k, p, err, strings.Join(w.trace, "\n"))
	}
}

// accept has a piece count again, that of all replicas know that it did not.
func (w *outlaws) accept(t *rapid.T, p int) {
	w.log("%d counts again", p)
	delete(w.out, p)
	for k := range w.all {
		w.knows[k][p] = false
		if w.told[k][p] {
			w.tell(t, k, p)
		}
	}
}

// hear is the swarm's, and leaves out what does not count.
func (w *outlaws) hear(t *rapid.T) {
	k := rapid.IntRange(0, len(w.all)-1).Draw(t, "replica")
	p := rapid.IntRange(0, len(w.parts)-1).Draw(t, "part")
	all := w.parts[p]
	if w.knows[k][p] {
		w.forget(p)
	}
	w.tell(t, k, p)
	w.parts[p] = all
	delete(w.noted, p)
}

// forget has a piece say nothing any more but which branches there are.
func (w *outlaws) forget(p int) { w.noted[p], w.parts[p] = w.parts[p].Records, Batch{} }

// TestRetractConverges: replicas that took versions and records back show what those do that
// never had them.
func TestRetractConverges(t *testing.T) {
	stores, runs := newStores(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w, done := newOutlaws(t, stores, runs)
		defer done()
		t.Repeat(w.outlawOperations())
		for k := range w.all {
			for p := range w.out {
				if !w.knows[k][p] {
					w.learn(t, k, p)
				}
			}
		}
		for _, p := range slices.Sorted(maps.Keys(w.out)) {
			if rapid.Bool().Draw(t, "accepted") {
				w.accept(t, p)
			} else {
				w.forget(p)
			}
		}
		w.finish(t)
		w.compare(t)
	})
}

// A branch of which no record counts any more has the name that it was given, as on a
// replica that never showed it beside another of that name.
func TestNameOfABranchThatDoesNotCount(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.fork(a.main, "y", Origin{})
	b.age()
	b.fork(b.main, "y", Origin{})
	late := b.export()
	a.take(late)
	void := func() (all []BucketRecord) {
		a.read(func(tx *schema.Tx) (err error) {
			all, err = a.tree.VoidBranches(tx, a.bucket.ID)
			return err
		})
		return all
	}
	a.write(func(tx *schema.Tx) error { return a.tree.RetractRecords(tx, a.bucket.ID, late.Records, nil) })
	if got := void(); len(got) != 1 || got[0].Name != "y" {
		t.Errorf("%+v", got)
	}
}
