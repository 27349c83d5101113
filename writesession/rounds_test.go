//go:build !nightly

package writesession

const rounds = 6 // of kill -9
