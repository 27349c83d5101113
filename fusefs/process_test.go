package fusefs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A test that needs another process runs this binary again with these set.
const (
	envStore = "FUSEFS_TEST_STORE"
	envDir   = "FUSEFS_TEST_DIR"
	envMap   = "FUSEFS_TEST_MAP"
)

// TestMapInChild is not a test by itself: see mapInChild.
func TestMapInChild(t *testing.T) {
	var off int
	var sync bool
	var content string
	if n, _ := fmt.Sscanf(os.Getenv(envMap), "%d %t %q", &off, &sync, &content); n != 3 {
		return
	}
	mem, err := unix.Mmap(3, 0, off+len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(3)
	copy(mem[off:], content)
	if sync {
		err = unix.Msync(mem, unix.MS_SYNC)
	}
	if e := unix.Munmap(mem); err != nil || e != nil {
		t.Fatal(err, e)
	}
}

// mapInChild has another process write content at off through a mapping of f,
// and returns the function that waits for it. A process must not touch
// mappings of files that it serves: a page fault keeps its Go scheduler, and
// with it the server that would answer, from going on.
func mapInChild(t *testing.T, f *os.File, off int, content string, sync bool) (wait func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestMapInChild$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %t %q", envMap, off, sync, content))
	cmd.ExtraFiles = []*os.File{f}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, &out)
		}
	}
}

// TestMountInChild is not a test by itself: it mounts, says so, and serves
// until its standard input ends.
func TestMountInChild(t *testing.T) {
	store := os.Getenv(envStore)
	if store == "" {
		return
	}
	s, err := Mount(t.Context(), os.Getenv(envDir), testStore(t, store), mainBranch)
	if err != nil {
		fmt.Println("failed:", err)
		t.FailNow()
	}
	fmt.Println("mounted")
	io.Copy(io.Discard, os.Stdin)
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
}

// child mounts in another process, as the user uid, and returns it and the
// end of its standard input.
func child(t *testing.T, store, dir string, uid uint32) (*exec.Cmd, io.Closer) {
	t.Helper()
	exe := filepath.Join(shared(t), "fusefs.test")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run", "^TestMountInChild$")
	cmd.Dir = shared(t)
	cmd.Env = append(os.Environ(), envStore+"="+store, envDir+"="+dir, "TMPDIR="+shared(t))
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "mounted" {
		t.Log(lines.Text())
	}
	if lines.Text() != "mounted" {
		t.Fatal("no mount: ", cmd.Wait())
	}
	go io.Copy(io.Discard, out)
	return cmd, in
}

// shared makes a directory that every user can use.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fusefs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestKilledMountIsTakenAwayAndLosesNothing(t *testing.T) {
	store, dir := t.TempDir(), t.TempDir()
	cmd, _ := child(t, store, dir, 0)
	t.Cleanup(func() { unmountDir(dir, true) })
	write(t, filepath.Join(dir, "f"), "published")
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR)
	if _, err := f.WriteAt([]byte("not this"), 0); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	cmd.Process.Kill()
	cmd.Wait()
	f.Close()
	if err := probe(dir); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("a dead mount says %v", err)
	}
	s, err := Mount(t.Context(), dir, testStore(t, store), mainBranch)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "f")); got != "published" {
		t.Errorf("read %q", got)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
}

func TestMountAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	const nobody = 65534
	store, dir := shared(t), shared(t)
	for _, d := range []string{store, dir} {
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	cmd, in := child(t, store, dir, nobody)
	if kind := mountedOn(dir); kind != "fuse.alkfs" {
		t.Errorf("mounted as %q", kind)
	}
	as := func(command string) string {
		sh := exec.Command("sh", "-c", command)
		sh.Dir = "/"
		sh.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := sh.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v %s", command, err, out)
		}
		return string(out)
	}
	as("mkdir " + dir + "/d && echo hello > " + dir + "/d/f")
	if got := as("cat " + dir + "/d/f && stat -c %u " + dir + "/d/f"); got != "hello\n65534\n" {
		t.Errorf("read %q", got)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if kind := mountedOn(dir); kind != "" {
		t.Errorf("still mounted as %q", kind)
		unmountDir(dir, true)
	}
}

func TestMountRefuses(t *testing.T) {
	store := t.TempDir()
	c := testStore(t, store)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	inside := filepath.Join(store, "inside")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	mounted, _ := testMount(t, c, mainBranch)
	for _, test := range []struct {
		what, dir string
		o         Options
		want      error
	}{
		{"a missing directory", filepath.Join(t.TempDir(), "no"), mainBranch, unix.ENOENT},
		{"a file", file, mainBranch, unix.ENOTDIR},
		{"a mount point", mounted, mainBranch, unix.EBUSY},
		{"the store", store, mainBranch, unix.EINVAL},
		{"around the store", filepath.Dir(store), mainBranch, unix.EINVAL},
		{"inside the store", inside, mainBranch, unix.EINVAL},
		{"an unknown bucket", t.TempDir(), Options{Bucket: "no"}, unix.ENOENT},
		{"an unknown branch", t.TempDir(), Options{Bucket: "b", Branch: "no"}, unix.ENOENT},
		{"a branch of no bucket", t.TempDir(), Options{Branch: "main"}, unix.EINVAL},
	} {
		s, err := Mount(t.Context(), test.dir, c, test.o)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
		if err == nil {
			s.Unmount()
		}
	}
}
