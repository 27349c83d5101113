package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// Protocols, negotiated by ALPN.
const (
	protoSync = "alkfs-sync/1"
	protoJoin = "alkfs-join/1"
)

// ErrUnknownPeer says that the other side's key is not one that it may have.
var ErrUnknownPeer = errors.New("not a key of a member")

// Config configures Listen.
type Config struct {
	Private ed25519.PrivateKey
	// Admit says whether a key may connect. It is asked in the handshake.
	Admit func(identity.Key) bool
	// Join answers the request of somebody who is no member yet; nil: refuse
	// them. The key is the stranger's own.
	Join   func(ctx context.Context, k identity.Key, request []byte) (answer []byte)
	Logger *slog.Logger // default: discard
}

// WrongKeyError says that another node answered than the one that was dialled, or
// that one with another key. It wraps ErrUnknownPeer.
type WrongKeyError struct{ Got, Want identity.Key }

func (e *WrongKeyError) Error() string {
	return fmt.Sprintf("%v: %s answered for %s", ErrUnknownPeer, e.Got.Short(), e.Want.Short())
}

func (e *WrongKeyError) Unwrap() error { return ErrUnknownPeer }

// MaxJoin bounds a join request and its answer, in bytes.
const MaxJoin = 1 << 20

const (
	joinTimeout = 10 * time.Second
	maxJoins    = 8 // at one time
)

// Endpoint is a UDP socket on which a node dials and is dialled.
type Endpoint struct {
	c    Config
	udp  *net.UDPConn
	quic *quic.Transport
	ln   *quic.Listener
	cert tls.Certificate
	in   chan *Conn
	join chan struct{}
	wg   sync.WaitGroup
	stop context.CancelFunc

	mu    sync.Mutex // guards conns
	conns map[*Conn]struct{}
}

