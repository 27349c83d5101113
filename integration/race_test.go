package integration_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A server built with the race detector serves two mounts on which many
// goroutines do everything to the same few files at once.
func TestServerUnderRaceDetector(t *testing.T) {
	s := newStore(t)
	s.bin = binary(t, raceBinary)
	a, b := s.mount(t), s.mount(t)
	steps := 250
	if nightly {
		steps = 5000
	}
	var wg sync.WaitGroup
	for i := range 8 {
		m := []*mount{a, b}[i%2]
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 4))
			for range steps {
				if err := meddle(m.dir, rng); err != nil {
					t.Errorf("on mount %d: %v", i%2, err)
					return
				}
			}
		})
	}
	for i := range 3 {
		from := filepath.Join(scratch, fmt.Sprintf("from%d", i))
		write(t, from, strings.Repeat("content ", 10_000*i))
		s.alkfs(t, "put", from, "default/main:f1")
		s.alkfs(t, "branch", "create", fmt.Sprintf("b%d", i), "--from", "main")
		s.alkfs(t, "ls", "-lR", "default/main")
	}
	wg.Wait()
	for _, m := range []*mount{a, b} {
		m.unmount(t)
		if strings.Contains(m.output(), "DATA RACE") {
			t.Errorf("data race:\n%s", m.output())
		}
	}
	s.fsckDeep(t)
}

// meddle does one random thing to one of a few names that others meddle with
// as well; it returns only errors that no race for a name can explain.
func meddle(dir string, rng *rand.Rand) error {
	name := func() string { return filepath.Join(dir, fmt.Sprintf("f%d", rng.IntN(5))) }
	var err error
	switch p := name(); rng.IntN(10) {
	case 0, 1:
		err = os.WriteFile(p, make([]byte, rng.IntN(40_000)), 0o644)
	case 2, 3:
		_, err = os.ReadFile(p)
	case 4:
		var f *os.File
		if f, err = os.OpenFile(p, os.O_RDWR, 0); err == nil {
			_, err = f.WriteAt(make([]byte, rng.IntN(5000)), int64(rng.IntN(100_000)))
			err = errors.Join(err, f.Truncate(int64(rng.IntN(50_000))), f.Sync(), f.Close())
		}
	case 5:
		err = os.Rename(p, name())
	case 6:
		err = os.Remove(p)
	case 7:
		_, err = os.ReadDir(dir)
	case 8:
		err = os.Chmod(p, 0o600|fs.FileMode(rng.IntN(0o100)))
	case 9:
		err = os.Link(p, name())
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ESTALE) {
		return nil
	}
	return err
}
