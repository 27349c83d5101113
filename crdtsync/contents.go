package crdtsync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// BucketsOf returns the uuids of the shared buckets that have h as content.
func (r *Replica) BucketsOf(_ context.Context, h blobstore.Hash) (uuids [][16]byte, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		uuids, err = r.tree.BucketsWith(tx, h)
		return err
	})
	return uuids, err
}

// MayRead reports whether a node may have the bytes of h as content of a bucket:
// it belongs to the bucket, and the bucket has h. To know a hash is no right to
// its bytes.
func (r *Replica) MayRead(ctx context.Context, k identity.Key, uuid [16]byte, h blobstore.Hash) bool {
	m, err := r.Membership(uuid)
	if err != nil || m.Role(k) < identity.ReadOnly {
		return false
	}
	uuids, err := r.BucketsOf(ctx, h)
	return err == nil && slices.Contains(uuids, uuid)
}

// Named says of each content whether a version of a bucket here names it, to a
// member; others get blobs.ErrNotAllowed.
func (r *Replica) Named(_ context.Context, k identity.Key, uuid [16]byte, hashes []blobstore.Hash) (named []bool, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if errors.Is(err, ErrNotShared) {
			return blobs.ErrNotAllowed
		}
		if err != nil {
			return err
		}
		m, err := r.membership(tx, sh)
		if err == nil && m.Role(k) < identity.ReadOnly {
			err = blobs.ErrNotAllowed
		}
		if err == nil {
			err = r.nothingComing(tx, sh)
		}
		if err == nil {
			named, err = r.tree.Named(tx, sh.bucket.ID, hashes)
		}
		return err
	})
	return named, err
}

// nothingComing refuses to speak for versions that are to be here and are not.
func (r *Replica) nothingComing(tx *schema.Tx, sh shared) error {
	n, _, err := r.wantedStubs(tx, sh, 0)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d changes of branches that are kept here are still to come", n)
	}
	return err
}

// Others returns the other members of a bucket; none where this node belongs to it
// no more.
func (r *Replica) Others(uuid [16]byte) (keys []identity.Key, err error) {
	m, err := r.Membership(uuid)
	if errors.Is(err, ErrNotShared) {
		return nil, nil
	}
	if err != nil || m.Role(r.key) < identity.ReadOnly {
		return nil, err
	}
	for _, o := range m.All() {
		if o.Key != r.key && o.Role >= identity.ReadOnly {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// HasAll reports whether a node is connected and has acknowledged every change of a
// bucket that is here.
func (e *Engine) HasAll(uuid [16]byte, k identity.Key) (bool, error) {
	m := MemberStatus{Key: k}
	err := e.connection(uuid, &m)
	return m.Connected && m.Behind == 0 && m.Lacks == 0, err
}

// Shares reports whether any bucket is shared here.
func (r *Replica) Shares() (bool, error) {
	uuids, err := r.Buckets()
	return len(uuids) > 0, err
}
