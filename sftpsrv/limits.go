package sftpsrv

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxPenalty bounds how long an address waits after failed logins, and
// maxPenalised how many addresses are remembered.
const (
	maxPenalty   = 2 * time.Minute
	maxPenalised = 64 << 10
)

// limits counts connections and failed logins.
type limits struct {
	o  Options
	mu struct {
		sync.Mutex
		total, unknown int
		addrs          map[netip.Addr]int
		users          map[int64]int
		penalties      map[netip.Addr]penalty
	}
}

type penalty struct {
	failed int
	until  time.Time
}

func newLimits(o Options) *limits {
	l := &limits{o: o}
	l.mu.addrs = make(map[netip.Addr]int)
	l.mu.users = make(map[int64]int)
	l.mu.penalties = make(map[netip.Addr]penalty)
	return l
}

func ipOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap().WithZone("")
}

// countedAs returns what connections are counted by: an IPv4 address or the /64
// network of an IPv6 address.
func countedAs(addr netip.Addr) netip.Addr {
	if addr.Is6() && !addr.IsLoopback() {
		p, _ := addr.Prefix(64)
		addr = p.Addr()
	}
	return addr
}

// enter counts a connection until leave is called.
func (l *limits) enter(addr netip.Addr) (leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case time.Now().Before(l.mu.penalties[addr].until):
		return nil, errors.New("too many failed logins from this address")
	case l.mu.total >= l.o.MaxConnections:
		return nil, errors.New("too many connections")
	case l.mu.addrs[addr] >= l.o.MaxPerAddress:
		return nil, errors.New("too many connections from this address")
	case l.mu.unknown >= l.o.MaxUnknown:
		return nil, errors.New("too many connections that have not logged in")
	}
	l.mu.total++
	l.mu.addrs[addr]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.mu.total--
		decrease(l.mu.addrs, addr)
	}, nil
}

// attempt is how a connection that had not logged in went on.
type attempt int

const (
	succeeded attempt = iota
	failed            // with keys or passwords that are not good
	left              // without having tried any
)

// unknown counts a connection as not logged in until known is called.
func (l *limits) unknown(addr netip.Addr) (known func(attempt)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.unknown++
	return func(how attempt) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.mu.unknown--
		switch how {
		case succeeded:
			delete(l.mu.penalties, addr)
		case failed:
			l.punish(addr)
		}
	}
}

// punish notes a failed login. mu must be held.
func (l *limits) punish(addr netip.Addr) {
	if l.o.PenaltyAfter < 0 {
		return
	}
	now := time.Now()
	if len(l.mu.penalties) >= maxPenalised {
		for a, p := range l.mu.penalties {
			if now.Sub(p.until) > maxPenalty {
				delete(l.mu.penalties, a)
			}
		}
		if len(l.mu.penalties) >= maxPenalised {
			clear(l.mu.penalties)
		}
	}
	p := l.mu.penalties[addr]
	if p.failed > 0 && now.Sub(p.until) > 10*maxPenalty {
		p = penalty{}
	}
	p.failed++
	p.until = now
	if over := p.failed - l.o.PenaltyAfter; over >= 0 {
		p.until = now.Add(min(maxPenalty, time.Second<<min(over, 10)))
	}
	l.mu.penalties[addr] = p
}

// user counts a connection of a user until gone is called.
func (l *limits) user(id int64) (gone func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.users[id] >= l.o.MaxPerUser {
		return nil, errors.New("too many connections of this user")
	}
	l.mu.users[id]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		decrease(l.mu.users, id)
	}, nil
}

func decrease[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}