// Listen opens a socket at addr (HOST:PORT; port 0 chooses one).
func Listen(addr string, c Config) (*Endpoint, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	cert, err := certificate(c.Private)
	if err != nil {
		return nil, err
	}
	ua, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", ua)
	if err != nil {
		return nil, err
	}
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // it would go to standard error
	// The same at every start, so that others learn at once from a node that was
	// killed and came back that their connections are gone.
	reset := quic.StatelessResetKey(sha256.Sum256(append([]byte("alkfs stateless reset 1\x00"), c.Private.Seed()...)))
	e := &Endpoint{
		c: c, udp: udp, cert: cert,
		in: make(chan *Conn), join: make(chan struct{}, maxJoins), conns: map[*Conn]struct{}{},
	}
	e.quic = &quic.Transport{Conn: socket{udp, e.connectedTo}, StatelessResetKey: &reset}
	e.ln, err = e.quic.Listen(e.tls(nil), quicConfig())
	if err != nil {
		udp.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.wg.Go(func() { e.accept(ctx) })
	return e, nil
}

// Addr returns the address of the socket.
func (e *Endpoint) Addr() *net.UDPAddr { return e.udp.LocalAddr().(*net.UDPAddr) }

// Close ends every connection and the socket.
func (e *Endpoint) Close() error {
	e.stop()
	e.each(func(c *Conn) { c.Close("the node is stopping") })
	e.ln.Close()
	e.wg.Wait()
	return errors.Join(e.quic.Close(), e.udp.Close())
}

// Accept returns the next connection of a member that dialled.
func (e *Endpoint) Accept(ctx context.Context) (*Conn, error) {
	select {
	case c := <-e.in:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Dial connects to the node of key k at addr.
func (e *Endpoint) Dial(ctx context.Context, addr string, k identity.Key) (*Conn, error) {
	q, err := e.dial(ctx, addr, k, protoSync)
	if err != nil {
		return nil, err
	}
	return e.add(q, k), nil
}

// AskToJoin sends one request to the node of key k at addr, of which this node
// is no member, and returns the answer.
func (e *Endpoint) AskToJoin(ctx context.Context, addr string, k identity.Key, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	q, err := e.dial(ctx, addr, k, protoJoin)
	if err != nil {
		return nil, err
	}
	defer q.CloseWithError(0, "")
	s, err := q.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	defer s.CancelRead(0)
	if d, ok := ctx.Deadline(); ok {
		s.SetDeadline(d)
	}
	if _, err := s.Write(request); err != nil {
		return nil, err
	}
	s.Close()
	return io.ReadAll(io.LimitReader(s, MaxJoin))
}

// Drop ends the connections of k.
func (e *Endpoint) Drop(k identity.Key, reason string) {
	e.each(func(c *Conn) {
		if c.peer == k {
			c.Close(reason)
		}
	})
}

func (e *Endpoint) each(f func(*Conn)) {
	e.mu.Lock()
	all := make([]*Conn, 0, len(e.conns))
	for c := range e.conns {
		all = append(all, c)
	}
	e.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

func (e *Endpoint) dial(ctx context.Context, addr string, k identity.Key, proto string) (*quic.Conn, error) {
	ua, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	conf := e.tls(&k)
	conf.NextProtos = []string{proto}
	return e.quic.Dial(ctx, ua, conf, quicConfig())
}

// accept takes in connections until ctx ends.
func (e *Endpoint) accept(ctx context.Context) {
	for {
		q, err := e.ln.Accept(ctx)
		if err != nil {
			return
		}
		state := q.ConnectionState().TLS
		k, err := peerKey(state)
		if err != nil {
			q.CloseWithError(1, "no key")
			continue
		}
		if state.NegotiatedProtocol == protoJoin {
			e.wg.Go(func() { e.serveJoin(ctx, q, k) })
			continue
		}
		c := e.add(q, k)
		select {
		case e.in <- c:
		case <-ctx.Done():
			c.Close("the node is stopping")
		}
	}
}

// serveJoin answers one request of a stranger.
func (e *Endpoint) serveJoin(ctx context.Context, q *quic.Conn, k identity.Key) {
	defer q.CloseWithError(0, "")
	select {
	case e.join <- struct{}{}:
		defer func() { <-e.join }()
	default:
		return // too many at once; they try again
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	s, err := q.AcceptStream(ctx)
	if err != nil {
		return
	}
	deadline, _ := ctx.Deadline()
	s.SetDeadline(deadline)
	request, err := io.ReadAll(io.LimitReader(s, MaxJoin))
	if err != nil || e.c.Join == nil {
		return
	}
	if _, err := s.Write(e.c.Join(ctx, k, request)); err != nil {
		return
	}
	s.Close()
	select { // the asker closes when it has read the answer
	case <-q.Context().Done():
	case <-ctx.Done():
	}
}

func (e *Endpoint) add(q *quic.Conn, k identity.Key) *Conn {
	c := &Conn{e: e, q: q, peer: k}
	e.mu.Lock()
	e.conns[c] = struct{}{}
	e.mu.Unlock()
	context.AfterFunc(q.Context(), func() {
		e.mu.Lock()
		delete(e.conns, c)
		e.mu.Unlock()
	})
	return c
}

// tls returns the configuration for listening, or for dialling the node k.
func (e *Endpoint) tls(k *identity.Key) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{e.cert},
		NextProtos:             []string{protoSync, protoJoin},
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // keys are pinned below; there is no authority to ask
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			peer, err := peerKey(s)
			switch {
			case err != nil:
				return err
			case k != nil && peer != *k:
				return &WrongKeyError{Got: peer, Want: *k}
			case k == nil && s.NegotiatedProtocol == protoSync && !e.c.Admit(peer):
				e.c.Logger.Warn("a machine that is no member was refused", "key", peer.String())
				return fmt.Errorf("%w: %s", ErrUnknownPeer, peer.Short())
			case k == nil && s.NegotiatedProtocol == protoJoin && e.c.Join == nil:
				return ErrUnknownPeer
			}
			return nil
		},
	}
}

// peerKey returns the key that the other side has proven to hold.
func peerKey(s tls.ConnectionState) (identity.Key, error) {
	if len(s.PeerCertificates) == 0 {
		return identity.Key{}, fmt.Errorf("%w: no certificate", ErrUnknownPeer)
	}
	k, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return identity.Key{}, fmt.Errorf("%w: not an ed25519 key", ErrUnknownPeer)
	}
	return identity.Key(k), nil
}

// certificate wraps the key in the certificate that TLS wants around it.
func certificate(private ed25519.PrivateKey) (tls.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alkfs"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, private.Public(), private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: 10 * time.Second, MaxIdleTimeout: 30 * time.Second, KeepAlivePeriod: 10 * time.Second,
		MaxIncomingStreams: 256, MaxIncomingUniStreams: -1,
		InitialStreamReceiveWindow: 1 << 20, MaxStreamReceiveWindow: 8 << 20,
		InitialConnectionReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 32 << 20, // content that is read slowly must not keep back changes
	}
}
