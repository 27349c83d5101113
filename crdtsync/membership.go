package crdtsync

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// membership is a Membership with the number of grants it was made of: they
// are only ever added.
type membership struct {
	*identity.Membership
	grants      int64
	compactions [2]int64     // countCompactions
	owner       identity.Key // the first
}

// Membership returns who belongs to a bucket, by every grant that was heard.
func (r *Replica) Membership(uuid [16]byte) (m *identity.Membership, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err == nil {
			m, err = r.membership(tx, sh)
		}
		return err
	})
	return m, err
}

func (r *Replica) membership(tx *schema.Tx, sh shared) (*identity.Membership, error) {
	n, err := countGrants(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	compactions, err := countCompactions(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	m, ok := r.members[sh.bucket.UUID]
	r.mu.Unlock()
	if ok && m.grants == n && m.compactions == compactions && m.owner == sh.owner {
		return m.Membership, nil
	}
	encoded, err := readGrants(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	var grants []identity.Grant
	for _, b := range encoded {
		g, err := identity.OpenGrant(b)
		if err != nil {
			return nil, err // it was checked when it came
		}
		grants = append(grants, g)
	}
	made := identity.Members(sh.bucket.UUID, sh.owner, grants)
	packed, err := r.rawCompactions(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	var taken []identity.Compaction
	for _, c := range packed {
		taken = append(taken, c.Compaction)
	}
	made.TakeIn(taken)
	r.mu.Lock()
	r.members[sh.bucket.UUID] = membership{made, n, compactions, sh.owner}
	r.mu.Unlock()
	return made, nil
}

func countGrants(tx *schema.Tx, bucket int64) (int64, error) {
	s := tx.Stmt(`SELECT count(*) FROM sync_grant WHERE bucket = ?`)
	s.BindInt64(1, bucket)
	_, err := s.Step()
	return s.ColumnInt64(0), err
}

func readGrants(tx *schema.Tx, bucket int64) (all [][]byte, err error) {
	s := tx.Stmt(`SELECT data FROM sync_grant WHERE bucket = ? ORDER BY hash`)
	s.BindInt64(1, bucket)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return all, err
		}
		b := schema.Bytes(s, 0)
		all = append(all, b)
	}
}

// Grants returns every grant of a bucket that was heard, encoded, and whether
// that is more than after.
func (r *Replica) Grants(uuid [16]byte, after int) (all [][]byte, more bool, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all, more = nil, false
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		n, err := countGrants(tx, sh.bucket.ID)
		if err != nil || int(n) <= after {
			return err
		}
		more = true
		all, err = readGrants(tx, sh.bucket.ID)
		return err
	})
	return all, more, err
}

// maxGrants bounds the grants kept of one bucket; an honest one has a few for
// each member.
const maxGrants = 100_000

// AddGrants takes in grants of a bucket, and returns how many were new. A grant
// counts by its signatures, whoever brings it.
func (r *Replica) AddGrants(uuid [16]byte, encoded [][]byte) (n int, err error) {
	err = r.withGrants(uuid, func(tx *schema.Tx, sh shared) error {
		n, err = r.addGrants(tx, sh, encoded)
		return err
	})
	return n, err
}

// withGrants runs f, which adds grants, and takes in what counts by them.
func (r *Replica) withGrants(uuid [16]byte, f func(tx *schema.Tx, sh shared) error) error {
	write := func(recount bool) error {
		return r.db.Write(func(tx *schema.Tx) error {
			sh, err := r.lookup(tx, uuid)
			if err != nil {
				return err
			}
			before, err := r.membership(tx, sh)
			if err != nil {
				return err
			}
			if err := f(tx, sh); err != nil || !recount {
				return err
			}
			return r.recount(tx, sh, before)
		})
	}
	err := write(true)
	if errors.Is(err, errRecount) {
		r.log.Error("grants were taken in, but the tree does not follow them", "err", err)
		return write(false)
	}
	return err
}

