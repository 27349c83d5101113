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
	out   map[int][]Version // by piece
	knows []map[int]bool    // by replica
}

func (w *outlaws) outlaw(t *rapid.T) {
	if len(w.parts) <= 2 {
		t.Skip("only the bucket itself")
	}
	p := rapid.IntRange(2, len(w.parts)-1).Draw(t, "outlawed")
	if w.out[p] == nil {
		w.out[p] = w.parts[p].Versions
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
	err := r.db.Write(func(tx *schema.Tx) error { return r.tree.RetractVersions(tx, r.bucket.ID, w.out[p]) })
	w.log("%d: hears that %d does not count: %v", k, p, err)
	if err != nil {
		t.Fatalf("replica %d takes back %d: %v\n%s", k, p, err, strings.Join(w.trace, "\n"))
	}
	w.knows[k][p] = true
}

// hear is the swarm's, and leaves out what does not count.
func (w *outlaws) hear(t *rapid.T) {
	k := rapid.IntRange(0, len(w.all)-1).Draw(t, "replica")
	p := rapid.IntRange(0, len(w.parts)-1).Draw(t, "part")
	all := w.parts[p].Versions
	if w.knows[k][p] {
		w.parts[p].Versions = nil
	}
	w.tell(t, k, p)
	w.parts[p].Versions = all
}

// TestRetractConverges: replicas that took versions back show what those do that
// never had them.
func TestRetractConverges(t *testing.T) {
	stores, runs := newStores(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		s, done := newSwarm(t, stores, runs)
		defer done()
		w := &outlaws{swarm: s, out: map[int][]Version{}}
		for range w.all {
			w.knows = append(w.knows, map[int]bool{})
		}
		ops := w.operations()
		ops["hear"], ops["hear2"], ops["outlaw"], ops["hear of"] = w.hear, w.hear, w.outlaw, w.hearOf
		t.Repeat(ops)
		for k := range w.all {
			for p := range w.out {
				if !w.knows[k][p] {
					w.learn(t, k, p)
				}
			}
		}
		for p := range w.out {
			w.parts[p].Versions = nil
		}
		w.finish(t)
		w.compare(t)
	})
}
