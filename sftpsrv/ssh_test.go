package sftpsrv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"

	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// login tries to log in and returns the error.
func (w *world) login(name string, auth ...ssh.AuthMethod) error {
	c, err := ssh.Dial("tcp", w.addr, w.config(name, auth...))
	if err == nil {
		c.Close()
	}
	return err
}

// withUser runs f on a user in a transaction.
func (w *world) withUser(name string, f func(tx *schema.Tx, user int64) error) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		u, err := access.UserByName(tx, name)
		if err != nil {
			return err
		}
		return f(tx, u.ID)
	})
}

func TestOnlyKnownKeysLogIn(t *testing.T) {
	w := newWorld(t, Options{PenaltyAfter: -1})
	ann, bob := w.user("ann", "ws"), w.user("bob", "ws")
	must(t, w.login("ann", ssh.PublicKeys(ann)))
	for what, err := range map[string]error{
		"another user's key": w.login("ann", ssh.PublicKeys(bob)),
		"an unknown key":     w.login("ann", ssh.PublicKeys(newKey(t))),
		"an unknown user":    w.login("eve", ssh.PublicKeys(ann)),
		"no key":             w.login("ann"),
		"a password":         w.login("ann", ssh.Password("")),
	} {
		if err == nil {
			t.Errorf("%s logs in", what)
		}
	}
	w.write(func(tx *schema.Tx) error { return access.RemoveUser(tx, "ann") })
	if w.login("ann", ssh.PublicKeys(ann)) == nil {
		t.Error("a removed user logs in")
	}
}

type unsigning struct{ ssh.Signer }

func (unsigning) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)}, nil
}

// TestPublicKeyCallbackConfusion: a client may ask about one key and then prove
// another. What counts is the one proved (CVE-2024-45337).
func TestPublicKeyCallbackConfusion(t *testing.T) {
	w := newWorld(t, Options{PenaltyAfter: -1})
	asked, proved, bob := w.user("ann", "ws"), newKey(t), w.user("bob", "other")
	w.withUser("ann", func(tx *schema.Tx, user int64) error {
		return access.AddKey(tx, user, access.Key{Blob: proved.PublicKey().Marshal()})
	})
	if w.login("ann", ssh.PublicKeys(unsigning{asked})) == nil {
		t.Fatal("a key without a signature logs in")
	}
	if w.login("ann", ssh.PublicKeys(unsigning{asked}, bob)) == nil {
		t.Fatal("bob's key logs in as ann, whose key was asked about before")
	}
	// The server is asked about the first key and accepts it; the second is
	// proved, and the connection hangs on that one alone.
	client := w.client("ann", proved)
	both, err := ssh.Dial("tcp", w.addr, w.config("ann", ssh.PublicKeys(unsigning{asked}), ssh.PublicKeys(proved)))
	if err == nil {
		both.Close() // clients differ in whether they go on after a bad signature
	}
	removeKey := func(k ssh.Signer) {
		w.withUser("ann", func(tx *schema.Tx, user int64) error {
			return access.RemoveKey(tx, user, k.PublicKey().Marshal())
		})
	}
	removeKey(asked)
	_, err = client.ReadDir("/")
	must(t, err)
	removeKey(proved)
	if _, err := client.ReadDir("/"); err == nil {
		t.Error("the connection of a removed key still works")
	}
	if err := client.Wait(); err == nil {
		t.Error("the connection of a removed key ended without an error")
	}
}

// TestRightsComeFromThePermissions: the callback is asked about two keys of two
// users, in an order that would mix them up if it kept anything.
func TestRightsComeFromThePermissions(t *testing.T) {
	w := newWorld(t, Options{})
	ann, bob := w.user("ann", "ws"), w.user("bob", "other")
	ask := func(name string, key ssh.Signer) *identity {
		p, err := w.server.publicKey(meta{user: name}, key.PublicKey())
		must(t, err)
		return p.ExtraData[identityKey{}].(*identity)
	}
	a := ask("ann", ann)
	b := ask("bob", bob)
	if a.name != "ann" || b.name != "bob" || a.user == b.user || bytes.Equal(a.key, b.key) {
		t.Errorf("identities %+v and %+v", a, b)
	}
}

type meta struct {
	ssh.ConnMetadata
	user string
}

func (m meta) User() string { return m.user }

func certificate(t *testing.T, ca, key ssh.Signer, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	c := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"ann"},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	if change != nil {
		change(c)
	}
	must(t, c.SignCert(rand.Reader, ca))
	s, err := ssh.NewCertSigner(c, key)
	must(t, err)
	return s
}

