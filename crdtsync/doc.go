// Package crdtsync keeps the buckets of a store the same on many nodes: each
// works at local speed, online or not, and all converge with nothing lost.
//
// # Model
//
// A replica is a set of versions (package pathtree), and SQLite is the truth.
// What a node writes it takes out of the tree in batches (Drain), puts into
// automerge documents, one for each directory of each branch and one for the
// bucket itself, and sends the resulting changes to every node it is connected
// to. A document is a flat map whose keys are the identities of versions and
// are set once, so documents never conflict; what concurrent versions come to is
// for pathtree to say, the same on every node.
//
// A change travels in an envelope signed by its author (package identity), is
// stored as it came, and is relayed as it came: what a newer alkfs says in it
// survives here. Package gate checks and writes changes in plain Go, and nothing loads a
// document: since keys are set once, a change is new keys on top of the document's heads,
// which are in sync_doc, and of its stream's last change there (lastIn), so that one costs
// what it says and not what its document holds. The core of automerge, which would need
// the whole document, a process of its own and a limit on its memory to add a key, is
// in tests alone: it writes the same bytes and takes ours.
//
// # Who has what
//
// The envelopes of an author are numbered in a stream, a new one at every start
// of its node, and each names the one before it by hash. How far each stream
// has come, some fifty bytes for each start of each writer, therefore says
// exactly which changes a node has; two nodes compare that when they meet and
// now and then after, and send what the other lacks in the order in which it
// came, which respects dependencies. Since a number can never mean two things
// (an author that tells two nodes different things is refused by both with its
// next change), this needs no second mechanism: range-based reconciliation over
// (document, heads), which DESIGN foresaw for peers without a cursor, costs more
// rounds and finds nothing that this does not.
//
// # Who keeps what
//
// A node may keep some branches of a bucket (partial.go). It tells the others which,
// by uuid, since names can differ, and by pattern, which spares a round where a
// branch is new; the document of the bucket itself goes to all. Of a change of another branch
// it gets a stub (identity.Stub), which proves that its stream has no gap; a change
// that was signed whole, by an alkfs before this, can only be sent so. A branch that
// is wanted is fetched by naming the changes of which stubs are here: each must have
// the hash of its stub, and takes its place and number, so that the order by number
// remains one in which each follows its dependencies.
//
// A stub is taken in also where the change is wanted, and then fetched, rather than
// that the stream stops there: streams mix branches, and a node that meets only
// partial ones would be stuck at the first stub with all that follows, of branches
// too that those have whole. For the same reason a change that follows one of which
// only the stub is here becomes a stub itself. What a node so lacks it tells with its
// marks, and while it lacks anything it does not speak for versions (Named, HasAll). What does not
// count, of members that were shut out, is not lacking: it need not be anywhere.
//
// A branch that is not wanted any more leaves once a connected node names it in its
// filter, lacks nothing, not even what does not count where this node has such, has every change of it by its marks, on the disk, and says in the same
// message that it has seen this node's filter without it: of two that let go at once
// neither can take the other for the one who keeps it.
//
// # Who is shut out, and let in again
//
// A change counts while its author may write, and after that as far as the admin who
// says otherwise had heard its streams (identity.Grant.Heard); all else about it is the
// same for one that is revoked and one that is made a reader. It is judged by the
// grants that are here now, so it does not matter which came first. What does not count
// is kept as a link of chains, since changes that count follow it, and says nothing:
// the tree is as if it had never come (recount.go). That goes for versions and for
// records of the bucket alike: of the records about a thing the newest that counts
// holds. A branch of which none counts is to everybody as one that was removed, so what
// others wrote to it is kept, and shows in what they forked from it; who renamed it
// meanwhile has a record of it that counts. Nothing of that is forgotten: a grant that
// lets the changes count, by a role or by Accept, has the tree follow again. What was
// pruned meanwhile stays so.
//
// A node judges its own changes alike: what all others are without it does not show
// either, and sends when it may. There is one exception. Its old key may be with a
// thief, for which it was revoked and replaced, so that others must not believe what
// the old key says; but what the node wrote with it, not knowing, its user was told is
// safe. So it says that again with its new key, when that may write (sayAgain): the same
// versions, in changes of its own, of those changes alone that were made here. It does
// so in the transaction in which the grant comes, or at the next start, and knows what
// it has said by the entries that count already, and of which changes it said them
// (disown). To have an admin accept the old key's changes was the other way; nobody
// would know that it had to be done, and it lets a thief's count.
//
// # What is durable when
//
// Changes are committed before they are sent, and what was received is
// committed before it is acknowledged; neither waits for the disk. A node that
// loses its last moments in a power cut gets them back from whoever heard of
// them, and begins a new stream, so that no number is used twice.
//
// # Compaction
//
// The changes of a bucket stay until the owner or an admin compacts it (Compact): it
// packs all versions and records that are kept, as of one snapshot, and signs that
// the pack has what all changes up to its ends came to, and how far each stream came
// by then. The record travels with the grants, the pack is fetched in pieces that the
// record names by hash, and who has it deletes those changes (Fold). A node that has
// all of them need not look into the pack; one that lacks some takes it in, piece after
// piece, makes the ends its marks, and takes back what is known to have come in a change
// or pack that the ends cover and is not in the pack: something newer had come in its
// place, and it would show as if it had been written at the same time. From there on
// streams go on, checked by the hashes in the ends.
//
// A compaction counts when the owner has signed it. That of an admin is a proposal: the
// owner's node signs it in its own name while the issuer is an admin still, all that
// it covers counts, its changes are here, and its pack has nothing that no change said
// (signProposals). That an admin's count while it is one was tried: who had followed
// one before it heard that its issuer was revoked has deleted what others still ask
// for, and could send them nothing until somebody accepted it.
//
// The pack is not changes of its author's stream in new documents: that would have
// every change of a joiner's be checked by who speaks for whom, cost a signature, an
// automerge document and an envelope for each directory, and have full nodes
// import again what they had pruned. What the ends cover counts, also of who was
// revoked and not heard so far: in a pack nobody can tell whose change a version came
// with. So an end stops before the first change that does not count, or says
// something that is unknown here, and such changes stay. A branch of which no record
// counts is in the pack as that: others wrote to it, and what they forked from it counts.
//
// A compaction closes all generations of documents before its own. A change in one
// that was made before its author heard of it counts by the chain of its stream
// alone, everywhere, as what it depends on may be gone.
//
// A node that keeps some branches follows as well, and deletes the stubs: it has all
// if nothing that it keeps is a stub, takes from a pack what it keeps, and keeps the
// whole pack, since a branch that is taken up comes from there and a joiner may meet
// nobody else. It cannot compact, nor can one that has stubs of what counts.
//
// The owner is believed about ends and pack: nodes that have everything hold it to the
// hashes, one that joins cannot.
//
// # Trust
//
// Nothing foreign is believed: see package identity for who may do what, and
// Replica.Receive for what is checked. Who sends what no honest node sends
// (ErrRefused) is dropped and not let in again for a while.
package crdtsync
