package latency

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// Keys of log records.
const (
	keySurface = "surface"
	keyOp      = "op"
	keyTook    = "took"
)

// epoch is what moments are measured from.
var epoch = time.Now()

// Moment is a reading of the monotonic clock.
type Moment time.Duration

// Now returns the present.
func Now() Moment { return Moment(time.Since(epoch)) }

// Set counts the operations of one surface.
type Set struct {
	surface string
	names   []string
	h       []Histogram
	slow    time.Duration // from when on an operation is logged; 0: never
	late    atomic.Int64  // how many were
	log     *slog.Logger
}

// NewSet returns a set of operations, known by their place in names. What takes
// slow or longer is logged; 0 logs nothing.
func NewSet(surface string, names []string, slow time.Duration, log *slog.Logger) *Set {
	if log == nil {
		slow = 0
	}
	return &Set{surface: surface, names: names, h: make([]Histogram, len(names)), slow: slow, log: log}
}

// Done counts an operation that began at a moment and ends now. A nil Set
// counts nothing.
func (s *Set) Done(op int, began Moment) {
	if s == nil {
		return
	}
	took := time.Duration(Now() - began)
	s.h[op].Add(took)
	if s.slow > 0 && took >= s.slow {
		s.late.Add(1)
		s.log.Warn("slow operation", keySurface, s.surface, keyOp, s.names[op], keyTook, took)
	}
}

// Waited is Done for an operation that waits for others by its nature, and is
// never slow.
func (s *Set) Waited(op int, began Moment) {
	if s != nil {
		s.h[op].Add(time.Duration(Now() - began))
	}
}

// Slow returns how many operations were logged as slow.
func (s *Set) Slow() int64 { return s.late.Load() }

// Ops are counts by the name of the operation.
type Ops map[string]Counts

// Counts returns the operations that happened.
func (s *Set) Counts() Ops {
	ops := Ops{}
	for i := range s.h {
		if c := s.h[i].Counts(); len(c.N) > 0 {
			ops[s.names[i]] = c
		}
	}
	return ops
}

// Surfaces are counts by surface.
type Surfaces map[string]Ops

// Add adds ops to those of a surface.
func (a Surfaces) Add(surface string, ops Ops) {
	if len(ops) == 0 {
		return
	}
	if a[surface] == nil {
		a[surface] = Ops{}
	}
	for name, c := range ops {
		a[surface][name] = a[surface][name].Plus(c)
	}
}

// AddAll adds b to a.
func (a Surfaces) AddAll(b Surfaces) {
	for surface, ops := range b {
		a.Add(surface, ops)
	}
}

// Minus returns what happened after b, an earlier state of a; without what did
// not happen.
func (a Surfaces) Minus(b Surfaces) Surfaces {
	r := Surfaces{}
	for surface, ops := range a {
		for name, c := range ops {
			if d := c.Minus(b[surface][name]); len(d.N) > 0 {
				r.Add(surface, Ops{name: d})
			}
		}
	}
	return r
}
