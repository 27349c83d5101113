//go:build !nightly

package pathtree

// Sizes that also the race detector is done with in seconds.
const (
	manyBranches = 400 // beside each other
	longChain    = 160
	manyLinks    = 1000
	deepPath     = 1500
)
