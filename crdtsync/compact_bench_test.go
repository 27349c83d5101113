package crdtsync

import (
	"fmt"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// BenchmarkFirstSync has one join a bucket of 5,000 files in 50 directories, 10,000 of
// whose changes were made one by one: by its changes, by a pack of all that is kept, and
// by one that was made after history was pruned.
func BenchmarkFirstSync(b *testing.B) {
	const files, edits = 5000, 10_000
	owner := newStore(b, "owner")
	uuid := owner.makeBucket("team")
	drain := func() {
		if _, err := owner.Drain(b.Context(), uuid); err != nil {
			b.Fatal(err)
		}
	}
	for i := range files + edits {
		owner.write(uuid, fmt.Sprintf("dir%d/file%d", i%50, i%files), fmt.Sprint(i))
		if i%1000 == 0 || i >= files {
			drain()
		}
	}
	drain()
	join := func(b *testing.B, bytes int64, come func(joiner *store)) {
		for b.Loop() {
			b.StopTimer()
			joiner := newStore(b, "joiner")
			joiner.admit(owner, uuid, identity.ReadWrite)
			b.StartTimer()
			come(joiner)
			b.StopTimer()
			if joiner.listing(uuid) != owner.listing(uuid) {
				b.Fatal("the one that joined shows something else")
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(bytes)/1e6, "MB")
	}
	b.Run("changes", func(b *testing.B) {
		_, bytes, err := owner.history(uuid)
		if err != nil {
			b.Fatal(err)
		}
		join(b, bytes, func(joiner *store) {
			if res := send(b, owner, joiner, uuid); res.Later > 0 {
				b.Fatalf("%+v", res)
			}
		})
	})
	for _, c := range []struct {
		name   string
		before func()
	}{{"pack", func() {}}, {"pruned", owner.prune}} {
		b.Run(c.name, func(b *testing.B) {
			c.before()
			res := owner.compact(uuid)
			join(b, res.PackBytes, func(joiner *store) {
				if err := joiner.hear(owner, uuid); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}
