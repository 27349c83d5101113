package transport

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/quic-go/quic-go"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Conn is a connection to another node.
type Conn struct {
	e    *Endpoint
	q    *quic.Conn
	peer identity.Key
}

// Peer returns the key of the other node.
func (c *Conn) Peer() identity.Key { return c.peer }

// RemoteAddr returns where the other node is now.
func (c *Conn) RemoteAddr() net.Addr { return c.q.RemoteAddr() }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.q.Context().Done() }

// Err returns why the connection ended.
func (c *Conn) Err() error { return context.Cause(c.q.Context()) }

// AfterFunc has f called, in a goroutine of its own, when the connection has ended.
func (c *Conn) AfterFunc(f func()) { context.AfterFunc(c.q.Context(), f) }

// Refused reports whether the connection ended since the other side did not let
// this node's key in.
func (c *Conn) Refused() bool {
	var t *quic.TransportError
	return errors.As(c.Err(), &t) && t.Remote && t.ErrorCode.IsCryptoError()
}

// Close ends the connection; reason is for the other side's log.
func (c *Conn) Close(reason string) error { return c.q.CloseWithError(0, reason) }

// OpenStream opens a stream, which the other side's AcceptStream returns once
// something was written.
func (c *Conn) OpenStream(ctx context.Context) (*Stream, error) {
	s, err := c.q.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	return &Stream{Stream: s}, nil
}

// AcceptStream returns the next stream that the other side opened.
func (c *Conn) AcceptStream(ctx context.Context) (*Stream, error) {
	s, err := c.q.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return &Stream{Stream: s}, nil
}

// Stream is a stream of bytes both ways. CloseWrite ends what is written, Close
// both directions. Close may be called at any time, the rest as for a net.Conn.
type Stream struct {
	*quic.Stream
	writing sync.Mutex // held by Write
}

// Write implements io.Writer.
func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Stream.Write(p)
}

// CloseWrite tells the reader that no more comes.
func (s *Stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both directions. What was written before still arrives, but for a
// Write that is going on, which fails: quic-go would let it wait for ever.
func (s *Stream) Close() error {
	s.CancelRead(0)
	if !s.writing.TryLock() {
		s.CancelWrite(0)
		return nil
	}
	defer s.writing.Unlock()
	return s.Stream.Close()
}
