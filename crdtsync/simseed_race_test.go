//go:build !nightly && race

package crdtsync

// The race detector makes a history thirty times slower; test.sh runs many more
// without it.
const simHistories = 12

func simFirstSeed() uint64 { return 1 }
