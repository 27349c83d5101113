// Command alkfs is the command line of alkfs: it parses arguments, calls the Go
// API of the root package and prints what comes back. Nothing is decided here.
//
// Each command opens the store, waits for what other processes acknowledged
// (Store.Barrier), does its work under a context that an interrupt cancels, and
// closes the store, which commits. `mount` keeps it open for as long as the
// mount lives; a record of it in mounts/ of the store, locked while its process
// runs, lets `umount` wait until that process has published everything.
//
// Output for people goes to standard output as lines of text, names that a
// terminal could not show quoted as a shell takes them ($'caf\xe9'). With --json
// a list is JSON lines, one object each, and a single answer one object; field
// names are lower case and stable, and a name that is not UTF-8 is accompanied by
// its exact bytes in a field of the same name with _base64 added. Messages,
// questions and progress go to standard error. Exit statuses are listed in
// status.go.
//
// Rejected: printing errors where they occur. Everything is returned to run,
// which prints one message, what to do next where that is known, and chooses the
// exit status.
package main
