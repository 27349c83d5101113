package crdtsync

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Replica is a store's part in the buckets it shares: what it has to tell
// others, and what others told it. It knows no network. Safe for concurrent
// use.
type Replica struct {
	db      *schema.DB
	tree    *pathtree.Tree
	private ed25519.PrivateKey
	past    [][]byte
	key     identity.Key
	stream  identity.Stream // of this start
	log     *slog.Logger
	now     func() time.Time

	news    signal        // changes came in, or were made
	packs   signal        // compactions, or pieces of their packs, did
	drain   chan struct{} // holds one while changes are made of what was taken for sending
	folding chan struct{} // holds one while a pack is made or put in the place of changes

	again map[[16]byte]bool // buckets that were looked at by sayOnce; guarded by drain

	mu          sync.Mutex // guards what follows
	members     map[[16]byte]membership
	compactions map[[32]byte]compaction // by hash: those that were read
	distrusted  map[[32]byte]bool       // by hash: those that this node cannot follow

	pieceVersions int // of a pack
}

// Config configures NewReplica.
type Config struct {
	DB      *schema.DB
	Tree    *pathtree.Tree
	Private ed25519.PrivateKey
	Past    [][]byte         // how the node came to this key, by SealHeir; nothing for its first
	Logger  *slog.Logger     // default: discard
	Now     func() time.Time // default: time.Now
}

// NewReplica returns the replica of a store, with a stream of its own.
func NewReplica(c Config) *Replica {
	r := &Replica{
		db: c.DB, tree: c.Tree, private: c.Private, past: c.Past, key: identity.KeyOf(c.Private),
		log: c.Logger, now: c.Now, again: map[[16]byte]bool{}, members: map[[16]byte]membership{},
		compactions: map[[32]byte]compaction{}, distrusted: map[[32]byte]bool{}, pieceVersions: pieceVersions,
		drain: make(chan struct{}, 1), folding: make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	rand.Read(r.stream[:])
	return r
}

// Key returns the identity of this node.
func (r *Replica) Key() identity.Key { return r.key }

// ErrNotShared says that a bucket is not shared here.
var ErrNotShared = errors.New("the bucket is not shared: share it with `alkfs share BUCKET`, or join it with `alkfs join TICKET`")

// lookup returns the shared bucket of a uuid.
func (r *Replica) lookup(tx *schema.Tx, uuid [16]byte) (shared, error) {
	all, err := r.sharedBuckets(tx)
	if err != nil {
		return shared{}, err
	}
	for _, sh := range all {
		if sh.bucket.UUID == uuid {
			return sh, nil
		}
	}
	return shared{}, fmt.Errorf("bucket %x: %w", uuid[:4], ErrNotShared)
}

// Buckets returns the uuids of the buckets that are shared here.
func (r *Replica) Buckets() (uuids [][16]byte, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		uuids = nil
		all, err := r.sharedBuckets(tx)
		for _, sh := range all {
			uuids = append(uuids, sh.bucket.UUID)
		}
		return err
	})
	return uuids, err
}

// Share begins to share a bucket, with this node as its owner. It does nothing
// when the bucket is shared already.
func (r *Replica) Share(bucket int64) error {
	return r.db.Write(func(tx *schema.Tx) error { return r.share(tx, bucket) })
}

// share makes this node the owner of a bucket that is not shared yet.
func (r *Replica) share(tx *schema.Tx, bucket int64) error {
	all, err := r.sharedBuckets(tx)
	if err != nil || slices.ContainsFunc(all, func(sh shared) bool { return sh.bucket.ID == bucket }) {
		return err
	}
	if err := insertShared(tx, bucket, r.key); err != nil {
		return err
	}
	_, err = r.addGrants(tx, shared{bucket: pathtree.Bucket{ID: bucket}, owner: r.key}, r.past)
	return err
}

