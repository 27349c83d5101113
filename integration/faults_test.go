package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// samples are files of every way to keep content: none, inline, in blob files.
func samples() map[string][]byte {
	all := map[string][]byte{"empty": nil}
	for name, size := range map[string]int{"inline": 700, "inline-full": 16 << 10, "group": 16<<10 + 1, "large": 3<<20 + 17} {
		b := make([]byte, size)
		noise(byte(size)).Read(b)
		all[name] = b
	}
	return all
}

// sampleStore makes a store with samples in it, closed.
func sampleStore(t testing.TB) *store {
	t.Helper()
	s := newStore(t)
	m := s.mount(t)
	must(t, os.Mkdir(m.path("dir"), 0o755))
	for name, b := range samples() {
		must(t, os.WriteFile(m.path("dir", name), b, 0o644))
	}
	for i := range 200 {
		write(t, m.path("dir", fmt.Sprintf("filler-%03d", i)), strings.Repeat("filler ", i))
	}
	m.unmount(t)
	return s
}

// copyOf copies a closed store.
func (s *store) copyOf(t testing.TB) *store {
	t.Helper()
	c := &store{dir: filepath.Join(t.TempDir(), "store"), bin: s.bin}
	tool{}.run(t, "cp", "-a", s.dir, c.dir)
	return c
}

// blobFiles returns the blob files of content that is not inline, without
// their outboards, the largest first.
func (s *store) blobFiles(t testing.TB) []string {
	t.Helper()
	sizes := map[int64]bool{}
	for _, b := range samples() {
		sizes[int64(len(b))] = true
	}
	var files []string
	must(t, filepath.WalkDir(filepath.Join(s.dir, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err == nil && sizes[info.Size()] {
			files = append(files, path)
		}
		return nil
	}))
	if len(files) != 2 {
		t.Fatalf("blob files: %q", files)
	}
	return files
}

func (s *store) blobOfSize(t testing.TB, size int) string {
	t.Helper()
	for _, f := range s.blobFiles(t) {
		if st, err := os.Stat(f); err == nil && st.Size() == int64(size) {
			return f
		}
	}
	t.Fatalf("no blob file of %d bytes", size)
	return ""
}

func flip(t testing.TB, path string, off int64, mask byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		must(t, os.Chmod(path, 0o600))
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	must(t, err)
	b[0] ^= mask
	_, err = f.WriteAt(b[:], off)
	must(t, err)
}

// saysError reports whether a command failed with a message meant for a person.
func saysError(r result) error {
	switch {
	case r.code == 0:
		return errors.New("it succeeded")
	case r.code < 0:
		return errors.New("it was killed by a signal")
	case strings.Contains(r.err, "goroutine ") || strings.Contains(r.err, "panic:"):
		return fmt.Errorf("it crashed: %s", tail([]byte(r.err)))
	case strings.TrimSpace(r.err+r.out) == "":
		return errors.New("it says nothing")
	}
	return nil
}

func TestFlippedBitInABlob(t *testing.T) {
	s := sampleStore(t)
	large := samples()["large"]
	flip(t, s.blobOfSize(t, len(large)), int64(len(large)/2), 1)

	m := s.mount(t)
	if b, err := os.ReadFile(m.path("dir", "large")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of a damaged file: %v, right content: %v", err, bytes.Equal(b, large))
	}
	if b, err := os.ReadFile(m.path("dir", "group")); err != nil || !bytes.Equal(b, samples()["group"]) {
		t.Errorf("another file: %v", err)
	}
	if err := saysError(s.try(t, "cat", "default/main:dir/large")); err != nil {
		t.Errorf("alkfs cat: %v", err)
	}
	m.unmount(t)
	r := s.try(t, "fsck", "--deep")
	if err := saysError(r); err != nil {
		t.Errorf("fsck --deep: %v", err)
	}
	if !strings.Contains(r.out+r.err, "dir/large") {
		t.Errorf("fsck --deep does not name the file:\n%s\n%s", r.out, r.err)
	}
	kept, err := os.ReadDir(filepath.Join(s.dir, "quarantine"))
	if err != nil || len(kept) == 0 {
		t.Errorf("nothing in quarantine: %v", err)
	}
	// The file can be written anew, and then all is well.
	m = s.mount(t)
	must(t, os.WriteFile(m.path("dir", "large"), large, 0o644))
	if b, err := os.ReadFile(m.path("dir", "large")); err != nil || !bytes.Equal(b, large) {
		t.Errorf("written anew: %v", err)
	}
	m.unmount(t)
	s.fsckDeep(t)
}

