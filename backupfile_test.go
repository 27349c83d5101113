package alkfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBackupFileRestores(t *testing.T) {
	parent := t.TempDir()
	s := openStore(t, filepath.Join(parent, "store"))
	v := openView(t, s, Spec{})
	writeFile(t, v, "small", []byte("small"))
	writeFile(t, v, "large", content64K(1))
	left := filepath.Join(parent, ".store-backup-left") // by a process that was killed
	if err := os.MkdirAll(filepath.Join(left, "backup"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b.tar")
	for round := range 2 { // written anew over the first
		if r, err := s.BackupFile(t.Context(), file, BackupOptions{}); err != nil || !r.OK() || r.Files != int64(1+round) {
			t.Fatalf("%+v, %v", r, err)
		}
		got := restored(t, file)
		wantFile(t, got, Spec{Path: "small"}, []byte("small"))
		wantFile(t, got, Spec{Path: "large"}, content64K(1+round))
		writeFile(t, openView(t, got, Spec{}), "new", content64K(7)) // a store of its own
		writeFile(t, v, "large", content64K(2))
	}
	for _, dir := range []string{parent, filepath.Dir(file)} {
		if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
			t.Errorf("left in %s: %v, %v", dir, list, err)
		}
	}
	if _, err := s.BackupFile(t.Context(), t.TempDir(), BackupOptions{}); !errors.Is(err, syscall.EINVAL) {
		t.Error("over a directory:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.BackupFile(ctx, file, BackupOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wantFile(t, restored(t, file), Spec{Path: "small"}, []byte("small"))
}

// TestBackupFileWhileContentIsCollected has a reader of the archive that is slower
// than the content is removed.
func TestBackupFileWhileContentIsCollected(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	for i := range 4 {
		writeFile(t, v, fmt.Sprint("f", i), content64K(i))
	}
	var archive bytes.Buffer
	first := true
	_, err := s.WriteBackup(t.Context(), writerFunc(func(p []byte) (int, error) {
		if first {
			first = false
			for i := range 4 {
				if err := v.Remove(fmt.Sprint("f", i)); err != nil {
					return 0, err
				}
			}
			r, err := s.GC(t.Context(), GCOptions{Retention: time.Nanosecond, Grace: -1})
			if err != nil {
				return 0, err
			}
			t.Logf("collected %+v", r)
		}
		return archive.Write(p)
	}), BackupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got := restored(t, file)
	for i := range 4 {
		wantFile(t, got, Spec{Path: fmt.Sprint("f", i)}, content64K(i))
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestBadBackupFiles restores from what others may have made: no file appears
// outside of where the store was to be, and none inside.
func TestBadBackupFiles(t *testing.T) {
	s := openStore(t, t.TempDir())
	writeFile(t, openView(t, s, Spec{}), "f", content64K(1))
	var good bytes.Buffer
	if _, err := s.WriteBackup(t.Context(), &good, BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	archive := func(h tar.Header, body string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	flipped := bytes.Clone(good.Bytes())
	flipped[bytes.Index(flipped, content64K(1)[:1024])+100] ^= 1
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":     {nil, "no whole backup file"},
		"cut":       {good.Bytes()[:good.Len()/2], "no whole backup file"},
		"outside":   {archive(tar.Header{Name: "../evil", Typeflag: tar.TypeReg, Mode: 0o600}, "x"), "../evil"},
		"absolute":  {archive(tar.Header{Name: "/tmp/evil", Typeflag: tar.TypeReg, Mode: 0o600}, "x"), "/tmp/evil"},
		"a link":    {archive(tar.Header{Name: "alkfs.db", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}, ""), "alkfs.db"},
		"no backup": {archive(tar.Header{Name: "node.key", Typeflag: tar.TypeReg, Mode: 0o600}, "x"), "no backup.json"},
		"damaged":   {flipped, ""},
	} {
		parent := t.TempDir()
		file, dir := filepath.Join(parent, "b.tar"), filepath.Join(parent, "there", "store")
		if err := os.WriteFile(file, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := RestoreStore(t.Context(), file, dir, BackupOptions{})
		if name == "damaged" {
			if err != nil || len(r.Damaged) != 1 {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if list, _ := filepath.Glob(filepath.Join(parent, "*", "*")); len(list) != 0 {
			t.Errorf("%s: left %v", name, list)
		}
	}
}
