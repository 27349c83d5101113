package fusefs

import (
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/alkdev/alkfs/pathtree"
)

// listing gives the entries of a directory the offsets at which READDIR goes on
// after them. They are the same for all streams, and stay while the kernel knows
// the directory, since it may serve the beginning of a stream from its cache and
// ask for the rest of it, with an offset that another stream was given.
//
// Offsets ascend with names, and between two is room for what comes later. So
// whatever is added or removed, what is there all the time comes once.
type listing struct {
	mu     sync.Mutex // taken before transactions
	placed []placed   // what was listed last, as far as it was read
	top    uint64     // greatest offset ever given
}

type placed struct {
	name   string
	offset uint64
}

const (
	dotOffset, dotDotOffset = 1, 2
	offsetStep              = 1 << 24 // between entries that are listed for the first time
)

// before returns the last name that does not come after offset, "" when there is
// none, and whether offset is beyond everything that is known.
func (l *listing) before(offset uint64) (name string, beyond bool) {
	i := sort.Search(len(l.placed), func(i int) bool { return l.placed[i].offset > offset })
	if i > 0 {
		name = l.placed[i-1].name
	}
	return name, i == len(l.placed)
}

// place returns the offsets of entries, which are all that there are, by name, after
// a name that offset belongs to; with end there are none after them, and else at least one of them.
func (l *listing) place(after string, offset uint64, entries []pathtree.Entry, end bool) []placed {
	i := l.search(after)
	j := len(l.placed)
	if !end {
		j = l.search(entries[len(entries)-1].Name)
	}
	old := l.placed[i:j]
	if slices.EqualFunc(old, entries, func(p placed, e pathtree.Entry) bool { return p.name == e.Name }) {
		return old
	}
	now := make([]placed, 0, len(entries))
	for _, e := range entries {
		for len(old) > 0 && old[0].name < e.Name {
			old = old[1:]
		}
		p := placed{name: e.Name}
		if len(old) > 0 && old[0].name == e.Name {
			p = old[0]
		}
		now = append(now, p)
	}
	l.placed = slices.Replace(l.placed, i, j, now...)
	l.number(i, i+len(now), offset)
	return l.placed[i : i+len(now)]
}

// search returns the index of the first entry after name.
func (l *listing) search(name string) int {
	i, found := slices.BinarySearchFunc(l.placed, name, func(p placed, name string) int { return strings.Compare(p.name, name) })
	if found {
		i++
	}
	return i
}

// number gives offsets to those of placed[i:j] that have none, greater than low.
func (l *listing) number(i, j int, low uint64) {
	for ; i < j; i++ {
		if l.placed[i].offset != 0 {
			continue
		}
		n := i
		for n < len(l.placed) && l.placed[n].offset == 0 {
			n++
		}
		if n == len(l.placed) {
			for ; i < n; i++ {
				l.top += offsetStep
				l.placed[i].offset = l.top
			}
			return
		}
		from := max(low, dotDotOffset)
		if i > 0 {
			from = max(from, l.placed[i-1].offset)
		}
		step := (l.placed[n].offset - from) / uint64(n-i+1)
		if step == 0 { // no room: streams that are under way may miss an entry
			for k := range l.placed {
				l.placed[k].offset = uint64(k+1) * offsetStep
			}
			l.top = max(l.top, uint64(len(l.placed))*offsetStep)
			return
		}
		for ; i < n; i++ {
			from += step
			l.placed[i].offset = from
		}
	}
}
