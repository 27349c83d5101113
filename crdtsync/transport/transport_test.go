package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

func private(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, p, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func listen(t *testing.T, p ed25519.PrivateKey, admit func(identity.Key) bool, join func(context.Context, identity.Key, []byte) []byte) *Endpoint {
	t.Helper()
	e, err := Listen("127.0.0.1:0", Config{Private: p, Admit: admit, Join: join})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func anybody(identity.Key) bool { return true }
func nobody(identity.Key) bool  { return false }

func TestMembersTalk(t *testing.T) {
	pa, pb := private(t), private(t)
	a := listen(t, pa, anybody, nil)
	b := listen(t, pb, func(k identity.Key) bool { return k == identity.KeyOf(pa) }, nil)
	out, err := a.Dial(t.Context(), b.Addr().String(), identity.KeyOf(pb))
	if err != nil {
		t.Fatal(err)
	}
	in, err := b.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if in.Peer() != identity.KeyOf(pa) || out.Peer() != identity.KeyOf(pb) {
		t.Error("the wrong keys")
	}
	s, err := out.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("ping"))
	s.CloseWrite()
	r, err := in.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "ping" {
		t.Errorf("got %q, %v", got, err)
	}
	r.Write([]byte("pong"))
	r.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "pong" {
		t.Errorf("got %q, %v", got, err)
	}
	b.Drop(identity.KeyOf(pa), "revoked")
	<-out.Done()
	if app := (*quic.ApplicationError)(nil); !errors.As(out.Err(), &app) || app.ErrorMessage != "revoked" {
		t.Errorf("ended with %v", out.Err())
	}
}

// refused reports whether dialling, and talking, fails.
func refused(t *testing.T, from, to *Endpoint, k identity.Key) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, to.Addr().String(), k)
	if err != nil {
		return err
	}
	s, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	s.Write([]byte("hello"))
	if _, err = s.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger was answered")
	}
	return err
}

func TestStrangersAreRefused(t *testing.T) {
	pa, pb := private(t), private(t)
	a, b := listen(t, pa, anybody, nil), listen(t, pb, nobody, nil)
	if err := refused(t, a, b, identity.KeyOf(pb)); err == nil {
		t.Error("an unknown key was let in")
	}
	if err := refused(t, b, a, identity.KeyOf(pb)); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("another key than the one expected answered: %v", err)
	}
	select {
	case <-b.in:
		t.Error("the connection of a stranger came up")
	default:
	}
}

// TestNoOrWrongCertificate dials with none, and with one of another kind.
func TestNoOrWrongCertificate(t *testing.T) {
	b := listen(t, private(t), anybody, nil)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ec.Public(), ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{
		"none": nil, "ecdsa": {{Certificate: [][]byte{der}, PrivateKey: ec}},
	} {
		for _, proto := range []string{protoSync, protoJoin} {
			c, err := quic.DialAddr(t.Context(), b.Addr().String(), &tls.Config{
				Certificates: certs, NextProtos: []string{proto}, InsecureSkipVerify: true,
			}, quicConfig())
			if err != nil {
				continue
			}
			s, err := c.OpenStreamSync(t.Context())
			if err == nil {
				s.Write([]byte("x"))
				_, err = s.Read(make([]byte, 1))
			}
			if err == nil {
				t.Errorf("certificate %s, %s: answered", name, proto)
			}
		}
	}
}

func TestJoin(t *testing.T) {
	pa, pb := private(t), private(t)
	var asked atomic.Int32
	a := listen(t, pa, nobody, nil)
	b := listen(t, pb, nobody, func(_ context.Context, k identity.Key, req []byte) []byte {
		asked.Add(1)
		if k != identity.KeyOf(pa) {
			t.Errorf("asked by %s", k)
		}
		return append([]byte("answer to "), req...)
	})
	got, err := a.AskToJoin(t.Context(), b.Addr().String(), identity.KeyOf(pb), []byte("me"))
	if err != nil || string(got) != "answer to me" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := b.AskToJoin(t.Context(), a.Addr().String(), identity.KeyOf(pa), []byte("me")); err == nil {
		t.Error("a node that nobody may join answered")
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestManyStrangersDoNotStopMembers(t *testing.T) {
	pa, pb := private(t), private(t)
	block := make(chan struct{})
	defer close(block)
	b := listen(t, pb, func(k identity.Key) bool { return k == identity.KeyOf(pa) }, func(ctx context.Context, _ identity.Key, _ []byte) []byte {
		select {
		case <-block:
		case <-ctx.Done():
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 * maxJoins {
		s := listen(t, private(t), nobody, nil)
		go s.AskToJoin(ctx, b.Addr().String(), identity.KeyOf(pb), []byte("me"))
	}
	a := listen(t, pa, anybody, nil)
	if _, err := a.Dial(t.Context(), b.Addr().String(), identity.KeyOf(pb)); err != nil {
		t.Error(err)
	}
	if _, err := b.Accept(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
}

func BenchmarkStream(b *testing.B) {
	_, pa, _ := ed25519.GenerateKey(rand.Reader)
	_, pb, _ := ed25519.GenerateKey(rand.Reader)
	ea, err := Listen("127.0.0.1:0", Config{Private: pa, Admit: anybody})
	if err != nil {
		b.Fatal(err)
	}
	defer ea.Close()
	eb, err := Listen("127.0.0.1:0", Config{Private: pb, Admit: anybody})
	if err != nil {
		b.Fatal(err)
	}
	defer eb.Close()
	go func() {
		c, err := eb.Accept(b.Context())
		if err != nil {
			return
		}
		s, err := c.AcceptStream(b.Context())
		if err != nil {
			return
		}
		io.Copy(io.Discard, s)
	}()
	c, err := ea.Dial(b.Context(), eb.Addr().String(), identity.KeyOf(pb))
	if err != nil {
		b.Fatal(err)
	}
	s, err := c.OpenStream(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := s.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// A Write that the other side does not take ends when the stream is closed, and
// when its connection is closed as well at that moment.
func TestCloseEndsAWrite(t *testing.T) {
	pa, pb := private(t), private(t)
	a, b := listen(t, pa, anybody, nil), listen(t, pb, anybody, nil)
	for _, whole := range []bool{false, true} {
		out, err := a.Dial(t.Context(), b.Addr().String(), identity.KeyOf(pb))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := out.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		var written atomic.Int64
		go func() {
			for {
				n, err := s.Write(make([]byte, 64<<10))
				written.Add(int64(n))
				if err != nil {
					ended <- err
					return
				}
			}
		}()
		for last := int64(-1); written.Load() == 0 || written.Load() != last; time.Sleep(50 * time.Millisecond) {
			last = written.Load() // until nothing goes any more
		}
		s.Close()
		if whole {
			out.Close("done")
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("the write still waits; connection closed: %v", whole)
		}
		out.Close("done")
	}
}
