package integration_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const mib = 1 << 20

// Bounds of TestStoreUnderChurn: several times what was seen, so that only what
// grows without end exceeds them.
const (
	churnDisk   = 768 * mib // store
	churnWAL    = 256 * mib
	churnMemory = 1024 * mib // resident, of each process
	churnFiles  = 20_000     // files in the store's directory
	churnSlack  = 96 * mib   // by which the last quarter may exceed twice the second
)

// Several processes use one store at full speed while it is pruned, collected,
// scrubbed and backed up without a pause: two mounts with three writers, one that
// forks, merges and drops branches, one that follows all events, and commands
// that come and go. Its disk use, its WAL and the memory of each process stay
// bounded, and do not grow from the second quarter of the time to the last.
func TestStoreUnderChurn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.alkfs(t, "bucket", "set", "default", "--keep", "10s")
	tokens := filepath.Join(t.TempDir(), "tokens")
	must(t, syscall.Mkfifo(tokens, 0o600))
	pipe, err := os.OpenFile(tokens, os.O_RDWR, 0)
	must(t, err)
	defer pipe.Close()
	backup := filepath.Join(t.TempDir(), "backup")

	mounts := map[string]*mount{"mount of main": s.mount(t), "mount of all": s.mount(t, "--all")}
	dirs := map[string]string{
		"writer 1": mounts["mount of main"].path("w1"),
		"writer 2": mounts["mount of main"].path("w2"),
		"writer 3": mounts["mount of all"].path("default", "main", "w3"),
	}
	must(t, os.Mkdir(mounts["mount of main"].path("branches"), 0o755))
	crew := map[string]*process{}
	for i, name := range slices.Sorted(maps.Keys(dirs)) {
		must(t, os.Mkdir(dirs[name], 0o755))
		crew[name] = worker(t, "churn-files", dirs[name], strconv.Itoa(i+1), tokens)
	}
	mounts["mount of main"].settle(t)
	crew["branches"] = worker(t, "churn-branches", s.dir)
	crew["upkeep"] = worker(t, "churn-upkeep", s.dir, tokens)
	crew["backup"] = worker(t, "churn-backup", s.dir, backup)
	watch := follow(t, s)

	c := &churn{store: s.dir, backup: backup, peak: map[string]*[4]int64{}, pids: map[string]func() int{"watch": watch.pid}}
	for name, p := range crew {
		c.pids[name] = func() int { return p.cmd.Process.Pid }
	}
	for name, m := range mounts {
		c.pids[name] = func() int { return m.cmd.Process.Pid }
	}
	began := time.Now()
	for commands := 0; time.Since(began) < churnTime; commands++ {
		for name, p := range crew {
			if !p.running() {
				t.Fatalf("%s ended: %v\n%s", name, p.err, p.output())
			}
		}
		c.sample(t, min(3, int(4*time.Since(began)/churnTime)))
		s.command(t, commands)
	}
	for name, p := range crew {
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		_, err := pipe.Write(make([]byte, 64)) // whoever waits for a token ends too
		must(t, err)
		if err := p.wait(t); err != nil {
			t.Errorf("%s: %v\n%s", name, err, p.output())
		}
		t.Logf("%s: %s", name, strings.TrimSpace(p.output()))
	}
	events, behind, err := watch.end()
	must(t, err)
	t.Logf("watch: %d events in order, fell behind %d times", events, behind)
	for _, m := range mounts {
		m.unmount(t)
	}
	s.fsckDeep(t)
	s.alkfs(t, "gc", "--keep", "1ns", "--grace", "1ns")
	c.report(t)
	disk, _ := diskUse(s.dir)
	t.Logf("  disk at the end, collected: %.1f", inMiB(disk))
	c.check(t)
	restored := filepath.Join(t.TempDir(), "restored")
	s.alkfs(t, "restore-store", backup, restored)
	(&store{dir: restored, bin: s.bin}).fsckDeep(t)
}

// command runs one of the commands that come and go.
func (s *store) command(t testing.TB, n int) {
	t.Helper()
	switch n % 5 {
	case 0:
		s.alkfs(t, "stats", "--json")
	case 1:
		r := tool{stdin: fmt.Sprint("content ", n)}.try(t, s.bin, s.args([]string{"put", "-", fmt.Sprintf(":put-%d", n%7)})...)
		if r.code != 0 {
			t.Fatal(r.err)
		}
	case 2:
		s.alkfs(t, "log", ":")
	case 3:
		s.alkfs(t, "jobs", "history", "-n", "5")
	case 4:
		s.alkfs(t, "gc")
	}
}

// follower reads `alkfs watch --json` and starts it again when it is told that it
// fell behind. Event numbers are dense: a gap is an event missed.
type follower struct {
	s    *store
	done chan struct{}
	mu   struct {
		sync.Mutex
		cmd     *exec.Cmd
		ending  bool
		events  int
		behind  int
		failure error
	}
}

