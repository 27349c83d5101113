// Package blobs moves content between nodes: ranges of groups of 16 KiB, each
// checked against the hash before it is written, and nothing else. It knows
// streams, not networks: package transport, or a pipe in a test, opens them.
//
// # Protocol
//
// A stream carries requests one after another, each answered before the next
// (frame.go). A frame is a CBOR header behind its length, 4 bytes big-endian; a
// data frame is followed by the proof, the parents that blobstore.Blob.Proof
// lists, and the bytes of at most 64 groups. Blocks of 64 MiB of zeros are said
// and not sent. A request names a bucket and up to MaxItems contents; whoever
// serves it checks for each that the peer may read that bucket and that the
// bucket has the content (Server.Allowed), as knowing a hash is no right to its
// bytes. Answers other than data are: it is not here, it is not allowed, busy,
// failed. A second kind of request asks what is here, and can make the other
// side promise to keep it for a while (blobstore.Store.Hold); a third, of one who is
// about to drop content, also asks what a version names there (Dropping).
//
// # Fetching
//
// Fetcher is the blobstore.Source of a node. It cuts what is wanted into chunks
// of at most 2 MiB and gives them to the peers' streams, the most urgent first:
// somebody who waits, then read-ahead, then what is pinned or wanted by policy. One
// stream of each peer, which should have a connection without bulk, is kept free for
// who waits. Eight others keep the peer's connections full.
// A chunk that a peer has held for too long is asked of another as well, and
// the slow one is rested. A peer whose proof is wrong is dropped and reported; it
// cannot have harmed anything. Small contents share a request. What came stays
// (blobstore.Partial), so an interrupted fetch goes on where it was.
//
// A node that does not have what it is asked for fetches it itself, if the
// request says so (hops), so that a node reaches content through one it knows.
//
// The wanted list (want.go, table sync_want) is durable: Run works it off, and a
// process that is in touch with no peers asks the one that is through it (Ask).
//
// What is fetched by policy, or since it is pinned, is in the table sync_keep. A
// Keeper puts what is absent and kept on the wanted list, the newest first, some
// hundred contents at a time, and stops where the disk fills. Nothing walks the tree:
// the store knows which contents are absent, and each says where it shows.
//
// # Errors and concurrency
//
// Everything but one Slice is safe for concurrent use. Errors for content that
// could not be had wrap blobstore.ErrNotHere. Foreign bytes are bounded before
// anything is allocated for them, and make an ErrProtocol or blobstore.ErrProof.
package blobs
