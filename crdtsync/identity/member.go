package identity

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
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
// Successor. A succession without a bucket hands no role over: it says of every
// bucket that what Successor writes may be in the name of Subject.
type Grant struct {
	Bucket    [16]byte `cbor:"1,keyasint"`
	Subject   Key      `cbor:"2,keyasint"`
	Role      Role     `cbor:"3,keyasint"`
	Serial    uint64   `cbor:"4,keyasint"` // greater than those of earlier grants about Subject
	Name      string   `cbor:"5,keyasint"` // of the subject, for people; an owner names itself (nameOwners)
	Heard     []Mark   `cbor:"6,keyasint"` // of a subject that may no longer write: what it wrote while it might
	Successor *Key     `cbor:"7,keyasint"` // signed by the subject itself; Role is then None
	Issued    int64    `cbor:"8,keyasint"` // ns since 1970, for people
	Issuer    Key      `cbor:"9,keyasint"`
	Sig       []byte   `cbor:"10,keyasint"`

	Kept [][32]byte `cbor:"11,keyasint,omitempty"` // with Successor: hashes of the grants of Subject that go on counting
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
	case g.Role > Admin || g.Serial == 0 || g.Serial > 1<<62 || len(g.Heard) > maxMarks || len(g.Kept) > maxMarks,
		g.Successor == nil && (len(g.Kept) > 0 || g.Everywhere()):
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

// GrantHash identifies an encoded grant.
func GrantHash(encoded []byte) [32]byte { return sha256.Sum256(encoded) }

// Hash returns GrantHash of the encoding of g.
func (g *Grant) Hash() [32]byte {
	b, err := encMode.Marshal(g)
	if err != nil {
		panic(err) // plain data always encodes
	}
	return GrantHash(b)
}

// Everywhere reports whether g is a succession for every bucket.
func (g *Grant) Everywhere() bool { return g.Bucket == [16]byte{} }

// Member is a node of a bucket, as its Membership has it.
type Member struct {
	Key    Key
	Name   string
	Role   Role
	Serial uint64 // of the grant that holds; 0 of the first owner
	Named  uint64 // of an owner: serial of the grant by which it named itself, 0 without one
	By     Key    // who signed it

	Replaced bool // another key has its place
	heard    map[Stream]uint64
}

// Heard returns what counts, of the changes of one that may not write.
func (o *Member) Heard() (all []Mark) {
	for s, seq := range o.heard {
		all = append(all, Mark{s, seq})
	}
	slices.SortFunc(all, func(a, b Mark) int { return bytes.Compare(a.Stream[:], b.Stream[:]) })
	return all
}

// Membership is who belongs to a bucket.
type Membership struct {
	Bucket  [16]byte
	members map[Key]Member
	next    map[Key]Key               // by a key that was replaced: its heir
	named   map[Key]Key               // by a key: the heir that it named, whether it has its place or not
	kept    map[Key]map[[32]byte]bool // by a key that was replaced: its grants that count
	origins map[Key][]Key             // by a key: those in whose name it may write, besides itself
	taken   map[Key]map[Stream]uint64 // by author: what compactions that count have in them
}

// Members returns what grants, in any order, come to in a bucket whose first
// owner is owner. Grants of other buckets are passed over.
func Members(bucket [16]byte, owner Key, grants []Grant) *Membership {
	m := &Membership{
		Bucket: bucket, members: map[Key]Member{owner: {Key: owner, Role: Owner, By: owner}},
		next: map[Key]Key{}, named: map[Key]Key{}, kept: map[Key]map[[32]byte]bool{}, origins: map[Key][]Key{},
	}
	about := map[Key][]Grant{}
	here, everywhere := map[Key][]Grant{}, map[Key][]Grant{} // successions by the old key
	for _, g := range grants {
		switch {
		case g.Successor != nil && g.Everywhere():
			everywhere[g.Subject] = append(everywhere[g.Subject], g)
		case g.Bucket != bucket:
		case g.Successor == nil:
			about[g.Subject] = append(about[g.Subject], g)
		default:
			here[g.Subject] = append(here[g.Subject], g)
		}
	}
	for _, all := range []map[Key][]Grant{here, everywhere} {
		for _, gs := range all {
			slices.SortFunc(gs, compareGrants)
		}
	}
	for k, gs := range here {
		m.named[k] = *gs[0].Successor
	}
	owners := m.succeed(owner, here) // every key that has been the owner
	m.nameOwners(owners, about)
	byOwner := func(g Grant) bool { return slices.Contains(owners, g.Issuer) && !m.late(&g) }
	for _, k := range sorted(about) {
		if !slices.Contains(owners, k) {
			m.settle(k, about[k], byOwner)
		}
	}
	admins := m.admins(here)
	for _, k := range sorted(about) {
		if slices.Contains(owners, k) || m.members[k].Role == Admin || m.kept[k] != nil {
			continue
		}
		m.settle(k, about[k], func(g Grant) bool {
			return byOwner(g) || g.Role < Admin && !m.late(&g) && admins[g.Issuer]
		})
		m.leave(k, about[k])
	}
	for _, k := range sorted(here) {
		if m.members[k].Role != None && !m.inherited(k) {
			m.succeed(k, here)
		}
	}
	m.trace(everywhere)
	return m
}

// nameOwners gives each of the keys that were the owner the name that it gave
// itself: by a grant about itself that says Admin, the greatest role there is to
// say, and has no other effect.
func (m *Membership) nameOwners(owners []Key, about map[Key][]Grant) {
	for _, k := range owners {
		var best *Grant
		for i, g := range about[k] {
			if g.Issuer == k && g.Role == Admin && g.Name != "" && !m.late(&g) && (best == nil || compareGrants(g, *best) > 0) {
				best = &about[k][i]
			}
		}
		if best != nil {
			o := m.members[k]
			o.Name, o.Named = best.Name, best.Serial
			m.members[k] = o
		}
	}
}

// admins hands the roles of admins on, and returns all keys whose grants are an
// admin's.
func (m *Membership) admins(here map[Key][]Grant) map[Key]bool {
	all := map[Key]bool{}
	for _, k := range sorted(m.members) {
		if m.members[k].Role < Admin || m.inherited(k) {
			continue
		}
		for _, old := range m.succeed(k, here) {
			all[old] = m.members[m.Heir(k)].Role >= Admin
		}
	}
	return all
}

// inherited reports whether k has the place of a key before it.
func (m *Membership) inherited(k Key) bool {
	for _, heir := range m.next {
		if heir == k {
			return true
		}
	}
	return false
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
	m.members[k] = Member{Key: k, Name: best.Name, Role: best.Role, Serial: best.Serial, By: best.Issuer, heard: marks(best.Heard)}
}

// leave takes the role from k that k has laid down since it got it. It cannot say what
// counts of its changes when others said that before: by making it a reader, or no member.
func (m *Membership) leave(k Key, grants []Grant) {
	was := m.members[k]
	if was.Role == None {
		return
	}
	m.settle(k, grants, func(g Grant) bool {
		return g.Issuer == k && g.Role == None && g.Serial >= was.Serial && !m.late(&g)
	})
	if left := m.members[k]; left.By == k && was.Role < ReadWrite {
		left.heard = was.heard
		m.members[k] = left
	}
}

// succeed follows the successions from k, hands its role to the last key, and
// returns all of them. Of two successions of one key the first holds that is not
// to a key that an admin has revoked; a key that gave itself a successor has no
// role any more, whatever became of that.
func (m *Membership) succeed(k Key, here map[Key][]Grant) []Key {
	chain := []Key{k}
	for range maxHandovers {
		old := m.members[k]
		all := slices.DeleteFunc(slices.Clone(here[k]), func(g Grant) bool { return slices.Contains(chain, *g.Successor) })
		if len(all) == 0 || m.kept[k] != nil {
			break
		}
		kept := map[[32]byte]bool{}
		m.kept[k] = kept
		i := slices.IndexFunc(all, func(g Grant) bool {
			o, known := m.members[*g.Successor]
			return !known || o.Role != None || m.kept[o.Key] != nil
		})
		g := all[max(i, 0)]
		r := Member{Key: k, Name: old.Name, Serial: g.Serial, By: k, Replaced: true, heard: old.heard}
		if old.Role >= ReadWrite {
			r.heard = marks(g.Heard)
		}
		m.members[k] = r
		if i < 0 {
			break
		}
		for _, h := range append(g.Kept, g.Hash()) {
			kept[h] = true
		}
		m.next[k] = *g.Successor
		heir, known := m.members[*g.Successor]
		if !known {
			heir = Member{Key: *g.Successor, Name: cmp.Or(g.Name, old.Name), Role: old.Role, Serial: g.Serial, By: k}
			m.members[heir.Key] = heir
		}
		k = heir.Key
		chain = append(chain, k)
	}
	return chain
}

// late reports whether g does not count since its issuer was replaced before.
func (m *Membership) late(g *Grant) bool {
	kept, replaced := m.kept[g.Issuer]
	return replaced && !kept[g.Hash()]
}

// Refuses reports whether g, which is not known yet, is to be passed over since
// another key has taken the place of its issuer: of a key that was replaced
// nothing new is believed, but for another heir where an admin revoked the first, and
// that the heir is so everywhere.
func (m *Membership) Refuses(g *Grant) bool {
	next, heir := m.next[g.Issuer]
	return m.late(g) && (g.Successor == nil || heir && !(g.Everywhere() && *g.Successor == next))
}

// trace finds out in whose name keys may write.
func (m *Membership) trace(everywhere map[Key][]Grant) {
	old := map[Key][]Key{}
	for _, k := range sorted(m.next) {
		old[m.next[k]] = append(old[m.next[k]], k)
	}
	for _, k := range sorted(everywhere) {
		if next := *everywhere[k][0].Successor; m.next[k] == (Key{}) {
			old[next] = append(old[next], k)
		}
	}
	for k := range old {
		all := []Key{k}
		for i := 0; i < len(all) && len(all) <= maxHandovers; i++ {
			for _, o := range old[all[i]] {
				if !slices.Contains(all, o) {
					all = append(all, o)
				}
			}
		}
		slices.SortFunc(all[1:], compareKeys)
		m.origins[k] = all[1:]
	}
}

// Speaks reports whether a change of k may say something in the name of another
// key: one that k has replaced.
func (m *Membership) Speaks(k, of Key) bool { return k == of || slices.Contains(m.origins[k], of) }

// Heir returns the key that has the place of k now, k itself unless it was
// replaced.
func (m *Membership) Heir(k Key) Key {
	for range maxHandovers {
		next, ok := m.next[k]
		if !ok {
			break
		}
		k = next
	}
	return k
}

// Named returns the key that k named as its heir, also where it could not, since it had
// no role any more; k itself when it named none.
func (m *Membership) Named(k Key) Key {
	if next, ok := m.named[k]; ok {
		return next
	}
	return k
}

// Replaced reports whether k has handed its place to another key.
func (m *Membership) Replaced(k Key) bool { return m.kept[k] != nil }

func marks(all []Mark) map[Stream]uint64 {
	m := make(map[Stream]uint64, len(all))
	for _, h := range all {
		m[h.Stream] = max(m[h.Stream], h.Seq)
	}
	return m
}

// compareGrants orders grants about one subject: by serial, then the lesser
// role is the greater grant, then by signature.
func compareGrants(a, b Grant) int {
	return cmp.Or(cmp.Compare(a.Serial, b.Serial), cmp.Compare(b.Role, a.Role), bytes.Compare(a.Sig, b.Sig))
}

func sorted[V any](m map[Key]V) []Key {
	return slices.SortedFunc(maps.Keys(m), compareKeys)
}

func compareKeys(a, b Key) int { return bytes.Compare(a[:], b[:]) }

// Role returns what k may do now.
func (m *Membership) Role(k Key) Role { return m.members[k].Role }

// Accepts reports whether a change of k counts that has number seq in stream:
// one of a member that may write, or one that it made while it might.
func (m *Membership) Accepts(k Key, stream Stream, seq uint64) bool {
	return seq <= m.Counts(k, stream)
}

// Counts returns up to which number the changes of k in a stream count.
func (m *Membership) Counts(k Key, stream Stream) uint64 {
	o := m.members[k]
	if o.Role >= ReadWrite {
		return math.MaxUint64
	}
	return max(o.heard[stream], m.taken[k][stream])
}

// Alike reports whether m and o let the same changes of k count.
func (m *Membership) Alike(o *Membership, k Key) bool {
	a, b := m.members[k], o.members[k]
	writes := a.Role >= ReadWrite
	return writes == (b.Role >= ReadWrite) && (writes || maps.Equal(a.heard, b.heard) && m.sameTaken(o, k)) && slices.Equal(m.origins[k], o.origins[k])
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

// FreeName returns a name for a node that joins: the one it wishes, with a number if
// that is another's, or the beginning of its key.
func (m *Membership) FreeName(k Key, wish string) string {
	taken := map[string]bool{}
	for _, o := range m.members {
		taken[o.Name] = taken[o.Name] || o.Key != k && !o.Replaced
	}
	name := wish
	for n := 2; taken[name] && name != ""; n++ {
		name = fmt.Sprint(wish, "-", n)
	}
	if !ValidName(name) {
		return k.Short()
	}
	return name
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
	case of == Owner:
		return fmt.Errorf("that is the owner: only the owner names itself, and its role stays, with a new key too (`alkfs peer rotate-key`)")
	case role > Admin:
		return fmt.Errorf("role %s cannot be granted", role)
	case have == Owner, have == Admin && role < Admin && of < Admin, issuer == subject && role == None:
		return nil
	case have == Admin:
		return fmt.Errorf("only the owner makes and unmakes admins")
	default:
		return fmt.Errorf("this machine's role is %s: ask an admin", have)
	}
}