func TestCertificates(t *testing.T) {
	w := newWorld(t, Options{PenaltyAfter: -1})
	ca, key := newKey(t), newKey(t)
	w.user("ann", "ws")
	w.user("bob", "ws")
	good := certificate(t, ca, key, nil)
	if w.login("ann", ssh.PublicKeys(good)) == nil {
		t.Error("a certificate of an authority nobody trusts logs in")
	}
	w.write(func(tx *schema.Tx) error { return access.AddCA(tx, access.Key{Blob: ca.PublicKey().Marshal()}) })
	must(t, w.login("ann", ssh.PublicKeys(good)))
	if w.login("bob", ssh.PublicKeys(good)) == nil {
		t.Error("ann's certificate logs in as bob")
	}
	if w.login("ann", ssh.PublicKeys(key)) == nil {
		t.Error("the key of a certificate logs in without it")
	}
	if w.login("ann", ssh.PublicKeys(certificate(t, newKey(t), key, nil))) == nil {
		t.Error("a certificate of another authority logs in")
	}
	for what, change := range map[string]func(*ssh.Certificate){
		"host":          func(c *ssh.Certificate) { c.CertType = ssh.HostCert },
		"expired":       func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter + 1 },
		"not yet":       func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Hour / 2).Unix()) },
		"force-command": func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "ls"} },
		"elsewhere":     func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "10.0.0.0/8"} },
	} {
		if w.login("ann", ssh.PublicKeys(certificate(t, ca, key, change))) == nil {
			t.Errorf("a certificate logs in: %s", what)
		}
	}
	anybody := *good.PublicKey().(*ssh.Certificate)
	anybody.ValidPrincipals = nil // x/crypto would not even sign it
	if _, err := w.server.publicKey(meta{user: "ann"}, &anybody); err == nil || !strings.Contains(err.Error(), "without principals") {
		t.Errorf("a certificate without principals: %v", err)
	}
	client := w.client("ann", good)
	w.write(func(tx *schema.Tx) error { return access.RemoveCA(tx, ca.PublicKey().Marshal()) })
	if _, err := client.ReadDir("/"); err == nil {
		t.Error("a connection outlives the trust in its authority")
	}
}

func TestPasswordsOnlyWhereSwitchedOn(t *testing.T) {
	passwordCost = bcrypt.MinCost
	hash, err := HashPassword("correct horse")
	must(t, err)
	for _, on := range []bool{false, true} {
		w := newWorld(t, Options{PenaltyAfter: -1, Passwords: on})
		w.user("ann", "ws")
		w.user("bob", "ws")
		w.withUser("ann", func(tx *schema.Tx, user int64) error { return access.SetPassword(tx, user, hash) })
		if got := w.login("ann", ssh.Password("correct horse")) == nil; got != on {
			t.Errorf("passwords on: %v, login: %v", on, got)
		}
		if on && (w.login("ann", ssh.Password("wrong")) == nil || w.login("bob", ssh.Password("")) == nil) {
			t.Error("a wrong password logs in")
		}
	}
}

func TestNoShellTerminalOrForwarding(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.dial("ann", w.user("ann", "ws"))
	session := func(do func(*ssh.Session) error) error {
		s, err := c.NewSession()
		must(t, err)
		defer s.Close()
		return do(s)
	}
	request := func(name string, payload []byte) error {
		return session(func(s *ssh.Session) error {
			ok, err := s.SendRequest(name, true, payload)
			if err == nil && !ok {
				err = errors.New("refused")
			}
			return err
		})
	}
	for what, err := range map[string]error{
		"shell": session(func(s *ssh.Session) error { return s.Shell() }),
		"pty":   session(func(s *ssh.Session) error { return s.RequestPty("xterm", 24, 80, nil) }),
		"exec":  session(func(s *ssh.Session) error { return s.Run("id") }),
		"env":   session(func(s *ssh.Session) error { return s.Setenv("LD_PRELOAD", "x") }),
		"other": session(func(s *ssh.Session) error { return s.RequestSubsystem("netconf") }),
		"agent": request("auth-agent-req@openssh.com", nil),
		"x11": request("x11-req", ssh.Marshal(struct {
			Single        bool
			Proto, Cookie string
			Screen        uint32
		}{false, "MIT-MAGIC-COOKIE-1", "00", 0})),
		"remote forward": func() error { _, err := c.Listen("tcp", "127.0.0.1:0"); return err }(),
		"local forward":  func() error { _, err := c.Dial("tcp", w.addr); return err }(),
		"unix forward":   func() error { _, err := c.Dial("unix", "/run/x"); return err }(),
		"streamlocal":    func() error { _, err := c.ListenUnix(filepath.Join(t.TempDir(), "s")); return err }(),
	} {
		if err == nil {
			t.Errorf("%s is served", what)
		}
	}
	must(t, session(func(s *ssh.Session) error { return s.RequestSubsystem("sftp") }))
}

