package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/alkdev/alkfs/crdtsync/codec"
)

// Key is an ed25519 public key: the identity of a node.
type Key [ed25519.PublicKeySize]byte

// ErrInvalid is wrapped by the errors for what was not signed, or not made, as
// it says.
var ErrInvalid = errors.New("not valid")

var text = base32.StdEncoding.WithPadding(base32.NoPadding)

// KeyOf returns the public half of a private key.
func KeyOf(private ed25519.PrivateKey) Key { return Key(private.Public().(ed25519.PublicKey)) }

// String returns the key in 52 lower-case letters and digits (base32, RFC 4648).
func (k Key) String() string { return strings.ToLower(text.EncodeToString(k[:])) }

// Short returns the first eight characters of String, for people.
func (k Key) Short() string { return k.String()[:8] }

// ParseKey is the inverse of String.
func ParseKey(s string) (k Key, err error) {
	b, err := text.DecodeString(strings.ToUpper(strings.TrimSpace(s)))
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("%q is no node key: 52 letters and digits as in `alkfs peer ls`", s)
	}
	return Key(b), nil
}

var encMode, decMode = codec.Modes(cbor.DecOptions{
	DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 8, MaxArrayElements: 1 << 16, MaxMapPairs: 64,
})

// sign returns the signature of v under purpose, so that what was signed for
// one is worth nothing for another.
func sign(private ed25519.PrivateKey, purpose string, v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(private, append([]byte(purpose+"\x00"), b...)), nil
}

func verify(k Key, purpose string, v any, sig []byte) error {
	b, err := encMode.Marshal(v)
	if err != nil {
		return err
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(k[:], append([]byte(purpose+"\x00"), b...), sig) {
		return fmt.Errorf("%s: signature %w", purpose, ErrInvalid)
	}
	return nil
}

// decode is the inverse of encMode.Marshal, and takes no other spelling of v.
func decode(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if again, err := encMode.Marshal(v); err != nil || !bytes.Equal(again, b) {
		return fmt.Errorf("%w: not in canonical form", ErrInvalid)
	}
	return nil
}