func follow(t testing.TB, s *store) *follower {
	f := &follower{s: s, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for again := true; again; {
			var err error
			again, err = f.once()
			f.mu.Lock()
			f.mu.failure = err
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() { f.end() })
	return f
}

// once runs the command until it ends, and reports whether it fell behind.
func (f *follower) once() (again bool, err error) {
	var said strings.Builder
	cmd := exec.Command(f.s.bin, f.s.args([]string{"watch", "--json"})...)
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	if f.mu.ending {
		f.mu.Unlock()
		return false, nil
	}
	err = startChild(cmd)
	f.mu.cmd = cmd
	f.mu.Unlock()
	if err != nil {
		return false, err
	}
	last := int64(0)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e struct{ Seq int64 }
		if err = json.Unmarshal(lines.Bytes(), &e); err != nil {
			break
		}
		if last != 0 && e.Seq != last+1 {
			err = fmt.Errorf("event %d after %d", e.Seq, last)
			break
		}
		last = e.Seq
		f.mu.Lock()
		f.mu.events++
		f.mu.Unlock()
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return false, err
	}
	err = cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.ending {
		return false, nil
	}
	if strings.Contains(said.String(), "already pruned") {
		f.mu.behind++
		return true, nil
	}
	return false, fmt.Errorf("alkfs watch ended: %w %s", err, said.String())
}

func (f *follower) pid() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.cmd == nil {
		return 0
	}
	return f.mu.cmd.Process.Pid
}

// end stops the command and returns what went wrong before.
func (f *follower) end() (events, behind int, err error) {
	f.mu.Lock()
	f.mu.ending = true
	if f.mu.cmd != nil {
		f.mu.cmd.Process.Signal(syscall.SIGTERM)
	}
	f.mu.Unlock()
	<-f.done
	return f.mu.events, f.mu.behind, f.mu.failure
}

// churn is what was measured, by quarter of the time.
type churn struct {
	store, backup string
	pids          map[string]func() int
	peak          map[string]*[4]int64 // bytes, or a count
}

func (c *churn) note(what string, quarter int, n int64) {
	if c.peak[what] == nil {
		c.peak[what] = new([4]int64)
	}
	c.peak[what][quarter] = max(c.peak[what][quarter], n)
}

func (c *churn) sample(t testing.TB, quarter int) {
	t.Helper()
	disk, files := diskUse(c.store)
	c.note("disk", quarter, disk)
	c.note("files", quarter, files)
	backup, _ := diskUse(c.backup)
	c.note("backup", quarter, backup)
	for what, name := range map[string]string{"database": "alkfs.db", "WAL": "alkfs.db-wal"} {
		fi, err := os.Stat(filepath.Join(c.store, name))
		must(t, err)
		c.note(what, quarter, fi.Size())
	}
	for name, pid := range c.pids {
		c.note("memory of "+name, quarter, resident(pid()))
	}
}

// diskUse is what du says of a directory in which others work, and how many
// files that is.
func diskUse(dir string) (bytes, files int64) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if fi, err := d.Info(); err == nil {
			bytes += fi.Sys().(*syscall.Stat_t).Blocks * 512
			files++
		}
		return nil
	})
	return bytes, files
}

// resident is the memory of a process, in bytes; 0 when it is gone.
func resident(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if f := strings.Fields(string(text)); len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		return pages * int64(os.Getpagesize())
	}
	return 0
}

func (c *churn) report(t testing.TB) {
	t.Logf("peaks by quarter of %v, MiB:", churnTime)
	for _, what := range slices.Sorted(maps.Keys(c.peak)) {
		q := c.peak[what]
		if what == "files" {
			t.Logf("  %-28s %7d %7d %7d %7d (count)", what, q[0], q[1], q[2], q[3])
			continue
		}
		t.Logf("  %-28s %7.1f %7.1f %7.1f %7.1f", what, inMiB(q[0]), inMiB(q[1]), inMiB(q[2]), inMiB(q[3]))
	}
}

func inMiB(n int64) float64 { return float64(n) / mib }

// check compares the peaks with their bounds, and the last quarter with the
// second.
func (c *churn) check(t testing.TB) {
	t.Helper()
	for what, q := range c.peak {
		bound, slack := int64(churnDisk), int64(churnSlack)
		switch {
		case what == "WAL":
			bound = churnWAL
		case what == "files":
			bound, slack = churnFiles, churnFiles/4
		case strings.HasPrefix(what, "memory"):
			bound = churnMemory
		}
		if most := slices.Max(q[:]); most > bound {
			t.Errorf("%s: %d, bound %d", what, most, bound)
		}
		if q[3] > 2*q[1]+slack {
			t.Errorf("%s grows: %v by quarter", what, *q)
		}
	}
}
