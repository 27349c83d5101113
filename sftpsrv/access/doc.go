// Package access keeps who may use a store over SSH and what of it: users,
// their public keys, and their grants.
//
// A grant names a bucket, or all of them, a glob over the branch names in it,
// and whether changes are allowed. What no grant covers does not exist for a
// user: Rights answers every question about it, and the front ends show or name
// nothing that it does not allow. Several grants may cover a branch; the widest
// counts. Mode bits and owners of files are not part of this: inside a granted
// branch a user is what the store's own process is.
//
// Grants refer to a bucket by its id and go when it goes, so that a new bucket
// of the same name starts with none. They refer to branches by name, because
// agents make and drop branches all the time, also ones that do not exist yet.
// User ids are never reused: a connection that outlives its user finds nobody.
//
// Functions work in the caller's transaction. Rights is a copy; who holds one
// for long reloads it when schema.DB.Generation changes, which is how a revoked
// grant reaches connections that are already open.
//
// Errors: ENOENT for a user, key or grant that is not there, EEXIST for a name
// taken, EINVAL for a malformed name, glob or grant. All carry the words a
// person needs.
package access
