package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// sshServer is a store served by a child process, and how to log in to it.
type sshServer struct {
	*process
	store *store
	dir   string // of the key and the configuration of clients
	user  string
	addr  string
	port  string
	host  string // the host key as a known_hosts line has it
}

// serve serves the store to the user ann, who may do everything and has a key.
// args are flags of `alkfs serve`.
func (s *store) serve(t testing.TB, args ...string) *sshServer {
	t.Helper()
	dir := t.TempDir()
	tool{dir: dir}.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ann", "-f", "key")
	if r := s.try(t, "user", "ls"); !strings.Contains(r.out, "ann") {
		s.alkfs(t, "user", "add", "ann", "--grant", "*")
	}
	s.alkfs(t, "user", "key", "add", "ann", filepath.Join(dir, "key.pub"))
	srv := &sshServer{store: s, dir: dir, user: "ann"}
	srv.start(t, append([]string{"--sftp", "127.0.0.1:0"}, args...)...)
	return srv
}

// start starts the server process; restart does so again on the same address.
func (s *sshServer) start(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(s.store.bin, s.store.args(append([]string{"--json", "serve"}, args...))...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	s.process = start(t, cmd)
	eventually(t, "serving SSH", func() bool {
		if !s.running() {
			t.Fatalf("%s ended: %v\n%s", cmd, s.err, s.output())
		}
		return s.parse()
	})
	must(t, os.WriteFile(filepath.Join(s.dir, "known"), fmt.Appendf(nil, "[127.0.0.1]:%s %s\n", s.port, s.host), 0o600))
	must(t, os.WriteFile(filepath.Join(s.dir, "config"), fmt.Appendf(nil, `Host srv
  HostName 127.0.0.1
  Port %s
  User %s
  IdentityFile %s/key
  IdentitiesOnly yes
  UserKnownHostsFile %s/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
`, s.port, s.user, s.dir, s.dir), 0o600))
}

// parse finds what the server says about itself.
func (s *sshServer) parse() bool {
	b, _ := os.ReadFile(s.log)
	for line := range bytes.Lines(b) {
		var said struct {
			SFTP    string `json:"sftp"`
			HostKey string `json:"host_key"`
		}
		if json.Unmarshal(line, &said) == nil && said.SFTP != "" {
			s.addr, s.host = said.SFTP, said.HostKey
			_, s.port, _ = net.SplitHostPort(said.SFTP)
			return true
		}
	}
	return false
}

func (s *sshServer) restart(t testing.TB) {
	t.Helper()
	s.start(t, "--sftp", s.addr)
}

// terminate stops the server with SIGTERM, and waits until it did.
func (s *sshServer) terminate(t testing.TB) {
	t.Helper()
	must(t, s.cmd.Process.Signal(syscall.SIGTERM))
	if err := s.wait(t); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, s.output())
	}
}

// config is the argument that makes OpenSSH's programs know the host "srv".
func (s *sshServer) config() []string { return []string{"-F", filepath.Join(s.dir, "config")} }

// ssh runs a command on the server, whatever comes of it.
func (s *sshServer) ssh(t testing.TB, args ...string) result {
	t.Helper()
	return tool{}.try(t, "ssh", append(append(s.config(), "srv"), args...)...)
}

// batch runs sftp commands; all must succeed but those that begin with "-".
func (s *sshServer) batch(t testing.TB, dir string, commands ...string) string {
	t.Helper()
	return tool{dir: dir, stdin: strings.Join(commands, "\n") + "\n"}.run(t, "sftp", append(s.config(), "-b", "-", "srv")...)
}

// client is a Go client, whose requests can be timed.
func (s *sshServer) client(t testing.TB) *sftp.Client {
	t.Helper()
	c, err := s.dial()
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *sshServer) dial() (*sftp.Client, error) {
	conn, err := s.connect()
	if err != nil {
		return nil, err
	}
	return sftp.NewClient(conn)
}

func (s *sshServer) connect() (*ssh.Client, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, "key"))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.host))
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
		User: s.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(host), Timeout: patience,
	})
}

// sshfs mounts a directory of the server with sshfs.
func (s *sshServer) sshfs(t testing.TB, path string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	t.Cleanup(func() { detach(dir) })
	p := start(t, exec.Command("sshfs", "-f", "-F", filepath.Join(s.dir, "config"), "srv:"+path, dir))
	watchdog := time.AfterFunc(mountLimit, func() { p.cmd.Process.Kill() })
	t.Cleanup(func() { watchdog.Stop() })
	eventually(t, "sshfs on "+dir, func() bool {
		if !p.running() {
			t.Fatalf("sshfs ended: %v\n%s", p.err, p.output())
		}
		_, ok := mountedOn(t, dir)
		return ok
	})
	return dir
}

// sameFiles fails the test unless two trees have the same names, modes, targets
// and bytes. Times are for seconds only in SFTP, and are not compared.
func sameFiles(t testing.TB, want, got string) {
	t.Helper()
	if out := (tool{}).run(t, "diff", "-r", "--no-dereference", want, got); out != "" {
		t.Fatalf("they differ:\n%s", tail([]byte(out)))
	}
	const list = `cd "$1" && find . -mindepth 1 -printf '%M %p %l\n' | sort`
	if a, b := sh(t, "", list, want), sh(t, "", list, got); a != b {
		write(t, filepath.Join(t.TempDir(), "a"), a)
		t.Fatalf("modes differ: %s", firstDifference(a, b))
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("%q, want %q", y[i], x[i])
		}
	}
	return "one is longer"
}

// randomFile makes a file of n bytes that do not compress.
func randomFile(t testing.TB, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "random")
	sh(t, "", `head -c "$1" /dev/urandom >"$2"`, fmt.Sprint(n), path)
	return path
}
