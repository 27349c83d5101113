package crdtsync

import "math/rand/v2"

// simShare is how often something happens: n times in of.
type simShare struct{ n, of int }

func (x simShare) draw(rng *rand.Rand) bool { return rng.IntN(x.of) < x.n }

// simShares say in how many histories something happens, and at how many of their steps.
type simShares struct {
	bytes, prunes, roles, outlaw, keys, sessions, filters, compactions, accepts, backups simShare
	fault, refilter, compact                                                             simShare // of the steps
}

// simSharesOf returns those of the usual histories, or of harsh ones.
func simSharesOf(harsh bool) simShares {
	in := simShares{
		bytes: simShare{1, 4}, prunes: simShare{1, 2}, roles: simShare{1, 3}, outlaw: simShare{1, 2}, keys: simShare{1, 3},
		sessions: simShare{1, 2}, filters: simShare{1, 3}, compactions: simShare{1, 3},
		accepts: simShare{0, 1}, backups: simShare{0, 1},
		fault: simShare{1, 6}, refilter: simShare{1, 6}, compact: simShare{1, 8},
	}
	if harsh {
		in.bytes, in.roles, in.keys, in.filters, in.compactions = simShare{1, 40}, simShare{2, 3}, simShare{1, 2}, simShare{2, 3}, simShare{1, 2}
		in.accepts, in.backups = simShare{1, 2}, simShare{1, 2}
		in.fault, in.refilter, in.compact = simShare{1, 3}, simShare{1, 4}, simShare{1, 5}
	}
	return in
}
