//go:build !nightly

package schema

import "flag"

// Random models run the same histories each time, unless -rapid.seed says
// otherwise: new ones are for nightly runs to find.
func init() { flag.Set("rapid.seed", "1") }
