package latency

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	shortest = 8  // bits: what takes less than 256 ns shares the first bucket
	longest  = 37 // bits: what takes 137 s and more shares the last
	buckets  = (longest-shortest)*4 + 1
)

// Histogram counts durations. The zero value is ready for use.
type Histogram struct {
	sum atomic.Int64 // ns
	n   [buckets]atomic.Int64
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	h.sum.Add(int64(d))
	h.n[bucket(d)].Add(1)
}

// bucket returns the bucket of d: two bits after the leading one, within the
// bounds.
func bucket(d time.Duration) int {
	if d < 1<<shortest {
		return 0
	}
	top := bits.Len64(uint64(d)) - 1
	i := (top-shortest)*4 + int(uint64(d)>>(top-2)&3) + 1
	return min(i, buckets-1)
}

// bound returns the duration below which all of bucket i is.
func bound(i int) time.Duration {
	top, quarter := i/4+shortest, i%4
	return time.Duration(1<<top + quarter<<(top-2))
}

// Counts is what was in a Histogram at one moment.
type Counts struct {
	Sum time.Duration
	N   map[int]int64 // by bucket; those with none are left out
}

// Counts returns what is in h.
func (h *Histogram) Counts() Counts {
	c := Counts{Sum: time.Duration(h.sum.Load())}
	for i := range h.n {
		if n := h.n[i].Load(); n > 0 {
			if c.N == nil {
				c.N = map[int]int64{}
			}
			c.N[i] = n
		}
	}
	return c
}

// Total returns how many were counted.
func (c Counts) Total() (n int64) {
	for _, k := range c.N {
		n += k
	}
	return n
}

// Plus returns the counts of both.
func (c Counts) Plus(o Counts) Counts { return c.combine(o, 1) }

// Minus returns what was counted after o, an earlier state of the same.
func (c Counts) Minus(o Counts) Counts { return c.combine(o, -1) }

func (c Counts) combine(o Counts, sign int64) Counts {
	r := Counts{Sum: max(0, c.Sum+time.Duration(sign)*o.Sum), N: map[int]int64{}}
	for i, n := range c.N {
		r.N[i] = n
	}
	for i, n := range o.N {
		if r.N[i] += sign * n; r.N[i] <= 0 {
			delete(r.N, i)
		}
	}
	return r
}

// Quantile returns the duration that a share q (0 to 1) did not exceed, to the
// precision of a bucket; 0 when nothing was counted.
func (c Counts) Quantile(q float64) time.Duration {
	rank := int64(q*float64(c.Total())+0.5) - 1
	for i, seen := 0, int64(0); i < buckets; i++ {
		if seen += c.N[i]; seen > max(0, rank) {
			if i == 0 {
				return 1 << shortest
			}
			return (bound(i-1) + bound(i)) / 2
		}
	}
	return 0
}

// Mean returns the average, 0 when nothing was counted.
func (c Counts) Mean() time.Duration {
	if n := c.Total(); n > 0 {
		return c.Sum / time.Duration(n)
	}
	return 0
}

// Below returns how many took less than 2^k ns, for k from 8 to 37.
func (c Counts) Below(k int) (n int64) {
	for i, m := range c.N {
		if bound(i) <= 1<<k {
			n += m
		}
	}
	return n
}
