//go:build nightly

package sftpsrv

const largeDir = 100_000
