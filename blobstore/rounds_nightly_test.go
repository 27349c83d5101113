//go:build nightly

package blobstore

// powerCuts is the number of seeds that TestPowerCut tries.
const powerCuts = 500

// killRounds is the number of contents in TestPartialKilled.
const killRounds = 60
