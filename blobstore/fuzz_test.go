package blobstore

import (
	"bytes"
	"os"
	"testing"
)

// Whatever an outboard and a file hold, a read returns the content or an error,
// and does neither hang nor panic.
func FuzzOutboard(f *testing.F) {
	p := noise(60, 2*spanSize+GroupSize+9)
	h := Sum(p)
	f.Add([]byte{}, uint32(0), byte(0), uint32(0), byte(0))
	f.Add([]byte("short"), uint32(3), byte(1), uint32(1), byte(0))
	f.Add(bytes.Repeat([]byte{7}, 200), uint32(64*64), byte(0), uint32(70_000), byte(9))
	s := openTest(f, f.TempDir(), Options{SyncAfter: -1})
	sealFile(f, s, p)
	good, err := os.ReadFile(s.outboardPath(h))
	if err != nil {
		f.Fatal(err)
	}
	s.mu.suspects[h] = true // damage is wanted here: no log, no mark
	f.Fuzz(func(t *testing.T, patch []byte, at uint32, cut byte, dataAt uint32, dataXor byte) {
		out := bytes.Clone(good)
		copy(out[int(at)%len(out):], patch)
		out = out[:len(out)-int(cut)]
		data := bytes.Clone(p)
		data[int(dataAt)%len(data)] ^= dataXor
		if err := os.WriteFile(s.outboardPath(h), out, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.blobPath(h), data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := s.Open(h, int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for _, off := range []int{int(dataAt) % len(p), 0, spanSize - 10, len(p) - 20} {
			buf := make([]byte, 20)
			n, err := b.ReadAt(buf, int64(off))
			want := p[off:min(off+20, len(p))]
			if n == len(want) && !bytes.Equal(buf[:n], want) {
				t.Fatalf("read at %d returns wrong bytes, %v", off, err)
			}
			if err != nil && dataXor == 0 && n < len(want) {
				t.Fatalf("the content is right, and yet: %v", err)
			}
		}
	})
}
