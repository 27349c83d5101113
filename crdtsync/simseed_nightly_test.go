//go:build nightly

package crdtsync

import "math/rand/v2"

const simHistories = 20_000

func simFirstSeed() uint64 { return rand.Uint64() >> 1 }
