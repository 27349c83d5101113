package gate

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/automerge/automerge-go"
)

// coreWriter is one writer of a document, by automerge itself and by Encode.
type coreWriter struct {
	doc   *automerge.Doc
	actor Actor
	seq   uint64
	last  Hash // of its own
	heads []Hash
	maxOp uint64
	has   map[Hash]bool
	got   int // changes of the history that it has looked at
}

// history makes a document by several writers, who commit and hear of each other in
// an order that choose decides (a number below n). Each change that automerge writes must
// be what Encode does.
func history(t *testing.T, steps int, choose func(n int) int) {
	writers := make([]*coreWriter, 1+choose(4))
	for i := range writers {
		w := &coreWriter{doc: automerge.New(), actor: Actor{byte(i + 1), byte(choose(256))}, has: map[Hash]bool{}}
		if err := w.doc.SetActorID(hex.EncodeToString(w.actor[:])); err != nil {
			t.Fatal(err)
		}
		writers[i] = w
	}
	var all [][]byte
	want := map[string][]byte{}
	maxOps := map[Hash]uint64{}
	for step := range steps {
		w := writers[choose(len(writers))]
		if choose(3) == 0 { // in the order in which they were made, as streams bring them
			for n := w.got + choose(len(all)-w.got+1); w.got < n; w.got++ {
				w.hear(t, all[w.got], maxOps)
			}
			continue
		}
		c := &Change{Deps: slices.Clone(w.heads), Actor: w.actor, Seq: w.seq + 1, StartOp: w.maxOp + 1}
		if w.seq > 0 && !slices.Contains(c.Deps, w.last) { // its own last, whatever was built on it
			c.Deps = append(c.Deps, w.last)
			slices.SortFunc(c.Deps, compareHashes)
		}
		for i := range 1 + choose(12) {
			v := make([]byte, []int{0, 1, 2, 2, 70, 130, 130, 20_000}[choose(8)])
			for j := range v[:min(len(v), 8)] {
				v[j] = byte(choose(256))
			}
			key := fmt.Sprintf("%s%d/%d/%x", strings.Repeat("ü", choose(80)), step, i, w.actor[:2])
			c.Entries = append(c.Entries, Entry{Key: key, Value: v})
			want[key] = v
		}
		core := w.commit(t, c.Entries)
		raw, h, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(core.Save(), raw) || Hash(core.Hash()) != h {
			t.Fatalf("step %d: automerge wrote %s\nand Encode %s", step, brief(core.Save()), brief(raw))
		}
		if deps := core.Dependencies(); len(deps) != len(c.Deps) {
			t.Fatalf("step %d: automerge names %d changes, Encode %d", step, len(deps), len(c.Deps))
		}
		w.seq, w.maxOp, w.last, w.heads, w.has[h], maxOps[h] = c.Seq, c.MaxOp(), h, []Hash{h}, true, c.MaxOp()
		all = append(all, raw)
	}
	if len(all) == 0 {
		return
	}
	for _, w := range writers {
		for ; w.got < len(all); w.got++ {
			w.hear(t, all[w.got], maxOps)
		}
	}
	loaded, err := automerge.Load(bytes.Join(all, nil))
	if err != nil {
		t.Fatalf("automerge does not take what Encode wrote: %v", err)
	}
	if got := entriesOf(t, loaded); !maps.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("automerge shows %d entries where %d were written, or others", len(got), len(want))
	}
	for i, w := range writers {
		if !maps.EqualFunc(entriesOf(t, w.doc), want, bytes.Equal) {
			t.Fatalf("writer %d does not show what all wrote", i)
		}
		if got := headsOf(w.doc); !slices.Equal(got, w.heads) || !slices.Equal(headsOf(loaded), w.heads) {
			t.Fatalf("writer %d is at %x, automerge at %x, and %x when loaded", i, w.heads, got, headsOf(loaded))
		}
	}
}

// hear takes in a change that was encoded in Go.
func (w *coreWriter) hear(t *testing.T, raw []byte, maxOps map[Hash]uint64) {
	c, h, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if w.has[h] {
		return
	}
	if err := w.doc.LoadIncremental(raw); err != nil {
		t.Fatal(err)
	}
	w.has[h] = true
	w.maxOp = max(w.maxOp, maxOps[h])
	w.heads = append(slices.DeleteFunc(w.heads, func(h Hash) bool { return slices.Contains(c.Deps, h) }), h)
	slices.SortFunc(w.heads, compareHashes)
}

// commit has automerge make one change, without a time.
func (w *coreWriter) commit(t *testing.T, entries []Entry) *automerge.Change {
	for _, e := range entries {
		if err := w.doc.RootMap().Set(e.Key, e.Value); err != nil {
			t.Fatal(err)
		}
	}
	h, err := w.doc.Commit("", automerge.CommitOptions{Time: new(time.Time)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.doc.Change(h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// brief says what a change is, without its entries.
func brief(raw []byte) string {
	c, h, err := Decode(raw)
	if err != nil {
		return fmt.Sprintf("%d bytes, which are refused: %v: %x", len(raw), err, raw[:min(len(raw), 200)])
	}
	n := len(c.Entries)
	c.Entries = nil
	return fmt.Sprintf("%x with %d entries: %+v", h, n, *c)
}

func compareHashes(a, b Hash) int { return bytes.Compare(a[:], b[:]) }

func headsOf(d *automerge.Doc) (heads []Hash) {
	for _, h := range d.Heads() {
		heads = append(heads, Hash(h))
	}
	slices.SortFunc(heads, compareHashes)
	return heads
}

func entriesOf(t *testing.T, d *automerge.Doc) map[string][]byte {
	values, err := d.RootMap().Values()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]byte, len(values))
	for k, v := range values {
		got[k] = v.Bytes()
	}
	return got
}

// TestAutomergeWritesWhatEncodeDoes is what lets changes be made without automerge: it
// would have written the same bytes, and takes them as its own.
func TestAutomergeWritesWhatEncodeDoes(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 3))
		history(t, 1+r.IntN(60), r.IntN)
	}
}

// TestAutomergeTakesManyHeads has more heads in a document than a change may name.
func TestAutomergeTakesManyHeads(t *testing.T) {
	var all [][]byte
	var deps []Hash
	add := func(c *Change) Hash {
		c.Entries = []Entry{{Key: fmt.Sprint(len(all)), Value: []byte{1}}}
		raw, h, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw)
		return h
	}
	for i := range uint64(MaxDeps + 10) {
		deps = append(deps, add(&Change{Actor: Actor{1}, Seq: i + 1, StartOp: 1}))
	}
	deps = deps[:MaxDeps]
	slices.SortFunc(deps, compareHashes)
	add(&Change{Actor: Actor{2}, Seq: 1, StartOp: 2, Deps: deps})
	d, err := automerge.Load(bytes.Join(all, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(entriesOf(t, d)); got != len(all) || len(d.Heads()) != 11 {
		t.Errorf("%d entries and %d heads of %d changes", got, len(d.Heads()), len(all))
	}
}

func FuzzAutomergeWritesWhatEncodeDoes(f *testing.F) {
	for seed := range uint64(5) {
		b := make([]byte, 400)
		r := rand.New(rand.NewPCG(seed, 4))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		history(t, min(len(b), 30), func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		})
	})
}
