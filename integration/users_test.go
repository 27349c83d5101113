package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is an ordinary user that every Linux system has.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// openDir makes a directory that an ordinary user can reach and owns.
func openDir(t testing.TB, owner *syscall.Credential) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "user-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	return dir
}

// asUser makes a command for a store that an ordinary user runs.
func (s *store) asUser(home string, args ...string) *exec.Cmd {
	cmd := exec.Command(s.bin, s.args(args)...)
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	return cmd
}

// An ordinary user mounts through fusermount3; nobody else gets in, not even
// root, unless --allow-other is given.
func TestMountAsOrdinaryUser(t *testing.T) {
	needRoot(t)
	needTools(t, "fusermount3")
	home := openDir(t, nobody)
	s := &store{dir: filepath.Join(home, "store"), bin: binary(t, plainBinary)}
	dir := filepath.Join(home, "mnt")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Chown(dir, int(nobody.Uid), int(nobody.Gid)))
	user := tool{dir: home, env: []string{"HOME=" + home}, creds: nobody}

	m := s.mountCommand(t, s.asUser(home, "mount", dir), dir)
	user.run(t, "sh", "-euc", `cd mnt; mkdir d; echo hello >d/file; mv d/file d/moved; test "$(cat d/moved)" = hello; test "$(stat -c %u d/moved)" = 65534`)
	if _, err := os.ReadDir(dir); err == nil {
		t.Error("another user may look into the mount without --allow-other")
	}
	user.run(t, "fusermount3", "-u", dir)
	must(t, m.wait(t))

	m = s.mountCommand(t, s.asUser(home, "mount", "--allow-other", dir), dir)
	if got := read(t, filepath.Join(dir, "d", "moved")); got != "hello\n" {
		t.Errorf("another user reads %q", got)
	}
	user.run(t, s.bin, s.args([]string{"umount", dir})...)
	must(t, m.wait(t))
}

// With --allow-other the kernel checks permissions as on any file system.
func TestAllowOtherChecksPermissions(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	dir := openDir(t, &syscall.Credential{})
	m := s.mountAt(t, dir, "--allow-other")
	must(t, os.Chmod(m.dir, 0o755))
	write(t, m.path("open"), "for all")
	write(t, m.path("closed"), "for root")
	must(t, os.Chmod(m.path("closed"), 0o600))
	must(t, os.Mkdir(m.path("theirs"), 0o700))
	must(t, os.Chown(m.path("theirs"), int(nobody.Uid), int(nobody.Gid)))
	user := tool{dir: "/", creds: nobody}
	if out := user.run(t, "cat", m.path("open")); out != "for all" {
		t.Errorf("open: %q", out)
	}
	for _, script := range []string{`cat "$1/closed"`, `echo x >"$1/open"`, `echo x >"$1/new"`, `rm -f "$1/open"`} {
		if r := user.try(t, "sh", "-c", script, "sh", m.dir); r.code == 0 || !strings.Contains(r.err, "ermission denied") {
			t.Errorf("%s: exit status %d, %s", script, r.code, r.err)
		}
	}
	user.run(t, "sh", "-euc", `cd "$1/theirs"; echo mine >file; chmod 600 file; test "$(stat -c %u:%g file)" = 65534:65534`, "sh", m.dir)
	if got := read(t, m.path("theirs", "file")); got != "mine\n" {
		t.Errorf("root reads %q", got)
	}
	m.unmount(t)
}

// df and mount show what the file system is.
func TestDfAndMountShowAlkfs(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	write(t, m.path("file"), "x")
	info, _ := mountedOn(t, m.dir)
	if !strings.Contains(info.fstype, "alkfs") {
		t.Errorf("file system type %q", info.fstype)
	}
	out := tool{}.run(t, "df", "--output=source,fstype,size,avail,itotal", m.dir)
	if !strings.Contains(out, "alkfs") {
		t.Errorf("df says:\n%s", out)
	}
	if out := (tool{}).run(t, "mount"); !strings.Contains(out, m.dir+" type fuse.alkfs") {
		t.Errorf("mount does not show %s as fuse.alkfs:\n%s", m.dir, out)
	}
	var st syscall.Statfs_t
	must(t, syscall.Statfs(m.dir, &st))
	if st.Blocks == 0 || st.Bavail == 0 || st.Namelen != 255 {
		t.Errorf("statfs: %+v", st)
	}
	m.unmount(t)
}
