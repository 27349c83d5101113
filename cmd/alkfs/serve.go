package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

type serveFlags struct {
	sftp     string
	http     string
	sync     string
	announce []string
	links    int
	up, down string
	mdns     bool
	mounts   []string
	stop     time.Duration
	ssh      alkfs.SSHOptions

	maxData int64 // MiB
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the store over SFTP, synchronise shared buckets, and hold mounts",
		Long: `Serves the store to sftp, scp, sshfs, rclone and other SSH clients, with --sync keeps
shared buckets the same as on other machines ("alkfs share", "alkfs join"), and holds the
mounts it is told to, until Ctrl-C or SIGTERM. "alkfs user" says who may do what.
Users see /BUCKET/BRANCH/… of what they are granted; mkdir /BUCKET/NAME makes a
branch. "ssh HOST branch create work/idea" runs the commands branch, snapshot,
diff, merge, log, ls and df within the grants. There is no shell.

At the first start a host key is made, and whoever starts it may do everything
with their own keys (~/.ssh/*.pub and authorized_keys).`,
		Example: `  alkfs serve
  alkfs serve --sync :4747 --mdns=false
  alkfs serve --sync :4747 --sync-limit-up 5M
  alkfs serve --sftp :2022 --mount work=/srv/work --mount /experiment=./try`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.follows = true
			lateTimers(cmd.Context())
			return a.serveStore(cmd.Context(), f)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.sftp, "sftp", "127.0.0.1:2022", `address to serve SSH on; "" for mounts alone`)
	flags.StringVar(&f.sync, "sync", "", "address (UDP) to keep shared buckets the same as other machines on, such as :4747; see alkfs share")
	flags.IntVar(&f.links, "sync-connections", 0, "connections to each other machine for the bytes of files, at most 16 (default 4)")
	flags.StringVar(&f.up, "sync-limit-up", "none", `bytes a second to all other machines together, changes and content ("512K", "10M")`)
	flags.StringVar(&f.down, "sync-limit-down", "none", "the same, from them")
	flags.StringArrayVar(&f.announce, "announce", nil, "HOST:PORT at which other machines find this one, any number of times (default: the addresses of --sync)")
	flags.BoolVar(&f.mdns, "mdns", true, "find other members, and be found, on the local network by multicast DNS; strangers learn no names; never on a loopback address")
	flags.StringVar(&f.http, "http", "", "address to answer /metrics (for Prometheus) and /healthz on; anybody who reaches it may read them")
	flags.StringArrayVar(&f.mounts, "mount", nil, "SPEC=DIR to mount, any number of times")
	flags.DurationVar(&f.stop, "stop-timeout", 30*time.Second, "how long stopping may take")
	flags.BoolVar(&f.ssh.Passwords, "passwords", false, "let users log in by password too")
	flags.DurationVar(&f.ssh.HandshakeTimeout, "handshake-timeout", 30*time.Second, "time to log in")
	flags.DurationVar(&f.ssh.IdleTimeout, "idle-timeout", time.Hour, "end connections without a request for so long; negative: never")
	flags.IntVar(&f.ssh.MaxConnections, "max-connections", 512, "connections at a time")
	flags.IntVar(&f.ssh.MaxPerAddress, "max-per-address", 256, "connections from one address")
	flags.IntVar(&f.ssh.MaxPerUser, "max-per-user", 256, "connections of one user")
	flags.IntVar(&f.ssh.MaxUnknown, "max-logging-in", 64, "connections that have not logged in yet")
	flags.Int64Var(&f.maxData, "max-data", 256, "MiB of file data on their way in all connections")
	flags.IntVar(&f.ssh.MaxTries, "max-tries", 6, "keys or passwords a connection may try")
	flags.IntVar(&f.ssh.PenaltyAfter, "penalty-after", 6, "failed logins after which an address has to wait; negative: never")
	return c
}

// serveStore serves until ctx ends, and then stops everything in order.
func (a *app) serveStore(ctx context.Context, f serveFlags) error {
	dir, err := a.storePath()
	if err != nil {
		return err
	}
	a.serving = true
	o, err := a.options(slog.LevelInfo)
	if err != nil {
		return err
	}
	s, err := alkfs.Open(ctx, dir, o)
	if err != nil {
		return err
	}
	r := &service{a: a, s: s, flags: f}
	err = r.start(ctx)
	if err == nil {
		notifySystemd("READY=1")
		select {
		case <-ctx.Done():
		case err = <-r.failed:
		}
	}
	notifySystemd("STOPPING=1")
	return errors.Join(err, r.stop())
}

// service is a running serve.
type service struct {
	a      *app
	s      *alkfs.Store
	flags  serveFlags
	end    context.CancelFunc // of the SSH server
	rest   func()             // ends the background work
	unhttp func()             // ends the HTTP server
	sftp   *alkfs.SSHServer   // nil: none
	sync   *alkfs.Syncer      // nil: none
	ssh    sync.WaitGroup
	failed chan error

	content contentMetrics

	later   sync.WaitGroup     // mounts of what is still to come
	unlater context.CancelFunc // ends them
	mu      sync.Mutex         // guards mounts
	mounts  []*heldMount
}

