package latency

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBucketsCoverEverything(t *testing.T) {
	for i := range buckets - 1 {
		if got := bucket(bound(i) - 1); got != i {
			t.Errorf("%v is in bucket %d, want %d", bound(i)-1, got, i)
		}
		if got := bucket(bound(i)); got != i+1 {
			t.Errorf("%v is in bucket %d, want %d", bound(i), got, i+1)
		}
	}
	for _, d := range []time.Duration{-5, 0, 1, math.MaxInt64} {
		if i := bucket(d); i < 0 || i >= buckets {
			t.Errorf("%v is in bucket %d", d, i)
		}
	}
}

func TestQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h Histogram
	var all []time.Duration
	for range 5000 {
		d := time.Duration(math.Exp(r.Float64()*14) * 500)
		all = append(all, d)
		h.Add(d)
	}
	slices.Sort(all)
	c := h.Counts()
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := float64(all[min(len(all)-1, int(q*float64(len(all))))])
		if got := float64(c.Quantile(q)); got < want*0.85 || got > want*1.15 {
			t.Errorf("quantile %v: %v, want about %v", q, got, want)
		}
	}
	if (Counts{}).Quantile(0.5) != 0 || (Counts{}).Mean() != 0 {
		t.Error("of nothing there is a quantile")
	}
	below := int64(0)
	for _, d := range all {
		if d < 1<<20 {
			below++
		}
	}
	if got := c.Below(20); got != below {
		t.Errorf("%d below 1 ms, want %d", got, below)
	}
}

func TestCountsAddUpAndSurviveJSON(t *testing.T) {
	a := NewSet("fuse", []string{"read", "write", "never"}, 0, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				a.Done(0, Now())
				a.Waited(1, Now()-Moment(time.Millisecond))
			}
		})
	}
	wg.Wait()
	before := Surfaces{}
	before.Add("fuse", a.Counts())
	a.Done(1, Now())
	after := Surfaces{}
	after.Add("fuse", a.Counts())
	text, err := json.Marshal(after)
	if err != nil {
		t.Fatal(err)
	}
	var read Surfaces
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if n := read["fuse"]["read"].Total(); n != 4000 || read["fuse"]["write"].Total() != 4001 || len(read["fuse"]) != 2 {
		t.Errorf("got %v", read)
	}
	d := read.Minus(before)
	if len(d) != 1 || len(d["fuse"]) != 1 || d["fuse"]["write"].Total() != 1 {
		t.Errorf("between: %v", d)
	}
	if m := before["fuse"]["write"].Mean(); m < time.Millisecond || m > time.Second {
		t.Errorf("mean %v", m)
	}
	read.AddAll(after)
	if n := read["fuse"]["read"].Total(); n != 8000 {
		t.Errorf("twice: %d", n)
	}
}

func TestSlowOperationsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := NewSet("sftp", []string{"read", "write"}, time.Second, slog.New(slog.NewTextHandler(&out, nil)))
		for _, d := range []time.Duration{999 * time.Millisecond, time.Second} {
			began := Now()
			time.Sleep(d)
			s.Done(1, began)
			s.Waited(0, began)
		}
		if s.Slow() != 1 || strings.Count(out.String(), "\n") != 1 || !strings.Contains(out.String(), `msg="slow operation" surface=sftp op=write took=1s`) {
			t.Errorf("logged %d: %s", s.Slow(), out.String())
		}
	})
}

func TestRecordingDoesNotAllocate(t *testing.T) {
	s := NewSet("fuse", []string{"read"}, time.Second, slog.New(slog.DiscardHandler))
	if n := testing.AllocsPerRun(100, func() { s.Done(0, Now()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDone(b *testing.B) {
	s := NewSet("fuse", []string{"read"}, time.Second, slog.New(slog.DiscardHandler))
	for b.Loop() {
		s.Done(0, Now())
	}
}
