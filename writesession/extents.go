package writesession

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"

	"github.com/alkdev/alkfs/schema"
)

// span is the bytes [off, end).
type span struct{ off, end int64 }

func (s span) len() int64 { return s.end - s.off }

// spans is a set of bytes: sorted runs that neither overlap nor touch.
type spans []span

// search returns the index of the first run that ends at or after off.
func (s spans) search(off int64) int {
	if n := len(s); n > 0 && s[n-1].end < off { // appending is the common case
		return n
	}
	return sort.Search(len(s), func(i int) bool { return s[i].end >= off })
}

// add puts [off, end) into the set.
func (s *spans) add(off, end int64) {
	if off >= end {
		return
	}
	i := s.search(off)
	j := i
	for j < len(*s) && (*s)[j].off <= end {
		off, end = min(off, (*s)[j].off), max(end, (*s)[j].end)
		j++
	}
	if j == i+1 { // grow a run in place
		(*s)[i] = span{off, end}
		return
	}
	*s = slices.Replace(*s, i, j, span{off, end})
}

// remove takes [off, end) out of the set.
func (s *spans) remove(off, end int64) {
	if off >= end {
		return
	}
	i := s.search(off + 1)
	j := i
	var rest [2]span
	keep := rest[:0]
	for j < len(*s) && (*s)[j].off < end {
		if r := (*s)[j]; r.off < off {
			keep = append(keep, span{r.off, off})
		}
		if r := (*s)[j]; r.end > end {
			keep = append(keep, span{end, r.end})
		}
		j++
	}
	*s = slices.Replace(*s, i, j, keep...)
}

// run reports whether byte off is in the set, and where that stops being so.
func (s spans) run(off int64) (in bool, end int64) {
	i := s.search(off + 1)
	switch {
	case i == len(s):
		return false, math.MaxInt64
	case s[i].off <= off:
		return true, s[i].end
	default:
		return false, s[i].off
	}
}

// gaps yields the runs of [off, end) that are not in the set.
func (s spans) gaps(off, end int64) iter.Seq[span] {
	return func(yield func(span) bool) {
		for off < end {
			in, stop := s.run(off)
			stop = min(stop, end)
			if !in && !yield(span{off, stop}) {
				return
			}
			off = stop
		}
	}
}

// encode returns the runs as pairs of uvarints: the bytes since the last run, the
// length. No runs are no bytes.
func (s spans) encode() (p []byte) {
	at := int64(0)
	for _, r := range s {
		p = binary.AppendUvarint(p, uint64(r.off-at))
		p = binary.AppendUvarint(p, uint64(r.len()))
		at = r.end
	}
	return p
}

// decodeSpans is the inverse of encode. Other bytes are schema.ErrDamaged.
func decodeSpans(p []byte) (s spans, err error) {
	at := int64(0)
	for len(p) > 0 {
		skip, n := binary.Uvarint(p)
		length, m := binary.Uvarint(p[max(n, 0):])
		if n <= 0 || m <= 0 || skip > MaxSize || length > MaxSize || at+int64(skip+length) > MaxSize {
			return nil, fmt.Errorf("runs of bytes: %w", schema.ErrDamaged)
		}
		at += int64(skip + length)
		s.add(at-int64(length), at)
		p = p[n+m:]
	}
	return s, nil
}

// meets reports whether any byte of [off, end) is in the set.
func (s spans) meets(off, end int64) bool {
	in, stop := s.run(off)
	return off < end && (in || stop < end)
}
