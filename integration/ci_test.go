//go:build !nightly

package integration_test

import "time"

// How much the tests do in CI; nightly_test.go has the long variants.
const (
	nightly      = false
	powerCuts    = 120 // states of the disk that are opened
	powerSteps   = 40  // of each worker
	faultStep    = 5   // operations on the disk from one that fails to the next
	killRounds   = 20
	bigFile      = 256 << 20
	manyBranches = 1_000
	sshFile      = 64 << 20 // bytes, moved by each SSH client
	sshBig       = 1 << 30  // moved by OpenSSH's sftp
	sshSlow      = 4 << 20  // moved by paramiko
	churnTime    = 2 * time.Minute
)
