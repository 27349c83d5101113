package blobstore

import (
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// Hash is the BLAKE3-256 of a content. The zero Hash stands for empty content.
type Hash [32]byte

// Sum returns the hash of p.
func Sum(p []byte) Hash {
	if len(p) == 0 {
		return Hash{}
	}
	return blake3.Sum256(p)
}

// HashOf returns the hash in a database column; nil gives the zero Hash.
func HashOf(b []byte) (h Hash) {
	copy(h[:], b)
	return h
}

// ParseHash is the inverse of String.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("hash %q: want %d hexadecimal digits", s, 2*len(h))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("hash %q: %w", s, err)
	}
	return h, nil
}

// String returns h in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h stands for empty content.
func (h Hash) IsZero() bool { return h == Hash{} }
