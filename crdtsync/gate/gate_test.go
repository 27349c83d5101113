package gate

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// sample returns a change that depends on seed alone.
func sample(seed uint64) *Change {
	r := rand.New(rand.NewPCG(seed, 1))
	c := &Change{Seq: 1 + r.Uint64N(300), StartOp: 1 + r.Uint64N(1<<30)}
	for i := range c.Actor {
		c.Actor[i] = byte(r.Uint32())
	}
	for i := range r.IntN(4) {
		d := Hash{byte(i)}
		d[5] = byte(r.Uint32())
		c.Deps = append(c.Deps, d)
	}
	for i := range 1 + r.IntN(40) {
		v := make([]byte, r.IntN(3)*r.IntN(100))
		for j := range v {
			v[j] = byte(r.Uint32())
		}
		c.Entries = append(c.Entries, Entry{Key: fmt.Sprintf("%x/%d", i*7919, r.IntN(1000)), Value: v})
	}
	return c
}

func TestDecodeGivesBackWhatWasEncoded(t *testing.T) {
	for seed := range uint64(2000) {
		want := sample(seed)
		raw, h, err := Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, h2, err := Decode(raw)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range want.Entries {
			if len(want.Entries[i].Value) == 0 {
				want.Entries[i].Value = got.Entries[i].Value
			}
		}
		if h != h2 || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Change){
		"no entries":         func(c *Change) { c.Entries = nil },
		"empty key":          func(c *Change) { c.Entries[0].Key = "" },
		"key not UTF-8":      func(c *Change) { c.Entries[0].Key = "\xff" },
		"long key":           func(c *Change) { c.Entries[0].Key = strings.Repeat("x", MaxKey+1) },
		"long value":         func(c *Change) { c.Entries[0].Value = make([]byte, MaxValue+1) },
		"key twice":          func(c *Change) { c.Entries = append(c.Entries, c.Entries[0]) },
		"sequence 0":         func(c *Change) { c.Seq = 0 },
		"operation 0":        func(c *Change) { c.StartOp = 0 },
		"operation too high": func(c *Change) { c.StartOp = maxOp + 1 },
		"dependency twice":   func(c *Change) { c.Deps = []Hash{{1}, {1}} },
	} {
		c := sample(1)
		spoil(c)
		if _, _, err := Encode(c); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// resum gives a changed chunk the checksum that its bytes call for.
func resum(raw []byte) []byte {
	raw = bytes.Clone(raw)
	h := sha256.Sum256(raw[headerLen:])
	copy(raw[4:headerLen], h[:4])
	return raw
}

// TestMutantsAreRefusedOrCanonical changes single bytes under a valid checksum:
// whatever still passes must be what Encode writes for what it says.
func TestMutantsAreRefusedOrCanonical(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	passed := 0
	for seed := range uint64(300) {
		raw, _, err := Encode(sample(seed))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			m := bytes.Clone(raw)
			for range 1 + r.IntN(3) {
				m[headerLen+r.IntN(len(m)-headerLen)] = byte(r.Uint32())
			}
			m = resum(m)
			if c, h, err := Decode(m); err == nil {
				passed++
				again, h2, err := Encode(c)
				if err != nil || h != h2 || !bytes.Equal(again, m) {
					t.Fatalf("seed %d: accepted, but encoded otherwise: %v", seed, err)
				}
			}
		}
	}
	if passed == 0 {
		t.Error("no mutant of a value passed: the test does not reach the columns")
	}
}

// TestKnownAttacks are shapes that abort automerge's core or exhaust memory.
func TestKnownAttacks(t *testing.T) {
	one := sample(3)
	one.Entries = one.Entries[:1]
	raw, _, err := Encode(one)
	if err != nil {
		t.Fatal(err)
	}
	chunk := func(body []byte) []byte {
		b := append(bytes.Clone(magic), 0, 0, 0, 0, chunkChange)
		return resum(append(appendUint(b, uint64(len(body))), body...))
	}
	huge := appendUint(nil, 1<<62)
	header := append([]byte{0, 16}, make([]byte, 16)...)
	header = append(header, 1, 1, 0, 0, 0)
	for name, b := range map[string][]byte{
		"empty":                nil,
		"document chunk":       func() []byte { b := bytes.Clone(raw); b[8] = 0; return resum(b) }(),
		"compressed chunk":     func() []byte { b := bytes.Clone(raw); b[8] = 2; return resum(b) }(),
		"wrong checksum":       func() []byte { b := bytes.Clone(raw); b[5] ^= 1; return b }(),
		"two chunks":           append(bytes.Clone(raw), raw...),
		"trailing byte":        append(bytes.Clone(raw), 0),
		"2^62 dependencies":    chunk(huge),
		"2^62 columns":         chunk(append(bytes.Clone(header), huge...)),
		"column of 2^62 bytes": chunk(append(append(bytes.Clone(header), 1, colKey), huge...)),
		"2^62 keys in a run":   chunk(append(append(bytes.Clone(header), 1, colKey, 10), append(appendInt(nil, 1<<61), 1)...)),
		"-2^63 keys": chunk(append(append(bytes.Clone(header), 1, colKey, 10),
			appendInt(nil, -1<<63)...)),
	} {
		if _, _, err := Decode(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for seed := range uint64(5) {
		raw, _, _ := Encode(sample(seed))
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > headerLen {
			b = resum(b) // or nothing gets past the checksum
		}
		if c, _, err := Decode(b); err == nil {
			if again, _, err := Encode(c); err != nil || !bytes.Equal(again, b) {
				t.Errorf("accepted, but encoded otherwise: %v", err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	raw, _, err := Encode(sample(5))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
