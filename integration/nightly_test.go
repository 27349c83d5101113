//go:build nightly

package integration_test

import "time"

const (
	nightly      = true
	killRounds   = 200
	bigFile      = 4 << 30
	manyBranches = 10_000
	sshFile      = 1 << 30 // bytes, moved by each SSH client
	churnTime    = 30 * time.Minute
)
