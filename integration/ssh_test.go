package integration_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSFTPBatchOfEveryCommand(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	dir, big := t.TempDir(), randomFile(t, sshBig)
	write(t, filepath.Join(dir, "small"), "small text\n")
	must(t, os.Chmod(filepath.Join(dir, "small"), 0o640))
	must(t, os.Symlink("small", filepath.Join(dir, "link")))
	must(t, os.Mkdir(filepath.Join(dir, "tree"), 0o755))
	sh(t, dir, `head -c "$1" "$2" >half`, fmt.Sprint(sshBig/2+1), big)
	write(t, filepath.Join(dir, "tree", "leaf"), "leaf\n")
	out := srv.batch(t, dir,
		"version", "pwd", "lpwd", "ls -la /", "cd /default/main", "ls -lan",
		"mkdir d", "cd d", "lcd "+dir,
		"put "+big+" big", "put -p small s", "put small t", "put -f small synced", "put -R tree",
		"chmod 600 t", fmt.Sprintf("chgrp %d t", os.Getgid()), fmt.Sprintf("chown %d t", os.Getuid()),
		"ln s hard", "ln -s s soft", "symlink s soft2", "rename t u", "copy s copied",
		"ls -1 -t", "ls -l *", "ls -ln tree", "df", "df -hi",
		"get big big2", "get -p s s2", "get soft soft2", "get -R tree tree2",
		"put half partial", "reput "+big+" partial", "reget big half",
		"mkdir empty", "rmdir empty", "rm copied",
		"-rm nosuch", "-rmdir tree", "-cd /etc", "-get /etc/passwd", "-mkdir /new", "-rmdir /default/main",
		"-put small /default/file", "-rename s /x", "-ls /nosuch", "-chmod 777 /default/main/nosuch",
		"lls", "lmkdir made", "!true", "progress", "bye")
	for _, want := range []string{"SFTP protocol version 3", "Remote working directory: /", "default"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in what sftp says:\n%s", want, tail([]byte(out)))
		}
	}
	for _, name := range []string{"big2", "half"} {
		must(t, sameContent(big, filepath.Join(dir, name)))
	}
	for name, want := range map[string]string{"s2": "small text\n", "soft2": "small text\n", "tree2/leaf": "leaf\n"} {
		if got := read(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "s2")); err != nil || st.Mode() != 0o640 {
		t.Errorf("mode of what was put and got with -p: %v, %v", st, err)
	}
	m := s.mount(t)
	for name, want := range map[string]string{"s": "small text\n", "hard": "small text\n", "soft": "small text\n", "u": "small text\n", "tree/leaf": "leaf\n"} {
		if got := read(t, m.path("d", name)); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	must(t, sameContent(big, m.path("d", "big")))
	must(t, sameContent(big, m.path("d", "partial")))
	m.unmount(t)
	srv.terminate(t)
	s.fsckDeep(t)
}

func TestSCPBothWays(t *testing.T) {
	srv := newStore(t).serve(t)
	from, to := sshTree(t), filepath.Join(t.TempDir(), "back")
	scp := func(args ...string) {
		t.Helper()
		tool{}.run(t, "scp", append(append(srv.config(), "-qrp"), args...)...)
	}
	scp(from, "srv:/default/main/there")
	scp("srv:/default/main/there", to)
	sameFiles(t, from, to)
	// Over what is there, and a single file.
	scp(sshPart(t)+"/.", "srv:/default/main/there")
	one := filepath.Join(t.TempDir(), "one")
	big := randomFile(t, sshFile)
	scp(big, "srv:/default/main/one")
	scp("srv:/default/main/one", one)
	must(t, sameContent(big, one))
	srv.terminate(t)
	srv.store.fsckDeep(t)
}

