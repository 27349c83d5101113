// Package writesession keeps what is written to open files until it is
// published: branch on write, merge on close.
//
// # Model
//
// A File is one regular file as one surface (a mount, a connection) sees it on
// one branch; all who open it there share it, so they see each other's writes
// at once. The first change opens a session, which other surfaces do not see.
// Publish makes its content the file's for everybody in one transaction {blob
// row, inode version, event} and may run again and again; the last Close does
// what is left. Abort goes back to what is published.
//
// A byte of a session comes from memory, from the staging file, or from the
// blob that the session began on (its base). Content up to Options.MemoryMax is
// in memory, all of it; longer content goes to a sparse staging file at the
// same offsets, and only what of the base it hides is kept track of (content.go).
// At publish small content goes into the transaction itself; a staging file
// gets what it lacks of the base and becomes the blob by rename. A copy of a
// whole file shares its blob, and no bytes move.
//
// Two sessions of one inode, on two surfaces, never mix bytes: the last to
// publish wins, and history keeps the other. In a bucket with ExclusiveWrites
// the second is refused with EBUSY, and told which process is the first
// (exclusive.go).
//
// # What is durable
//
// Publish is as durable as DB.Write. Sync (fsync) returns when a power cut can
// take nothing: small content is published, a long session is recorded with its
// staging file on the disk, and nothing is written over what was recorded until
// it is recorded anew (overlay.go). Other sessions are recorded for recovery within
// about twice Options.PersistAfter, which holds against kill -9 alone. When a
// process has died, New publishes the sessions it had synced, unless content
// was published meanwhile; all others stay listed for Recover, Publish or Abort
// and are never published by themselves: a crash leaves the old version, and no
// file where it was just being made (made.go). A
// recorded session, and its staging file under a second name, stay until the
// publish that ends it is as durable as the session was (kept.go).
//
// # Errors
//
// They wrap a syscall.Errno: EROFS, EFBIG (beyond MaxSize), ENOSPC, EBUSY,
// EISDIR, EDQUOT. When the disk does not take a write (ENOSPC, EDQUOT, EIO), publishing
// fails with the same error until a later change of the file succeeds: half of
// what a program meant to write does not replace the old version. After an
// error of Publish, Sync or Close the old version stands and
// the session is kept, by a File that nobody has open if need be, so that
// opening it again or a later process can go on. Only what nobody can name any
// more, a file without links, is dropped.
//
// # Why so
//
// A row per write was rejected: a small file would pay for its session, and a
// large one 300 MB/s. So a session has no row until it is half a second old or
// synced, and none ever in the life of most files. Publishing at fsync was
// rejected for long files: a database of 1 GiB would be copied at each commit.
//
// All functions are safe for concurrent use. Publishing a File holds up who
// changes that File, but not who reads it, and nobody else.
package writesession
