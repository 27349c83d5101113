package fusefs

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

const deadline = 30 * time.Second

// testStore opens the store in dir as one process would, with a bucket b.
func testStore(t testing.TB, dir string) Config {
	t.Helper()
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, err := schema.Open(ctx, dir, schema.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	tree := pathtree.New(db)
	blobs, err := blobstore.Open(ctx, dir, db, blobstore.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := writesession.New(ctx, db, tree, blobs, writesession.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sessions.Close(ctx); err != nil {
			t.Error(err)
		}
		blobs.Close()
		db.Close()
	})
	err = db.Write(func(tx *schema.Tx) error {
		_, err := tree.CreateBucket(tx, "b")
		if pathtree.Errno(err) == 17 {
			err = nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(); err != nil {
		t.Fatal(err)
	}
	return Config{DB: db, Tree: tree, Blobs: blobs, Sessions: sessions, Logger: log}
}

var mainBranch = Options{Bucket: "b", Branch: "main"}

// testMount mounts and returns the directory.
func testMount(t *testing.T, c Config, o Options) (string, *Server) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Mount(context.Background(), dir, c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			unmountDir(dir, true)
		}
	})
	return dir, s
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// eventually waits for what another mount is told of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", deadline, what)
}

func TestRemountShowsWhatWasWritten(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, s := testMount(t, c, mainBranch)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "d/f"), "hello")
	if err := os.Rename(filepath.Join(dir, "d/f"), filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	dir, _ = testMount(t, c, mainBranch)
	if got := read(t, filepath.Join(dir, "g")); got != "hello" {
		t.Fatalf("read %q", got)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "d"))
	if err != nil || len(entries) != 0 {
		t.Fatal(entries, err)
	}
}
