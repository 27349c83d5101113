package sftpsrv

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/alkdev/alkfs/sftpsrv/access"
)

// HostKeyFile is the name of the host key in the store directory.
const HostKeyFile = "ssh_host_ed25519_key"

// hostKey reads the store's host key, and makes it at the first start.
func hostKey(dir string) (ssh.Signer, error) {
	path := filepath.Join(dir, HostKeyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeHostKey(path); err != nil {
			return nil, err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

// makeHostKey writes a new key to path, unless another process does so first.
func makeHostKey(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "alkfs")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), HostKeyFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// ParseKeys reads public keys in the form of authorized_keys files. Options
// before a key are refused, because they would not be obeyed.
func ParseKeys(text []byte) ([]access.Key, error) {
	var out []access.Key
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, comment, options, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			return out, fmt.Errorf("not a public key: %.40q", line)
		}
		if len(options) > 0 {
			return out, fmt.Errorf("key options are not supported: %s", strings.Join(options, ","))
		}
		if _, ok := key.(*ssh.Certificate); ok {
			return out, errors.New("this is a certificate: give the key of the authority that signed it")
		}
		out = append(out, access.Key{Blob: key.Marshal(), Comment: comment})
	}
	return out, nil
}

// KeyName returns the fingerprint of a key as ssh-keygen -l prints it, with its
// type and comment.
func KeyName(k access.Key) string {
	key, err := ssh.ParsePublicKey(k.Blob)
	if err != nil {
		return "unreadable key"
	}
	return strings.TrimSpace(ssh.FingerprintSHA256(key) + " " + key.Type() + " " + k.Comment)
}

func authorizedLine(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}