func TestCommandsHaveTheRightsOfTheirUser(t *testing.T) {
	w := newWorld(t, Options{Exec: func(ctx context.Context, c Command) int {
		r, err := c.Rights()
		if err != nil {
			return 9
		}
		fmt.Fprintf(c.Stdout, "%s %s %q", c.User, r.Grants, c.Args)
		fmt.Fprint(c.Stderr, "to stderr")
		return 3
	}})
	s, err := w.dial("ann", w.user("ann", "ws/dev=ro")).NewSession()
	must(t, err)
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	var exit *ssh.ExitError
	if err := s.Run(`branch create 'a b' "c;d"`); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("got %v", err)
	}
	if want := `ann [ws/dev=ro] ["branch" "create" "a b" "c;d"]`; out.String() != want || errs.String() != "to stderr" {
		t.Errorf("got %q and %q, want %q", &out, &errs, want)
	}
}

func TestHostKeyIsMadeOnceAndPrivate(t *testing.T) {
	dir := t.TempDir()
	a, err := hostKey(dir)
	must(t, err)
	b, err := hostKey(dir)
	must(t, err)
	if !bytes.Equal(a.PublicKey().Marshal(), b.PublicKey().Marshal()) {
		t.Error("a second start made another key")
	}
	st, err := os.Stat(filepath.Join(dir, HostKeyFile))
	must(t, err)
	if st.Mode() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

// count returns how many connections the server has, and how many of them have
// not logged in.
func (w *world) count() (total, unknown int) {
	l := w.server.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.total, l.mu.unknown
}

func TestLimits(t *testing.T) {
	w := newWorld(t, Options{MaxPerUser: 2, PenaltyAfter: 2})
	key := w.user("ann", "ws")
	w.dial("ann", key)
	w.dial("ann", key)
	// The third logs in and is then closed.
	if c, err := ssh.Dial("tcp", w.addr, w.config("ann", ssh.PublicKeys(key))); err == nil && c.Wait() == nil {
		t.Error("a third connection of the user ended without an error")
	}
	for range 2 {
		if w.login("ann", ssh.PublicKeys(newKey(t))) == nil {
			t.Fatal("an unknown key logs in")
		}
	}
	eventually(t, func() bool { total, _ := w.count(); return total == 2 })
	l := w.server.limits
	addr := netip.MustParseAddr("127.0.0.1")
	l.mu.Lock()
	p := l.mu.penalties[addr]
	l.mu.penalties[addr] = penalty{p.failed, time.Now().Add(time.Hour)} // it would end while a slow test looks on
	l.mu.Unlock()
	if p.failed != 2 || p.until.IsZero() {
		t.Errorf("the failures are noted as %+v", p)
	}
	if w.login("bob", ssh.PublicKeys(w.user("bob", "ws"))) == nil {
		t.Error("an address with failed logins need not wait")
	}
}

// eventually waits until ok, for long.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen within 30 s")
}

func TestPenaltiesGrowAndEnd(t *testing.T) { synctest.Test(t, testPenalties) }

func testPenalties(t *testing.T) {
	l := newLimits(Options{PenaltyAfter: 3}.withDefaults())
	addr := countedAs(ipOf(&net.TCPAddr{IP: net.ParseIP("2001:db8::1")}))
	if other := countedAs(ipOf(&net.TCPAddr{IP: net.ParseIP("2001:db8::2")})); other != addr {
		t.Error("addresses of one /64 count apart")
	}
	for i := range 3 {
		if _, err := l.enter(addr); err != nil {
			t.Fatalf("after %d failures: %v", i, err)
		}
		l.unknown(addr)(failed)
	}
	if _, err := l.enter(addr); err == nil {
		t.Error("three failures cost nothing")
	}
	before := l.mu.penalties[addr].until
	l.punish(addr)
	if !l.mu.penalties[addr].until.After(before) {
		t.Error("a fourth costs no more")
	}
	l.unknown(addr)(left)
	if _, err := l.enter(addr); err == nil {
		t.Error("looking in ends the penalty")
	}
	time.Sleep(time.Second)
	if _, err := l.enter(addr); err == nil {
		t.Error("the second penalty is no longer than the first")
	}
	time.Sleep(2 * time.Second)
	if _, err := l.enter(addr); err != nil {
		t.Error("the penalty does not end:", err)
	}
	l.punish(addr)
	l.unknown(addr)(succeeded)
	if _, err := l.enter(addr); err != nil {
		t.Error("a login does not end the penalty:", err)
	}
}

