package integration_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// readWatcher tells when a client sends its first SSH_FXP_READ.
type readWatcher struct {
	io.WriteCloser
	once sync.Once
	sent chan struct{}
}

func (w *readWatcher) Write(p []byte) (int, error) {
	n, err := w.WriteCloser.Write(p)
	if len(p) > 4 && p[4] == 5 {
		w.once.Do(func() { close(w.sent) })
	}
	return n, err
}

// watchedClient is a client, and a channel closed when its first read is sent.
func (s *sshServer) watchedClient(t *testing.T) (*sftp.Client, <-chan struct{}) {
	t.Helper()
	conn, err := s.connect()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	session, err := conn.NewSession()
	must(t, err)
	in, err := session.StdinPipe()
	must(t, err)
	out, err := session.StdoutPipe()
	must(t, err)
	must(t, session.RequestSubsystem("sftp"))
	w := &readWatcher{WriteCloser: in, sent: make(chan struct{})}
	c, err := sftp.NewClientPipe(out, w)
	must(t, err)
	return c, w.sent
}

// onlyBlob returns the file of the one large content in the store.
func (s *store) onlyBlob(t *testing.T) (path string) {
	t.Helper()
	must(t, filepath.WalkDir(filepath.Join(s.dir, "blobs"), func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(p) == "" {
			path = p
		}
		return err
	}))
	return path
}

// A read that waits for bytes that do not come stalls nobody else; and a server
// that cannot end it stops all the same when its time is over.
func TestServeStopsWithinItsDeadline(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t, "--stop-timeout", "1s")
	srv.batch(t, srv.dir, "put "+randomFile(t, 300_000)+" /default/main/f")
	blob := s.onlyBlob(t)
	saved := filepath.Join(t.TempDir(), "saved")
	tool{}.run(t, "cp", "-p", blob, saved)
	must(t, os.Remove(blob))
	must(t, unix.Mkfifo(blob, 0o600)) // who opens it waits for a writer
	c, sent := srv.watchedClient(t)
	f, err := c.Open("/default/main/f")
	must(t, err)
	read := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(make([]byte, 100_000), 0)
		read <- err
	}()
	<-sent
	for range 3 {
		if _, err := c.ReadDir("/default/main"); err != nil {
			t.Fatal(err)
		}
	}
	must(t, srv.cmd.Process.Signal(syscall.SIGTERM))
	if err := srv.wait(t); err == nil || !strings.Contains(srv.output(), "not everything was stopped within 1s") {
		t.Errorf("it ended with %v and says\n%s", err, srv.output())
	}
	if err := <-read; err == nil {
		t.Error("the read was answered")
	}
	must(t, os.Remove(blob))
	tool{}.run(t, "cp", "-p", saved, blob)
	srv.restart(t)
	srv.batch(t, srv.dir, "get /default/main/f")
	srv.terminate(t)
	s.fsckDeep(t)
}
