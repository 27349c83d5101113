package sftpsrv

import "testing"

// BenchmarkRoundTrip is a request that the filter answers, and one that it
// passes on to pkg/sftp.
func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	must(b, c.Symlink("f", "/ws/main/l"))
	b.Run("lstat", func(b *testing.B) {
		for b.Loop() {
			_, err := c.Lstat("/ws/main/l")
			must(b, err)
		}
	})
	b.Run("readlink", func(b *testing.B) {
		for b.Loop() {
			_, err := c.ReadLink("/ws/main/l")
			must(b, err)
		}
	})
}

func BenchmarkSmallFiles(b *testing.B) {
	w := newWorld(b, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	for b.Loop() {
		put(b, c, "/ws/main/f", "text")
		get(b, c, "/ws/main/f")
	}
}
