// Package pathtree is the versioned tree of paths: buckets, branches, snapshots,
// and what a view of them holds.
package pathtree