// ssh runs the commands a grant allows, and nothing else.
func TestSSHCommands(t *testing.T) {
	s := newStore(t)
	s.alkfs(t, "bucket", "create", "ws")
	s.alkfs(t, "bucket", "create", "secret")
	srv := s.serve(t)
	must(t, os.WriteFile(filepath.Join(srv.dir, "f"), []byte("one\n"), 0o644))
	srv.batch(t, srv.dir, "put f /ws/main/f", "put f /secret/main/f", "mkdir /ws/agent-0")
	s.alkfs(t, "user", "revoke", "ann", "*")
	s.alkfs(t, "user", "grant", "ann", "ws/main=ro", "ws/agent-*=rw")

	ok := func(args ...string) string {
		t.Helper()
		r := srv.ssh(t, args...)
		if r.code != 0 {
			t.Fatalf("ssh %q: status %d\n%s", args, r.code, r.err)
		}
		return r.out
	}
	ok("branch", "create", "ws/agent-a")
	srv.batch(t, srv.dir, "put f /ws/agent-a/g")
	if out := ok("diff", "ws/agent-a:"); !strings.Contains(out, "A  g") {
		t.Errorf("diff says %q", out)
	}
	if out := ok("ls", "ws/agent-a:"); !strings.Contains(out, "f") || !strings.Contains(out, "g") {
		t.Errorf("ls says %q", out)
	}
	ok("alkfs", "branch", "create", "ws/agent-b", "--from", "ws/agent-a")
	ok("merge", "ws/agent-a", "ws/agent-0")
	ok("log", "ws/agent-0:g")
	ok("snapshot", "create", "v1", "ws/agent-0")
	ok("df", "--json")
	if out := ok("branch", "ls", "ws"); strings.Contains(out, "secret") || !strings.Contains(out, "agent-b") {
		t.Errorf("branch ls says %q", out)
	}
	ok("branch", "rm", "--force", "ws/agent-b")
	for _, args := range [][]string{
		{"branch", "create", "ws/other"}, {"merge", "ws/agent-a", "ws/main"}, {"branch", "rm", "--force", "ws/main"},
		{"branch", "rename", "ws/agent-a", "ws/x"}, {"branch", "rename", "ws/main", "ws/agent-m"},
		{"ls", "secret:"}, {"branch", "ls", "secret"}, {"diff", "secret/main:"}, {"log", "secret/main:f"}, {"ls", "default:"},
		{"branch", "create", "secret/agent-a"}, {"snapshot", "create", "x", "ws/main"}, {"snapshot", "rm", "--force", "secret/x"},
		{"--store", "/tmp/other", "ls"}, {"ls", "--store", "/tmp/other"}, {"cat", "ws:f"}, {"put", "/etc/passwd", "ws:p"},
		{"serve"}, {"user", "ls"}, {"gc"}, {"sessions", "ls"}, {"__complete", "ls", ""}, {"bash"}, {"sh", "-c", "id"},
		{"scp", "-t", "/"}, {"rsync", "--server"}, {"/usr/lib/openssh/sftp-server"}, {"ls;id"}, {"ls", "$(id)"},
	} {
		r := srv.ssh(t, args...)
		if r.code == 0 {
			t.Errorf("ssh %q: done\n%s", args, r.out)
		}
		if strings.Contains(r.out+r.err, "uid=") || strings.Contains(r.err, s.dir) {
			t.Errorf("ssh %q says\n%s%s", args, r.out, r.err)
		}
	}
}

// No shell, terminal or forwarding, whatever an OpenSSH client asks for.
func TestSSHRefusesEverythingElse(t *testing.T) {
	srv := newStore(t).serve(t)
	_, port, err := net.SplitHostPort(srv.addr)
	must(t, err)
	for _, args := range [][]string{
		{"srv"},
		{"-tt", "srv"},
		{"-W", "127.0.0.1:" + port, "srv"},
		{"-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:" + port, "-N", "srv"},
		{"-s", "srv", "netconf"},
	} {
		if r := (tool{}).try(t, "ssh", append(srv.config(), args...)...); r.code == 0 {
			t.Errorf("ssh %q: done\n%s", args, r.out)
		}
	}
	// A forwarded agent, X11 and environment are refused; the command runs.
	r := tool{env: []string{"DISPLAY=:1", "LC_TEST=x"}}.try(t, "ssh", append(srv.config(), "-A", "-X", "-o", "SendEnv=LC_TEST", "srv", "ls")...)
	if r.code != 0 {
		t.Errorf("ls with -A -X: status %d\n%s", r.code, r.err)
	}
}

