package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pkg/sftp"
)

// beginUpload starts a slow sftp put, over a file that holds "old" unless it is
// fresh, and returns when the server has recorded the session.
func (s *sshServer) beginUpload(t testing.TB, fresh bool) (p *process, file string) {
	t.Helper()
	if !fresh {
		write(t, filepath.Join(s.dir, "old"), "old")
		s.batch(t, s.dir, "put old /default/main/f")
	}
	file = randomFile(t, 64<<20)
	cmd := exec.Command("sftp", append(s.config(), "-q", "-l", "8000", "-b", "-", "srv")...) // 1 MB/s
	cmd.Stdin = strings.NewReader("put " + file + " /default/main/f\n")
	p = start(t, cmd)
	eventually(t, "the upload shows as a session", func() bool {
		if !p.running() {
			t.Fatalf("sftp ended: %v\n%s", p.err, p.output())
		}
		return strings.Contains(s.store.alkfs(t, "sessions", "ls", "--json"), `"alive":true`)
	})
	return p, file
}

// orphaned waits for the one session that is left, and returns its id.
func orphaned(t testing.TB, s *store) string {
	t.Helper()
	var id string
	eventually(t, "the session is an orphan", func() bool {
		out := s.alkfs(t, "sessions", "ls", "--json")
		if !strings.Contains(out, `"alive":false`) || strings.Count(out, "\n") != 1 {
			return false
		}
		_, id, _ = strings.Cut(out, `"id":`)
		id, _, _ = strings.Cut(id, ",")
		return true
	})
	return id
}

func mustHold(t testing.TB, s *store, spec, want string) {
	t.Helper()
	if got := s.alkfs(t, "cat", spec); got != want {
		t.Fatalf("%s holds %d bytes, %.20q, want %.20q", spec, len(got), got, want)
	}
}

func TestSSHClientKilledMidUpload(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	p, _ := srv.beginUpload(t, false)
	p.kill()
	id := orphaned(t, s)
	mustHold(t, s, ":f", "old")
	part := filepath.Join(t.TempDir(), "part")
	s.alkfs(t, "sessions", "recover", id, part)
	if st, err := os.Stat(part); err != nil || st.Size() == 0 {
		t.Errorf("recovered: %v, %v", st, err)
	}
	s.alkfs(t, "sessions", "abort", "--force", id)
	// The connection's end harmed nobody else, and the file can be written.
	write(t, filepath.Join(srv.dir, "new"), "new")
	srv.batch(t, srv.dir, "put new /default/main/f")
	mustHold(t, s, ":f", "new")
	srv.terminate(t)
	s.fsckDeep(t)
}

// An upload of a new file that drops leaves no file. Publishing what came of it
// makes one, which sftp then goes on with.
func TestSSHUploadOfANewFileDropsAndGoesOn(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	p, whole := srv.beginUpload(t, true)
	p.kill()
	id := orphaned(t, s)
	if out := s.alkfs(t, "ls", ":"); out != "" {
		t.Errorf("ls says %q", out)
	}
	if out := s.alkfs(t, "sessions", "ls"); !strings.Contains(out, "f") {
		t.Errorf("sessions ls says %q", out)
	}
	s.alkfs(t, "sessions", "publish", id)
	srv.batch(t, srv.dir, "reput "+whole+" /default/main/f")
	got := filepath.Join(t.TempDir(), "got")
	s.alkfs(t, "get", ":f", got)
	must(t, sameContent(whole, got))
	srv.terminate(t)
	s.fsckDeep(t)
}

func TestSSHServerStoppedMidUpload(t *testing.T) {
	for _, c := range []struct{ kill, fresh bool }{{true, false}, {false, false}, {true, true}, {false, true}} {
		kill := c.kill
		t.Run(fmt.Sprintf("kill %v new %v", kill, c.fresh), func(t *testing.T) {
			s := newStore(t)
			srv := s.serve(t)
			p, _ := srv.beginUpload(t, c.fresh)
			if kill {
				srv.kill()
			} else {
				srv.terminate(t)
			}
			if p.wait(t) == nil {
				t.Error("sftp knows of no failure")
			}
			check := func() {
				t.Helper()
				if !c.fresh {
					mustHold(t, s, ":f", "old")
				} else if out := s.alkfs(t, "ls", ":"); out != "" {
					t.Errorf("ls says %q", out)
				}
			}
			check()
			srv.restart(t)
			check()
			orphaned(t, s)
			srv.terminate(t)
			s.fsckDeep(t)
		})
	}
}

