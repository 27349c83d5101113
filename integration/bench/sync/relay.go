package main

import (
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// linkOptions say how packets travel between the two sides.
type linkOptions struct {
	rtt  time.Duration // there and back
	loss float64       // of the packets of each direction
}

// between returns where to send packets that are for addr, and what ends that:
// addr itself when the link is to be perfect.
func (o linkOptions) between(addr string) (at string, stop func(), err error) {
	if o == (linkOptions{}) {
		return addr, func() {}, nil
	}
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return "", nil, err
	}
	in, err := relaySocket()
	if err != nil {
		return "", nil, err
	}
	r := &relay{linkOptions: o, in: in, to: to, out: map[string]*net.UDPConn{}}
	r.wg.Go(r.run)
	return in.LocalAddr().String(), r.stop, nil
}

// relay passes packets on, late, and loses some. Every sender has a socket of its
// own on the far side, so that the answers find back.
type relay struct {
	linkOptions
	in *net.UDPConn
	to *net.UDPAddr
	wg sync.WaitGroup

	mu  sync.Mutex // guards out
	out map[string]*net.UDPConn
}

// packet is bytes on their way.
type packet struct {
	due  time.Time
	b    []byte
	from *net.UDPConn
	to   *net.UDPAddr
}

const relayQueue = 8192 // packets on their way in one direction

func relaySocket() (*net.UDPConn, error) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err == nil {
		_ = c.SetReadBuffer(8 << 20) // as much as the system allows
	}
	return c, err
}

func (r *relay) run() {
	there := r.line()
	defer close(there)
	for {
		b := make([]byte, 2048)
		n, from, err := r.in.ReadFromUDP(b)
		if err != nil {
			return
		}
		out, err := r.outFor(from)
		if err != nil {
			return
		}
		r.pass(there, packet{b: b[:n], from: out, to: r.to})
	}
}

// outFor returns the socket that stands for a sender.
func (r *relay) outFor(from *net.UDPAddr) (*net.UDPConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if out := r.out[from.String()]; out != nil {
		return out, nil
	}
	out, err := relaySocket()
	if err != nil {
		return nil, err
	}
	r.out[from.String()] = out
	r.wg.Go(func() {
		back := r.line()
		defer close(back)
		for {
			b := make([]byte, 2048)
			n, _, err := out.ReadFromUDP(b)
			if err != nil {
				return
			}
			r.pass(back, packet{b: b[:n], from: r.in, to: from})
		}
	})
	return out, nil
}

// pass puts a packet on a line, unless it is lost.
func (r *relay) pass(line chan packet, p packet) {
	if rand.Float64() < r.loss {
		return
	}
	p.due = time.Now().Add(r.rtt / 2)
	select {
	case line <- p:
	default: // no more than a router would hold
	}
}

// line sends the packets that are put on it when they are due.
func (r *relay) line() chan packet {
	c := make(chan packet, relayQueue)
	r.wg.Go(func() {
		for p := range c {
			if wait := time.Until(p.due); wait > 0 {
				time.Sleep(wait)
			}
			_, _ = p.from.WriteToUDP(p.b, p.to)
		}
	})
	return c
}

func (r *relay) stop() {
	r.in.Close()
	r.mu.Lock()
	for _, out := range r.out {
		out.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func freePort() (int, error) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port, nil
}
