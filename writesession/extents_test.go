package writesession

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSpansAgainstBits(t *testing.T) {
	const n = 64
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		var bits [n]bool
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				off, end := drawRange(t, n)
				s.add(off, end)
				for i := off; i < end; i++ {
					bits[i] = true
				}
			},
			"remove": func(t *rapid.T) {
				off, end := drawRange(t, n)
				s.remove(off, end)
				for i := off; i < end; i++ {
					bits[i] = false
				}
			},
			"": func(t *rapid.T) {
				var want spans
				for i, in := range bits {
					i := int64(i)
					switch {
					case !in:
					case len(want) > 0 && want[len(want)-1].end == i:
						want[len(want)-1].end++
					default:
						want = append(want, span{i, i + 1})
					}
				}
				if !slices.Equal(s, want) {
					t.Fatalf("have %v, want %v", s, want)
				}
				off, end := drawRange(t, n)
				gaps := [n]bool{}
				for g := range s.gaps(off, end) {
					for i := g.off; i < g.end; i++ {
						gaps[i] = true
					}
				}
				meets := false
				for i, in := range bits {
					inside := off <= int64(i) && int64(i) < end
					if gaps[i] != (inside && !in) {
						t.Fatalf("gaps of [%d,%d) in %v are wrong at %d", off, end, s, i)
					}
					meets = meets || inside && in
				}
				if s.meets(off, end) != meets {
					t.Fatalf("meets(%d, %d) of %v is %v", off, end, s, !meets)
				}
			},
		})
	})
}

func drawRange(t *rapid.T, n int64) (off, end int64) {
	off = rapid.Int64Range(0, n).Draw(t, "off")
	return off, rapid.Int64Range(off, n).Draw(t, "end")
}
