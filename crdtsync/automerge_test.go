package crdtsync

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/automerge/automerge-go"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// histories returns the changes of each document of all buckets, in the order in which
// they came here, and the heads that were kept.
func (s *store) histories() (raws map[int64][][]byte, heads map[int64][]gate.Hash) {
	s.t.Helper()
	raws, heads = map[int64][][]byte{}, map[int64][]gate.Hash{}
	err := s.db.Read(func(tx *schema.Tx) error {
		q := tx.Stmt(`SELECT doc, envelope, heads FROM sync_change JOIN sync_doc ON sync_doc.id = doc ORDER BY arrived`)
		for err := range schema.Rows(q) {
			if err != nil {
				return err
			}
			e, err := identity.DecodeEnvelope(schema.Bytes(q, 1))
			if err != nil {
				return err
			}
			d := q.ColumnInt64(0)
			raws[d], heads[d] = append(raws[d], e.Raw), nil
			for h := range slices.Chunk(schema.Bytes(q, 2), len(gate.Hash{})) {
				heads[d] = append(heads[d], gate.Hash(h))
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return raws, heads
}

// checkDocuments has automerge load every document of s and show what its changes say.
func (s *store) checkDocuments() (documents, changes, mostHeads int) {
	s.t.Helper()
	all, heads := s.histories()
	for d, raws := range all {
		want := map[string][]byte{}
		last := map[gate.Actor]gate.Hash{}
		for _, raw := range raws {
			c, h, err := gate.Decode(raw)
			if err != nil {
				s.t.Fatal(err)
			}
			if own, ok := last[c.Actor]; ok && !slices.Contains(c.Deps, own) && !strings.HasPrefix(string(c.Actor[:]), "forged") {
				s.t.Errorf("%s: number %d of %x in document %d does not follow the one before", s.name, c.Seq, c.Actor, d)
			}
			last[c.Actor] = h
			for _, e := range c.Entries {
				want[e.Key] = e.Value
			}
			changes++
		}
		doc, err := automerge.Load(bytes.Join(raws, nil))
		if err != nil {
			s.t.Fatalf("%s: automerge does not take document %d: %v", s.name, d, err)
		}
		values, err := doc.RootMap().Values()
		if err != nil {
			s.t.Fatal(err)
		}
		got := map[string][]byte{}
		for k, v := range values {
			got[k] = v.Bytes()
		}
		if !maps.EqualFunc(got, want, bytes.Equal) {
			s.t.Errorf("%s: automerge shows %d entries of document %d, whose changes set %d, or others", s.name, len(got), d, len(want))
		}
		var at []gate.Hash
		for _, h := range doc.Heads() {
			at = append(at, gate.Hash(h))
		}
		slices.SortFunc(at, compareHashes)
		if !slices.Equal(at, heads[d]) {
			s.t.Errorf("%s: document %d is at %x for automerge, %x here", s.name, d, at, heads[d])
		}
		mostHeads = max(mostHeads, len(at))
	}
	return len(all), changes, mostHeads
}

// TestAutomergeTakesDocuments holds what nodes write, each by itself and after what
// it has heard, to what automerge takes: with it, any document can be read without
// alkfs.
func TestAutomergeTakesDocuments(t *testing.T) {
	nodes := []*store{newStore(t, "a"), newStore(t, "b"), newStore(t, "c")}
	b := nodes[0].makeBucket("team")
	for _, i := range []int{1, 2, 1} { // the first hears of the second last
		nodes[i].admit(nodes[0], b, identity.ReadWrite)
		send(t, nodes[0], nodes[i], b)
	}
	r := rand.New(rand.NewPCG(1, 5))
	most := 0
	for i := range 400 {
		s := nodes[r.IntN(len(nodes))]
		switch n := r.IntN(8); {
		case n < 5:
			for range 1 + r.IntN(3) {
				s.write(b, fmt.Sprintf("d%d/file%d", r.IntN(3), r.IntN(40)), fmt.Sprint(i))
			}
			if _, err := s.Drain(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		case n < 7:
			send(t, nodes[r.IntN(len(nodes))], s, b)
		default:
			if i%5 == 0 {
				s.again() // a new stream
			}
		}
		if i%40 == 39 {
			_, _, heads := s.checkDocuments()
			most = max(most, heads)
		}
	}
	for range 2 {
		for i, s := range nodes {
			send(t, nodes[(i+2)%3], s, b)
		}
	}
	for _, s := range nodes {
		documents, changes, _ := s.checkDocuments()
		if documents < 4 || changes < 200 || most < 2 {
			t.Errorf("%s: %d documents of %d changes, at most %d heads: too little for this test", s.name, documents, changes, most)
		}
	}
}

// TestMoreHeadsThanAChangeCanName has a member make changes that follow nothing, which
// must not keep others from writing.
func TestMoreHeadsThanAChangeCanName(t *testing.T) {
	owner, m, b := victim(t, identity.ReadWrite)
	f := forge(m, b)
	var all [][]byte
	for i := range uint64(gate.MaxDeps + 100) {
		v := f.dentry(fmt.Sprint("alone", i), pathtree.Ino(5000+2*i), 0o100000, stampNow())
		e, err := encodeVersion(&v, pathtree.NodeKey(m.Key()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.entries(identity.Document{Branch: v.Branch, Dir: uint64(v.Dir())}, []gate.Entry{e},
			func(c *gate.Change, _ *identity.Envelope) { c.Deps, c.StartOp = nil, 1 }))
	}
	if res, err := owner.Receive(b, m.Key(), all); err != nil || res.New != len(all) {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, name := range []string{"one", "two", "three"} {
		owner.write(b, name, name)
		if n, err := owner.Drain(t.Context(), b); err != nil || n != 1 {
			t.Fatalf("%d changes, %v", n, err)
		}
	}
	if _, _, heads := owner.checkDocuments(); heads != 1 {
		t.Errorf("%d heads", heads)
	}
	third := newStore(t, "third")
	third.admit(owner, b, identity.ReadOnly)
	send(t, owner, third, b)
	if got, want := third.listing(b), owner.listing(b); got != want {
		t.Errorf("third has\n%s\nowner has\n%s", got, want)
	}
}

// TestNewestOfAStream looks for the last change of a stream in a document where that is
// near in the stream, near in the document, and nowhere.
func TestNewestOfAStream(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	send(t, a, c, b)
	write := func(s *store, path string) {
		s.write(b, path, path)
		if _, err := s.Drain(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(2, 6))
	for range 150 {
		s := []*store{a, c}[r.IntN(2)]
		switch r.IntN(10) {
		case 0:
			send(t, a, c, b)
		case 1:
			send(t, c, a, b)
		case 2:
			s.again()
		default:
			write(s, fmt.Sprintf("%s/%x", []string{"often", "often", "often", "seldom", fmt.Sprint("once", r.Uint32())}[r.IntN(5)], r.Uint32()))
		}
	}
	found, none := 0, 0
	err := a.db.Read(func(tx *schema.Tx) error {
		q := tx.Stmt(`SELECT x.doc, x.bucket, x.author, x.stream, x.seq, x.docseq,
			coalesce((SELECT max(y.docseq) FROM sync_change y WHERE y.doc = x.doc AND y.stream = x.stream AND y.seq < x.seq), 0) FROM sync_change x`)
		for err := range schema.Rows(q) {
			if err != nil {
				return err
			}
			o := &change{bucket: q.ColumnInt64(1), author: q.ColumnInt64(2), seq: uint64(q.ColumnInt64(4))}
			q.ColumnBytes(3, o.stream[:])
			got, _, err := lastIn(tx, q.ColumnInt64(0), o)
			if err != nil {
				return err
			}
			if want := uint64(q.ColumnInt64(6)); got != want || uint64(q.ColumnInt64(5)) != want+1 {
				t.Errorf("got %d, want %d", got, want)
			}
			if got == 0 {
				none++
			} else {
				found++
			}
		}
		return nil
	})
	if err != nil || found < 40 || none < 20 {
		t.Errorf("found %d, not found %d, %v", found, none, err)
	}
}
