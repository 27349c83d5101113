//go:build !nightly

package blobstore

// powerCuts is the number of seeds that TestPowerCut tries.
const powerCuts = 12

// killRounds is the number of contents in TestPartialKilled.
const killRounds = 3
