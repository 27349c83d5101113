//go:build nightly

package integration_test

import "time"

const (
	nightly      = true
	powerCuts    = 3000 // states of the disk that are opened
	powerSteps   = 200  // of each worker
	faultStep    = 1    // operations on the disk from one that fails to the next
	killRounds   = 200
	bigFile      = 4 << 30
	manyBranches = 10_000
	sshFile      = 1 << 30 // bytes, moved by each SSH client
	sshBig       = 1 << 30 // moved by OpenSSH's sftp
	sshSlow      = 1 << 30 // moved by paramiko
	churnTime    = 30 * time.Minute
)
