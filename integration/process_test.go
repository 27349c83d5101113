package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	patience   = 2 * time.Minute // for what takes a moment on a quiet machine
	toolLimit  = 8 * time.Minute // for one command of a test
	mountLimit = 15*time.Minute + churnTime
)

// starts runs fork and exec on a thread that lives as long as the process: the
// death signal of a child is sent when the thread that forked it ends.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

func startChild(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	errc := make(chan error, 1)
	starts() <- func() { errc <- cmd.Start() }
	return <-errc
}

// process is a child that runs beside the test. It is killed when the test ends.
type process struct {
	cmd  *exec.Cmd
	log  string // file with its output
	done chan struct{}
	err  error // of Wait, once done is closed
}

func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	f, err := os.CreateTemp(scratch, "log-"+filepath.Base(cmd.Path)+"-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &process{cmd: cmd, log: f.Name(), done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	if cmd.Stderr == nil {
		cmd.Stderr = f
	}
	if err := startChild(cmd); err != nil {
		t.Fatalf("start %s: %v", cmd, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd, p.output())
		}
		os.Remove(p.log)
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// wait returns the child's exit error. A child that does not end in time is
// made to print its goroutines, and killed.
func (p *process) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.kill()
		}
		t.Fatalf("%s did not end in %v:\n%s", p.cmd, patience, p.output())
	}
	return p.err
}

// output returns what the child printed so far, or the end of it.
func (p *process) output() string {
	b, _ := os.ReadFile(p.log)
	return tail(b)
}

func tail(b []byte) string {
	const most = 16 << 10
	if len(b) > most {
		b = append([]byte("… "), b[len(b)-most:]...)
	}
	return string(b)
}

// result is how a command ended.
type result struct {
	out, err string
	code     int // -1 when killed
}

// tool is a command to run to its end.
type tool struct {
	dir   string
	env   []string // added to the environment
	stdin string
	limit time.Duration // default toolLimit
	creds *syscall.Credential
}

// try runs a command, killing it and its children when it takes too long.
func (c tool) try(t testing.TB, name string, args ...string) result {
	t.Helper()
	if c.limit == 0 {
		c.limit = toolLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.limit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.creds}
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := startChild(cmd)
	if err != nil {
		t.Fatalf("start %s (is its package installed? see test.sh): %v", cmd, err)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return result{stdout.String(), stderr.String() + fmt.Sprintf("\nkilled after %v", c.limit), -1}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%s: %v", cmd, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// run is try for a command that must succeed; it returns what was printed.
func (c tool) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := c.try(t, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %q in %q: exit status %d\n%s\n%s", name, args, c.dir, r.code, tail([]byte(r.out)), tail([]byte(r.err)))
	}
	return r.out
}

// sh runs a script that must succeed.
func sh(t testing.TB, dir, script string, args ...string) string {
	t.Helper()
	return tool{dir: dir}.run(t, "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
}

// worker starts the test binary again as one of workers.
func worker(t testing.TB, name string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), workerVariable+"="+name)
	return start(t, cmd)
}

// eventually waits until ok says yes; whatever needs a moment to be seen
// elsewhere is awaited so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts file systems or changes user")
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
