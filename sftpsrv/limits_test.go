package sftpsrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

func TestConnectionsAreBoundedInAllAndByAddress(t *testing.T) {
	addr := func(s string) netip.Addr { return countedAs(netip.MustParseAddr(s)) }
	l := newLimits(Options{MaxConnections: 4, MaxPerAddress: 2}.withDefaults())
	enter := func(a netip.Addr, ok bool) func() {
		t.Helper()
		leave, err := l.enter(a)
		if (err == nil) != ok {
			t.Fatalf("from %s: %v", a, err)
		}
		return leave
	}
	leave := enter(addr("10.0.0.1"), true)
	enter(addr("10.0.0.1"), true)
	enter(addr("10.0.0.1"), false)
	enter(addr("2001:db8::1"), true)
	other := enter(addr("2001:db8::2"), true)
	enter(addr("10.0.0.3"), false) // four in all
	leave()
	enter(addr("2001:db8::3"), false) // a third of one /64
	enter(addr("10.0.0.1"), true)
	other()
	enter(addr("10.0.0.3"), true)
}

func TestTriesOfOneConnectionAreBounded(t *testing.T) {
	w := newWorld(t, Options{MaxTries: 3, PenaltyAfter: -1})
	good := w.user("ann", "ws")
	offer := func(wrong int) error {
		keys := make([]ssh.Signer, 0, wrong+1)
		for range wrong {
			keys = append(keys, newKey(t))
		}
		return w.login("ann", ssh.PublicKeys(append(keys, good)...))
	}
	must(t, offer(5)) // x/crypto counts questions about keys only from the fourth on
	if offer(6) == nil {
		t.Error("a seventh key logs in")
	}
}

func TestOpenHandlesAreBounded(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	put(t, c, "/ws/main/f", "text")
	var last io.Closer
	for i := range maxHandles {
		f, err := c.Open("/ws/main/f")
		if err != nil {
			t.Fatalf("handle %d: %v", i, err)
		}
		last = f
	}
	_, err := c.Open("/ws/main/f")
	denied(t, "one handle more", err, statusFailure)
	_, err = c.ReadDir("/ws/main")
	denied(t, "a directory more", err, statusFailure)
	must(t, last.Close())
	if got := get(t, c, "/ws/main/f"); got != "text" {
		t.Errorf("after a close: %q", got)
	}
	if got := names(t, c, "/ws/main"); len(got) != 1 {
		t.Errorf("after a close: %v", got)
	}
}

// What docs/fail2ban.conf looks for is what a failed login logs, with the
// address, and nothing that a client can write.
func TestFailedLoginsAreLoggedForFail2ban(t *testing.T) {
	conf, err := os.ReadFile("../docs/fail2ban.conf")
	must(t, err)
	_, line, ok := strings.Cut(string(conf), "failregex = ")
	if !ok {
		t.Fatal("no failregex")
	}
	line, _, _ = strings.Cut(line, "\n")
	re := regexp.MustCompile(strings.Replace(line, "<ADDR>", `((?:\d{1,3}\.){3}\d{1,3}|[0-9a-f:]+)`, 1))

	w := newWorld(t, Options{PenaltyAfter: -1})
	forged := `x level=WARN msg="authentication failed" addr=9.9.9.9 tries=1`
	must(t, w.login("ann", ssh.PublicKeys(w.user("ann", "ws"))))
	w.tcp().Close() // looks in and leaves
	c := w.tcp()    // says no more than who it is
	io.WriteString(c, "SSH-2.0-"+forged+"\r\n")
	c.Close()
	if w.login(forged, ssh.PublicKeys(newKey(t))) == nil || w.login("ann", ssh.PublicKeys(newKey(t))) == nil {
		t.Fatal("an unknown key logs in")
	}
	w.stop()
	var found []string
	for len(w.log.lines) > 0 {
		if m := re.FindStringSubmatch(<-w.log.lines); m != nil {
			found = append(found, m[1])
		}
	}
	if fmt.Sprint(found) != "[127.0.0.1 127.0.0.1]" {
		t.Errorf("found %v, want two failures of 127.0.0.1", found)
	}
}

// TestTerrapinInjection: a packet slipped in before the key exchange, which an
// attacker would use to shift the sequence numbers, ends a connection whose
// client asks for strict key exchange (CVE-2023-48795).
func TestTerrapinInjection(t *testing.T) {
	w := newWorld(t, Options{})
	packet := func(payload []byte) []byte {
		pad := 8 - (5+len(payload))%8 + 8
		p := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+pad))
		return append(append(append(p, byte(pad)), payload...), make([]byte, pad)...)
	}
	for _, inject := range []bool{false, true} {
		c := w.tcp()
		io.WriteString(c, "SSH-2.0-x\r\n")
		head := make([]byte, len(ident)+2+4)
		_, err := io.ReadFull(c, head)
		must(t, err)
		kex := make([]byte, binary.BigEndian.Uint32(head[len(head)-4:]))
		_, err = io.ReadFull(c, kex)
		must(t, err)
		// The server's own KEXINIT, with the client's marker and without a guess.
		init := bytes.Replace(kex[1:len(kex)-int(kex[0])], []byte("kex-strict-s-v00"), []byte("kex-strict-c-v00"), 1)
		if inject {
			c.Write(packet([]byte{2, 0, 0, 0, 0})) // SSH_MSG_IGNORE
		}
		c.Write(packet(init))
		c.Write(packet([]byte{30, 0, 0, 0, 1, 9})) // a key exchange that is no good
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection stays")
		}
	}
	lines := ""
	w.stop()
	for len(w.log.lines) > 0 {
		lines += <-w.log.lines
	}
	if n := strings.Count(lines, "sequence number"); n != 1 {
		t.Errorf("%d connections ended for their sequence numbers, want 1:\n%s", n, lines)
	}
}

// A user may have several keys, and each ends with its own connections.
func TestEachKeyOfAUserCounts(t *testing.T) {
	w := newWorld(t, Options{PenaltyAfter: -1})
	first, second := w.user("ann", "ws"), newKey(t)
	w.withUser("ann", func(tx *schema.Tx, user int64) error {
		return access.AddKey(tx, user, access.Key{Blob: second.PublicKey().Marshal()})
	})
	a, b := w.client("ann", first), w.client("ann", second)
	w.withUser("ann", func(tx *schema.Tx, user int64) error {
		return access.RemoveKey(tx, user, first.PublicKey().Marshal())
	})
	if _, err := a.ReadDir("/"); err == nil {
		t.Error("the connection of the removed key goes on")
	}
	if _, err := b.ReadDir("/"); err != nil {
		t.Error(err)
	}
}
