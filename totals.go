package alkfs

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/latency"
)

// totalsFile, in run/ of the store, has what processes counted that have ended:
// those of single commands live too short to be asked. What one that is killed
// counted is not in it, and neither is what two versions of alkfs call
// differently.
const totalsFile = "ended.json"

// cliSurface counts whole commands, by Options.Name.
const cliSurface = "cli"

// recordEnd adds what this process counted to the totals.
func (s *Store) recordEnd() {
	ops := s.Process().Ops
	if s.obs.name != "" && !s.obs.serves.Load() {
		set := latency.NewSet(cliSurface, []string{s.obs.name}, 0, nil)
		set.Done(0, s.obs.moment)
		ops.Add(cliSurface, set.Counts())
	}
	if err := s.addTotals(ops); err != nil {
		s.log.Debug("totals not kept", keyError, err)
	}
}

func (s *Store) addTotals(ops latency.Surfaces) error {
	if len(ops) == 0 {
		return nil
	}
	dir, err := openRun(s.dir, true)
	if err != nil {
		return err
	}
	dir.Close()
	f, err := os.OpenFile(filepath.Join(s.dir, runDir, totalsFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	all := readTotals(f)
	all.AddAll(ops)
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(text, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}

// readTotals reads the totals; what is not right counts as nothing.
func readTotals(r io.Reader) latency.Surfaces {
	all := latency.Surfaces{}
	if json.NewDecoder(r).Decode(&all) != nil || all == nil {
		return latency.Surfaces{}
	}
	return all
}

// Ended returns what processes counted that have ended in order.
func (s *Store) Ended() (latency.Surfaces, error) {
	f, err := os.Open(filepath.Join(s.dir, runDir, totalsFile))
	if os.IsNotExist(err) {
		return latency.Surfaces{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return nil, err
	}
	return readTotals(f), nil
}
