package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// Ticket lets whoever has it join a bucket.
type Ticket struct {
	Bucket  [16]byte `cbor:"1,keyasint"`
	Name    string   `cbor:"2,keyasint"` // of the bucket where it was shared
	Owner   Key      `cbor:"3,keyasint"` // first owner of the bucket
	Issuer  Key      `cbor:"4,keyasint"` // node to ask
	Addrs   []string `cbor:"5,keyasint"` // HOST:PORT of the issuer
	Role    Role     `cbor:"6,keyasint"`
	Expires int64    `cbor:"7,keyasint"` // seconds since 1970
	Secret  [16]byte `cbor:"8,keyasint"`
}

const ticketPrefix = "alkfs-"

// maxTicket bounds a ticket's text, in bytes.
const maxTicket = 4 << 10

// NewSecret fills in a fresh secret.
func (t *Ticket) NewSecret() { rand.Read(t.Secret[:]) }

// SecretHash is what the issuer keeps of the secret.
func (t *Ticket) SecretHash() [32]byte { return sha256.Sum256(t.Secret[:]) }

// Expired reports whether the ticket is past its time.
func (t *Ticket) Expired(now time.Time) bool { return now.Unix() >= t.Expires }

// String returns the ticket as text: "alkfs-" and base32, with a checksum.
func (t *Ticket) String() string {
	b, err := encMode.Marshal(t)
	if err != nil {
		panic(err) // plain data always encodes
	}
	sum := sha256.Sum256(b)
	return ticketPrefix + strings.ToLower(text.EncodeToString(append(b, sum[:4]...)))
}

// ParseTicket is the inverse of String. White space and line breaks inside are
// ignored, as mail and chat programs add them.
func ParseTicket(s string) (t Ticket, err error) {
	s = strings.Join(strings.Fields(s), "")
	s, ok := strings.CutPrefix(strings.ToLower(s), ticketPrefix)
	if !ok || len(s) > maxTicket {
		return t, fmt.Errorf("that is no ticket: it begins with %q, as `alkfs share` prints it", ticketPrefix)
	}
	b, err := text.DecodeString(strings.ToUpper(s))
	if err != nil || len(b) < 5 {
		return t, fmt.Errorf("the ticket is damaged or incomplete: copy all of it")
	}
	b, sum := b[:len(b)-4], b[len(b)-4:]
	if want := sha256.Sum256(b); !bytes.Equal(sum, want[:4]) {
		return t, fmt.Errorf("the ticket is damaged or incomplete: copy all of it")
	}
	if err := decode(b, &t); err != nil {
		return t, fmt.Errorf("the ticket is of another version of alkfs: %w", err)
	}
	if t.Role < ReadOnly || t.Role > Admin || len(t.Addrs) > 32 {
		return t, fmt.Errorf("ticket %w", ErrInvalid)
	}
	return t, nil
}
