//go:build nightly

package pathtree

const (
	manyBranches = 10000
	longChain    = 1000
	manyLinks    = 65000
	deepPath     = 20000
)
