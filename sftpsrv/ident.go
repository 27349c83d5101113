package sftpsrv

import (
	"bytes"
	"errors"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// ident is the server's identification (RFC 4253 section 4.2). It tells no
// version.
const ident = "SSH-2.0-alkfs"

// identConn is a connection whose identifications were exchanged before
// x/crypto/ssh sees it, which does it again: it reads the client's once more
// and its own first write is dropped.
type identConn struct {
	net.Conn
	client  []byte // its line, with the end
	unread  []byte
	dropped bool
}

// exchangeIdent sends ident and reads the client's identification, which
// decides the ciphers offered.
func exchangeIdent(nc net.Conn) (*identConn, error) {
	if _, err := io.WriteString(nc, ident+"\r\n"); err != nil {
		return nil, err
	}
	var line [255]byte
	for i := range line {
		if _, err := io.ReadFull(nc, line[i:i+1]); err != nil {
			return nil, err
		}
		if line[i] == '\n' {
			if !bytes.HasPrefix(line[:], []byte("SSH-2.0-")) {
				return nil, errors.New("not an SSH 2 client")
			}
			return &identConn{Conn: nc, client: line[:i+1], unread: line[:i+1]}, nil
		}
	}
	return nil, errors.New("identification too long")
}

func (c *identConn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *identConn) Write(p []byte) (int, error) {
	if !c.dropped {
		c.dropped = true
		if string(p) != ident+"\r\n" {
			return 0, errors.New("unexpected first write")
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// ciphers are those offered, nil for x/crypto's own. The client's preference
// decides, and OpenSSH prefers ChaCha20, for which Go has no assembler on amd64:
// AES-GCM is some six times as fast where the processor has AES. OpenSSH has had
// it since 6.2, of 2013; other clients get the choice.
func (c *identConn) ciphers() []string {
	aes := cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	if aes && bytes.HasPrefix(c.client, []byte("SSH-2.0-OpenSSH_")) {
		return []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	}
	return nil
}
