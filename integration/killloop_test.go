package integration_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The server of a mount is killed at random moments while several processes
// create, write, fsync, rename and unlink; each time the store opens again,
// passes fsck --deep, and holds what was acknowledged. Collection runs now and
// then and must not take anything that is needed.
func TestKillLoop(t *testing.T) {
	t.Parallel()
	const crew = 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	s := newStore(t)
	journals := t.TempDir()
	journalOf := func(i int) string { return filepath.Join(journals, fmt.Sprintf("w%d", i)) }
	dir := t.TempDir()
	for round := range killRounds {
		m := s.mountAt(t, dir)
		files := 0
		for i := range crew {
			d := m.path(fmt.Sprintf("w%d", i))
			if round == 0 {
				must(t, os.Mkdir(d, 0o755))
				continue
			}
			files += verify(t, d, journalOf(i))
		}
		if t.Failed() {
			t.Fatalf("after round %d of kill -9", round)
		}
		m.settle(t)
		var ps []*process
		for i := range crew {
			ps = append(ps, worker(t, "killloop", m.path(fmt.Sprintf("w%d", i)), journalOf(i), fmt.Sprint(rng.Uint64())))
		}
		before := journalSizes(t, journals)
		eventually(t, "all workers at work", func() bool { return allGrown(t, journals, before, crew, 2000) })
		time.Sleep(time.Duration(rng.IntN(400_000)) * time.Microsecond) // the random moment
		for _, p := range ps {
			if !p.running() { // nothing may fail before the kill
				t.Fatalf("round %d: worker ended early: %v\n%s\n%s", round, p.err, p.output(), m.output())
			}
		}
		m.kill9(t)
		for _, p := range ps {
			if err := p.wait(t); err != nil {
				t.Fatalf("round %d: worker: %v\n%s", round, err, p.output())
			}
		}
		s.fsckDeep(t)
		if round%7 == 6 {
			s.alkfs(t, "gc")
		}
		t.Logf("round %d: %d names checked", round, files)
	}
	m := s.mountAt(t, dir)
	for i := range crew {
		verify(t, m.path(fmt.Sprintf("w%d", i)), journalOf(i))
	}
	m.unmount(t)
	s.fsckDeep(t)
}

func journalSizes(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		sizes[e.Name()] = info.Size()
	}
	return sizes
}

func allGrown(t testing.TB, dir string, before map[string]int64, n int, by int64) bool {
	t.Helper()
	now := journalSizes(t, dir)
	for name, size := range now {
		if size < before[name]+by {
			return false
		}
	}
	return len(now) == n
}
