// Package sftpsrv serves the branches of a store over SFTP, and a few alkfs
// commands over ssh exec.
//
// # Model
//
// x/crypto/ssh brings connections with a user; package access says what the
// user may see. An SFTP session shows it as /BUCKET/BRANCH/PATH. Everything a
// session does is a transaction on a pathtree view or a call of a writesession
// File; this package only translates. Rights are looked at for every request as
// they are then, reads and writes of open files included, so that what is
// revoked ends at once, and a user or key that is removed loses its connections.
//
// What no grant covers has the answers of what does not exist. Paths are cleaned
// by their text before they are looked up and cannot leave the root; symbolic
// links are followed inside their own branch only, an absolute target being
// taken as the user would type it. mkdir of /BUCKET/NAME forks main; no request
// removes or renames a branch or a bucket.
//
// # Files
//
// An open file is one write session: other connections and mounts see the old
// version until the close, whose status says whether it was published. The
// status of a close or a rename comes after the commit, so it holds against
// kill -9; fsync@openssh.com holds against a power cut. When a connection ends
// with files open, what was written to them is kept as orphaned sessions and not
// published: half an upload replaces nothing, and leaves no file where none was. New files
// belong to the process that serves; modes and owners are kept as users set them
// and not enforced. Set-id bits cannot be set, and a write takes them away.
//
// # Why a filter
//
// pkg/sftp's request server would do most of this, but it answers strictly in
// order, so that one read that waits holds up a connection; hands writes to
// workers that lose their order; answers fstat by path; drops the mode given at
// create; and knows three extensions of twelve. It has no hooks for any of that.
// A fork and a server of our own were rejected: its parsing and its listings are
// well worn. So filter.go stands in front of it. Open files are the filter's, and
// all that may wait; names are pkg/sftp's, where one short transaction answers.
//
// # Several requests at a time
//
// Requests about open files are answered beside each other (lane.go): bytes that
// do not come, a file being hashed or a disk that is slow hold up those about
// that file alone. About one file they take effect in order, and what names it
// behind a close in the same stream (a rename, a time, a size) waits for the
// close.
//
// # Limits
//
// A session holds at most maxReading bytes of file data being read, maxHeld of
// writes that wait, one packet and the SSH window of 2 MiB in memory, besides its
// open files' own buffers; all sessions together have Options.MaxData, besides
// one request of each. Options bound connections in number and in time.
// Everything is safe for concurrent use; Serve returns when all its connections
// are over.
//
// # Errors
//
// statusOf is the one table from errors to SFTP status codes. Texts sent to
// clients name nothing of the store.
package sftpsrv
