// Ssh compares a store served by alkfs with a directory served by OpenSSH's sshd
// and sftp-server: the same OpenSSH and sshfs clients, the same files, taking
// turns at each row. It prints medians of the time each takes and of the CPU time
// its server spends, which other work on the machine changes less.
//
//	go run ./integration/bench/ssh -alkfs ./alkfs -size 1024 -rounds 3
//	go run ./integration/bench/ssh -rows one,tar    # rows whose names have one of these words
//
// Left to themselves the two servers take different ciphers; the rows "same
// cipher" force AES-GCM on both.
//
// It needs sshd (Debian: openssh-server), sftp, sshfs and tar, and a file system
// in -dir with room for six times -size.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	dir     string // for everything
	alkfs   string
	src     string
	mib     int
	rows    []row
	servers []*server
}

// server is one side of the comparison.
type server struct {
	name string
	root string // directory to work in, as clients name it
	cmd  *exec.Cmd
	port string
	mnt  string // where sshfs mounts it
	took map[string][]cost
}

// cost is what a row took: wall-clock time, and CPU time of the server.
type cost struct{ time, cpu time.Duration }

// sameCipher makes OpenSSH's server take what alkfs offers OpenSSH's clients.
const sameCipher = "Ciphers=aes128-gcm@openssh.com"

type row struct {
	name string
	from string // the row whose files this one reads; "": none
	do   func(b *bench, s *server, round int) error
}

// choose returns the rows that have one of words in their names, and those that
// they need.
func choose(words []string) (chosen []row) {
	need := ""
	for _, r := range slices.Backward(rows) {
		if r.name == need || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(r.name, w) }) {
			chosen, need = append(chosen, r), r.from
		}
	}
	slices.Reverse(chosen)
	return chosen
}

var rows = []row{
	{"put of one file", "", func(b *bench, s *server, _ int) error { return b.put(s) }},
	{"get of one file", "", func(b *bench, s *server, _ int) error { return b.get(s) }},
	{"put of one file, same cipher", "", func(b *bench, s *server, _ int) error { return b.put(s, "-o", sameCipher) }},
	{"get of one file, same cipher", "", func(b *bench, s *server, _ int) error { return b.get(s, "-o", sameCipher) }},
	{"put -R of a tree", "", func(b *bench, s *server, n int) error {
		return b.sftp(s, fmt.Sprintf("put -R %s %s/tree%d", b.src, s.root, n))
	}},
	{"get -R of a tree", "put -R of a tree", func(b *bench, s *server, n int) error {
		return b.sftp(s, fmt.Sprintf("get -R %s/tree%d %s", s.root, n, b.path(fmt.Sprintf("%s%d", s.name, n))))
	}},
	{"sshfs: tar -x", "", func(b *bench, s *server, n int) error {
		to := filepath.Join(s.mnt, fmt.Sprintf("untar%d", n))
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return command("tar", "-xf", b.path("src.tar"), "-C", to)
	}},
	{"sshfs: read it all", "sshfs: tar -x", func(b *bench, s *server, n int) error {
		return command("sh", "-c", "tar -cf - -C "+filepath.Join(s.mnt, fmt.Sprintf("untar%d", n))+" . | cat >/dev/null")
	}},
}

func (b *bench) put(s *server, options ...string) error {
	return b.sftp(s, "put "+b.path("big")+" "+s.root+"/big", options...)
}

func (b *bench) get(s *server, options ...string) error {
	if err := b.sftp(s, "get "+s.root+"/big "+b.path("got"), options...); err != nil {
		return err
	}
	return os.Remove(b.path("got")) // so that nobody truncates the other's
}

func run() (err error) {
	goroot, _ := exec.Command("go", "env", "GOROOT").Output()
	b := &bench{}
	rounds := flag.Int("rounds", 3, "rounds; the median counts")
	parent := flag.String("dir", os.TempDir(), "where to work")
	flag.StringVar(&b.alkfs, "alkfs", "alkfs", "the binary")
	flag.IntVar(&b.mib, "size", 1024, "MiB of the one file")
	only := flag.String("rows", "", "measure only rows whose names have one of these words, separated by commas, and those whose files they read")
	flag.StringVar(&b.src, "src", filepath.Join(strings.TrimSpace(string(goroot)), "src"), "the tree")
	flag.Parse()
	b.rows = choose(strings.Split(*only, ","))
	if b.dir, err = os.MkdirTemp(*parent, "alkfs-bench-ssh-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stop()
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupt
		b.stop()
		os.RemoveAll(b.dir)
		os.Exit(130)
	}()
	if err := b.prepare(); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	for n := range *rounds {
		if err := b.round(n); err != nil {
			return err
		}
	}
	b.print()
	return nil
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return nil
}

func (b *bench) prepare() error {
	for _, name := range []string{"key", "hostkey"} {
		if err := command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", b.path(name)); err != nil {
			return err
		}
	}
	if err := command("sh", "-c", fmt.Sprintf("head -c %d /dev/urandom >%s", b.mib<<20, b.path("big"))); err != nil {
		return err
	}
	if err := command("tar", "-cf", b.path("src.tar"), "-C", b.src, "."); err != nil {
		return err
	}
	if err := os.Mkdir(b.path("native"), 0o755); err != nil {
		return err
	}
	if err := b.startSSHD(); err != nil {
		return err
	}
	return b.startAlkfs()
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}

