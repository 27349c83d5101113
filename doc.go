// Package alkfs is a content-addressed, branch-aware file system: many cheap,
// isolated, mergeable copies of one workspace in a single directory on disk.
//
// # Model
//
// Open gives a Store, which holds buckets; a bucket holds branches; a branch
// holds a tree of files. A Spec ("BUCKET/BRANCH:PATH") names any of them, and
// its At field a moment in the past or a snapshot. Store.View turns a Spec into
// a View: an io/fs.FS to read, with methods to write when it is the head of a
// branch. CreateBranch costs one row whatever the size of the tree; Diff and
// Merge cost what was changed, not what is there.
//
// The same tree can be reached by other surfaces at the same time: Mount shows
// it as a directory, other processes may have the store open, and Watch follows
// what any of them does. Everything that decides lives in the packages below
// this one (schema, blobstore, notify, pathtree, writesession, fusefs); this
// one puts them together, and cmd/alkfs is a command line over it. Surfaces
// that need more than this API use the accessors DB, Tree, Blobs and Sessions.
//
// Whoever keeps a store open for long calls Upkeep, which does the background
// work (Jobs): nothing of it is needed for the store to be correct, but history
// and content nobody refers to stay until it is done. Backup copies a store
// that is in use.
//
// # What is durable when
//
// A change is seen by this process when the call that made it returns, by other
// processes within 5 ms, and survives a power cut once Sync (or File.Sync) has
// returned. Close publishes every open File, and commits. An interrupted Put
// leaves what it had committed: whole files, never parts of one.
//
// # Concurrency
//
// Store, View and Mount are safe for concurrent use; so is File. A Store must
// be closed, after its mounts are unmounted. Any number of processes may have
// one store open.
//
// # Errors
//
// Errors carry an operation and a path (*fs.PathError for paths in a view) and
// wrap a syscall.Errno where one fits, so that errors.Is works with
// fs.ErrNotExist, fs.ErrExist, syscall.EROFS and the like, besides ErrConflict,
// ErrNoStore, ErrDamaged, ErrNewerFormat and ErrBadSpec. Errno maps any error to
// a number.
//
// # Decision
//
// A View is both the io/fs.FS and the place to write. Separate reader and writer
// types were tried on paper and rejected: whoever writes also reads back, and
// the two would have to agree about symlinks and names twice. Unlike io/fs, names
// need not be UTF-8: a store holds what POSIX allows.
package alkfs
