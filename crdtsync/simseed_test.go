//go:build !nightly && !race

package crdtsync

// The same histories each time: new ones are for nightly runs to find.
const simHistories = 80

func simFirstSeed() uint64 { return 1 }
