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
	s.fs = fullDisk{}       // outboards are made anew in memory
	file, err := os.OpenFile(s.blobPath(h), os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { file.Close() })
	f.Fuzz(func(t *testing.T, patch []byte, at uint32, cut byte, dataAt uint32, dataXor byte) {
		out := bytes.Clone(good)
		copy(out[int(at)%len(out):], patch)
		out = out[:len(out)-int(cut)]
		where := int(dataAt) % len(p)
		if _, err := file.WriteAt([]byte{p[where] ^ dataXor}, int64(where)); err != nil {
			t.Fatal(err)
		}
		defer file.WriteAt(p[where:where+1], int64(where))
		b := newBlobFile(s, h, int64(len(p)), file)
		b.out = memory(out)
		for _, off := range []int{where, 0, spanSize - 10, len(p) - 20} {
			want := p[off:min(off+20, len(p))]
			buf := make([]byte, len(want))
			_, err := b.readAt(buf, int64(off))
			if err == nil && !bytes.Equal(buf, want) {
				t.Fatalf("read at %d returns wrong bytes", off)
			}
			if err != nil && dataXor == 0 {
				t.Fatalf("the content is right, and yet: %v", err)
			}
		}
	})
}
