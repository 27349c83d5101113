package blobstore

import "testing"

// TestScrubGoesOnWhereItStopped scrubs a share at a time and sees every blob once.
func TestScrubGoesOnWhereItStopped(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	const blobs, size = 10, 20 << 10
	for i := range blobs {
		sealFile(t, s, noise(uint64(i), size))
	}
	seen, rounds := int64(0), 0
	for after := int64(0); ; rounds++ {
		next, rep, err := s.Scrub(t.Context(), ScrubOptions{After: after, Bytes: 3 * size, Pause: func(int64) {}})
		if err != nil {
			t.Fatal(err)
		}
		seen += rep.Blobs
		if next == 0 {
			break
		}
		after = next
	}
	if seen != blobs || rounds != 3 {
		t.Errorf("%d blobs in %d full rounds, want %d in 3", seen, rounds, blobs)
	}
}

// TestSyncAll syncs what nobody waits for any more.
func TestSyncAll(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	const blobs = 2*manyFiles + 1
	for i := range blobs {
		sealFile(t, s, noise(uint64(i), InlineMax+1))
	}
	for _, want := range []int{blobs, 0} {
		if n, err := s.SyncAll(t.Context()); err != nil || n != want {
			t.Fatalf("synced %d, %v; want %d", n, err, want)
		}
	}
}
