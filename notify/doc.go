// Package notify is the outbox of a store, with the queues, locks and schedules
// that live in the same transactions. Every change is recorded as an
// event in the transaction that makes it, so an event exists exactly when its
// change does.
//
// Consumers read events in order of their sequence number from wherever they
// stopped (Since), or follow them as they are committed (Watch), under a name
// whose place is kept in the database (Follow: at least once). A consumer can
// be in any process that has the store open; it is woken by schema.DB.Wait. It
// reads at its own pace and holds up nobody, nor does it keep events from being
// pruned.
// An event names the place of a change as (parent directory, name); its path at
// that moment is what a view of the branch at the event's stamp gives, so that
// the writer need not walk up the tree.
//
// Sequence numbers are dense within what is retained and never reused: the
// newest event is always kept. A consumer that asks for events older than the
// oldest one kept gets ErrFellBehind and must look at the state itself.
//
// Queue, Locks, Schedules and Limits are values without state of their own: what they
// know is in the database, so any process may use them. Leases (a lock's time
// to live, a claim's visibility timeout) are measured in the machine's boot-time
// clock, which does not jump and is the same for every process; the lease of an
// earlier boot has ended. Wall-clock leases, the usual choice, would hand one
// lock to two holders when the clock is set forward.
//
// A queue may have a rate of claims, which all its workers share; Limits gives
// the same to anything else.
//
// A schedule enqueues a job when its time has come, at most one for all runs
// that were missed, and none while an earlier one still waits.
//
// All functions are safe for concurrent use; durability is that of the
// transaction they are given.
package notify
