package alkfs

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

// The key is replaced in three steps, each on the disk before the next: the new
// key is written to nodeKeyNext, the old one hands its place over in every
// bucket (one transaction), and the file takes the place of nodeKeyFile. A crash
// leaves a node with its old key that nobody was told is old, or one that is
// finished by whichever process opens the store next.
const (
	nodeKeyFile = "node.key"
	nodeKeyNext = "node.key.next"

	pemKey  = "PRIVATE KEY"
	pemPast = "ALKFS SUCCESSION"
)

// keyring is what a key file holds: an ed25519 private key (PKCS #8 in PEM), and
// how the node came to it (crdtsync.SealHeir), oldest first.
type keyring struct {
	private ed25519.PrivateKey
	past    [][]byte
}

func (k keyring) key() NodeKey { return identity.KeyOf(k.private) }

// nodeKey returns the key of the store in dir, making it when there is none.
func nodeKey(dir string) (keyring, error) {
	k, err := readKey(filepath.Join(dir, nodeKeyFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = newKeyring(); err != nil {
		return k, err
	}
	// Of several processes that do so at once one wins, and all go on with its key.
	if err := writeKey(dir, nodeKeyFile, k, os.Link); err != nil && !errors.Is(err, fs.ErrExist) {
		return k, err
	}
	return readKey(filepath.Join(dir, nodeKeyFile))
}

func newKeyring(past ...[]byte) (keyring, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return keyring{private, past}, err
}

func readKey(path string) (k keyring, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return k, err
	}
	name := filepath.Base(path)
	block, text := pem.Decode(text)
	if block == nil {
		return k, fmt.Errorf("%s is not a key in PEM: put the store's own key back from a backup", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return k, fmt.Errorf("%s: %w: put the store's own key back from a backup", name, err)
	}
	var ok bool
	if k.private, ok = key.(ed25519.PrivateKey); !ok {
		return k, fmt.Errorf("%s holds a %T, not an ed25519 key", name, key)
	}
	for {
		if block, text = pem.Decode(text); block == nil {
			return k, nil
		}
		if block.Type == pemPast {
			k.past = append(k.past, block.Bytes)
		}
	}
}

// writeKey writes a key file, mode 0600, and brings it to the disk; place puts it
// where it belongs.
func writeKey(dir, name string, k keyring, place func(from, to string) error) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	for _, p := range k.past {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: pemPast, Bytes: p})...)
	}
	f, err := os.CreateTemp(dir, "."+nodeKeyFile+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := place(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// lockKeys keeps the key from being replaced, by any process, until unlock.
func lockKeys(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f.Close, nil
}

// keyring returns this store's key. A replacement that was broken off is finished
// first.
func (s *Store) keyring() (keyring, error) {
	_, err := os.Stat(filepath.Join(s.dir, nodeKeyNext))
	if errors.Is(err, fs.ErrNotExist) {
		return nodeKey(s.dir)
	}
	if err != nil {
		return keyring{}, err
	}
	unlock, err := lockKeys(s.dir)
	if err != nil {
		return keyring{}, err
	}
	defer unlock()
	if err := s.replaceKey(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return keyring{}, fmt.Errorf("finish replacing the node's key: %w", err)
	}
	return nodeKey(s.dir)
}

// RotateKey replaces this node's key by a fresh one, which takes its place in all
// shared buckets, and returns both. The old key is not kept. A process that
// synchronises goes on with the new one by itself.
func (s *Store) RotateKey() (old, now NodeKey, err error) {
	if err := s.everything(); err != nil {
		return old, now, err
	}
	unlock, err := lockKeys(s.dir)
	if err != nil {
		return old, now, err
	}
	defer unlock()
	k, err := nodeKey(s.dir)
	if err != nil {
		return old, now, err
	}
	next, err := s.nextKey(k)
	if err == nil {
		err = s.replaceKey()
	}
	return k.key(), next.key(), err
}

// nextKey is the first step: it writes the new key, unless one is there already.
func (s *Store) nextKey(k keyring) (next keyring, err error) {
	if next, err = readKey(filepath.Join(s.dir, nodeKeyNext)); !errors.Is(err, fs.ErrNotExist) {
		return next, err
	}
	if next, err = newKeyring(k.past...); err != nil {
		return next, err
	}
	heir, err := crdtsync.SealHeir(k.private, next.key(), time.Now())
	if err != nil {
		return next, err
	}
	next.past = append(next.past[:len(next.past):len(next.past)], heir)
	return next, writeKey(s.dir, nodeKeyNext, next, os.Rename)
}

// replaceKey does the other steps.
func (s *Store) replaceKey() error {
	next, err := readKey(filepath.Join(s.dir, nodeKeyNext))
	if err != nil {
		return err
	}
	k, err := nodeKey(s.dir)
	if err != nil {
		return err
	}
	if err := s.replicaOf(k).HandOver(next.key()); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, nodeKeyNext), filepath.Join(s.dir, nodeKeyFile)); err != nil {
		return err
	}
	return syncDir(s.dir)
}
