package crdtsync

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := 0
		k := sources{changed: func() { changed++ }, from: map[[16]byte]*source{}, tired: map[*session]time.Time{}}
		var b [16]byte
		one, two := new(session), new(session)
		want := func(when string, from *session, changes int) {
			t.Helper()
			synctest.Wait()
			for _, s := range []*session{one, two} {
				if got, want := k.holds(b, s), from != nil && s != from; got != want {
					t.Errorf("%s: held back is %v, want %v", when, got, want)
				}
			}
			if changed != changes {
				t.Errorf("%s: %d changes, want %d", when, changed, changes)
			}
		}
		k.weigh(b, one, manyChanges)
		want("few are lacking", nil, 0)
		k.weigh(b, one, manyChanges+1)
		k.weigh(b, two, 1<<40)
		want("many are lacking", one, 1)
		time.Sleep(sourceStall - time.Second)
		k.taking(b, one)
		time.Sleep(time.Hour) // taken in slowly
		k.weigh(b, one, 1)
		want("its turn is over", nil, 2)
		k.weigh(b, one, 1000)
		want("it had its turn", nil, 2)
		k.weigh(b, two, 1000)
		k.weigh(b, two, 0)
		want("all is here", nil, 4)
		time.Sleep(sourceTurn + time.Second)
		k.weigh(b, one, 1000)
		time.Sleep(sourceStall)
		want("it stalls", nil, 6)
		k.weigh(b, two, 1000)
		k.left(two)
		want("it left", nil, 8)
	})
}
