package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
)

// End says how far a stream came, and with which envelope.
type End struct {
	Author Key      `cbor:"1,keyasint"`
	Stream Stream   `cbor:"2,keyasint"`
	Seq    uint64   `cbor:"3,keyasint"`
	Last   [32]byte `cbor:"4,keyasint"` // Envelope.Hash of number Seq
}

// Compaction says that a pack has all that the changes of a bucket up to Ends came
// to, and may stand in their place.
type Compaction struct {
	Bucket [16]byte   `cbor:"1,keyasint"`
	Gen    uint32     `cbor:"2,keyasint"` // greater than that of any document with a change up to Ends
	Ends   []End      `cbor:"3,keyasint"`
	Pieces [][32]byte `cbor:"4,keyasint"` // SHA-256 of the pieces of the pack, in order
	Made   int64      `cbor:"5,keyasint"` // ns since 1970, for people
	Issuer Key        `cbor:"6,keyasint"`
	Sig    []byte     `cbor:"7,keyasint"`
}

const compactionPurpose = "alkfs compaction 1"

// Limits of compactions, which come from other nodes.
const (
	maxCompaction = 8 << 20 // bytes
	maxEnds       = 1 << 16
	maxPieces     = 1 << 16
	maxGen        = 1 << 30
)

// Seal signs c and returns its encoding.
func (c *Compaction) Seal(private ed25519.PrivateKey) (b []byte, err error) {
	c.Issuer, c.Sig = KeyOf(private), nil
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Sig, err = sign(private, compactionPurpose, c); err != nil {
		return nil, err
	}
	return encMode.Marshal(c)
}

// OpenCompaction decodes b and checks its signature. Whether it counts is for
// Membership to say.
func OpenCompaction(b []byte) (c Compaction, err error) {
	if len(b) > maxCompaction {
		return c, fmt.Errorf("compaction of %d bytes: %w", len(b), ErrInvalid)
	}
	if err := decode(b, &c); err != nil {
		return c, fmt.Errorf("compaction: %w", err)
	}
	if err := c.check(); err != nil {
		return c, err
	}
	unsigned := c
	unsigned.Sig = nil
	return c, verify(c.Issuer, compactionPurpose, &unsigned, c.Sig)
}

func (c *Compaction) check() error {
	if c.Gen == 0 || c.Gen > maxGen || len(c.Ends) > maxEnds || len(c.Pieces) == 0 || len(c.Pieces) > maxPieces {
		return fmt.Errorf("compaction: %w", ErrInvalid)
	}
	seen := make(map[stream]bool, len(c.Ends))
	for _, e := range c.Ends {
		if e.Seq == 0 || e.Seq > 1<<62 || seen[stream{e.Author, e.Stream}] {
			return fmt.Errorf("compaction: end of a stream %w", ErrInvalid)
		}
		seen[stream{e.Author, e.Stream}] = true
	}
	return nil
}

// CompactionHash identifies an encoded compaction, its signature included.
func CompactionHash(encoded []byte) [32]byte { return sha256.Sum256(encoded) }

// Hash returns CompactionHash of the encoding of c.
func (c *Compaction) Hash() [32]byte {
	b, err := encMode.Marshal(c)
	if err != nil {
		panic(err) // plain data always encodes
	}
	return CompactionHash(b)
}

// Body identifies what c says, whoever signed it.
func (c *Compaction) Body() [32]byte {
	o := *c
	o.Issuer, o.Sig = Key{}, nil
	return o.Hash()
}

// Covers reports whether c has in it all that o has.
func (c *Compaction) Covers(o *Compaction) bool {
	ends := make(map[stream]uint64, len(c.Ends))
	for _, e := range c.Ends {
		ends[stream{e.Author, e.Stream}] = e.Seq
	}
	for _, e := range o.Ends {
		if ends[stream{e.Author, e.Stream}] < e.Seq {
			return false
		}
	}
	return true
}

type stream struct {
	author Key
	stream Stream
}

// Compacts reports whether c counts: the owner signed it. That of a key that was
// replaced counts if it was named with the successor.
func (m *Membership) Compacts(c *Compaction) bool {
	kept, replaced := m.kept[c.Issuer]
	return c.Bucket == m.Bucket && m.Role(m.Heir(c.Issuer)) == Owner && (!replaced || kept[c.Hash()])
}

// Proposes reports whether c, which does not count, may come to: an admin signed it.
func (m *Membership) Proposes(c *Compaction) bool {
	return c.Bucket == m.Bucket && m.Role(c.Issuer) == Admin
}

// TakeIn has the changes count that are in compactions which count, also of those
// who may not write any more: where a pack is in their place, nobody can tell
// which of its versions are whose changes'.
func (m *Membership) TakeIn(all []Compaction) {
	m.taken = map[Key]map[Stream]uint64{}
	for i := range all {
		if c := &all[i]; m.Compacts(c) {
			for _, e := range c.Ends {
				if m.taken[e.Author] == nil {
					m.taken[e.Author] = map[Stream]uint64{}
				}
				m.taken[e.Author][e.Stream] = max(m.taken[e.Author][e.Stream], e.Seq)
			}
		}
	}
}

// sameTaken reports whether the same changes of k are in compactions by m and o, as
// far as that matters: those beyond what was heard of it.
func (m *Membership) sameTaken(o *Membership, k Key) bool {
	beyond := func(m *Membership) map[Stream]uint64 {
		all := map[Stream]uint64{}
		for s, seq := range m.taken[k] {
			if seq > m.members[k].heard[s] {
				all[s] = seq
			}
		}
		return all
	}
	return maps.Equal(beyond(m), beyond(o))
}