type heldMount struct {
	*alkfs.Mount
	record *os.File
}

func (r *service) start(ctx context.Context) error {
	r.failed = make(chan error, 1)
	r.end = func() {}
	r.unhttp = func() {}
	r.rest = r.a.upkeepIn(ctx, r.s)
	ctx, r.unlater = context.WithCancel(ctx)
	for _, m := range r.flags.mounts {
		if err := r.mount(ctx, m); err != nil {
			return err
		}
	}
	if err := r.startSync(); err != nil {
		return err
	}
	if r.flags.sftp == "" {
		if len(r.flags.mounts) == 0 && r.sync == nil {
			return usagef("neither --sftp nor --sync nor --mount: there is nothing to serve")
		}
		return r.answerHTTP()
	}
	if err := r.serveSSH(); err != nil {
		return err
	}
	return r.answerHTTP()
}

// parseRate parses the bytes a second of a flag; none: 0.
func parseRate(flag, text string) (int64, error) {
	n, err := parseQuota(text)
	if err != nil {
		return 0, usagef("%s %s: bytes a second such as 512K or 10M, or none", flag, quote(text))
	}
	return n, nil
}

// checkAddrs checks that each of addrs reads HOST:PORT; with listen it may be :PORT.
func checkAddrs(flag string, listen bool, addrs ...string) error {
	for _, a := range addrs {
		host, port, err := net.SplitHostPort(a)
		n, e := strconv.ParseUint(port, 10, 16)
		switch {
		case (err != nil || e != nil) && listen:
			return usagef("%s %s: an address such as :4747 or 10.0.0.7:4747 is meant", flag, quote(a))
		case !listen && (err != nil || e != nil || host == "" || n == 0):
			return usagef("%s %s: an address such as example.org:4747 or 10.0.0.7:4747 is meant", flag, quote(a))
		}
	}
	return nil
}

// startSync begins to keep shared buckets the same as those of other machines.
func (r *service) startSync() error {
	if r.flags.sync == "" {
		return nil
	}
	up, err := parseRate("--sync-limit-up", r.flags.up)
	if err != nil {
		return err
	}
	down, err := parseRate("--sync-limit-down", r.flags.down)
	if err != nil {
		return err
	}
	if err := checkAddrs("--sync", true, r.flags.sync); err != nil {
		return err
	}
	if err := checkAddrs("--announce", false, r.flags.announce...); err != nil {
		return err
	}
	r.sync, err = r.s.StartSync(alkfs.SyncOptions{
		Addr: r.flags.sync, Announce: r.flags.announce, Links: r.flags.links, NoMDNS: !r.flags.mdns,
		Up: up, Down: down,
	})
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return withHint(err, "another address is named with --sync HOST:PORT")
	}
	if err != nil {
		return err
	}
	go func() {
		<-r.sync.Done()
		select {
		case r.failed <- errors.New("synchronising has ended"):
		default:
		}
	}()
	if r.a.json {
		return r.a.emit("sync", r.sync.Addr().String(), "announced", r.sync.Addrs(), "pid", os.Getpid())
	}
	r.a.printf("synchronising on %s (UDP)\n", r.sync.Addr())
	return nil
}

func (r *service) answerHTTP() (err error) {
	if r.flags.http != "" {
		if r.unhttp, err = r.serveHTTP(r.flags.http); err != nil {
			r.unhttp = func() {}
			return err
		}
	}
	return r.a.out.Flush()
}

func (r *service) mount(ctx context.Context, arg string) error {
	where, dir, ok := strings.Cut(arg, "=")
	if !ok || dir == "" {
		return usagef("--mount %s: SPEC=DIR is meant", quote(arg))
	}
	spec, err := parseSpec(where, "")
	if err != nil {
		return err
	}
	at, err := r.a.prepareMountPoint(dir, r.s.Dir())
	if err != nil {
		return err
	}
	record, err := writeRecord(r.s.Dir(), mountRecord{Dir: at, Spec: spec.String()})
	if err != nil {
		return fmt.Errorf("mount %s: %w", quote(dir), err)
	}
	err = r.mountAt(ctx, spec, at, record)
	if alkfs.StillComing(err) && r.flags.sync != "" {
		r.a.note("%s will be at %s when it has come from another machine", spec, quote(at))
		r.later.Go(func() { r.mountLater(ctx, spec, at, record) })
		return nil
	}
	if err != nil {
		dropRecord(record)
		return mountHint(err)
	}
	if !r.a.json {
		r.a.printf("%s is at %s\n", spec, quote(at))
	}
	return nil
}

