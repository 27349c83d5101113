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
// What to write is often known before it is written. Such a Change is handed to
// Tx.Later: it is made by another goroutine while the caller goes on, in order,
// and before the next statement of anybody who looks. A Companion answers from
// memory what the rows will say, so that one operation need not wait for the
// rows of the one before. That halves what a caller waits for; the rejected
// option, tables in memory that are flushed at a commit, would need a second
// implementation of every query.
//
// # What is durable when
//
// When Write returns, its changes are seen by every Read of this process and
// survive nothing yet. Commit makes them visible to other processes and proof
// against kill -9; Sync also against a power cut. Commits happen on their own
// within Options.CommitInterval, always in order: what survives a crash is a
// prefix of what was acknowledged. When less than 256 MiB are free on the disk
// each Write commits before it returns, so that a full disk is that caller's
// error. A commit, or a Change handed to Later, that fails all the same loses
// what is not committed, which is reported by the next Sync, and to OnLost.
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
// # The engine
//
// SQLite is set up in two ways before it starts, for the sake of small commits:
// what one writes to the WAL goes out at once (walfile.go), and a split of a page
// costs no look through the page cache (pagecache.go). Neither changes a file;
// other programs may use the database as they do any.
//
// # Errors
//
// ErrNewerFormat, ErrNotAStore, ErrDamaged and ErrReadOnly say what to do next.
// Otherwise errors carry a syscall.Errno (ENOSPC, EBUSY) where one fits.
package schema
