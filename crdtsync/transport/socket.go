package transport

import (
	"errors"
	"net"
	"syscall"
)

// socket is a UDP socket on which what cannot be sent to a node that is connected,
// since there is no network, is lost, as it would be on the way. quic-go ends a
// connection at such an error; a machine on its way to another network has none for
// a while.
type socket struct {
	*net.UDPConn
	connected func(to *net.UDPAddr) bool
}

// WriteMsgUDP sends a packet, as the method of net.UDPConn does.
func (s socket) WriteMsgUDP(p, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = s.UDPConn.WriteMsgUDP(p, oob, to)
	if noNetwork(err) && s.connected(to) {
		return len(p), len(oob), nil
	}
	return n, oobn, err
}

func noNetwork(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETDOWN)
}

// connectedTo reports whether a connection is to the address.
func (e *Endpoint) connectedTo(to *net.UDPAddr) (yes bool) {
	e.each(func(c *Conn) {
		if a, ok := c.RemoteAddr().(*net.UDPAddr); ok && a.IP.Equal(to.IP) && a.Port == to.Port {
			yes = true
		}
	})
	return yes
}
