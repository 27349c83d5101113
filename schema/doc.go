// Package schema holds the SQLite database of a store: its tables (ddl.sql),
// migrations, and the one way in which everything else reads and writes it.
//
// # Model
//
// A process has one main connection. Write runs a function inside a savepoint
// of an open write transaction, which is committed some milliseconds later
// together with everything else that came (group commit). Read runs on the same
// connection and therefore sees those writes before they are committed, from
// warm pages and with no snapshot to renew. Long reads use Snapshot, which has
// connections of its own. The rejected options: a commit per operation costs
// 50 µs and more, two thirds of a file operation's whole budget; a pool of
// readers must renew its snapshots, and drop its pages, at every commit.
//
// # What is durable when
//
// When Write returns, its changes are seen by every Read of this process and
// survive nothing yet. Commit makes them visible to other processes and proof
// against kill -9; Sync also against a power cut. Commits happen on their own
// within Options.CommitInterval, always in order: what survives a crash is a
// prefix of what was acknowledged. When less than 256 MiB are free on the disk
// each Write commits before it returns, so that a full disk is that caller's
// error. A commit that fails all the same is reported by the next Sync, and to
// OnLost.
//
// # Processes
//
// Any number of processes may have one store open. They take turns through
// writer.lock, which makes SQLite's write lock fair, and notice each other's
// commits through a counter in shared memory, commit.seq (Generation, Wait).
// Barrier waits until what other processes acknowledged is committed.
// Nothing may open alkfs.db or its -shm by other means: closing such a
// descriptor drops SQLite's locks. The -wal file carries none.
//
// # Errors
//
// ErrNewerFormat, ErrNotAStore, ErrDamaged and ErrReadOnly say what to do next.
// Otherwise errors carry a syscall.Errno (ENOSPC, EBUSY) where one fits.
package schema