func (r *Replica) addGrants(tx *schema.Tx, sh shared, encoded [][]byte) (n int, err error) {
	have, err := countGrants(tx, sh.bucket.ID)
	if err != nil {
		return 0, err
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return 0, err
	}
	for _, b := range encoded {
		g, err := identity.OpenGrant(b)
		if err == nil && g.Bucket != sh.bucket.UUID && !g.Everywhere() {
			err = errors.New("a grant of another bucket")
		}
		if err != nil {
			return n, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if m.Refuses(&g) {
			r.log.Warn("a grant of a key that was replaced is passed over", "issuer", g.Issuer.String(), "subject", g.Subject.String())
			continue
		}
		if int(have)+n >= maxGrants {
			return n, fmt.Errorf("%w: more than %d grants", ErrRefused, maxGrants)
		}
		h := identity.GrantHash(b)
		s := tx.Stmt(`INSERT INTO sync_grant (bucket, hash, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindBytes(2, h[:])
		s.BindBytes(3, b)
		ok, err := s.Step()
		if err != nil {
			return n, err
		}
		if ok {
			n++
			if _, err := s.Step(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// Grant gives a node a role in a bucket, None to revoke it, signed by this node,
// and a name unless that is "".
// A node that may no longer write keeps what it had written, as far as that was
// heard here.
func (r *Replica) Grant(uuid [16]byte, subject identity.Key, role identity.Role, name string) error {
	return r.withGrants(uuid, func(tx *schema.Tx, sh shared) error { return r.grant(tx, sh, subject, role, name, false) })
}

// Accept lets all changes count that are here of a node that may not write, and
// that nobody had heard who said so. Its role stays.
func (r *Replica) Accept(uuid [16]byte, subject identity.Key) error {
	return r.withGrants(uuid, func(tx *schema.Tx, sh shared) error {
		m, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		if m.Role(subject) >= identity.ReadWrite {
			return nil // all of it counts
		}
		return r.grant(tx, sh, subject, m.Role(subject), "", true)
	})
}

// Rename gives a member another name, which no other member may have. The owner is
// named by itself alone.
func (r *Replica) Rename(uuid [16]byte, subject identity.Key, name string) error {
	return r.withGrants(uuid, func(tx *schema.Tx, sh shared) error {
		m, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		if !identity.ValidName(name) {
			return fmt.Errorf("%q is no name of a machine: 1 to 64 printable bytes", name)
		}
		if m.FreeName(subject, name) != name {
			return fmt.Errorf("another machine is called %q: choose another name", name)
		}
		was, _ := m.Member(subject)
		if was.Role != identity.Owner || subject != r.key {
			return r.grant(tx, sh, subject, was.Role, name, false)
		}
		g := identity.Grant{Bucket: sh.bucket.UUID, Subject: subject, Role: identity.Admin, Serial: was.Named + 1, Name: name, Issued: r.now().UnixNano()}
		b, err := g.Seal(r.private)
		if err != nil {
			return err
		}
		_, err = r.addGrants(tx, sh, [][]byte{b})
		return err
	})
}

// grant is Grant; with all, everything that is here counts of a node that may not
// write.
func (r *Replica) grant(tx *schema.Tx, sh shared, subject identity.Key, role identity.Role, name string, all bool) error {
	m, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	if err := m.May(r.key, subject, role); err != nil {
		return err
	}
	if m.Replaced(subject) {
		return fmt.Errorf("%s was replaced by %s: name that one", subject.Short(), m.Heir(subject).Short())
	}
	was, _ := m.Member(subject)
	g := identity.Grant{Bucket: sh.bucket.UUID, Subject: subject, Role: role, Serial: was.Serial + 1, Name: name, Issued: r.now().UnixNano()}
	if g.Name == "" {
		g.Name = was.Name
	}
	switch {
	case role >= identity.ReadWrite:
	case was.Role < identity.ReadWrite && !all && was.By != subject: // which may have said anything as it left
		g.Heard = was.Heard() // what came later did not count
	default:
		if g.Heard, err = heard(tx, sh.bucket.ID, subject); err != nil {
			return err
		}
	}
	encoded := [][]byte{nil}
	if encoded[0], err = g.Seal(r.private); err != nil {
		return err
	}
	if was.Role == identity.Admin && role < identity.Admin {
		again, err := r.affirm(m, sh, subject)
		if err != nil {
			return err
		}
		encoded = append(encoded, again...)
	}
	_, err = r.addGrants(tx, sh, encoded)
	return err
}

// affirm repeats, in this node's name, what an admin that is about to be
// unmade granted: its grants count no longer.
func (r *Replica) affirm(m *identity.Membership, sh shared, admin identity.Key) (encoded [][]byte, err error) {
	for _, o := range m.All() {
		if m.Heir(o.By) != admin || o.Key == admin || o.Role == identity.None {
			continue
		}
		g := identity.Grant{Bucket: sh.bucket.UUID, Subject: o.Key, Role: o.Role, Serial: o.Serial + 1, Name: o.Name, Issued: r.now().UnixNano()}
		b, err := g.Seal(r.private)
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, b)
	}
	return encoded, nil
}

// heard returns how far the streams of a node have come here.
func heard(tx *schema.Tx, bucket int64, k identity.Key) (marks []identity.Mark, err error) {
	all, err := readMarks(tx, bucket)
	for _, m := range all {
		if m.Author == k {
			marks = append(marks, identity.Mark{Stream: m.Stream, Seq: m.Seq})
		}
	}
	return marks, err
}

// Admits reports whether a node belongs to any bucket that is shared here.
func (r *Replica) Admits(k identity.Key) bool {
	uuids, err := r.CommonWith(k)
	return err == nil && len(uuids) > 0
}

// CommonWith returns the buckets shared here that k, and this node, belong to.
func (r *Replica) CommonWith(k identity.Key) (uuids [][16]byte, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		uuids = nil
		all, err := r.sharedBuckets(tx)
		if err != nil {
			return err
		}
		for _, sh := range all {
			m, err := r.membership(tx, sh)
			if err != nil {
				return err
			}
			if m.Role(k) >= identity.ReadOnly && m.Role(r.key) >= identity.ReadOnly {
				uuids = append(uuids, sh.bucket.UUID)
			}
		}
		return nil
	})
	return uuids, err
}

// Tickets.

// Invite returns a ticket for a bucket, which so many nodes may use until it
// expires. The bucket becomes shared, with this node as its owner, unless it is
// already.
func (r *Replica) Invite(bucket int64, role identity.Role, expires time.Time, uses int, addrs []string) (t identity.Ticket, err error) {
	err = r.db.Write(func(tx *schema.Tx) error {
		if err := r.share(tx, bucket); err != nil {
			return err
		}
		buckets, err := r.tree.Buckets(tx)
		if err != nil {
			return err
		}
		for _, b := range buckets {
			if b.ID == bucket {
				t.Bucket, t.Name = b.UUID, b.Name
			}
		}
		sh, err := r.lookup(tx, t.Bucket)
		if err != nil {
			return err
		}
		m, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		if err := m.May(r.key, identity.Key{}, role); err != nil {
			return err
		}
		t.Owner, t.Issuer, t.Addrs, t.Role, t.Expires = sh.owner, r.key, addrs, role, expires.Unix()
		t.NewSecret()
		h := t.SecretHash()
		s := tx.Stmt(`INSERT INTO sync_ticket (secret, bucket, role, expires, uses) VALUES (?, ?, ?, ?, ?)`)
		s.BindBytes(1, h[:])
		s.BindInt64(2, bucket)
		s.BindInt64(3, int64(role))
		s.BindInt64(4, t.Expires)
		s.BindInt64(5, int64(uses))
		_, err = s.Step()
		return err
	})
	if err == nil {
		err = r.db.Commit()
	}
	return t, err
}

// joinRequest is what a node sends that wants to join, and joinAnswer what it
// gets.
type joinRequest struct {
	Bucket [16]byte `cbor:"1,keyasint"`
	Secret [16]byte `cbor:"2,keyasint"`
	Name   string   `cbor:"3,keyasint"` // of the node, for people
	Addrs  []string `cbor:"4,keyasint"`

	Proofs [][]byte `cbor:"5,keyasint,omitempty"` // instead: that the asker has the place of a member
	Prove  bool     `cbor:"6,keyasint,omitempty"` // instead: the other side is to prove that
	Past   [][]byte `cbor:"7,keyasint,omitempty"` // with Prove: how the asker came to its key (SealHeir), oldest first
}

type joinAnswer struct {
	Err    string       `cbor:"1,keyasint,omitempty"`
	Name   string       `cbor:"2,keyasint"` // of the bucket
	Owner  identity.Key `cbor:"3,keyasint"`
	Grants [][]byte     `cbor:"4,keyasint"`
	Proofs [][]byte     `cbor:"5,keyasint,omitempty"`
}

// redeem uses a ticket for k.
func (r *Replica) redeem(k identity.Key, q joinRequest) (a joinAnswer, err error) {
	t := identity.Ticket{Secret: q.Secret}
	h := t.SecretHash()
	err = r.db.Write(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, q.Bucket)
		if err != nil {
			return errTicket
		}
		s := tx.Stmt(`SELECT role, expires, uses FROM sync_ticket WHERE secret = ? AND bucket = ?`)
		s.BindBytes(1, h[:])
		s.BindInt64(2, sh.bucket.ID)
		ok, err := s.Step()
		if err != nil {
			return err
		}
		if !ok {
			return errTicket
		}
		role, expires, uses := identity.Role(s.ColumnInt64(0)), s.ColumnInt64(1), s.ColumnInt64(2)
		m, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		if (uses <= 0 && m.Role(k) < role) || r.now().Unix() >= expires {
			return errTicket
		}
		if o, known := m.Member(k); known && o.Role == identity.None {
			return errTicket // revoked: no ticket, only a grant, lets it in again
		}
		if m.Role(k) < role {
			if err := r.grant(tx, sh, k, role, m.FreeName(k, q.Name), false); err != nil {
				return err
			}
			if err := r.recount(tx, sh, m); err != nil {
				return err
			}
			s = tx.Stmt(`UPDATE sync_ticket SET uses = uses - 1 WHERE secret = ?`)
			s.BindBytes(1, h[:])
			if _, err := s.Step(); err != nil {
				return err
			}
		}
		a.Name, a.Owner = sh.bucket.Name, sh.owner
		a.Grants, err = readGrants(tx, sh.bucket.ID)
		return err
	})
	if err == nil {
		err = r.db.Sync() // the grant must not be forgotten once it is out
	}
	return a, err
}

// errTicket says as little as it can to a stranger.
var errTicket = errors.New("the ticket is not good here: it was used, has expired, or is of another machine. Ask for a new one")

// Members returns who belongs to a bucket or did, by key.
func (r *Replica) Members(uuid [16]byte) ([]identity.Member, error) {
	m, err := r.Membership(uuid)
	if err != nil {
		return nil, err
	}
	return slices.Clone(m.All()), nil
}
