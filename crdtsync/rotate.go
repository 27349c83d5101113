package crdtsync

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/crdtsync/transport"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// A node replaces its key by another: it signs, in every bucket, that the other
// has its place (HandOver). What it wrote it wrote, and in the tree it goes on
// under the name that it began with, so that no version changes its identity.
// Members that were away know the old key alone: the node proves to them, or they
// have it prove when they dial the old key, that the new one is its heir, by the
// protocol in which strangers join.

// ErrReplaced ends an Engine whose node has another key now.
var ErrReplaced = errors.New("this node's key was replaced")

// SealHeir returns the statement, for all buckets that the node will ever belong
// to, that next takes the place of the key (Config.Past).
func SealHeir(private ed25519.PrivateKey, next identity.Key, at time.Time) ([]byte, error) {
	g := identity.Grant{Subject: identity.KeyOf(private), Serial: 1, Successor: &next, Issued: at.UnixNano()}
	return g.Seal(private)
}

// HandOver gives the place of this node's key in every bucket to next, signed by
// the key. From then on the replica can write nothing, and its Engine ends. Once
// more, it does nothing.
func (r *Replica) HandOver(next identity.Key) error {
	err := r.db.Write(func(tx *schema.Tx) error {
		all, err := r.sharedBuckets(tx)
		if err != nil {
			return err
		}
		for _, sh := range all {
			if err := r.handOver(tx, sh, next); err != nil {
				return fmt.Errorf("bucket %s: %w", sh.bucket.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.db.Sync()
}

func (r *Replica) handOver(tx *schema.Tx, sh shared, next identity.Key) error {
	m, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	was, known := m.Member(r.key)
	if !known || m.Replaced(r.key) {
		return nil
	}
	g := identity.Grant{Bucket: sh.bucket.UUID, Subject: r.key, Serial: was.Serial + 1, Name: was.Name, Successor: &next, Issued: r.now().UnixNano()}
	if g.Heard, err = heard(tx, sh.bucket.ID, r.key); err != nil {
		return err
	}
	encoded, err := readGrants(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	for _, b := range encoded {
		o, err := identity.OpenGrant(b)
		if err != nil {
			return err
		}
		if o.Issuer == r.key && !o.Everywhere() {
			g.Kept = append(g.Kept, identity.GrantHash(b))
		}
	}
	packed, err := r.rawCompactions(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	for _, c := range packed {
		if c.Issuer == r.key {
			g.Kept = append(g.Kept, c.hash)
		}
	}
	b, err := g.Seal(r.private)
	if err != nil {
		return err
	}
	if err := r.resign(tx, sh, next); err != nil {
		return err
	}
	_, err = r.addGrants(tx, sh, [][]byte{b})
	return err
}

// resign has what waits in sync_out be sent by another key: an entry leaves out
// the author's own.
func (r *Replica) resign(tx *schema.Tx, sh shared, next identity.Key) error {
	type row struct {
		id    int64
		value []byte
	}
	var rows []row
	s := tx.Stmt(`SELECT id, branch, dir, key, value FROM sync_out WHERE bucket = ?`)
	s.BindInt64(1, sh.bucket.ID)
	for err := range schema.Rows(s) {
		if err != nil {
			return err
		}
		d := identity.Document{Bucket: sh.bucket.UUID, Dir: uint64(s.ColumnInt64(2))}
		s.ColumnBytes(1, d.Branch[:])
		e, err := resign(gate.Entry{Key: s.ColumnText(3), Value: schema.Bytes(s, 4)}, d, pathtree.NodeKey(r.key), pathtree.NodeKey(next))
		if err != nil {
			return err
		}
		rows = append(rows, row{s.ColumnInt64(0), e.Value})
	}
	for _, o := range rows {
		s := tx.Stmt(`UPDATE sync_out SET value = ? WHERE id = ?`)
		s.BindBytes(1, o.value)
		s.BindInt64(2, o.id)
		if _, err := s.Step(); err != nil {
			return err
		}
	}
	return nil
}

func resign(e gate.Entry, d identity.Document, old, next pathtree.NodeKey) (gate.Entry, error) {
	var b pathtree.Batch
	if err := decodeEntry(e, d, old, &b); err != nil {
		return e, err
	}
	if len(b.Records) > 0 {
		return encodeRecord(&b.Records[0], next)
	}
	return encodeVersion(&b.Versions[0], next)
}

// replaced reports whether another key has this node's place in some bucket.
func (r *Replica) replaced() (yes bool, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		yes = false
		all, err := r.sharedBuckets(tx)
		for _, sh := range all {
			m, err := r.membership(tx, sh)
			if err != nil {
				return err
			}
			yes = yes || m.Replaced(r.key)
		}
		return err
	})
	return yes, err
}

// claimed returns k and the keys whose place k has by its statements (SealHeir).
func claimed(k identity.Key, past [][]byte) []identity.Key {
	keys := []identity.Key{k}
	for _, b := range slices.Backward(past[max(0, len(past)-maxPast):]) {
		g, err := identity.OpenGrant(b)
		if err == nil && g.Everywhere() && *g.Successor == keys[len(keys)-1] {
			keys = append(keys, g.Subject)
		}
	}
	return keys
}

// maxPast bounds the keys that a node claims to have replaced.
const maxPast = 64

// heirs returns, encoded, how this node came to its key in the buckets that it
// has in common with k, or with a key whose place k has by its statements; nothing
// if it has its first.
func (r *Replica) heirs(k identity.Key, past [][]byte) (proofs [][]byte, err error) {
	var common [][16]byte
	for _, k := range claimed(k, past) {
		uuids, err := r.CommonWith(k)
		if err != nil {
			return nil, err
		}
		for _, b := range uuids {
			if !slices.Contains(common, b) {
				common = append(common, b)
			}
		}
	}
	err = r.db.Read(func(tx *schema.Tx) error {
		proofs = nil
		for _, b := range common {
			sh, err := r.lookup(tx, b)
			if err != nil {
				return err
			}
			m, err := r.membership(tx, sh)
			if err != nil {
				return err
			}
			encoded, err := readGrants(tx, sh.bucket.ID)
			if err != nil {
				return err
			}
			for _, p := range encoded {
				g, err := identity.OpenGrant(p)
				if err != nil {
					return err
				}
				if g.Successor != nil && g.Subject != r.key && m.Heir(g.Subject) == r.key && !m.Refuses(&g) {
					proofs = append(proofs, p)
				}
			}
		}
		return nil
	})
	return proofs, err
}

// errNoHeir says that k proved nothing.
var errNoHeir = errors.New("no proof that the key has the place of a member's")

// believe takes in the proofs that k has the place of a member, in so far as they
// prove it; errNoHeir when they do not for any bucket.
func (r *Replica) believe(k identity.Key, proofs [][]byte) error {
	byBucket := map[[16]byte][][]byte{}
	for _, p := range proofs {
		g, err := identity.OpenGrant(p)
		if err != nil {
			return fmt.Errorf("%w: %w", errNoHeir, err)
		}
		if g.Successor == nil {
			return errNoHeir
		}
		byBucket[g.Bucket] = append(byBucket[g.Bucket], p)
	}
	believed := false
	for _, uuid := range slices.SortedFunc(maps.Keys(byBucket), func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }) {
		ps := byBucket[uuid]
		err := r.withGrants(uuid, func(tx *schema.Tx, sh shared) error {
			would, err := r.membershipWith(tx, sh, ps)
			if err != nil {
				return err
			}
			if would.Role(k) == identity.None {
				return errNoHeir
			}
			_, err = r.addGrants(tx, sh, ps)
			return err
		})
		switch {
		case errors.Is(err, errNoHeir), errors.Is(err, ErrNotShared):
			continue
		case err != nil:
			return err
		}
		believed = true
	}
	if !believed {
		return errNoHeir
	}
	return r.db.Sync()
}

// membershipWith returns what the membership would be with more grants.
func (r *Replica) membershipWith(tx *schema.Tx, sh shared, more [][]byte) (*identity.Membership, error) {
	m, err := r.membership(tx, sh)
	if err != nil {
		return nil, err
	}
	encoded, err := readGrants(tx, sh.bucket.ID)
	if err != nil {
		return nil, err
	}
	var grants []identity.Grant
	for i, b := range append(encoded, more...) {
		g, err := identity.OpenGrant(b)
		if err != nil {
			return nil, err
		}
		if i < len(encoded) || !m.Refuses(&g) {
			grants = append(grants, g)
		}
	}
	return identity.Members(sh.bucket.UUID, sh.owner, grants), nil
}

// asker asks by the protocol in which strangers join.
type asker interface {
	AskToJoin(ctx context.Context, addr string, k identity.Key, request []byte) ([]byte, error)
}

// dialHeir asks the node that answered a dial of a key with another one to prove
// that it is that key's heir. It says whose place this node has itself, which the
// other may not have heard either.
func (r *Replica) dialHeir(ctx context.Context, net asker, addr string, wrong *transport.WrongKeyError) error {
	request, err := encMode.Marshal(&joinRequest{Prove: true, Past: r.past})
	if err != nil {
		return err
	}
	b, err := net.AskToJoin(ctx, addr, wrong.Got, request)
	if err != nil {
		return err
	}
	var a joinAnswer
	if err := decMode.Unmarshal(b, &a); err != nil {
		return err
	}
	if err := r.believe(wrong.Got, a.Proofs); err != nil {
		return err
	}
	r.log.Info("a member has another key", "was", wrong.Want.Short(), "is", wrong.Got.String())
	return r.setPlaces(wrong.Got, []string{addr})
}

// prove shows k, which did not let this node in, that its key is the heir of one
// that k may know.
func (r *Replica) prove(ctx context.Context, net asker, addr string, k identity.Key) error {
	proofs, err := r.heirs(k, nil)
	if err != nil || len(proofs) == 0 {
		return err
	}
	own, _, err := r.placesOf(r.key)
	if err != nil {
		return err
	}
	request, err := encMode.Marshal(&joinRequest{Proofs: proofs, Addrs: own})
	if err != nil {
		return err
	}
	_, err = net.AskToJoin(ctx, addr, k, request)
	return err
}

// answerHeir answers a request of the join protocol that is about heirs.
func (r *Replica) answerHeir(k identity.Key, q *joinRequest) (a joinAnswer, err error) {
	if q.Prove {
		a.Proofs, err = r.heirs(k, q.Past)
		return a, err
	}
	if err := r.believe(k, q.Proofs); err != nil {
		return a, err
	}
	r.log.Info("a member has another key", "is", k.String())
	if validAddrs(q.Addrs) && len(q.Addrs) > 0 {
		err = r.setPlaces(k, q.Addrs)
	}
	return a, err
}
