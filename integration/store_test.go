package integration_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// store is a store directory and the binary that serves it.
type store struct {
	dir string
	bin string
}

func binary(t testing.TB, build func() (string, error)) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// newStore makes an empty store below t.TempDir.
func newStore(t testing.TB) *store {
	t.Helper()
	return storeAt(t, filepath.Join(t.TempDir(), "store"))
}

// storeAt makes a store in a directory that does not exist yet.
func storeAt(t testing.TB, dir string) *store {
	t.Helper()
	s := &store{dir: dir, bin: binary(t, plainBinary)}
	s.alkfs(t, "init")
	return s
}

func (s *store) args(args []string) []string { return append([]string{"--store", s.dir}, args...) }

// alkfs runs a command on the store that must succeed.
func (s *store) alkfs(t testing.TB, args ...string) string {
	t.Helper()
	return tool{}.run(t, s.bin, s.args(args)...)
}

// try runs a command on the store, whatever comes of it.
func (s *store) try(t testing.TB, args ...string) result {
	t.Helper()
	return tool{}.try(t, s.bin, s.args(args)...)
}

// fsckDeep checks everything there is to check.
func (s *store) fsckDeep(t testing.TB) {
	t.Helper()
	s.alkfs(t, "fsck", "--deep")
}

// mount is a mounted store, served by a child process.
type mount struct {
	*process
	store *store
	dir   string
}

// path returns the host path of a file in the mount.
func (m *mount) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// mount serves the store on a fresh directory: args are flags and, optionally,
// a spec. It returns when the mount answers.
func (s *store) mount(t testing.TB, args ...string) *mount {
	t.Helper()
	return s.mountAt(t, t.TempDir(), args...)
}

func (s *store) mountAt(t testing.TB, dir string, args ...string) *mount {
	t.Helper()
	cmd := exec.Command(s.bin, s.args(append(append([]string{"mount"}, args...), dir))...)
	return s.mountCommand(t, cmd, dir)
}

// mountCommand starts cmd, which mounts the store on dir.
func (s *store) mountCommand(t testing.TB, cmd *exec.Cmd, dir string) *mount {
	t.Helper()
	m := &mount{store: s, dir: dir}
	// Registered before the child's own cleanup, so it runs when that is dead
	// and nothing can hang on it any more.
	t.Cleanup(func() { detach(dir) })
	m.process = start(t, cmd)
	// A hang must fail the test, not the whole run: with the server dead, what
	// hangs on the mount ends with an error.
	watchdog := time.AfterFunc(mountLimit, func() {
		m.cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(5 * time.Second)
		m.cmd.Process.Kill()
	})
	t.Cleanup(func() {
		if !watchdog.Stop() {
			t.Errorf("mount killed after %v", mountLimit)
		}
	})
	eventually(t, "mounted on "+dir, func() bool {
		if !m.running() {
			t.Fatalf("%s ended: %v\n%s", cmd, m.err, m.output())
		}
		_, ok := mountedOn(t, dir)
		return ok
	})
	return m
}

// unmount takes the mount away as umount(8) does and waits until its server
// has ended well, with everything published.
func (m *mount) unmount(t testing.TB) {
	t.Helper()
	var said string
	eventually(t, "unmounted "+m.dir, func() bool {
		if os.Getuid() == 0 {
			return syscall.Unmount(m.dir, 0) == nil
		}
		r := tool{}.try(t, "fusermount3", "-u", m.dir)
		said = r.err
		return r.code == 0
	})
	if err := m.wait(t); err != nil {
		t.Fatalf("after unmount (%s): %v\n%s", said, err, m.output())
	}
}

// kill9 kills the server as a crash of it would, and clears the dead mount away.
func (m *mount) kill9(t testing.TB) {
	t.Helper()
	m.kill()
	detach(m.dir)
}

// terminate asks the server to stop with SIGTERM and waits until it did.
func (m *mount) terminate(t testing.TB) {
	t.Helper()
	must(t, m.cmd.Process.Signal(syscall.SIGTERM))
	if err := m.wait(t); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, m.output())
	}
}

// settle makes everything done in the mount so far survive kill -9.
func (m *mount) settle(t testing.TB) {
	t.Helper()
	d, err := os.Open(m.dir)
	must(t, err)
	defer d.Close()
	must(t, d.Sync())
}

// detach unmounts whatever is on dir, dead or alive.
func detach(dir string) {
	for range 8 {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err == nil {
			continue
		}
		if _, ok := mountedOn(nil, dir); !ok {
			return
		}
		exec.Command("fusermount3", "-uz", dir).Run()
	}
}

type mountInfo struct{ source, fstype, options string }

// mountedOn reads /proc/self/mountinfo.
func mountedOn(t testing.TB, dir string) (mountInfo, bool) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		if t != nil {
			t.Fatal(err)
		}
		return mountInfo{}, false
	}
	defer f.Close()
	var found mountInfo
	ok := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		front, back, _ := strings.Cut(sc.Text(), " - ")
		a, b := strings.Fields(front), strings.Fields(back)
		if len(a) < 6 || len(b) < 2 || unescapeOctal(a[4]) != dir {
			continue
		}
		found, ok = mountInfo{source: b[1], fstype: b[0], options: a[5]}, true
	}
	return found, ok
}

func unescapeOctal(s string) string {
	for _, r := range []struct{ from, to string }{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, r.from, r.to)
	}
	return s
}

// needTools fails the test early, with the name of what is missing.
func needTools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Fatal(fmt.Errorf("%w: test.sh installs it", err))
		}
	}
}
