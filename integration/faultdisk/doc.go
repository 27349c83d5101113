// Package faultdisk is a disk for tests that fails when told to and whose power
// can be cut.
//
// A Disk is a FUSE file system that passes every request on to a directory. It
// sees all that a program does to its files, database, write-ahead log, content
// and staging files alike, in one order:
//
//   - Fail makes the Nth operation that changes or syncs something fail, with
//     the error of choice, once or from then on. A write that fails has got half
//     way, as on a full disk.
//   - Record keeps a log of them. A Crash goes through that log and makes, at any
//     point of it, what a disk may hold after a power cut: what was synced, and
//     any part of the rest. See crash.go for what may be lost.
//
// The process that serves a Disk must not use files of it by their path in the
// mount (a page fault in a mapping of its own file system never ends); it starts
// others that do, and may look into the directory below at any time.
//
// The rejected option is a log of the blocks under a real file system: it shows
// what ext4 makes of a missing fsync, which is often nothing, and replays nine
// states a second where this does fifty.
package faultdisk
