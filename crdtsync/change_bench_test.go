package crdtsync

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// makeFiles makes n files in directory d of a bucket, a change for each where single.
func (s *store) makeFiles(b [16]byte, n int, single bool) {
	s.t.Helper()
	for made := 0; made < n; {
		s.on(b, func(tx *schema.Tx, v *pathtree.View) error {
			e, err := v.Lookup(tx, v.Root(), "d")
			if err != nil {
				in, err := v.Create(tx, v.Root(), "d", pathtree.NewInode{Mode: unix.S_IFDIR | 0o755})
				if err != nil {
					return err
				}
				e.Ino = in.Ino
			}
			for more := true; more && made < n; more = !single && made%5000 != 0 {
				if _, err := v.Create(tx, e.Ino, fmt.Sprint("file", made), pathtree.NewInode{Mode: 0o644}); err != nil {
					return err
				}
				made++
			}
			return nil
		})
		if _, err := s.Drain(s.t.Context(), b); err != nil {
			s.t.Fatal(err)
		}
	}
}

// BenchmarkOneChange makes changes of one file each in a directory, and takes them in
// elsewhere.
func BenchmarkOneChange(b *testing.B) {
	for _, c := range []struct {
		entries int
		single  bool // each was a change of its own
	}{{10, false}, {1000, false}, {100_000, false}, {10_000, true}} {
		name := fmt.Sprintf("entries=%d", c.entries)
		if c.single {
			name = fmt.Sprintf("changes=%d", c.entries)
		}
		b.Run(name, func(b *testing.B) {
			here, there := newStore(b, "a"), newStore(b, "c")
			uuid := here.makeBucket("team")
			there.admit(here, uuid, identity.ReadWrite)
			here.makeFiles(uuid, c.entries, c.single)
			send(b, here, there, uuid)
			n := 0
			one := func() {
				n++
				here.write(uuid, fmt.Sprint("d/one", n), "text")
				if _, err := here.Drain(b.Context(), uuid); err != nil {
					b.Fatal(err)
				}
			}
			b.Run("make", func(b *testing.B) {
				for b.Loop() {
					one()
				}
			})
			send(b, here, there, uuid)
			b.Run("receive", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					one()
					b.StartTimer()
					send(b, here, there, uuid)
				}
			})
		})
	}
}
