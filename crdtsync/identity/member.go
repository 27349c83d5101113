package identity

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"unicode"
	"unicode/utf8"
)

// Role is what a node may do with a bucket. Greater ones include lesser ones.
type Role uint8

const (
	None      Role = iota // nothing: revoked
	ReadOnly              // read names and bytes
	ReadWrite             // make changes
	Admin                 // grant and revoke all but admins
	Owner                 // everything; there is one
)

var roleNames = [...]string{"none", "ro", "rw", "admin", "owner"}

func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

// ParseRole accepts ro, rw and admin.
func ParseRole(s string) (Role, error) {
	i := slices.Index(roleNames[:], s)
	if i < int(ReadOnly) || i > int(Admin) {
		return None, fmt.Errorf("role %q: use ro, rw or admin", s)
	}
	return Role(i), nil
}

// Mark says how far a stream was heard.
type Mark struct {
	Stream Stream `cbor:"1,keyasint"`
	Seq    uint64 `cbor:"2,keyasint"`
}

// Grant gives Subject a role in a bucket, or hands the role of Subject to
// Successor.
type Grant struct {
	Bucket    [16]byte `cbor:"1,keyasint"`
	Subject   Key      `cbor:"2,keyasint"`
	Role      Role     `cbor:"3,keyasint"`
	Serial    uint64   `cbor:"4,keyasint"` // greater than those of earlier grants about Subject
	Name      string   `cbor:"5,keyasint"` // of the subject, for people
	Heard     []Mark   `cbor:"6,keyasint"` // of a subject that may no longer write: what it wrote while it might
	Successor *Key     `cbor:"7,keyasint"` // signed by the subject itself; Role is then None
	Issued    int64    `cbor:"8,keyasint"` // ns since 1970, for people
	Issuer    Key      `cbor:"9,keyasint"`
	Sig       []byte   `cbor:"10,keyasint"`
}

const grantPurpose = "alkfs grant 1"

// Limits of grants, which come from other nodes.
const (
	maxGrant     = 1 << 20 // bytes
	maxName      = 64      // bytes
	maxMarks     = 1 << 14
	maxHandovers = 16
)

// Seal signs g and returns its encoding.
func (g *Grant) Seal(private ed25519.PrivateKey) (b []byte, err error) {
	g.Issuer, g.Sig = KeyOf(private), nil
	if err := g.check(); err != nil {
		return nil, err
	}
	if g.Sig, err = sign(private, grantPurpose, g); err != nil {
		return nil, err
	}
	return encMode.Marshal(g)
}

// OpenGrant decodes b and checks its signature. Whether the issuer may grant is
// for Membership to say.
func OpenGrant(b []byte) (g Grant, err error) {
	if len(b) > maxGrant {
		return g, fmt.Errorf("grant of %d bytes: %w", len(b), ErrInvalid)
	}
	if err := decode(b, &g); err != nil {
		return g, fmt.Errorf("grant: %w", err)
	}
	if err := g.check(); err != nil {
		return g, err
	}
	unsigned := g
	unsigned.Sig = nil
	return g, verify(g.Issuer, grantPurpose, &unsigned, g.Sig)
}

func (g *Grant) check() error {
	switch {
	case g.Role > Admin || g.Serial == 0 || g.Serial > 1<<62 || len(g.Heard) > maxMarks:
		return fmt.Errorf("grant: %w", ErrInvalid)
	case g.Successor != nil && (g.Issuer != g.Subject || g.Role != None || *g.Successor == g.Subject):
		return fmt.Errorf("succession: %w", ErrInvalid)
	case !ValidName(g.Name) && g.Name != "":
		return fmt.Errorf("grant: name %q %w", g.Name, ErrInvalid)
	}
	return nil
}

// ValidName reports whether s will do as the name of a node: 1 to 64 bytes of
// printable UTF-8.
func ValidName(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) &&
		!bytes.ContainsFunc([]byte(s), func(r rune) bool { return !unicode.IsPrint(r) })
}

// Hash identifies an encoded grant.
func GrantHash(encoded []byte) [32]byte { return sha256.Sum256(encoded) }

// Member is a node of a bucket, as its Membership has it.
type Member struct {
	Key    Key
	Name   string
	Role   Role
	Serial uint64 // of the grant that holds; 0 of the first owner
	By     Key    // who signed it
	heard  map[Stream]uint64
}

// Membership is who belongs to a bucket.
type Membership struct {
	Bucket  [16]byte
	members map[Key]Member
}

