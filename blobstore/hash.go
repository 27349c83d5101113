package blobstore

import (
	"encoding/hex"
	"fmt"
	"syscall"

	"github.com/zeebo/blake3"
)

// Hash is the BLAKE3-256 digest of a content. The zero Hash stands for empty
// content.
type Hash [32]byte

// Sum returns the hash of p.
func Sum(p []byte) Hash {
	if len(p) == 0 {
		return Hash{}
	}
	if len(p) <= GroupSize {
		return blake3.Sum256(p)
	}
	return sumTree(p)
}

// HashOf returns the hash stored in a column of 32 bytes; NULL is the zero
// Hash.
func HashOf(b []byte) (h Hash) {
	copy(h[:], b)
	return h
}

// ParseHash is the inverse of String.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("hash %q: want %d hexadecimal digits: %w", s, 2*len(h), syscall.EINVAL)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("hash %q: %w: %w", s, err, syscall.EINVAL)
	}
	return h, nil
}

// String returns 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h stands for empty content.
func (h Hash) IsZero() bool { return h == Hash{} }
