//go:build !nightly

package sftpsrv

// largeDir is how many entries a large directory has in tests.
const largeDir = 1030
