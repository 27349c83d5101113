package crdtsync

import (
	"io"
	"sync"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Traffic is what passed between this node and another since its Engine began,
// metadata and content.
type Traffic struct {
	In, Out         int64 // bytes
	InRate, OutRate int64 // bytes a second, over the last rateOver seconds
}

// rateOver is how many seconds a rate is the mean of.
const rateOver = 5

// meter counts bytes by the second.
type meter struct {
	total  int64
	second int64               // the newest there is a slot of, in Unix time
	slots  [rateOver + 1]int64 // by second; the newest is not over
}

// advance empties the slots of seconds that have begun.
func (m *meter) advance(now int64) {
	if now-m.second >= int64(len(m.slots)) || now < m.second {
		m.slots, m.second = [len(m.slots)]int64{}, now
	}
	for m.second < now {
		m.second++
		m.slots[m.second%int64(len(m.slots))] = 0
	}
}

func (m *meter) add(now, n int64) {
	m.advance(now)
	m.total += n
	m.slots[now%int64(len(m.slots))] += n
}

// rate returns the mean of the seconds that are over.
func (m *meter) rate(now int64) (sum int64) {
	m.advance(now)
	for i, n := range m.slots {
		if int64(i) != now%int64(len(m.slots)) {
			sum += n
		}
	}
	return sum / rateOver
}

// traffic counts what passes, by node.
type traffic struct {
	mu sync.Mutex
	of map[identity.Key]*meters
}

type meters struct{ in, out meter }

func (t *traffic) count(k identity.Key, in, out int) {
	now := time.Now().Unix()
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.of[k]
	if m == nil {
		m = new(meters)
		t.of[k] = m
	}
	m.in.add(now, int64(in))
	m.out.add(now, int64(out))
}

func (t *traffic) with(k identity.Key) Traffic {
	now := time.Now().Unix()
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.of[k]
	if m == nil {
		return Traffic{}
	}
	return Traffic{In: m.in.total, Out: m.out.total, InRate: m.in.rate(now), OutRate: m.out.rate(now)}
}

// meter returns net with its traffic counted.
func (t *traffic) meter(net Network) Network {
	return wrapped{net, func(k identity.Key, s io.ReadWriteCloser) io.ReadWriteCloser { return meteredStream{s, t, k} }}
}

type meteredStream struct {
	io.ReadWriteCloser
	t    *traffic
	peer identity.Key
}

func (s meteredStream) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	s.t.count(s.peer, n, 0)
	return n, err
}

func (s meteredStream) Write(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Write(p)
	s.t.count(s.peer, 0, n)
	return n, err
}