func (r *service) mountAt(ctx context.Context, spec alkfs.Spec, at string, record *os.File) error {
	m, err := r.s.Mount(context.WithoutCancel(ctx), spec, at, alkfs.MountOptions{Name: storeSource(r.s.Dir())})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.mounts = append(r.mounts, &heldMount{m, record})
	r.mu.Unlock()
	return nil
}

// mountLater mounts a branch that is still coming when it has come.
func (r *service) mountLater(ctx context.Context, spec alkfs.Spec, at string, record *os.File) {
	err := r.s.WaitForBranch(ctx, spec)
	if err == nil {
		err = r.mountAt(ctx, spec, at, record)
	}
	if err == nil {
		r.a.note("%s is at %s", spec, quote(at))
		return
	}
	dropRecord(record)
	if ctx.Err() == nil {
		select {
		case r.failed <- mountHint(err):
		default:
		}
	}
}

func (r *service) serveSSH() error {
	first := !r.s.ServedBefore()
	r.flags.ssh.Exec = func(ctx context.Context, c alkfs.SSHCommand) int { return runRemote(ctx, r.s, c) }
	r.flags.ssh.MaxData = max(1, r.flags.maxData) << 20
	server, err := r.s.NewSSHServer(r.flags.ssh)
	if err != nil {
		return err
	}
	if first {
		if err := r.grantOwner(); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", r.flags.sftp)
	if err != nil {
		return withHint(err, "another address is named with --sftp HOST:PORT")
	}
	ctx, end := context.WithCancel(context.Background())
	r.end, r.sftp = end, server
	r.ssh.Go(func() {
		if err := server.Serve(ctx, ln); err != nil {
			r.failed <- err
		}
	})
	return r.describe(server, ln.Addr().(*net.TCPAddr))
}

// grantOwner lets whoever starts the first server of a store in with their own
// keys, when nobody else was let in before.
func (r *service) grantOwner() error {
	users, err := r.s.Users()
	if err != nil || len(users) > 0 {
		return err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	keys, err := ownKeys(home)
	if err != nil || len(keys) == 0 {
		return err
	}
	u, err := r.s.AddUser(callerName(), keys, []string{"*=rw"})
	if err != nil {
		return fmt.Errorf("let the caller in: %w", err)
	}
	r.a.note("first start: user %s may do everything, with the keys in %s/.ssh:", u.Name, home)
	for _, k := range u.Keys {
		r.a.note("  %s", quote(alkfs.KeyName(k)))
	}
	r.a.note("`%s user` changes that", r.a.selfWithStore())
	return nil
}

func callerName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "owner"
}

// describe prints how to get in.
func (r *service) describe(server *alkfs.SSHServer, addr *net.TCPAddr) error {
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		if host, _ = os.Hostname(); host == "" {
			host = "localhost"
		}
	}
	users, err := r.s.Users()
	if err != nil {
		return err
	}
	name := callerName()
	if len(users) > 0 {
		name = users[0].Name
	}
	for _, u := range users {
		if u.Name == callerName() {
			name = u.Name
		}
	}
	if r.a.json {
		return r.a.emit("sftp", addr.String(), "host_key", server.HostKey(), "fingerprint", server.Fingerprint(), "pid", os.Getpid())
	}
	r.a.printf("serving SSH on %s, host key %s\n", addr, server.Fingerprint())
	if len(users) == 0 {
		r.a.printf("nobody may log in yet: `%s user add NAME --key FILE --grant default`\n", r.a.selfWithStore())
		return nil
	}
	bracketed := host
	if strings.Contains(host, ":") {
		bracketed = "[" + host + "]"
	}
	r.a.printf("  sftp -P %d %s@%s\n", addr.Port, name, bracketed)
	r.a.printf("  sshfs -p %d -o reconnect,ServerAliveInterval=15 %s@%s:/%s/%s DIR\n", addr.Port, name, bracketed, alkfs.DefaultBucket, alkfs.DefaultBranch)
	r.a.printf("  ssh -p %d %s@%s branch ls\n", addr.Port, name, host)
	return nil
}

// stop ends connections and mounts and closes the store, within the time
// allowed. What is not done by then is kept for a later process, as after a
// crash.
func (r *service) stop() error {
	done := make(chan error, 1)
	go func() {
		r.unhttp()
		r.unlater()
		r.later.Wait()
		r.rest()
		r.end()
		r.ssh.Wait()
		var errs []error
		if r.sync != nil {
			errs = append(errs, r.sync.Close())
		}
		for _, m := range r.mounts {
			if m.Unmount() != nil {
				errs = append(errs, detach(m.Dir()))
				m.Wait()
			}
			dropRecord(m.record)
		}
		done <- errors.Join(append(errs, r.s.Close())...)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(r.flags.stop):
		return fmt.Errorf("not everything was stopped within %v; see `alkfs sessions`", r.flags.stop)
	}
}

// notifySystemd tells systemd about this service, if it wants to know
// (sd_notify(3)).
func notifySystemd(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
