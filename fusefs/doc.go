// Package fusefs shows a store's branches as a file system mounted on Linux.
//
// It only translates: what decides lives in pathtree (names and attributes)
// and writesession (content). Its own concerns are the kernel's node ids and
// caches, who is told of what, and the order in which things are kept.
//
// # Caches
//
// A request costs 25 to 35 µs whatever it does, so the kernel is let keep
// everything for an hour: names, missing names, attributes, listings, pages.
// Changes made through the mount the kernel knows of. Those made elsewhere (by
// another mount, a merge, a peer) come through the event log: follow drops what
// is kept here and then tells the kernel. It holds no lock meanwhile, because
// the kernel waits for requests that are being answered. A LOOKUP answered from
// before an event is never cached after it: the kernel holds the directory's
// lock during a LOOKUP and while it drops a name, and an answer during which an
// event was heard of is sent with no time to live. The attributes in an answer
// that is still on its way when the event is heard of are dropped a second later
// (repeat).
//
// # Requests
//
// go-fuse mounts, speaks the protocol and tells the kernel of changes. Requests
// are read by loop instead of its own readers, which cost more than the answers
// do. Where loop does not find the descriptor they do it.
//
// A node keeps the inode last read or written. It is stored inside the database
// transaction that read or made it, which orders it against all others. An open
// file is the authority on its own size and times (overlay).
//
// # What is durable, who sees what
//
// All descriptors of a mount see each other's writes at once. close(2)
// publishes to everybody else, and fails when that fails. fsync(2) returns when
// a power cut cannot undo what it covers; of a directory, when that goes for
// everything before. syncfs(2) does not reach a FUSE server.
//
// # I/O through the kernel
//
// On read-only mounts, and elsewhere if asked for, large files are read from
// their blobs by the kernel itself (passthrough). A blob's file is opened
// through a mount of its own that is read-only, and given to opens for reading
// only: see ioMode, the one place that decides. go-fuse's high-level API, which
// would have saved the node table, gives a writer the reader's backing file and
// so overwrites blobs.
//
// A writable mount does not do it by itself. A descriptor stays on its backing
// file, and a write through the same mount must be seen by it, so the write
// would have to go to that file. But it is the blob, which other branches,
// mounts and processes read: it would have to be replaced by a copy, on the
// disk before the open for writing returns, and all its other users moved over,
// where those that another kernel mount bound cannot be. Private backing files
// would do, where the disk makes them without copying (reflinks); ext4 does not.
//
// # Locks
//
// A listing's lock comes before a transaction; nodes, handles, node and
// volume locks come after, and nothing is called while one of them is held. A
// writesession.File is never called inside a transaction: it makes its own.
//
// # Errors
//
// Every error goes through pathtree.Errno. ENOSYS is never sent: the kernel
// would never ask for that operation again. Locks (flock, fcntl) are the
// kernel's, so they hold between the programs of one mount only.
package fusefs