func (b *bench) startSSHD() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	os.MkdirAll("/run/sshd", 0o755) // sshd wants it when root
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
		port, b.path("hostkey"), b.path("key.pub"))
	if err := os.WriteFile(b.path("sshd_config"), []byte(config), 0o600); err != nil {
		return err
	}
	s := &server{name: "OpenSSH", root: b.path("native"), port: port}
	return b.start(s, exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", b.path("sshd_config")), func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (b *bench) startAlkfs() error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	store := "--store=" + b.path("store")
	if err := command(b.alkfs, store, "user", "add", me.Username, "--key", b.path("key.pub"), "--grant", "*"); err != nil {
		return err
	}
	s := &server{name: "alkfs", root: "/default/main"}
	cmd := exec.Command(b.alkfs, store, "--json", "serve", "--sftp", "127.0.0.1:0")
	var out bytes.Buffer
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout = tell
	return b.start(s, cmd, func() bool {
		p := make([]byte, 4096)
		n, err := ready.Read(p)
		out.Write(p[:n])
		var said struct{ SFTP string }
		if err != nil || json.Unmarshal(out.Bytes(), &said) != nil {
			return false
		}
		_, s.port, _ = net.SplitHostPort(said.SFTP)
		return s.port != ""
	})
}

func (b *bench) start(s *server, cmd *exec.Cmd, ready func() bool) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	s.cmd, s.took, s.mnt = cmd, make(map[string][]cost), b.path("mnt-"+s.name)
	if err := os.Mkdir(s.mnt, 0o755); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.servers = append(b.servers, s)
	for range 300 {
		if ready() {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s does not answer", s.name)
}

func (b *bench) stop() {
	for _, s := range b.servers {
		syscall.Unmount(s.mnt, syscall.MNT_DETACH)
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.cmd.Wait()
	}
}

func (b *bench) options(s *server) []string {
	return []string{"-F", "/dev/null", "-o", "Port=" + s.port, "-o", "IdentityFile=" + b.path("key"), "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"}
}

func (b *bench) sftp(s *server, line string, options ...string) error {
	options = append(b.options(s), options...)
	cmd := exec.Command("sftp", append(options, "-q", "-b", "-", "127.0.0.1")...)
	cmd.Stdin = strings.NewReader(line + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("sftp %s: %w\n%s", line, err, out)
	}
	return nil
}

// check sees that both servers give back what they were given.
func (b *bench) check() error {
	for _, s := range b.servers {
		if err := b.put(s); err != nil {
			return err
		}
		if err := b.sftp(s, "get "+s.root+"/big "+b.path("got")); err != nil {
			return err
		}
		if err := command("cmp", b.path("big"), b.path("got")); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// round runs every row once on each server. They take turns, and who is first
// changes.
func (b *bench) round(n int) error {
	for _, s := range b.servers {
		mount := exec.Command("sshfs", append(b.options(s), "127.0.0.1:"+s.root, s.mnt)...)
		if out, err := mount.CombinedOutput(); err != nil {
			return fmt.Errorf("sshfs: %w\n%s", err, out)
		}
		defer syscall.Unmount(s.mnt, syscall.MNT_DETACH)
	}
	for i, r := range b.rows {
		for k := range b.servers {
			s := b.servers[(i+k+n)%len(b.servers)]
			syscall.Sync()
			cpu, begun := cpuTime(s.cmd.Process.Pid), time.Now()
			if err := r.do(b, s, n); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			took := cost{time.Since(begun), cpuTime(s.cmd.Process.Pid) - cpu}
			s.took[r.name] = append(s.took[r.name], took)
			fmt.Fprintf(os.Stderr, "%d %-8s %-30s %8.2f s %8.2f s of CPU\n", n, s.name, r.name, took.time.Seconds(), took.cpu.Seconds())
		}
	}
	return nil
}

func (b *bench) print() {
	x, y := b.servers[0], b.servers[1]
	fmt.Printf("One file of %d MiB; a tree of %s.\n\n", b.mib, b.treeSize())
	fmt.Printf("| | %s | %s | of %s | CPU of %s | CPU of %s |\n|---|--:|--:|--:|--:|--:|\n", x.name, y.name, x.name, x.name, y.name)
	for _, r := range b.rows {
		t := func(s *server) float64 {
			return median(s.took[r.name], func(c cost) time.Duration { return c.time }).Seconds()
		}
		cpu := func(s *server) float64 {
			return median(s.took[r.name], func(c cost) time.Duration { return c.cpu }).Seconds()
		}
		fmt.Printf("| %s | %.2f s | %.2f s | %.2f | %.2f s | %.2f s |\n", r.name, t(x), t(y), t(x)/t(y), cpu(x), cpu(y))
	}
}

func median(costs []cost, of func(cost) time.Duration) time.Duration {
	var d []time.Duration
	for _, c := range costs {
		d = append(d, of(c))
	}
	slices.Sort(d)
	return d[len(d)/2]
}

func (b *bench) treeSize() string {
	files, bytes := 0, int64(0)
	filepath.WalkDir(b.src, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				files, bytes = files+1, bytes+st.Size()
			}
		}
		return nil
	})
	return fmt.Sprintf("%d files, %d MiB", files, bytes>>20)
}
