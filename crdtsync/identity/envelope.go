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

// Stream is a run of envelopes of one author, numbered from 1: one for each
// time its node was started. It is the actor of the changes in it.
type Stream = gate.Actor

// Envelope is a change as it travels and is stored.
type Envelope struct {
	Document
	Author Key      `cbor:"5,keyasint"`
	Stream Stream   `cbor:"6,keyasint"`
	Seq    uint64   `cbor:"7,keyasint"`  // in Stream, over all documents of the bucket, from 1
	Raw    []byte   `cbor:"8,keyasint"`  // the automerge change
	Prev   [32]byte `cbor:"9,keyasint"`  // EnvelopeHash of number Seq-1; zero for the first
	Sig    []byte   `cbor:"10,keyasint"` // by Author over the rest
}

// EnvelopeHash identifies an encoded envelope. Each names the one before it, so
// that an author who tells different nodes different things is found out with
// its next change.
func EnvelopeHash(encoded []byte) [32]byte { return sha256.Sum256(encoded) }

const envelopePurpose = "alkfs change 1"

// maxEnvelope bounds an encoded envelope, in bytes.
const maxEnvelope = gate.MaxBytes + 1<<10

// Seal signs e with the author's key and returns its encoding.
func (e *Envelope) Seal(private ed25519.PrivateKey) (b []byte, err error) {
	e.Author, e.Sig = KeyOf(private), nil
	if e.Sig, err = sign(private, envelopePurpose, e); err != nil {
		return nil, err
	}
	return encMode.Marshal(e)
}

// OpenEnvelope decodes b and checks the author's signature, and nothing else:
// not whether the author may, nor what the change says.
func OpenEnvelope(b []byte) (e Envelope, err error) {
	if len(b) > maxEnvelope {
		return e, fmt.Errorf("change of %d bytes: %w", len(b), ErrInvalid)
	}
	if err := decode(b, &e); err != nil {
		return e, fmt.Errorf("change: %w", err)
	}
	if e.Seq == 0 || e.Seq > 1<<62 || e.Dir > 1<<63-1 {
		return e, fmt.Errorf("change: number %w", ErrInvalid)
	}
	unsigned := e
	unsigned.Sig = nil
	return e, verify(e.Author, envelopePurpose, &unsigned, e.Sig)
}
