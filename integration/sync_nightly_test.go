//go:build nightly

package integration_test

import "testing"

const (
	firstSyncFiles  = 30_000
	partitionRounds = 12
)

func syncTree(t testing.TB) string { return gorootPart(t, "src") }
