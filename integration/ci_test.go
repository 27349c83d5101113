//go:build !nightly

package integration_test

import "time"

// How much the tests do in CI; nightly_test.go has the long variants.
const (
	nightly      = false
	killRounds   = 20
	bigFile      = 256 << 20
	manyBranches = 1_000
	sshFile      = 64 << 20 // bytes, moved by each SSH client
	churnTime    = 2 * time.Minute
)
