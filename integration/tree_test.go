package integration_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// goroot returns the directory of the Go installation that runs the test: a
// big tree of real files that every machine with these tests has.
var goroot = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(out)), err
})

// gorootTar is an archive of all of goroot, made once.
var gorootTar = sync.OnceValues(func() (string, error) {
	root, err := goroot()
	if err != nil {
		return "", err
	}
	to := filepath.Join(scratch, "goroot.tar")
	if out, err := exec.Command("tar", "-cf", to, "-C", root, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w\n%s", err, out)
	}
	return to, nil
})

// unpackGoroot unpacks goroot into dir, which it makes, and returns goroot.
func unpackGoroot(t testing.TB, dir string) string {
	t.Helper()
	root, err := goroot()
	must(t, err)
	archive, err := gorootTar()
	must(t, err)
	must(t, os.Mkdir(dir, 0o755))
	tool{}.run(t, "tar", "-xpf", archive, "-C", dir)
	return root
}

// gorootPart returns a directory of goroot of some hundred files.
func gorootPart(t testing.TB, elem ...string) string {
	t.Helper()
	root, err := goroot()
	must(t, err)
	return filepath.Join(append([]string{root}, elem...)...)
}

// sshTree returns the tree that SSH clients move.
func sshTree(t testing.TB) string {
	t.Helper()
	return gorootPart(t, "src")
}

// sshPart returns what SSH clients move that would take all night with sshTree.
func sshPart(t testing.TB) string {
	t.Helper()
	if nightly {
		return sshTree(t)
	}
	return gorootPart(t, "src", "net", "http")
}

// tree is what a walk found: for each path its kind, permissions, owner, size,
// modification time and target.
type tree map[string]string

func walk(t testing.TB, root string) tree {
	t.Helper()
	found := tree{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", path, err)
		}
		rel, _ := filepath.Rel(root, path)
		says := fmt.Sprintf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			says += fmt.Sprintf(" size %d mtime %d.%09d", st.Size, st.Mtim.Sec, st.Mtim.Nsec)
		case syscall.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			says += " to " + target
		}
		if kind := d.Type(); kind != fs.FileMode(0) && kind.IsDir() != (st.Mode&syscall.S_IFMT == syscall.S_IFDIR) {
			return fmt.Errorf("%s: the directory says %v, the inode %o", path, kind, st.Mode)
		}
		found[rel] = says
		return nil
	})
	must(t, err)
	return found
}

// sameTree fails the test unless got holds exactly what want does: names,
// kinds, permissions, owners, times and every byte.
func sameTree(t testing.TB, want, got string) {
	t.Helper()
	a, b := walk(t, want), walk(t, got)
	wrong := 0
	complain := func(format string, args ...any) {
		if wrong++; wrong <= 20 {
			t.Errorf(format, args...)
		}
	}
	for path, w := range a {
		g, ok := b[path]
		switch {
		case !ok:
			complain("%s: missing", path)
		case path != "." && g != w:
			complain("%s: %s, want %s", path, g, w)
		case strings.Contains(w, " size "):
			if err := sameContent(filepath.Join(want, path), filepath.Join(got, path)); err != nil {
				complain("%v", err)
			}
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok {
			complain("%s: should not be there", path)
		}
	}
	if wrong > 0 {
		t.Fatalf("%s: %d differences from %s", got, wrong, want)
	}
}

func sameContent(want, got string) error {
	a, err := os.ReadFile(want)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(got)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		at := 0
		for at < min(len(a), len(b)) && a[at] == b[at] {
			at++
		}
		return fmt.Errorf("%s: content differs at byte %d (%d bytes, want %d)", got, at, len(b), len(a))
	}
	return nil
}
