//go:build nightly

package writesession

const rounds = 200 // of kill -9