func TestMissingBlobFile(t *testing.T) {
	s := sampleStore(t)
	must(t, os.Remove(s.blobOfSize(t, len(samples()["large"]))))
	m := s.mount(t)
	if _, err := os.ReadFile(m.path("dir", "large")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of a file whose blob is missing: %v", err)
	}
	if _, err := os.Stat(m.path("dir", "large")); err != nil {
		t.Errorf("stat: %v", err)
	}
	for name, want := range samples() {
		if name == "large" {
			continue
		}
		if b, err := os.ReadFile(m.path("dir", name)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := saysError(s.try(t, "cat", "default/main:dir/large")); err != nil {
		t.Errorf("alkfs cat: %v", err)
	}
	m.unmount(t)
	if err := saysError(s.try(t, "fsck")); err != nil {
		t.Errorf("fsck: %v", err)
	}
}

// A byte is changed somewhere in the database, many times over. Each time every
// file has the right content or its reading fails with a message.
func TestDamagedDatabasePage(t *testing.T) {
	rounds := 24
	if nightly {
		rounds = 400
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	s := sampleStore(t)
	size := fileSize(t, filepath.Join(s.dir, "alkfs.db"))
	noticed := 0
	for range rounds {
		c := s.copyOf(t)
		at, mask := rng.Int64N(size), byte(1)<<rng.IntN(8)
		if rng.IntN(4) == 0 {
			at = rng.Int64N(4096) // the header and the schema
		}
		flip(t, filepath.Join(c.dir, "alkfs.db"), at, mask)
		said := false
		for name, want := range samples() {
			r := c.try(t, "cat", "default/main:dir/"+name)
			if r.code == 0 {
				if r.out != string(want) {
					t.Errorf("byte %d ^ %#x: cat %s gives wrong content (%d bytes, want %d)", at, mask, name, len(r.out), len(want))
				}
				continue
			}
			said = true
			if err := saysError(r); err != nil {
				t.Errorf("byte %d ^ %#x: cat %s: %v", at, mask, name, err)
			}
		}
		r := c.try(t, "fsck", "--deep")
		if r.code != 0 {
			said = true
			if err := saysError(r); err != nil {
				t.Errorf("byte %d ^ %#x: fsck: %v", at, mask, err)
			}
		}
		if said {
			noticed++
		}
		must(t, os.RemoveAll(c.dir))
	}
	t.Logf("%d of %d changes were noticed, the others did no harm", noticed, rounds)
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.Size()
}

// A database that is not one, is cut off, or is from a newer version is refused
// with words, and left as it is.
func TestRefusedDatabases(t *testing.T) {
	s := sampleStore(t)
	cases := []struct {
		name  string
		spoil func(t testing.TB, db string)
		says  string
	}{
		{"newer format", func(t testing.TB, db string) {
			tool{}.run(t, "sqlite3", db, "PRAGMA user_version = 999")
		}, "newer"},
		{"not a database", func(t testing.TB, db string) {
			must(t, os.WriteFile(db, filled('#', 64<<10), 0o600))
		}, "not"},
		{"another program's", func(t testing.TB, db string) {
			must(t, os.Remove(db))
			tool{}.run(t, "sqlite3", db, "CREATE TABLE theirs (x)", "PRAGMA application_id = 12345")
		}, "not"},
		{"cut off", func(t testing.TB, db string) {
			must(t, os.Truncate(db, fileSize(t, db)/8192*4096))
		}, "damaged"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			spoilt := s.copyOf(t)
			db := filepath.Join(spoilt.dir, "alkfs.db")
			for _, f := range []string{db + "-wal", db + "-shm"} {
				os.Remove(f)
			}
			c.spoil(t, db)
			before := read(t, db)
			r := spoilt.try(t, "ls", "-R", "default/main")
			if c.says == "damaged" && r.code == 0 {
				r = spoilt.try(t, "fsck", "--deep")
			}
			if err := saysError(r); err != nil {
				t.Fatalf("%v\n%s", err, r.out)
			}
			if !strings.Contains(r.err+r.out, c.says) {
				t.Errorf("the message does not say %q: %s", c.says, r.err)
			}
			if c.says != "damaged" && read(t, db) != before {
				t.Error("the refused database was changed")
			}
		})
	}
}

// Any number of processes may write into one store at once.
func TestManyWritersAtOnce(t *testing.T) {
	s := newStore(t)
	a, b := s.mount(t), s.mount(t)
	part := gorootPart(t, "src", "bufio")
	results := make(chan string, 4)
	go func() {
		r := tool{}.try(t, "cp", "-a", gorootPart(t, "src", "encoding"), a.path("a"))
		results <- r.err
	}()
	go func() {
		r := tool{}.try(t, "cp", "-a", gorootPart(t, "src", "sync"), b.path("b"))
		results <- r.err
	}()
	for _, name := range []string{"c", "d"} {
		go func() {
			var said string
			for i := range 5 {
				if r := s.try(t, "put", "-r", part, fmt.Sprintf("default/main:%s%d", name, i)); r.code != 0 {
					said += r.err + r.out
				}
			}
			results <- said
		}()
	}
	for range 4 {
		if said := <-results; said != "" {
			t.Errorf("a writer says: %s", said)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	same := func(m *mount) {
		t.Helper()
		sameTree(t, gorootPart(t, "src", "encoding"), m.path("a"))
		sameTree(t, gorootPart(t, "src", "sync"), m.path("b"))
		for i := range 5 {
			for _, name := range []string{"c", "d"} {
				tool{}.run(t, "diff", "-r", part, m.path(fmt.Sprintf("%s%d", name, i)))
			}
		}
	}
	a.unmount(t)
	b.unmount(t)
	m := s.mount(t)
	same(m)
	m.unmount(t)
	s.fsckDeep(t)
}
