package sftpsrv

import "testing"

func BenchmarkRoundTrip(b *testing.B) {
	for _, name := range []string{"filter", "pkgsftp"} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, Options{})
			c := w.client("ann", w.user("ann", "ws"))
			put(b, c, "/ws/main/f", "text")
			f, err := c.Open("/ws/main/f")
			must(b, err)
			for b.Loop() {
				if name == "filter" {
					_, err = f.Stat()
				} else {
					_, err = c.Lstat("/ws/main/f")
				}
				must(b, err)
			}
		})
	}
}

func BenchmarkSmallFiles(b *testing.B) {
	w := newWorld(b, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	for b.Loop() {
		put(b, c, "/ws/main/f", "text")
		get(b, c, "/ws/main/f")
	}
}