func TestSSHFullDisk(t *testing.T) {
	dir, _ := smallDisk(t, 96)
	s := storeAt(t, filepath.Join(dir, "store"))
	srv := s.serve(t)
	write(t, filepath.Join(srv.dir, "old"), "old")
	srv.batch(t, srv.dir, "put old /default/main/f")
	big := randomFile(t, 120<<20)
	r := tool{stdin: "put " + big + " /default/main/f\n"}.try(t, "sftp", append(srv.config(), "-b", "-", "srv")...)
	if r.code == 0 {
		t.Error("sftp knows of no failure")
	}
	mustHold(t, s, ":f", "old")
	srv.terminate(t)
	mustHold(t, s, ":f", "old")
	s.fsckDeep(t)
}

// 200 connections: 20 write one path and 20 read it all the while, and nobody
// sees mixed bytes; the others write files of their own. Then the server is
// killed, and every close that was acknowledged is there.
func TestSSHManyConnections(t *testing.T) {
	const connections, writers, readers, rounds, size = 200, 20, 20, 5, 300_000
	s := newStore(t)
	srv := s.serve(t, "--max-logging-in", "250")
	clients := make([]*sftp.Client, connections)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16) // handshakes at a time
	for i := range clients {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c, err := srv.dial()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			clients[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	putAll := func(c *sftp.Client, p string, b []byte) error {
		f, err := c.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		if _, err := f.ReadFrom(bytes.NewReader(b)); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}
	const shared = "/default/main/shared"
	must(t, putAll(clients[0], shared, bytes.Repeat([]byte{'a'}, size)))
	var writing atomic.Int64
	writing.Store(writers)
	for i, c := range clients {
		switch {
		case i < writers:
			wg.Go(func() {
				defer writing.Add(-1)
				for range rounds {
					if err := putAll(c, shared, bytes.Repeat([]byte{'a' + byte(i)}, size+i)); err != nil {
						t.Errorf("writer %d: %v", i, err)
						return
					}
				}
			})
		case i < writers+readers:
			wg.Go(func() {
				for writing.Load() > 0 {
					f, err := c.Open(shared)
					if err != nil {
						t.Errorf("reader %d: %v", i, err)
						return
					}
					b, err := io.ReadAll(f)
					f.Close()
					if err == nil {
						err = whole(b, size)
					}
					if err != nil {
						t.Errorf("reader %d: %v", i, err)
						return
					}
				}
			})
		default:
			wg.Go(func() {
				for n := range rounds {
					if err := putAll(c, fmt.Sprintf("/default/main/f%d", i), fmt.Appendf(nil, "%d of %d", n, i)); err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	srv.kill()
	for _, c := range clients {
		c.Close()
	}
	out := filepath.Join(t.TempDir(), "out")
	s.alkfs(t, "get", "-r", ":", out)
	must(t, whole([]byte(read(t, filepath.Join(out, "shared"))), size))
	for i := writers + readers; i < connections; i++ {
		if got, want := read(t, filepath.Join(out, fmt.Sprintf("f%d", i))), fmt.Sprintf("%d of %d", rounds-1, i); got != want {
			t.Errorf("f%d holds %q, want %q", i, got, want)
		}
	}
	s.fsckDeep(t)
}

// whole fails unless b is all of what one writer wrote.
func whole(b []byte, size int) error {
	if len(b) == 0 {
		return fmt.Errorf("empty")
	}
	writer := int(b[0] - 'a')
	if len(b) != size+writer {
		return fmt.Errorf("%d bytes of writer %d", len(b), writer)
	}
	if n := bytes.Count(b, b[:1]); n != len(b) {
		return fmt.Errorf("%d bytes of writer %d are another's", len(b)-n, writer)
	}
	return nil
}

// A change of grants by another process reaches an open connection.
func TestSSHGrantsReachOpenConnections(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	c := srv.client(t)
	if _, err := c.Stat("/default/main"); err != nil {
		t.Fatal(err)
	}
	s.alkfs(t, "user", "grant", "ann", "default=ro")
	s.alkfs(t, "user", "revoke", "ann", "*")
	if err := c.Mkdir("/default/main/d"); err == nil {
		t.Error("a read-only grant makes a directory")
	}
	if _, err := c.Stat("/default/main"); err != nil {
		t.Error(err)
	}
	s.alkfs(t, "user", "revoke", "ann", "default")
	if _, err := c.Stat("/default/main"); err == nil {
		t.Error("a revoked grant still shows the branch")
	}
	s.alkfs(t, "user", "rm", "ann")
	if _, err := c.Stat("/"); err == nil {
		t.Error("the connection of a removed user still works")
	}
}
