package fusefs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/alkdev/alkfs/pathtree"
)

// stream reads a listing of names, which change meanwhile, and checks it.
type stream struct {
	offset uint64
	given  map[string]bool
	stayed map[string]bool // since its beginning
}

// step reads on from l, at most n entries at a time in answers of room entries, and
// reports the end.
func (s *stream) step(t *testing.T, l *listing, names map[string]bool, n, room int) bool {
	sorted := slices.Sorted(maps.Keys(names))
	after, beyond := l.before(s.offset)
	for {
		i, found := slices.BinarySearch(sorted, after)
		if found {
			i++
		}
		var list []pathtree.Entry
		for _, name := range sorted[i:min(i+n, len(sorted))] {
			list = append(list, pathtree.Entry{Name: name})
		}
		for _, p := range l.place(after, s.offset, list, len(list) < n) {
			if beyond && p.offset <= s.offset {
				continue
			}
			if room--; room < 0 {
				return false
			}
			if p.offset <= s.offset {
				t.Fatalf("offset %d after %d", p.offset, s.offset)
			}
			if s.given[p.name] {
				t.Fatalf("%s was given twice", p.name)
			}
			s.given[p.name], s.offset = true, p.offset
		}
		if len(list) < n {
			return true
		}
		after = list[n-1].Name
	}
}

// TestListing: what is there from the beginning of a stream to its end is in it, and
// nothing is twice, with many streams that begin and go on at any time.
func TestListing(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		l, names := new(listing), map[string]bool{}
		var streams []*stream
		some := func() string { return fmt.Sprintf("%0*d", 1+r.IntN(3), r.IntN(40)) }
		for range r.IntN(60) {
			names[some()] = true
		}
		for range 400 {
			switch k := r.IntN(10); {
			case k == 0:
				streams = append(streams, &stream{given: map[string]bool{}, stayed: maps.Clone(names)})
			case k == 1:
				names[some()] = true
			case k == 2:
				name := some()
				delete(names, name)
				for _, s := range streams {
					delete(s.stayed, name)
					delete(s.given, name) // should it come anew
				}
			case len(streams) > 0:
				i := r.IntN(len(streams))
				s := streams[i]
				if !s.step(t, l, names, 1+r.IntN(9), r.IntN(9)) {
					continue
				}
				for name := range s.stayed {
					if !s.given[name] {
						t.Fatalf("seed %d: %s was not given", seed, name)
					}
				}
				streams = slices.Delete(streams, i, i+1)
			}
		}
	}
}

// TestListingForgotten: who has an offset from before the directory was forgotten goes
// on where it was.
func TestListingForgotten(t *testing.T) {
	names := map[string]bool{}
	for i := range 100 {
		names[fmt.Sprintf("%03d", i)] = true
	}
	l := new(listing)
	s := &stream{given: map[string]bool{}}
	for i := 0; !s.step(t, l, names, 7, 10); i++ {
		l = new(listing)
	}
	if len(s.given) != len(names) {
		t.Errorf("%d of %d were given", len(s.given), len(names))
	}
}

// TestListingEndRemoved: an offset is not given anew when all entries that had one are
// gone.
func TestListingEndRemoved(t *testing.T) {
	names := map[string]bool{"a": true, "b": true, "c": true, "d": true}
	l := new(listing)
	s := &stream{given: map[string]bool{}}
	s.step(t, l, names, 2, 1) // gives a, and has read b
	delete(names, "a")
	delete(names, "b")
	(&stream{given: map[string]bool{}}).step(t, l, names, 2, 9)
	if !s.step(t, l, names, 2, 9) || !s.given["c"] || !s.given["d"] {
		t.Errorf("given: %v", s.given)
	}
}
