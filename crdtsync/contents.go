package crdtsync

import (
	"context"
	"slices"

	"github.com/alkdev/alkfs/blobstore"
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

// Shares reports whether any bucket is shared here.
func (r *Replica) Shares() (bool, error) {
	uuids, err := r.Buckets()
	return len(uuids) > 0, err
}
