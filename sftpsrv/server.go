package sftpsrv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
	"github.com/alkdev/alkfs/writesession"
)

// Config is the store that is served.
type Config struct {
	DB       *schema.DB
	Tree     *pathtree.Tree
	Blobs    *blobstore.Store
	Sessions *writesession.Sessions
	Logger   *slog.Logger  // default: discard
	Slow     time.Duration // from when on a request is logged; 0: never
}

// Options are the limits of a Server; the zero value has sane ones.
type Options struct {
	Passwords        bool          // let users log in by password; default: keys only
	HandshakeTimeout time.Duration // from the connection to a user known; default 30 s
	IdleTimeout      time.Duration // without a request; default 1 h, negative: never
	KeepAlive        time.Duration // between questions whether the client is there; default 1 min
	MaxConnections   int           // in all; default 512
	MaxPerAddress    int           // from one IPv4 address or IPv6 /64; default 256
	MaxPerUser       int           // default 256
	MaxUnknown       int           // connections whose user is not known yet; default 64
	MaxTries         int           // keys or passwords that a connection may get wrong, besides as many keys it only asks about; default 6
	// MaxData bounds the bytes of file data on their way in all sessions,
	// besides one request of each. Default 256 MiB.
	MaxData int64
	// PenaltyAfter is how many connections of an address may fail to log in
	// before it has to wait, for twice as long each time. Default 6; negative:
	// never.
	PenaltyAfter int
	// Exec runs the commands of `ssh HOST COMMAND`. Default: none are.
	Exec func(ctx context.Context, c Command) (exit int)
}

// Command is a command a client asks for.
type Command struct {
	Args           []string
	User           string
	Rights         func() (*access.Rights, error) // as they are now
	Stdout, Stderr io.Writer
}

func (o Options) withDefaults() Options {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.MaxConnections, 512)
	set(&o.MaxPerAddress, 256)
	set(&o.MaxPerUser, 256)
	set(&o.MaxUnknown, 64)
	set(&o.MaxTries, 6)
	set(&o.PenaltyAfter, 6)
	if o.MaxData == 0 {
		o.MaxData = 256 << 20
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&o.HandshakeTimeout, 30 * time.Second}, {&o.IdleTimeout, time.Hour}, {&o.KeepAlive, time.Minute}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	return o
}

// Server serves a store to SSH clients. Safe for concurrent use.
type Server struct {
	c       Config
	o       Options
	log     *slog.Logger
	hostKey ssh.Signer
	limits  *limits
	checks  chan struct{} // bounds the password checks that run
	memory  pool
	stats   Stats
	ops     *latency.Set
}

// Stats counts what a Server has seen.
type Stats struct {
	Accepted, Refused, Failed, LoggedIn atomic.Int64 // connections
	Open                                atomic.Int64 // connections with a user
	Commands                            atomic.Int64
}

// New makes a Server and, in a store that has none, its host key.
func New(c Config, o Options) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	key, err := hostKey(c.DB.Dir())
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	o = o.withDefaults()
	s := &Server{
		c: c, o: o, log: c.Logger, hostKey: key, limits: newLimits(o),
		checks: make(chan struct{}, 2), ops: latency.NewSet("sftp", opNames, c.Slow, c.Logger),
	}
	s.memory.give(int(o.MaxData))
	return s, nil
}

// Fingerprint returns the fingerprint of the host key as ssh prints it.
func (s *Server) Fingerprint() string { return ssh.FingerprintSHA256(s.hostKey.PublicKey()) }

// HostKey returns the host key as a line for a known_hosts file, without the
// host.
func (s *Server) HostKey() string { return authorizedLine(s.hostKey.PublicKey()) }

// Ops returns the SFTP requests so far and how long they took.
func (s *Server) Ops() latency.Ops { return s.ops.Counts() }

// SlowRequests returns how many were logged as slow.
func (s *Server) SlowRequests() int64 { return s.ops.Slow() }

// Stats returns counters that go on counting.
func (s *Server) Stats() *Stats { return &s.stats }

// Serve serves connections from ln until ctx ends, closes ln and returns when
// all of them are over. Files that a client has not closed are then preserved
// as sessions, the closes it has asked for are done.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if nc != nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			cancel()
			return err
		case err != nil:
			s.log.Warn("accept", "error", err) // out of descriptors, most likely
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		wg.Go(func() { s.handle(ctx, nc) })
	}
}

// handle runs one connection.
func (s *Server) handle(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	s.stats.Accepted.Add(1)
	addr := ipOf(nc.RemoteAddr())
	leave, err := s.limits.enter(countedAs(addr))
	if err != nil {
		s.stats.Refused.Add(1)
		s.log.Info("connection refused", "addr", addr, "reason", err)
		return
	}
	defer leave()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()

	known := s.limits.unknown(countedAs(addr))
	nc.SetDeadline(time.Now().Add(s.o.HandshakeTimeout))
	tries := 0
	sc, channels, requests, err := s.handshake(nc, &tries)
	switch {
	case err == nil:
		known(succeeded)
	case tries == 0: // a scan, a health check, somebody who thought better of it
		known(left)
		s.log.Info("left before logging in", "addr", addr, "error", err)
		return
	default:
		known(failed)
		s.stats.Failed.Add(1)
		s.log.Warn("authentication failed", "addr", addr, "tries", tries, "error", err)
		return
	}
	nc.SetDeadline(time.Time{})
	defer sc.Close()
	id := sc.Permissions.ExtraData[identityKey{}].(*identity)
	gone, err := s.limits.user(id.user)
	if err != nil {
		s.stats.Refused.Add(1)
		s.log.Warn("connection refused", "addr", addr, "user", sc.User(), "reason", err)
		return
	}
	defer gone()
	s.stats.LoggedIn.Add(1)
	s.stats.Open.Add(1)
	defer s.stats.Open.Add(-1)
	s.log.Info("logged in", "addr", addr, "user", sc.User(), "method", id.method, "key", id.fingerprint)
	c := &connection{s: s, conn: sc, id: id}
	c.run(ctx, channels, requests)
	s.log.Info("connection ended", "addr", addr, "user", sc.User())
}
