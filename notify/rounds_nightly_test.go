//go:build nightly

package notify

const killRounds = 500
