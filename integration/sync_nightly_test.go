//go:build nightly

package integration_test

import "testing"

func syncTree(t testing.TB) string { return gorootPart(t, "src") }
