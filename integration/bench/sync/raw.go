package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Plain bytes over quic-go, to compare with: one process sends noise from
// memory, the other reads it and throws it away or writes it to a file. Nothing is
// checked.

const (
	rawPiece = 256 << 10 // bytes read and written at once
	rawProto = "raw"
)

// quicConfig has the windows of crdtsync/transport.
func quicConfig() *quic.Config {
	return &quic.Config{
		MaxIdleTimeout:             30 * time.Second,
		InitialStreamReceiveWindow: 1 << 20, MaxStreamReceiveWindow: 8 << 20,
		InitialConnectionReceiveWindow: 2 << 20, MaxConnectionReceiveWindow: 32 << 20,
	}
}

// rawServe prints where it listens, and sends as many bytes as each stream asks
// for, until standard input ends.
func rawServe() error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, private.Public(), private)
	if err != nil {
		return err
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	ln, err := (&quic.Transport{Conn: udp}).Listen(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, NextProtos: []string{rawProto},
	}, quicConfig())
	if err != nil {
		return err
	}
	fmt.Println(udp.LocalAddr())
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			go func() {
				for {
					s, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					go rawSend(s)
				}
			}()
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func rawSend(s *quic.Stream) {
	var n [8]byte
	if _, err := io.ReadFull(s, n[:]); err != nil {
		return
	}
	b := make([]byte, rawPiece)
	mrand.NewChaCha8([32]byte{}).Read(b)
	for left := binary.BigEndian.Uint64(n[:]); left > 0; {
		k := min(left, rawPiece)
		if _, err := s.Write(b[:k]); err != nil {
			return
		}
		left -= k
	}
	s.Close()
}

// rawFetch brings size bytes over so many connections, into a file unless path is
// "".
func rawFetch(addr string, size int64, conns int, path string) error {
	ctx := context.Background()
	out := io.WriterAt(discard{})
	if path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			return err
		}
		out = f
	}
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	share := size / int64(conns)
	for i := range conns {
		c, err := rawDial(ctx, addr)
		if err != nil {
			return err
		}
		defer c.CloseWithError(0, "")
		wg.Go(func() { errs <- rawReceive(ctx, c, out, int64(i)*share, share) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func rawDial(ctx context.Context, addr string) (*quic.Conn, error) {
	return quic.DialAddr(ctx, addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{rawProto}}, quicConfig())
}

func rawReceive(ctx context.Context, c *quic.Conn, out io.WriterAt, at, n int64) error {
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
		return err
	}
	b := make([]byte, rawPiece)
	for end := at + n; at < end; {
		k, err := io.ReadFull(s, b[:min(rawPiece, end-at)])
		if err != nil {
			return err
		}
		if _, err := out.WriteAt(b[:k], at); err != nil {
			return err
		}
		at += int64(k)
	}
	return nil
}

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
