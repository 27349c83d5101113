// Package blobstore keeps file contents by their BLAKE3 hash and never returns
// a byte that does not match.
//
// # Model
//
// A content of up to InlineMax bytes lives in its row of table blob, written in
// the caller's transaction. A larger one is the plain file blobs/ab/cd…, named
// by its hash, made in staging/ and adopted by rename, never copied, so that it
// can be handed to the kernel for passthrough. Hashing works in groups of
// 16 KiB; the tree of their chaining values ("outboard") of a content above
// 1 MiB is the file blobs/ab/cd….obao: 64 bytes for each parent (the chaining
// values of its two children) in pre-order, as in the bao format at group
// size 16 KiB without its length prefix. Parents inside an aligned run of 64 MiB
// of holes are a hole there too: its chaining value, found in zero.bin, says
// what they are. Reading a group checks its path of parents up to the hash, so
// opening costs nothing and each group is hashed once as long as the blob stays
// in the cache all handles share.
//
// The rejected options: hashing the whole file at open (0.3 s a GiB), trusting
// the disk after close, and one pack file (no passthrough, no adoption).
//
// # What is durable when
//
// Order: data, hash, rename, row (AddFile, in the caller's transaction, with
// synced 0). Sync, or the background syncer after Options.SyncAfter, fsyncs
// file, outboard and directories and then sets synced to 1. So a row with
// synced 1 always has its bytes on the disk, and after a crash of the machine
// VerifyUnsynced, which the opener calls before anything else, hashes the other
// files and moves what fails to quarantine/. Rows are as durable as their
// transaction.
//
// # Collection
//
// A blob is kept while an inode version, a write session or a lease names it.
// Seal takes a lease before it looks at blobs/, AddFile drops it in the
// transaction that adds the row. GC deletes rows in a transaction that checks
// again, makes that durable, and removes files in a transaction that finds
// neither row nor lease; SQLite's write lock orders these against AddFile and
// Seal of every process. A blob seen in a Read and opened in the same one
// (OpenTx) cannot go away between; an open handle keeps its bytes. A staging
// file belongs to the process that holds an flock on it, or else to the
// write session that names it.
//
// # Content that is elsewhere
//
// Versions of other nodes name content before its bytes are here: Expect notes
// it in a row of state 3 (absent), Evict makes one again of content that others
// have. Opening it gives a handle like any other, and a read brings the groups
// it needs, and read-ahead for a sequential reader, through the Source: each
// group is checked against the hash with its parents before it is written. Until
// all are there they are three files in partial/ (partialfile.go), which outlive
// the process and are shared by all processes; then they become the blob, or a
// row, as content that was written here does. What a bitmap says after kill -9
// is true; after a crash of the machine it is hashed before it is believed. No
// read waits for ever, nor inside a transaction (Content).
//
// The last copy: when the last version of a shared bucket goes here that names a
// content, Guard keeps that from GC, and CollectGuarded removes it after asking other
// members, as Evict asks before bytes go that are named. Hold answers them, and is what
// keeps two nodes from both dropping theirs.
//
// # Concurrency and errors
//
// Store and Blob are safe for concurrent use, and Staging is but for Seal and
// Discard, which end it. Errors carry a syscall.Errno: ENOSPC where the disk is
// full, EIO with ErrMissing and ErrDamaged, EHOSTUNREACH with ErrNotHere. A
// blob.state of 1 means quarantined, 2 found damaged by a read and to be looked
// at by Check, 3 that the bytes are elsewhere.
package blobstore
