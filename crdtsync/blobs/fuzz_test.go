package blobs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
)

// frames for seeds.
func frame(tb testing.TB, header any, more ...byte) []byte {
	tb.Helper()
	b, err := appendFrame(nil, header)
	if err != nil {
		tb.Fatal(err)
	}
	return append(b, more...)
}

func goodRequest() *request {
	h := blobstore.Sum([]byte("x"))
	return &request{Version: 1, Op: opGet, Bucket: bucket[:], Items: []item{{Hash: h[:], Size: 5 * mib, Ranges: []int64{0, 64, 100, 3}}}}
}

func TestRequestsAreChecked(t *testing.T) {
	if _, err := readRequest(bufio.NewReader(bytes.NewReader(frame(t, goodRequest())))); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(q *request){
		"version":          func(q *request) { q.Version = 2 },
		"operation":        func(q *request) { q.Op = 9 },
		"bucket":           func(q *request) { q.Bucket = q.Bucket[:15] },
		"no items":         func(q *request) { q.Items = nil },
		"many items":       func(q *request) { q.Items = make([]item, MaxItems+1) },
		"short hash":       func(q *request) { q.Items[0].Hash = q.Items[0].Hash[:31] },
		"hash of nothing":  func(q *request) { q.Items[0].Hash = make([]byte, 32) },
		"no size":          func(q *request) { q.Items[0].Size = 0 },
		"negative size":    func(q *request) { q.Items[0].Size = -1 },
		"no ranges":        func(q *request) { q.Items[0].Ranges = nil },
		"half a range":     func(q *request) { q.Items[0].Ranges = []int64{1} },
		"negative range":   func(q *request) { q.Items[0].Ranges = []int64{-1, 2} },
		"empty range":      func(q *request) { q.Items[0].Ranges = []int64{1, 0} },
		"beyond the end":   func(q *request) { q.Items[0].Ranges = []int64{319, 2} },
		"huge range":       func(q *request) { q.Items[0].Ranges = []int64{0, 1 << 62} },
		"overflow":         func(q *request) { q.Items[0].Ranges = []int64{1<<63 - 1, 1} },
		"ranges overlap":   func(q *request) { q.Items[0].Ranges = []int64{0, 5, 4, 1} },
		"ranges descend":   func(q *request) { q.Items[0].Ranges = []int64{10, 1, 4, 1} },
		"many ranges":      func(q *request) { q.Items[0].Ranges = make([]int64, 2*maxRanges+2) },
		"too many groups":  func(q *request) { q.Items[0].Size = 1 << 40; q.Items[0].Ranges = []int64{0, maxGroups + 1} },
		"many hops":        func(q *request) { q.Hops = maxHops + 1 },
		"held for a month": func(q *request) { q.Hold = 30 * 86400 },
	} {
		q := goodRequest()
		spoil(q)
		if _, err := readRequest(bufio.NewReader(bytes.NewReader(frame(t, q)))); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A later version may add fields.
func TestUnknownFieldsAreAllowed(t *testing.T) {
	type later struct {
		request
		New string `cbor:"99,keyasint"`
	}
	if _, err := readRequest(bufio.NewReader(bytes.NewReader(frame(t, later{*goodRequest(), "new"})))); err != nil {
		t.Error(err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(frame(f, goodRequest()))
	h := blobstore.Sum([]byte("x"))
	f.Add(frame(f, &request{Version: 1, Op: opHave, Bucket: bucket[:], Items: []item{{Hash: h[:], Size: 5}}, Hold: 60}))
	f.Add(frame(f, &request{Version: 1, Op: opDrop, Bucket: bucket[:], Items: []item{{Hash: h[:], Size: 5}}, Hold: 60}))
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		groups := int64(0)
		for i := range q.Items {
			for _, r := range q.Items[i].ranges() {
				if r.First < 0 || r.Count <= 0 || r.End() > blobstore.Groups(q.Items[i].Size) {
					t.Fatalf("groups %v of %d bytes", r, q.Items[i].Size)
				}
				groups += r.Count
			}
		}
		if groups > maxGroups || len(q.Items) > MaxItems {
			t.Fatalf("%d groups of %d contents", groups, len(q.Items))
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(frame(f, &answer{Kind: kindData, First: 3, Count: 4, Proof: 640, Data: 65536}))
	f.Add(frame(f, &answer{Kind: kindHave, Have: []byte{1, 2, 3}}))
	f.Add(frame(f, &answer{Kind: kindFailed, Item: 3, Text: "why"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && (a.Proof > blobstore.MaxProof || a.Data > mib || a.Count > blobstore.MaxSlice || len(a.Text) > maxText) {
			t.Fatalf("%+v", a)
		}
	})
}

// canned is a stream on which all answers are there already.
type canned struct{ io.Reader }

func (canned) Write(p []byte) (int, error) { return len(p), nil }
func (canned) Close() error                { return nil }

// A peer may send anything: nothing that is not the content is kept.
func FuzzPeer(f *testing.F) {
	a, c := newNode(f, 1, Options{}), newNode(f, 3, Options{})
	p := noise(1, 10*blobstore.GroupSize+5)
	content := a.add(f, p)
	b, err := a.blobs.Open(content.Hash, content.Size)
	if err != nil {
		f.Fatal(err)
	}
	defer b.Close()
	ranges := []blobstore.Range{{First: 2, Count: 3}, {First: 8, Count: 3}}
	var good []byte
	for _, r := range ranges {
		proof, _, _, err := b.Proof(nil, r)
		if err != nil {
			f.Fatal(err)
		}
		data := p[r.First*blobstore.GroupSize : min(r.End()*blobstore.GroupSize, content.Size)]
		good = append(good, frame(f, &answer{Kind: kindData, First: r.First, Count: r.Count, Proof: len(proof), Data: len(data)}, append(proof, data...)...)...)
	}
	good = append(good, frame(f, &answer{Kind: kindDone})...)
	f.Add(good, 20, byte(1)) // before the good one, after which all is there
	f.Add(good, 100_000, byte(1))
	f.Add(good[:len(good)/2], 0, byte(0))
	f.Add(good, 0, byte(0))
	f.Add(frame(f, &answer{Kind: kindDone}), 0, byte(0))
	var part *blobstore.Partial
	c.blobs.SetSource(grab(func(p *blobstore.Partial) { p.Hold(); part = p }))
	c.expect(f, content)
	_ = c.blobs.Fetch(context.Background(), content.Hash, content.Size, blobstore.Eager)
	defer part.Release()
	f.Fuzz(func(t *testing.T, b []byte, at int, flip byte) {
		b = bytes.Clone(b)
		if at >= 0 && at < len(b) {
			b[at] ^= flip
		}
		done := false
		err := newConn(canned{bytes.NewReader(b)}).get(context.Background(), request{Bucket: bucket[:]}, []order{{part, ranges}},
			func(int, int) {}, func(_ int, err error) { done = err == nil })
		if done && err == nil && len(part.Lacks(ranges[0]))+len(part.Lacks(ranges[1])) != 0 {
			t.Error("done, and groups are missing")
		}
		h, err := c.blobs.Open(content.Hash, content.Size)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		q := make([]byte, blobstore.GroupSize)
		for g := range part.Groups() {
			n, err := h.ReadHere(q, g*blobstore.GroupSize)
			if (err == nil || err == io.EOF) && !bytes.Equal(q[:n], p[g*blobstore.GroupSize:][:n]) {
				t.Fatalf("group %d is wrong", g)
			}
		}
	})
}

// grab is a source that shows what it is asked for.
type grab func(*blobstore.Partial)

func (g grab) Fetch(_ context.Context, p *blobstore.Partial, _ []blobstore.Range, _ blobstore.Priority) error {
	g(p)
	return blobstore.NotHere(p.Hash(), "it is only looked at")
}

// A server may be sent anything: it answers or ends the stream.
func FuzzServer(f *testing.F) {
	a := newNode(f, 1, Options{})
	p := noise(1, 10*blobstore.GroupSize+5)
	content := a.add(f, p)
	f.Add(frame(f, &request{Version: 1, Op: opGet, Bucket: bucket[:], Items: []item{{Hash: content.Hash[:], Size: content.Size, Ranges: []int64{0, 11}}}}))
	f.Add(frame(f, goodRequest()))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := a.server.Serve(context.Background(), a.key, canned{bytes.NewReader(b)})
		if err != nil && !errors.Is(err, ErrProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}
