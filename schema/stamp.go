package schema

import "time"

// Stamp is a hybrid logical clock reading: 48 bits of milliseconds since 1970
// and a 16-bit counter. It is strictly increasing within a store. Kulkarni et
// al., "Logical Physical Clocks", 2014.
type Stamp int64

// MaxStamp is the bound that hides nothing.
const MaxStamp Stamp = 1<<63 - 1

// StampAt returns the last stamp a version written at t can have.
func StampAt(t time.Time) Stamp { return Stamp(t.UnixMilli()<<16 | 0xffff) }

// Time returns the wall-clock part of s.
func (s Stamp) Time() time.Time { return time.UnixMilli(int64(s) >> 16) }

// next returns the smallest stamp that is later than s and not before now.
func (s Stamp) next(now time.Time) Stamp {
	return max(s+1, Stamp(now.UnixMilli()<<16))
}