func (w *world) tcp() net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func TestSilentClientsAreDropped(t *testing.T) {
	w := newWorld(t, Options{HandshakeTimeout: 200 * time.Millisecond})
	for _, say := range []string{"", "SSH-2.0-x", "SSH-2.0-x\r\n", "GET / HTTP/1.1\r\n"} {
		c := w.tcp()
		io.WriteString(c, say)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a client that says only %q stays connected", say)
		}
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	w := newWorld(t, Options{IdleTimeout: 300 * time.Millisecond, KeepAlive: 50 * time.Millisecond})
	c := w.dial("ann", w.user("ann", "ws"))
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("an idle connection stays")
	}
}

// TestTerrapin: strict key exchange is offered (CVE-2023-48795), and the banner
// tells no version.
func TestTerrapin(t *testing.T) {
	w := newWorld(t, Options{})
	for _, client := range []string{"SSH-2.0-OpenSSH_9.2", "SSH-2.0-paramiko_2.12.0"} {
		c := w.tcp()
		io.WriteString(c, client+"\r\n")
		banner := make([]byte, len(ident)+2)
		_, err := io.ReadFull(c, banner)
		must(t, err)
		if string(banner) != "SSH-2.0-alkfs\r\n" {
			t.Errorf("banner %q", banner)
		}
		var n [4]byte
		_, err = io.ReadFull(c, n[:])
		must(t, err)
		kex := make([]byte, binary.BigEndian.Uint32(n[:]))
		_, err = io.ReadFull(c, kex)
		must(t, err)
		d := &decoder{b: kex[2+16:]} // after padding length, type and cookie
		if algorithms := string(d.str()); !strings.Contains(algorithms, "kex-strict-s-v00@openssh.com") {
			t.Errorf("key exchanges %s", algorithms)
		}
		d.str() // host keys
		for cipher := range strings.SplitSeq(string(d.str()), ",") {
			if strings.Contains(cipher, "cbc") || strings.Contains(cipher, "arcfour") {
				t.Errorf("cipher %s", cipher)
			}
		}
	}
}

// TestPreAuthMemory: what a client can make the server hold before it has
// logged in is bounded: by the packet length in the clear, by the number of
// such connections, and by what is kept during a key exchange that never ends
// (CVE-2025-22869).
func TestPreAuthMemory(t *testing.T) {
	const most = 20
	w := newWorld(t, Options{MaxUnknown: most})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	huge := append([]byte("SSH-2.0-x\r\n"), 0xff, 0xff, 0xff, 0xf0, 4, 20)
	flood := []byte("SSH-2.0-x\r\n")
	for range 200 { // SSH_MSG_IGNORE of 32 KiB each, in the clear
		p := make([]byte, 4+32<<10)
		binary.BigEndian.PutUint32(p, uint32(len(p)-4))
		p[4], p[5] = 8, 2
		flood = append(flood, p...)
	}
	for i := range most {
		c := w.tcp()
		if i%2 == 0 {
			c.Write(huge)
		} else {
			c.Write(flood)
		}
	}
	eventually(t, func() bool { // the huge packets are refused at once
		_, unknown := w.count()
		return unknown <= most/2
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > most<<20 {
		t.Errorf("%d connections hold %d bytes", most, grown)
	}
}

func TestUnknownConnectionsAreBounded(t *testing.T) {
	w := newWorld(t, Options{MaxUnknown: 3})
	for range 3 {
		_, err := io.ReadFull(w.tcp(), make([]byte, len(ident)))
		must(t, err)
	}
	if b, err := io.ReadAll(w.tcp()); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a fourth connection is answered: %q, %v", b, err)
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
	f.Add([]byte("SSH-2.0-x\n\x00\x00\x00\x0c\x0a\x14"))
	f.Add(bytes.Repeat([]byte("x"), 300))
	server := newWorld(f, Options{PenaltyAfter: -1}).server
	f.Fuzz(func(t *testing.T, in []byte) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, near)
		go func() {
			near.Write(in)
			near.Close()
		}()
		tries := 0
		if sc, _, _, err := server.handshake(far, &tries); err == nil {
			sc.Close()
			t.Error("it logs in")
		}
		far.Close()
	})
}
