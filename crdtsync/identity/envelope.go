package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/alkdev/alkfs/crdtsync/gate"
)

// Document names a document: the changes of one directory of one branch, or,
// with zero Branch and Dir, those of the bucket itself.
type Document struct {
	Bucket [16]byte `cbor:"1,keyasint"`
	Branch [16]byte `cbor:"2,keyasint"`
	Dir    uint64   `cbor:"3,keyasint"` // inode of the directory
	Gen    uint32   `cbor:"4,keyasint"` // generation, from 0; a new one replaces what became too long
}

// ID returns the identifier of the document, the same on every node.
func (d Document) ID() [16]byte {
	b := append(d.Bucket[:], d.Branch[:]...)
	b = binary.BigEndian.AppendUint64(b, d.Dir)
	b = binary.BigEndian.AppendUint32(b, d.Gen)
	h := sha256.Sum256(append([]byte("alkfs document\x00"), b...))
	return [16]byte(h[:16])
}

// OfBucket reports whether d is the document of the bucket itself.
func (d Document) OfBucket() bool { return d.Branch == [16]byte{} && d.Dir == 0 }

// Stream is a run of envelopes of one author, numbered from 1: one for each
// time its node was started. It is the actor of the changes in it.
type Stream = gate.Actor

// Form says what an envelope has of its change, and what its signature is over.
type Form uint8

const (
	First Form = iota // all of it; the signature is over that, so that it can only be sent whole
	Whole             // all of it; the signature is over the stub
	Stub              // the SHA-256 of it alone
)

// Envelope is a change as it travels and is stored.
type Envelope struct {
	Document
	Author Key      `cbor:"5,keyasint"`
	Stream Stream   `cbor:"6,keyasint"`
	Seq    uint64   `cbor:"7,keyasint"`            // in Stream, over all documents of the bucket, from 1
	Raw    []byte   `cbor:"8,keyasint"`            // the automerge change; in a stub, its SHA-256
	Prev   [32]byte `cbor:"9,keyasint"`            // Hash of number Seq-1; zero for the first
	Sig    []byte   `cbor:"10,keyasint"`           // by Author over the rest
	Form   Form     `cbor:"11,keyasint,omitempty"` // what Raw is
}

// Purposes of signatures: over the envelope, and over its stub.
const (
	firstPurpose    = "alkfs change 1"
	envelopePurpose = "alkfs change 2"
)

// Bounds of an encoded envelope and of a stub, in bytes.
const (
	maxEnvelope = gate.MaxBytes + 1<<10
	maxStub     = 512
)

// Stub returns e with its change replaced by the hash of it. The signature is good
// for both. False where that is not so.
func (e *Envelope) Stub() (Envelope, bool) {
	s := *e
	if e.Form == Whole {
		h := sha256.Sum256(e.Raw)
		s.Form, s.Raw = Stub, h[:]
	}
	return s, s.Form == Stub
}

// Hash identifies e, whole or as a stub. Each envelope names the one before it, so
// that an author who tells different nodes different things is found out with
// its next change.
func (e *Envelope) Hash() [32]byte {
	s, _ := e.Stub()
	b, err := s.Encode()
	if err != nil {
		panic(err) // plain data always encodes
	}
	return sha256.Sum256(b)
}

// Encode returns e as it travels and is stored.
func (e *Envelope) Encode() ([]byte, error) { return encMode.Marshal(e) }

// signed returns what the signature is over, and for what.
func (e *Envelope) signed() (Envelope, string) {
	s, ok := e.Stub()
	s.Sig = nil
	if ok {
		return s, envelopePurpose
	}
	return s, firstPurpose
}

// Seal signs e, which becomes a Whole one, with the author's key and returns its
// encoding.
func (e *Envelope) Seal(private ed25519.PrivateKey) (b []byte, err error) {
	e.Author, e.Form = KeyOf(private), Whole
	s, purpose := e.signed()
	if e.Sig, err = sign(private, purpose, &s); err != nil {
		return nil, err
	}
	return e.Encode()
}

// OpenEnvelope decodes b and checks the author's signature, and nothing else:
// not whether the author may, nor what the change says.
func OpenEnvelope(b []byte) (e Envelope, err error) {
	if e, err = DecodeEnvelope(b); err != nil {
		return e, err
	}
	s, purpose := e.signed()
	return e, verify(e.Author, purpose, &s, e.Sig)
}

// DecodeEnvelope is OpenEnvelope for what was checked when it came.
func DecodeEnvelope(b []byte) (e Envelope, err error) {
	if len(b) > maxEnvelope {
		return e, fmt.Errorf("change of %d bytes: %w", len(b), ErrInvalid)
	}
	if err := decode(b, &e); err != nil {
		return e, fmt.Errorf("change: %w", err)
	}
	switch {
	case e.Seq == 0 || e.Seq > 1<<62 || e.Dir > 1<<63-1:
		return e, fmt.Errorf("change: number %w", ErrInvalid)
	case e.Form > Stub, e.Form == Stub && (len(e.Raw) != sha256.Size || len(b) > maxStub || e.OfBucket()):
		return e, fmt.Errorf("change: form %w", ErrInvalid)
	}
	return e, nil
}
