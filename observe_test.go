package alkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alkdev/alkfs/latency"
)

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openNamed(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, o)
	mustDo(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// What a process counts can be asked for while it runs, also in a store whose
// path is longer than a socket's may be, and is in the totals afterwards.
func TestProcessesAreSeen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 40), "store")
	s := openNamed(t, dir, Options{Name: "mount"})
	stop, err := s.Answer()
	mustDo(t, err)
	v, err := s.View(Spec{})
	mustDo(t, err)
	for range 3 {
		mustDo(t, v.WriteFile("f", []byte("text"), 0o644))
	}
	_, err = v.ReadFile("none")
	if err == nil {
		t.Fatal("there is a file")
	}

	other := openNamed(t, dir, Options{Name: "stats"})
	list, err := other.Processes(context.Background())
	mustDo(t, err)
	if len(list) != 1 || list[0].PID != os.Getpid() || list[0].Name != "mount" {
		t.Fatalf("got %+v", list)
	}
	api := list[0].Ops["api"]
	if api["write"].Total() != 3 || api["read"].Total() != 1 || list[0].Transactions.Writes < 3 || list[0].Goroutines == 0 || list[0].HeapBytes == 0 {
		t.Errorf("got %+v", list[0])
	}
	mustDo(t, s.Close())
	stop()
	if list, err := other.Processes(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
	if left, _ := filepath.Glob(dir + "/run/*.sock"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	mustDo(t, other.Close())
	last := openNamed(t, dir, Options{Name: "stats"})
	ended, err := last.Ended()
	mustDo(t, err)
	if ended["api"]["write"].Total() != 3 || ended["cli"]["stats"].Total() != 1 || len(ended["cli"]) != 1 {
		t.Errorf("ended: %v", ended)
	}
}

// A socket whose process was killed is cleared away, and totals that are no
// totals count as none.
func TestDeadProcessesAreForgotten(t *testing.T) {
	dir := t.TempDir()
	s := openNamed(t, dir, Options{Name: "x"})
	mustDo(t, os.Mkdir(filepath.Join(dir, runDir), 0o700))
	path := filepath.Join(dir, runDir, "1-1.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	mustDo(t, err)
	mustDo(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})) // and nobody listens
	mustDo(t, syscall.Close(fd))
	mustDo(t, os.WriteFile(filepath.Join(dir, runDir, totalsFile), []byte(`{"api":{"re`), 0o600))
	if list, err := s.Processes(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error("the socket is still there:", err)
	}
	mustDo(t, s.Close())
	s = openNamed(t, dir, Options{})
	ended, err := s.Ended()
	if err != nil || ended["cli"]["x"].Total() != 1 {
		t.Errorf("got %v, %v", ended, err)
	}
}

func TestTotalsOfManyProcessesAddUp(t *testing.T) {
	dir := t.TempDir()
	s := openNamed(t, dir, Options{})
	done := make(chan error)
	for range 8 {
		go func() {
			var err error
			for range 20 {
				set := latency.NewSet("api", []string{"read"}, 0, nil)
				set.Done(0, latency.Now())
				err = errors.Join(err, s.addTotals(latency.Surfaces{"api": set.Counts()}))
			}
			done <- err
		}()
	}
	for range 8 {
		mustDo(t, <-done)
	}
	ended, err := s.Ended()
	mustDo(t, err)
	if n := ended["api"]["read"].Total(); n != 160 {
		t.Errorf("%d counted, want 160", n)
	}
}

func TestLogLevels(t *testing.T) {
	levels, err := ParseLogLevels(" warn, fusefs=debug,sftpsrv=error ", slog.LevelInfo)
	mustDo(t, err)
	var out bytes.Buffer
	base := slog.New(levels.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, name := range []string{"alkfs", "fusefs", "sftpsrv"} {
		log := base.With(keyPackage, name).With("dir", "/d")
		for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			log.Log(context.Background(), l, fmt.Sprint(name, l))
		}
	}
	for _, c := range []struct {
		name string
		n    int
	}{{"alkfs", 2}, {"fusefs", 4}, {"sftpsrv", 1}} {
		if n := strings.Count(out.String(), "package="+c.name+" dir=/d"); n != c.n {
			t.Errorf("%s logged %d times, want %d:\n%s", c.name, n, c.n, out.String())
		}
	}
	if l, err := ParseLogLevels("", slog.LevelInfo); err != nil || l.Default != slog.LevelInfo {
		t.Errorf("got %v, %v", l, err)
	}
	for _, bad := range []string{"loud", "fusefs=", "other=info"} {
		if _, err := ParseLogLevels(bad, slog.LevelInfo); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// What is remembered of the log tells no names, unless asked.
func TestRecentLogTellsNoNames(t *testing.T) {
	r := &recent{}
	log := slog.New(r.tee(slog.DiscardHandler)).With(keyPackage, "fusefs", "dir", "/secret/place")
	for range recentMax + 10 {
		log.Warn("it happened", "path", "secret.txt", keyError, &os.PathError{Op: "open", Path: "secret", Err: syscall.EDQUOT},
			"took", time.Second, "inode", 7, "list", []string{"secret"})
	}
	log.Debug("not this")
	var plain, named bytes.Buffer
	mustDo(t, r.write(&plain, false))
	mustDo(t, r.write(&named, true))
	if text := plain.String(); strings.Contains(text, "secret") || !strings.Contains(text, "package=fusefs dir=… path=… error=EDQUOT took=1s inode=7 list=…") ||
		!strings.Contains(text, "510 times: WARN it happened") || strings.Count(text, "\n") != recentMax+2 || strings.Contains(text, "not this") {
		t.Errorf("got %.600s", text)
	}
	if !strings.Contains(named.String(), `path="secret.txt"`) {
		t.Errorf("got %.600s", named.String())
	}
}
