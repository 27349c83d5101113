// Package identity says who may do what with a shared bucket, by signatures
// alone: it reads no clock, no network and no database.
//
// A node is its ed25519 public key. A bucket has an owner, the node that shared
// it first and whose key every ticket names. Owner and admins sign grants, each
// giving one node a role under a serial; of the grants about a node that count,
// the one with the greatest serial holds, and of equal ones the lesser role, so
// that a revocation wins wherever it has been heard. Grants are a set: any order
// of arrival gives the same Membership. Those that make or unmake an admin count
// only when the owner signed them, and those of an admin only while it is one;
// authority so never goes in circles. A node hands its role to a new key by a
// succession that the old key signs, which also says what the old key has signed
// that counts: nothing else of it does. The new key may write in the name of the
// old one, whose versions so keep their identity.
//
// A change of a document travels in an Envelope, signed by its author and bound
// to bucket and document, whoever carries it. An author's envelopes are numbered
// in streams, a new one at every start of the node. Signature and chain are over
// the envelope with its change replaced by the hash of it, so that a node that does
// not keep a branch can do with such stubs, some 250 bytes each, and still prove
// that a stream has no gap. A revocation says how far
// the author's streams were heard: what comes later counts nowhere, whoever brings
// it and whether it came before the revocation or after.
package identity