// Members returns what grants, in any order, come to in a bucket whose first
// owner is owner. Grants of other buckets are passed over.
func Members(bucket [16]byte, owner Key, grants []Grant) *Membership {
	m := &Membership{Bucket: bucket, members: map[Key]Member{owner: {Key: owner, Role: Owner, By: owner}}}
	about := map[Key][]Grant{}
	next := map[Key]Grant{} // successions by the old key
	for _, g := range grants {
		switch {
		case g.Bucket != bucket:
		case g.Successor == nil:
			about[g.Subject] = append(about[g.Subject], g)
		default:
			if o, ok := next[g.Subject]; !ok || compareGrants(g, o) < 0 {
				next[g.Subject] = g // of two the first: a thief of the key comes late
			}
		}
	}
	owners := m.succeed(owner, next) // every key that has been the owner
	byOwner := func(g Grant) bool { return slices.Contains(owners, g.Issuer) }
	for _, k := range sorted(about) {
		if !slices.Contains(owners, k) {
			m.settle(k, about[k], byOwner)
		}
	}
	admins := m.admins()
	for _, k := range sorted(about) {
		if slices.Contains(owners, k) || m.members[k].Role == Admin {
			continue
		}
		m.settle(k, about[k], func(g Grant) bool {
			return byOwner(g) || g.Role < Admin && (admins[g.Issuer] || g.Issuer == k && g.Role == None)
		})
	}
	done := owners
	for _, k := range sorted(next) {
		if m.members[k].Role != None && !slices.Contains(done, k) {
			done = append(done, m.succeed(k, next)...)
		}
	}
	return m
}

func (m *Membership) admins() map[Key]bool {
	a := map[Key]bool{}
	for k, o := range m.members {
		if o.Role >= Admin {
			a[k] = true
		}
	}
	return a
}

// settle gives k what the greatest of its grants that count says.
func (m *Membership) settle(k Key, grants []Grant, counts func(Grant) bool) {
	var best *Grant
	for i, g := range grants {
		if counts(g) && (best == nil || compareGrants(g, *best) > 0) {
			best = &grants[i]
		}
	}
	if best == nil {
		return
	}
	o := Member{Key: k, Name: best.Name, Role: best.Role, Serial: best.Serial, By: best.Issuer, heard: map[Stream]uint64{}}
	for _, h := range best.Heard {
		o.heard[h.Stream] = max(o.heard[h.Stream], h.Seq)
	}
	m.members[k] = o
}

// succeed follows the successions from k, hands its role to the last key, and
// returns all of them.
func (m *Membership) succeed(k Key, next map[Key]Grant) []Key {
	chain := []Key{k}
	for range maxHandovers {
		g, ok := next[chain[len(chain)-1]]
		if !ok || slices.Contains(chain, *g.Successor) {
			break
		}
		chain = append(chain, *g.Successor)
	}
	o := m.members[k]
	if len(chain) == 1 || o.Role == None {
		return chain
	}
	for i, old := range chain[:len(chain)-1] {
		g := next[old]
		r := Member{Key: old, Name: o.Name, Serial: g.Serial, By: old, heard: map[Stream]uint64{}}
		for _, h := range g.Heard {
			r.heard[h.Stream] = h.Seq
		}
		m.members[old] = r
		o.Key, o.Serial, o.By = chain[i+1], g.Serial, old
		if g.Name != "" {
			o.Name = g.Name
		}
	}
	m.members[o.Key] = o
	return chain
}

// compareGrants orders grants about one subject: by serial, then the lesser
// role is the greater grant, then by signature.
func compareGrants(a, b Grant) int {
	return cmp.Or(cmp.Compare(a.Serial, b.Serial), cmp.Compare(b.Role, a.Role), bytes.Compare(a.Sig, b.Sig))
}

func sorted[V any](m map[Key]V) []Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b Key) int { return bytes.Compare(a[:], b[:]) })
}

// Role returns what k may do now.
func (m *Membership) Role(k Key) Role { return m.members[k].Role }

// Accepts reports whether a change of k counts that has number seq in stream:
// one of a member that may write, or one that it made while it might.
func (m *Membership) Accepts(k Key, stream Stream, seq uint64) bool {
	o := m.members[k]
	return o.Role >= ReadWrite || seq <= o.heard[stream]
}

// Member returns what is known of k; false when nothing is.
func (m *Membership) Member(k Key) (Member, bool) {
	o, ok := m.members[k]
	return o, ok
}

// All returns all nodes that are or were members, by key.
func (m *Membership) All() []Member {
	all := make([]Member, 0, len(m.members))
	for _, k := range sorted(m.members) {
		all = append(all, m.members[k])
	}
	return all
}

// Owner returns the present owner.
func (m *Membership) Owner() Key {
	for k, o := range m.members {
		if o.Role == Owner {
			return k
		}
	}
	return Key{}
}

// May reports whether issuer may now give subject the role.
func (m *Membership) May(issuer, subject Key, role Role) error {
	have, of := m.Role(issuer), m.Role(subject)
	switch {
	case role > Admin:
		return fmt.Errorf("role %s cannot be granted", role)
	case of == Owner:
		return fmt.Errorf("the owner's role cannot be changed: let it hand over with `alkfs peer rotate`")
	case have == Owner, have == Admin && role < Admin && of < Admin, issuer == subject && role == None:
		return nil
	case have == Admin:
		return fmt.Errorf("only the owner makes and unmakes admins")
	default:
		return fmt.Errorf("this node's role is %s: ask an admin", have)
	}
}