func TestFirstStartLetsTheCallerIn(t *testing.T) {
	s := newStore(t)
	home := t.TempDir()
	must(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
	for _, name := range []string{"id_ed25519", "restricted", "other"} {
		tool{dir: filepath.Join(home, ".ssh")}.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name)
	}
	ssh := func(name string) string { return filepath.Join(home, ".ssh", name) }
	write(t, ssh("authorized_keys"), "# mine\n"+read(t, ssh("other.pub"))+`command="true" `+read(t, ssh("restricted.pub")))
	must(t, os.Remove(ssh("other.pub")))
	must(t, os.Remove(ssh("restricted.pub")))
	cmd := exec.Command(s.bin, s.args([]string{"serve", "--sftp", "127.0.0.1:0"})...)
	cmd.Env = append(os.Environ(), "HOME="+home)
	p := start(t, cmd)
	eventually(t, "serving", func() bool { return strings.Contains(p.output(), "sshfs -p") })
	out := s.alkfs(t, "user", "ls")
	if !strings.Contains(out, "id_ed25519") || !strings.Contains(out, "other") || strings.Contains(out, "restricted") || !strings.Contains(out, "*/*=rw") {
		t.Errorf("users:\n%s", out)
	}
	if said := p.output(); !strings.Contains(said, "first start") || !strings.Contains(said, "SHA256:") {
		t.Errorf("it says\n%s", said)
	}
	// Removed on purpose, they are not let in again.
	for _, u := range strings.Fields(out)[:1] {
		s.alkfs(t, "user", "rm", u)
	}
	must(t, p.cmd.Process.Signal(os.Interrupt))
	must(t, p.wait(t))
	cmd = exec.Command(s.bin, s.args([]string{"serve", "--sftp", "127.0.0.1:0"})...)
	cmd.Env = append(os.Environ(), "HOME="+home)
	p = start(t, cmd)
	eventually(t, "serving again", func() bool { return strings.Contains(p.output(), "nobody may log in yet") })
}

// serve tells systemd, holds mounts, and stops in order.
func TestServeHoldsMountsAndTellsSystemd(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	s.alkfs(t, "branch", "create", "try")
	socket := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	must(t, err)
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	mnt, try := t.TempDir(), t.TempDir()
	t.Cleanup(func() { detach(mnt); detach(try) })
	srv := s.serve(t, "--mount", "="+mnt, "--mount", "/try="+try)
	state := func() string {
		t.Helper()
		b := make([]byte, 100)
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		n, err := c.Read(b)
		must(t, err)
		return string(b[:n])
	}
	if got := state(); got != "READY=1" {
		t.Errorf("systemd is told %q", got)
	}
	write(t, filepath.Join(srv.dir, "f"), "by sftp\n")
	srv.batch(t, srv.dir, "put f /default/main/f", "put f /default/try/g")
	if got := read(t, filepath.Join(mnt, "f")) + read(t, filepath.Join(try, "g")); got != "by sftp\nby sftp\n" {
		t.Errorf("the mounts show %q", got)
	}
	write(t, filepath.Join(mnt, "h"), "by mount\n")
	srv.batch(t, srv.dir, "get /default/main/h")
	if got := read(t, filepath.Join(srv.dir, "h")); got != "by mount\n" {
		t.Errorf("sftp gets %q", got)
	}
	srv.terminate(t)
	if got := state(); got != "STOPPING=1" {
		t.Errorf("systemd is told %q", got)
	}
	if _, ok := mountedOn(t, mnt); ok {
		t.Error("a mount is left")
	}
}