// Adopt makes, or finds, the local copy of a bucket of others. Of one that is made
// the branches are kept that match patterns; all when there is none.
func (r *Replica) Adopt(uuid [16]byte, name string, owner identity.Key, grants [][]byte, patterns ...string) (b pathtree.Bucket, err error) {
	if err := CheckPatterns(patterns); err != nil {
		return b, err
	}
	err = r.db.Write(func(tx *schema.Tx) error {
		if b, err = r.findOrAdopt(tx, uuid, name); err != nil {
			return err
		}
		_, was, err := findShared(tx, b)
		if err != nil {
			return err
		}
		if err := insertShared(tx, b.ID, owner); err != nil {
			return err
		}
		if !was && len(patterns) > 0 {
			if err := writeFilter(tx, b.ID, patterns); err != nil {
				return err
			}
		}
		sh, _, err := findShared(tx, b)
		if err != nil {
			return err
		}
		if sh.owner != owner {
			return fmt.Errorf("bucket %q is shared here with another owner, %s: that is not the bucket of the ticket", b.Name, sh.owner.Short())
		}
		before, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		if _, err = r.addGrants(tx, sh, append(slices.Clone(grants), r.past...)); err != nil {
			return err
		}
		return r.recount(tx, sh, before)
	})
	return b, err
}

func (r *Replica) findOrAdopt(tx *schema.Tx, uuid [16]byte, name string) (pathtree.Bucket, error) {
	all, err := r.tree.Buckets(tx)
	if err != nil {
		return pathtree.Bucket{}, err
	}
	for _, b := range all {
		if b.UUID == uuid {
			return b, nil
		}
	}
	return r.tree.AdoptBucket(tx, uuid, name)
}

func insertShared(tx *schema.Tx, bucket int64, owner identity.Key) error {
	s := tx.Stmt(`INSERT INTO sync_bucket (bucket, owner) VALUES (?, ?) ON CONFLICT DO NOTHING`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, owner[:])
	_, err := s.Step()
	return err
}

// Drain makes changes of what this node wrote in the bucket since the last
// Drain, and returns how many. They are committed when it returns. With nothing to
// do it writes nothing: who waits for commits to drain would never rest.
func (r *Replica) Drain(ctx context.Context, uuid [16]byte) (n int, err error) {
	r.drain <- struct{}{}
	defer func() { <-r.drain }()
	m, err := r.Membership(uuid)
	if err != nil {
		return 0, err
	}
	if err := r.sayOnce(uuid); err != nil {
		return 0, err
	}
	reads := m.Role(r.key) < identity.ReadWrite
	if done, err := r.drained(uuid, reads); err != nil || done {
		return 0, err
	}
	for rest := true; rest && err == nil; {
		err = r.db.Write(func(tx *schema.Tx) error {
			sh, err := r.lookup(tx, uuid)
			if err == nil {
				rest, err = r.takeSome(tx, sh)
			}
			return err
		})
		made := 0
		for more := 1; err == nil && more > 0 && !reads; made += more { // what a reader changes stays here
			if more, err = r.makeChanges(uuid); err == nil {
				err = ctx.Err()
			}
		}
		if made > 0 && err == nil {
			if err = r.db.Commit(); err == nil {
				r.news.wake()
			}
		}
		n += made
	}
	return n, err
}

// sayOnce is sayAgain, the first time: the grant that lets this node write may have
// come to the key before, just before that was replaced. Those that come are
// followed by recount.
func (r *Replica) sayOnce(uuid [16]byte) error {
	if r.again[uuid] || len(r.past) == 0 {
		return nil
	}
	err := r.db.Write(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err == nil {
			err = r.sayAgain(tx, sh)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("what was written with another key is to be said again: %w", err)
	}
	r.again[uuid] = true
	return nil
}

// drained reports whether there is nothing to make changes of; of a reader, which
// makes none, whether all that there would be is in sync_out.
func (r *Replica) drained(uuid [16]byte, reads bool) (done bool, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		if done, err = r.tree.Exported(tx, sh.bucket.ID); err != nil || !done || reads {
			return err
		}
		waiting, err := count(tx, `SELECT count(*) FROM (SELECT 1 FROM sync_out WHERE bucket = ? LIMIT 1)`, sh.bucket.ID)
		done = waiting == 0
		return err
	})
	return done, err
}
