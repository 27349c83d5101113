//go:build !nightly

package integration_test

import "testing"

const (
	firstSyncFiles  = 8000
	partitionRounds = 1
)

// syncTree is what TestNodesShareABucket sends: some 700 files here, all of
// Go's sources with -tags nightly.
func syncTree(t testing.TB) string { return gorootPart(t, "src", "crypto") }
