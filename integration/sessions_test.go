package integration_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alkdev/alkfs"
)

func filled(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

// holds fails the test unless the file holds n times c, and then what more says.
func holds(t testing.TB, path string, c byte, n int, more ...any) {
	t.Helper()
	want := filled(c, n)
	for ; len(more) > 0; more = more[2:] {
		want = append(want, filled(byte(more[0].(rune)), more[1].(int))...)
	}
	b, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(b, want) {
		t.Fatalf("%s: %d bytes, %q…; want %d, %q…", path, len(b), b[:min(len(b), 16)], len(want), want[:min(len(want), 16)])
	}
}

// write-and-wait is a program in the middle of a write: it overwrites the start
// of a file with so many times a letter and keeps it open until it is killed.
func init() {
	workers["write-and-wait"] = func(args []string) error {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(filled(args[2][0], n), 0); err != nil {
			return err
		}
		time.Sleep(mountLimit)
		return nil
	}
}

// What is being written is seen at once on its own mount and, on every other
// surface, only when it is closed.
func TestOthersSeeTheOldVersionUntilClose(t *testing.T) {
	for _, size := range []int{1000, 3 << 20} {
		s := newStore(t)
		a, b := s.mount(t), s.mount(t)
		v, err := openStore(t, s.dir).View(alkfs.Spec{})
		must(t, err)
		must(t, os.WriteFile(a.path("doc"), filled('o', size), 0o644))
		eventually(t, "the file on the other mount", func() bool {
			got, err := os.ReadFile(b.path("doc"))
			return err == nil && bytes.Equal(got, filled('o', size))
		})
		f, err := os.OpenFile(a.path("doc"), os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt(filled('n', size), 0)
		must(t, err)
		_, err = f.WriteAt([]byte("tail"), int64(size))
		must(t, err)

		want := append(filled('n', size), "tail"...)
		if got := read(t, a.path("doc")); got != string(want) {
			t.Fatal("the same mount does not see what was written")
		}
		if st, err := os.Stat(a.path("doc")); err != nil || st.Size() != int64(len(want)) {
			t.Fatalf("the same mount says size %v, %v", st, err)
		}
		for range 3 {
			holds(t, b.path("doc"), 'o', size)
			if got, err := fs.ReadFile(v, "doc"); err != nil || !bytes.Equal(got, filled('o', size)) {
				t.Fatalf("the Go API sees what is not closed yet, or nothing: %v", err)
			}
			// The command's process inherits the descriptor and closes it.
			if out := s.alkfs(t, "cat", "default/main:doc"); out != string(filled('o', size)) {
				t.Fatal("alkfs cat sees what is not closed yet")
			}
		}
		must(t, f.Close())
		eventually(t, "the new version on the other mount", func() bool { return read(t, b.path("doc")) == string(want) })
		if out := s.alkfs(t, "cat", "default/main:doc"); out != string(want) {
			t.Fatal("alkfs cat does not see what was closed")
		}
		a.unmount(t)
		b.unmount(t)
	}
}

// Changes of every kind made by one process are seen by a mount that another
// serves, although its kernel caches what it has looked at.
func TestOtherProcessesAreSeen(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	must(t, os.Mkdir(m.path("d"), 0o755))
	write(t, m.path("d", "changed"), "old")
	write(t, m.path("d", "removed"), "x")
	write(t, m.path("d", "moved"), "y")
	list := func() string {
		entries, err := os.ReadDir(m.path("d"))
		must(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	if got := list(); got != "changed moved removed" {
		t.Fatal(got)
	}
	if _, err := os.Stat(m.path("d", "new")); !os.IsNotExist(err) { // so that its absence is cached
		t.Fatal(err)
	}
	from := filepath.Join(t.TempDir(), "from")
	write(t, from, "new")
	s.alkfs(t, "put", from, "default/main:d/new")
	s.alkfs(t, "put", from, "default/main:d/changed")
	s.alkfs(t, "rm", "default/main:d/removed")
	s.alkfs(t, "mv", "default/main:d/moved", "default/main:d/there")
	eventually(t, "the new names", func() bool { return list() == "changed new there" })
	eventually(t, "the new content", func() bool { return read(t, m.path("d", "changed")) == "new" })
	eventually(t, "the new file", func() bool {
		b, err := os.ReadFile(m.path("d", "new"))
		return err == nil && string(b) == "new"
	})
	m.unmount(t)
}

// A process killed in the middle of a write leaves the old version. What it
// had written is listed, can be copied out, and can be dropped.
func TestKillMidWriteLeavesTheOldVersion(t *testing.T) {
	const size = 4 << 20
	s := newStore(t)
	m := s.mount(t)
	must(t, os.WriteFile(m.path("doc"), filled('o', size), 0o644))
	m.settle(t)
	w := worker(t, "write-and-wait", m.path("doc"), fmt.Sprint(size/2), "n")
	eventually(t, "the session is listed", func() bool {
		if !w.running() {
			t.Fatalf("the writer ended: %s", w.output())
		}
		return strings.Contains(s.alkfs(t, "sessions", "ls"), "doc")
	})
	holds(t, m.path("doc"), 'n', size/2, 'o', size/2)
	m.kill9(t)
	w.kill()

	m = s.mountAt(t, m.dir)
	holds(t, m.path("doc"), 'o', size)
	list := s.alkfs(t, "sessions", "ls")
	if !strings.Contains(list, "doc") {
		t.Fatalf("alkfs sessions ls does not name the orphan:\n%s\n%s", list, m.output())
	}
	id := regexp.MustCompile(`(?m)^\s*(\d+)\b`).FindStringSubmatch(list)
	if id == nil {
		t.Fatalf("no id in:\n%s", list)
	}
	to := filepath.Join(t.TempDir(), "recovered")
	s.alkfs(t, "sessions", "recover", id[1], to)
	got, err := os.ReadFile(to)
	must(t, err)
	if len(got) != size || !bytes.Equal(got[size/2:], filled('o', size/2)) {
		t.Fatalf("recovered %d bytes", len(got))
	}
	if !bytes.Equal(got[:size/2], filled('n', size/2)) {
		t.Errorf("recovered file lacks what was written: starts with %q", got[:8])
	}
	s.alkfs(t, "sessions", "abort", "--force", id[1])
	if list := s.alkfs(t, "sessions", "ls"); strings.Contains(list, "doc") {
		t.Fatalf("still listed after abort:\n%s", list)
	}
	holds(t, m.path("doc"), 'o', size)
	m.unmount(t)
	s.fsckDeep(t)
}

// What fsync answered for is there after kill -9, published or not, whatever
// the size, and although the file was never closed.
func TestFsyncedDataSurvivesKill(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	sizes := map[string]int{"small": 100, "group": 16 << 10, "over": 16<<10 + 1, "large": 5 << 20}
	for name, size := range sizes {
		must(t, os.WriteFile(m.path(name), filled('o', size), 0o644))
		f, err := os.OpenFile(m.path(name), os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt(filled('n', size), 0)
		must(t, err)
		must(t, f.Sync())

		g, err := os.Create(m.path("new-" + name))
		must(t, err)
		defer g.Close()
		_, err = g.Write(filled('c', size))
		must(t, err)
		must(t, g.Sync())
	}
	m.kill9(t)
	m = s.mountAt(t, m.dir)
	for name, size := range sizes {
		holds(t, m.path(name), 'n', size)
		holds(t, m.path("new-"+name), 'c', size)
	}
	m.unmount(t)
	s.fsckDeep(t)
}

// fsync of a directory makes its names durable.
func TestFsyncedDirectorySurvivesKill(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	must(t, os.MkdirAll(m.path("a", "b"), 0o750))
	write(t, m.path("a", "file"), "content")
	must(t, os.Rename(m.path("a", "file"), m.path("a", "b", "renamed")))
	must(t, os.Symlink("renamed", m.path("a", "b", "link")))
	must(t, os.Link(m.path("a", "b", "renamed"), m.path("hard")))
	write(t, m.path("gone"), "")
	must(t, os.Remove(m.path("gone")))
	m.settle(t)
	m.kill9(t)
	m = s.mountAt(t, m.dir)
	if got := read(t, m.path("a", "b", "link")); got != "content" {
		t.Errorf("through the link: %q", got)
	}
	if got := read(t, m.path("hard")); got != "content" {
		t.Errorf("hard link: %q", got)
	}
	for _, name := range []string{m.path("gone"), m.path("a", "file")} {
		if _, err := os.Lstat(name); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.unmount(t)
	s.fsckDeep(t)
}

// A file unlinked while open stays readable and writable, and leaves nothing.
func TestUnlinkedButOpen(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	f, err := os.Create(m.path("tmp"))
	must(t, err)
	defer f.Close()
	_, err = f.Write(filled('a', 100_000))
	must(t, err)
	must(t, os.Remove(m.path("tmp")))
	_, err = f.WriteAt(filled('b', 100_000), 100_000)
	must(t, err)
	got := make([]byte, 200_000)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got, append(filled('a', 100_000), filled('b', 100_000)...)) {
		t.Fatal("wrong content")
	}
	must(t, f.Close())
	if names, err := os.ReadDir(m.dir); err != nil || len(names) != 0 {
		t.Fatalf("%v, %v", names, err)
	}
	m.unmount(t)
	s.fsckDeep(t)
}

// A writer that gives up leaves the old version, also on a mount that looked.
func TestAbortLeavesTheOldVersion(t *testing.T) {
	s := newStore(t)
	st := openStore(t, s.dir)
	v, err := st.View(alkfs.Spec{})
	must(t, err)
	must(t, v.WriteFile("doc", filled('o', 300_000), 0o644))
	m := s.mount(t)
	holds(t, m.path("doc"), 'o', 300_000)
	for _, size := range []int{10, 3 << 20} {
		f, err := v.OpenFile("doc", os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(filled('n', size), 0)
		must(t, err)
		f.Abort()
		must(t, f.Close())
		holds(t, m.path("doc"), 'o', 300_000)
		b, err := fs.ReadFile(v, "doc")
		must(t, err)
		if !bytes.Equal(b, filled('o', 300_000)) {
			t.Error("the writer's own view changed")
		}
	}
	m.unmount(t)
	must(t, st.Close())
	s.fsckDeep(t)
}
