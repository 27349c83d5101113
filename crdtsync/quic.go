package crdtsync

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/crdtsync/transport"
)

// QUIC is the Network over QUIC.
type QUIC struct {
	e    *transport.Endpoint
	r    *Replica       // nil where nothing but joining is asked for
	ends sync.WaitGroup // of connections, and what is done about one that was refused
}

// ListenQUIC opens a UDP socket at addr (HOST:PORT, port 0 for any), on which
// members of the replica's buckets may connect, and others redeem tickets.
func ListenQUIC(r *Replica, addr string) (*QUIC, error) {
	e, err := transport.Listen(addr, transport.Config{
		Private: r.private, Admit: r.Admits, Join: r.answerJoin, Logger: r.log,
	})
	if err != nil {
		return nil, err
	}
	return &QUIC{e: e, r: r}, nil
}

// DialQUIC opens a UDP socket for dialling alone, with the key given.
func DialQUIC(private ed25519.PrivateKey, log *slog.Logger) (*QUIC, error) {
	e, err := transport.Listen(":0", transport.Config{
		Private: private, Admit: func(identity.Key) bool { return false }, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return &QUIC{e: e}, nil
}

// Addr returns the address of the socket.
func (q *QUIC) Addr() *net.UDPAddr { return q.e.Addr() }

// Close ends all connections.
func (q *QUIC) Close() error {
	err := q.e.Close()
	q.ends.Wait()
	return err
}

// Dial implements Network. Where it fails since the other node has another key, or
// since that one does not know this node's, it has the one prove to the other that
// it is still the same: the next Dial, of the new key, then succeeds.
func (q *QUIC) Dial(ctx context.Context, addr string, k identity.Key) (Link, error) {
	c, err := q.e.Dial(ctx, addr, k)
	if wrong := (*transport.WrongKeyError)(nil); errors.As(err, &wrong) {
		return nil, cmp.Or(q.r.dialHeir(ctx, q.e, addr, wrong), err)
	}
	if err != nil {
		return nil, err
	}
	q.ends.Add(1)
	c.AfterFunc(func() {
		defer q.ends.Done()
		if !c.Refused() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), dialTime)
		defer cancel()
		if err := q.r.prove(ctx, q.e, addr, k); err != nil {
			q.r.log.Debug("a node could not be told of this one's new key", "peer", k.Short(), "err", err)
		}
	})
	return quicLink{c}, nil
}

// Accept implements Network.
func (q *QUIC) Accept(ctx context.Context) (Link, error) {
	c, err := q.e.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return quicLink{c}, nil
}

// quicLink is a transport.Conn as a Link.
type quicLink struct{ *transport.Conn }

func (l quicLink) OpenStream(ctx context.Context) (io.ReadWriteCloser, error) {
	return l.Conn.OpenStream(ctx)
}

func (l quicLink) AcceptStream(ctx context.Context) (io.ReadWriteCloser, error) {
	return l.Conn.AcceptStream(ctx)
}

// answerJoin answers a request of the join protocol.
func (r *Replica) answerJoin(_ context.Context, k identity.Key, request []byte) []byte {
	var q joinRequest
	var a joinAnswer
	err := decMode.Unmarshal(request, &q)
	about := err == nil && (q.Prove || len(q.Proofs) > 0)
	switch {
	case about:
		a, err = r.answerHeir(k, &q)
	case err == nil:
		a, err = r.redeem(k, q)
	}
	switch {
	case about && err == nil:
	case errors.Is(err, errNoHeir):
		r.log.Warn("a stranger claims to have the place of a member", "key", k.String(), "err", err)
		a = joinAnswer{Err: errNoHeir.Error()}
	case errors.Is(err, errTicket):
		r.log.Warn("a ticket was refused", "key", k.String())
		a = joinAnswer{Err: err.Error()}
	case err != nil:
		r.log.Error("a ticket could not be redeemed", "key", k.String(), "err", err)
		a = joinAnswer{Err: "the other machine could not do it: see its log"}
	default:
		r.log.Info("a machine joined", "key", k.String(), "name", q.Name, "bucket", a.Name)
		if validAddrs(q.Addrs) && len(q.Addrs) > 0 {
			err = r.setPlaces(k, q.Addrs)
		}
	}
	if err != nil && a.Err == "" {
		r.log.Error("an address could not be kept", "err", err)
	}
	b, err := encMode.Marshal(&a)
	if err != nil {
		return nil
	}
	return b
}

// Joined is a bucket that was joined.
type Joined struct {
	UUID [16]byte
	Name string // here
	Role identity.Role
}

// Join redeems a ticket at the node that gave it out, and makes the bucket here,
// under name or, when that is "", its name there. self is where this node
// listens.
func (r *Replica) Join(ctx context.Context, q *QUIC, t identity.Ticket, name, self string, addrs []string, patterns ...string) (j Joined, err error) {
	if t.Expired(r.now()) {
		return j, errors.New("the ticket has expired: ask for a new one")
	}
	if t.Issuer == r.key {
		return j, errors.New("the ticket is this machine's own: use it on another one")
	}
	request, err := encMode.Marshal(&joinRequest{Bucket: t.Bucket, Secret: t.Secret, Name: self, Addrs: addrs})
	if err != nil {
		return j, err
	}
	answer, err := askAny(ctx, q, t, request)
	if err != nil {
		return j, err
	}
	var a joinAnswer
	if err := decMode.Unmarshal(answer, &a); err != nil {
		return j, fmt.Errorf("the other machine's answer: %w", err)
	}
	if a.Err != "" {
		return j, errors.New(a.Err)
	}
	if a.Owner != t.Owner {
		return j, errors.New("the other machine names another owner of the bucket than the ticket")
	}
	if name == "" {
		name = a.Name
	}
	b, err := r.Adopt(t.Bucket, name, t.Owner, a.Grants, patterns...)
	if err != nil {
		return j, err
	}
	if err := r.setPlaces(t.Issuer, t.Addrs); err != nil {
		return j, err
	}
	m, err := r.Membership(t.Bucket)
	if err != nil {
		return j, err
	}
	if j = (Joined{t.Bucket, b.Name, m.Role(r.key)}); j.Role == identity.None {
		return j, errors.New("the other machine let this one in, but its grant does not count: was its own role revoked?")
	}
	return j, r.db.Sync()
}

// askAny sends the request to the first address of the ticket that answers.
func askAny(ctx context.Context, q *QUIC, t identity.Ticket, request []byte) ([]byte, error) {
	var all error
	for _, a := range t.Addrs {
		answer, err := q.e.AskToJoin(ctx, a, t.Issuer, request)
		if err == nil && len(answer) == 0 {
			err = errors.New("no answer: it may be busy, or not take tickets")
		}
		if err == nil {
			return answer, nil
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", a, plain(err)))
	}
	return nil, fmt.Errorf("the machine that gave the ticket out was not reached; is `alkfs serve --sync` running there? %w", all)
}
