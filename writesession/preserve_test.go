package writesession

import (
	"bytes"
	"fmt"
	"testing"
)

func TestPreservedSessionsAreOrphansAndNeverPublishThemselves(t *testing.T) {
	for _, size := range []int{3 << 10, 30 << 10, 300 << 10} { // a row, memory, a staging file
		for _, synced := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d synced %v", size, synced), func(t *testing.T) {
				w := newWorld(t, small)
				f := w.create(w.main, "f")
				old := fill(100<<10, 1)
				w.put(f, 0, old)
				w.publish(f)
				part := fill(size, 2)
				want := append(bytes.Clone(part), old[min(size, len(old)):]...)
				if err := f.Truncate(int64(len(want))); err != nil {
					t.Fatal(err)
				}
				w.put(f, 0, part)
				if synced {
					if err := f.Sync(ctx); err != nil {
						t.Fatal(err)
					}
					w.put(f, 1, []byte{9}) // not in what was recorded for the fsync
					want[1] = 9
				}
				if err := f.Preserve(); err != nil {
					t.Fatal(err)
				}
				w.same(w.published(w.main, "f"), old)
				f = w.open(w.main, "f") // the same surface begins anew
				w.holds(f, old)
				w.shut(f)

				w.close()
				w = openWorld(t, w.dir, small)
				w.same(w.published(w.main, "f"), old)
				infos := w.sessions()
				if len(infos) != 1 || infos[0].Alive || infos[0].Size != int64(len(want)) {
					t.Fatalf("sessions: %+v", infos)
				}
				var got bytes.Buffer
				if err := w.s.Recover(ctx, infos[0].ID, &got); err != nil {
					t.Fatal(err)
				}
				w.same(got.Bytes(), want)
				if _, err := w.s.Publish(ctx, infos[0].ID); err != nil {
					t.Fatal(err)
				}
				w.same(w.published(w.main, "f"), want)
				if n := len(w.sessions()); n != 0 {
					t.Fatalf("%d sessions are left", n)
				}
				w.noStaging()
			})
		}
	}
}

func TestPreserveLeavesOthersTheirSession(t *testing.T) {
	w := newWorld(t, small)
	f := w.create(w.main, "f")
	g := w.open(w.main, "f")
	w.put(f, 0, []byte("shared"))
	if err := f.Preserve(); err != nil {
		t.Fatal(err)
	}
	w.shut(g)
	w.same(w.published(w.main, "f"), []byte("shared"))
	if err := w.open(w.main, "f").Preserve(); err != nil { // clean: nothing to keep
		t.Fatal(err)
	}
	if infos := w.sessions(); len(infos) != 0 {
		t.Fatalf("sessions: %+v", infos)
	}
}
