package sftpsrv

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
	"github.com/alkdev/alkfs/writesession"
)

// world is a store with the buckets ws and other, the branches main and dev in
// each, and a server for it.
type world struct {
	t      testing.TB
	c      Config
	server *Server
	addr   string
	stop   func()
	log    *logText
}

type logText struct{ lines chan string }

func (l *logText) Write(p []byte) (int, error) {
	select {
	case l.lines <- string(p):
	default:
	}
	return len(p), nil
}

var newFile = pathtree.NewInode{Mode: unix.S_IFREG | 0o644}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, log: &logText{make(chan string, 10000)}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	db, err := schema.Open(context.Background(), dir, schema.Options{Logger: log})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	blobs, err := blobstore.Open(context.Background(), dir, db, blobstore.Options{Logger: log})
	must(t, err)
	t.Cleanup(func() { blobs.Close() })
	tree := pathtree.New(db)
	sessions, err := writesession.New(context.Background(), db, tree, blobs, writesession.Options{Logger: log})
	must(t, err)
	t.Cleanup(func() { sessions.Close(context.Background()) })
	w.c = Config{DB: db, Tree: tree, Blobs: blobs, Sessions: sessions, Logger: log}
	w.write(func(tx *schema.Tx) error {
		for _, name := range []string{"ws", "other"} {
			b, err := tree.CreateBucket(tx, name)
			if err != nil {
				return err
			}
			main, err := tree.Branch(tx, b.ID, "main")
			if err != nil {
				return err
			}
			if _, err := tree.CreateBranch(tx, b.ID, "dev", pathtree.Origin{Branch: main.ID}); err != nil {
				return err
			}
		}
		return nil
	})
	w.server, err = New(w.c, o)
	must(t, err)
	w.serve()
	return w
}

// serve starts the server; stop stops it and waits.
func (w *world) serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, ln) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error("serve:", err)
		}
	}
	w.t.Cleanup(func() { w.stop() })
}

func (w *world) write(f func(tx *schema.Tx) error) {
	w.t.Helper()
	must(w.t, w.c.DB.Write(f))
	must(w.t, w.c.DB.Commit())
}

func (w *world) read(f func(tx *schema.Tx) error) {
	w.t.Helper()
	must(w.t, w.c.DB.Read(f))
}

// main is the branch main of ws as a surface of its own sees it.
func (w *world) main(tx *schema.Tx) *pathtree.View {
	w.t.Helper()
	b, err := w.c.Tree.Bucket(tx, "ws")
	must(w.t, err)
	br, err := w.c.Tree.Branch(tx, b.ID, "main")
	must(w.t, err)
	v, err := w.c.Tree.View(tx, br.ID, 0)
	must(w.t, err)
	return v
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	s, err := ssh.NewSignerFromKey(key)
	must(t, err)
	return s
}

// user makes a user with a key and grants.
func (w *world) user(name string, grants ...string) ssh.Signer {
	w.t.Helper()
	key := newKey(w.t)
	w.write(func(tx *schema.Tx) error {
		u, err := access.AddUser(tx, name)
		if err != nil {
			return err
		}
		return access.AddKey(tx, u.ID, access.Key{Blob: key.PublicKey().Marshal()})
	})
	w.grant(name, grants...)
	return key
}

func (w *world) grant(name string, grants ...string) {
	w.t.Helper()
	w.change(name, access.Allow, grants)
}
func (w *world) revoke(name string, grants ...string) {
	w.t.Helper()
	w.change(name, access.Revoke, grants)
}

func (w *world) change(name string, how func(*schema.Tx, int64, access.Grant) error, grants []string) {
	w.t.Helper()
	w.write(func(tx *schema.Tx) error {
		u, err := access.UserByName(tx, name)
		if err != nil {
			return err
		}
		for _, text := range grants {
			g, err := access.ParseGrant(tx, w.c.Tree, text)
			if err != nil {
				return err
			}
			if err := how(tx, u.ID, g); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *world) config(name string, auth ...ssh.AuthMethod) *ssh.ClientConfig {
	return &ssh.ClientConfig{User: name, Auth: auth, HostKeyCallback: ssh.FixedHostKey(w.server.hostKey.PublicKey())}
}

func (w *world) dial(name string, key ssh.Signer) *ssh.Client {
	w.t.Helper()
	c, err := ssh.Dial("tcp", w.addr, w.config(name, ssh.PublicKeys(key)))
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	return c
}

// client is an SFTP client of a user.
func (w *world) client(name string, key ssh.Signer) *sftp.Client {
	w.t.Helper()
	c, err := sftp.NewClient(w.dial(name, key))
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	return c
}

// put writes a file through c.
func put(t testing.TB, c *sftp.Client, p, text string) {
	t.Helper()
	f, err := c.Create(p)
	must(t, err)
	_, err = f.Write([]byte(text))
	must(t, err)
	must(t, f.Close())
}

func get(t testing.TB, c *sftp.Client, p string) string {
	t.Helper()
	f, err := c.Open(p)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return string(b)
}

// denied fails unless err is an answer with that code.
func denied(t testing.TB, what string, err error, code uint32) {
	t.Helper()
	if got := codeOf(err); got != code {
		t.Errorf("%s: %v (code %d), want code %d", what, err, got, code)
	}
}

func codeOf(err error) uint32 {
	if err == nil {
		return statusOK
	}
	var s *sftp.StatusError
	if errors.As(err, &s) {
		return s.Code
	}
	switch {
	case strings.Contains(err.Error(), "not exist"):
		return statusNoFile
	case strings.Contains(err.Error(), "permission denied"):
		return statusDenied
	case err == io.EOF:
		return statusEOF
	}
	return 99
}
