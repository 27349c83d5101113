// Package worker keeps automerge documents, in a process of its own.
//
// Automerge's core is a C library that aborts on a panic and does not give
// memory back, so it runs in a child: the same program, started again to call
// Main, with a limit on its memory. A Child is started when it is first needed,
// started again when it has died or grown, and asked one thing at a time. It
// holds no state that matters: it is given a document's changes when it does not
// have them, and whatever it returns is checked by package gate like the bytes
// of a stranger. A mount never dies of a document.
//
// Local does the same in this process, for tests and simulations that must not
// start processes.
package worker
