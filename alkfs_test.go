package alkfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/alkdev/alkfs"
)

// newStore makes a store in a directory of the test.
func newStore(t *testing.T) *alkfs.Store {
	t.Helper()
	s, err := alkfs.Open(t.Context(), t.TempDir(), alkfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newView(t *testing.T, s *alkfs.Store, spec string) *alkfs.View {
	t.Helper()
	sp, err := alkfs.ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(sp)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenMakesAStoreOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	if _, err := alkfs.Open(t.Context(), dir, alkfs.Options{MustExist: true}); !errors.Is(err, alkfs.ErrNoStore) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("MustExist: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("MustExist made the directory")
	}
	var stores [4]*alkfs.Store
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			s, err := alkfs.Open(t.Context(), dir, alkfs.Options{})
			if err != nil {
				t.Error(err)
			}
			stores[i] = s
		})
	}
	wg.Wait()
	for _, s := range stores {
		if s == nil {
			continue
		}
		if b, err := s.Buckets(); err != nil || len(b) != 1 || b[0].Name != alkfs.DefaultBucket {
			t.Errorf("buckets: %v, %v", b, err)
		}
		must(t, s.Close())
	}
	key, err := os.Stat(filepath.Join(dir, "node.key"))
	if err != nil || key.Mode() != 0o600 {
		t.Errorf("node.key: %v, %v", key, err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "node.key"))
	s, err := alkfs.Open(t.Context(), dir, alkfs.Options{})
	must(t, err)
	must(t, s.Close())
	if after, _ := os.ReadFile(filepath.Join(dir, "node.key")); !bytes.Equal(before, after) {
		t.Error("node.key changed")
	}
	must(t, os.WriteFile(filepath.Join(dir, "node.key"), []byte("garbage"), 0o600))
	if s, err := alkfs.Open(t.Context(), dir, alkfs.Options{}); err == nil || !strings.Contains(err.Error(), "node.key") {
		s.Close()
		t.Errorf("a broken key: %v", err)
	}
}

func TestViewPassesFSTest(t *testing.T) {
	s := newStore(t)
	v := newView(t, s, "")
	must(t, v.MkdirAll("src/deep/er", 0o755))
	files := map[string]string{"README": "read me", "empty": "", "src/a.go": "package a", "src/deep/er/x": "x", "big": strings.Repeat("0123456789", 10_000)}
	var names []string
	for name, text := range files {
		must(t, v.WriteFile(name, []byte(text), 0o644))
		names = append(names, name)
	}
	must(t, v.Symlink("a.go", "src/link"))
	must(t, v.Symlink("../src/deep", "src/dirlink"))
	if err := fstest.TestFS(v, append(names, "src/link", "src/dirlink")...); err != nil {
		t.Error(err)
	}
	_, err := s.CreateSnapshot(alkfs.Spec{}, "then", "")
	must(t, err)
	must(t, v.RemoveAll(t.Context(), "src"))
	then, err := s.View(alkfs.Spec{At: "then"})
	must(t, err)
	if err := fstest.TestFS(then, names...); err != nil {
		t.Errorf("as of a snapshot: %v", err)
	}
	if err := then.WriteFile("README", nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing to a snapshot: %v", err)
	}
}

func TestSymlinksStayInTheBranch(t *testing.T) {
	v := newView(t, newStore(t), "")
	must(t, v.MkdirAll("a/b", 0o755))
	must(t, v.WriteFile("a/b/f", []byte("f"), 0o644))
	for name, c := range map[string]struct {
		target string
		err    error
	}{
		"rel": {"a/b/f", nil}, "up": {"a/../a/b/../b/f", nil}, "out": {"../etc/passwd", fs.ErrNotExist},
		"abs": {"/etc/passwd", fs.ErrNotExist}, "loop": {"loop", syscall.ELOOP}, "none": {"nothing", fs.ErrNotExist},
		"through": {"a/b/f/g", syscall.ENOTDIR},
	} {
		must(t, v.Symlink(c.target, name))
		p, err := v.ReadFile(name)
		if !errors.Is(err, c.err) || (c.err == nil) != (string(p) == "f") {
			t.Errorf("%s -> %s: %q, %v; want %v", name, c.target, p, err, c.err)
		}
		if got, err := v.ReadLink(name); err != nil || got != c.target {
			t.Errorf("ReadLink %s: %q, %v", name, got, err)
		}
	}
	if p, err := v.ReadFile("../a/b/f"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("..: %q, %v", p, err)
	}
}

func TestWriting(t *testing.T) {
	s := newStore(t)
	v := newView(t, s, "")
	ctx := t.Context()
	f, err := v.OpenFile("log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	for _, p := range []string{"one ", "two ", "three"} {
		_, err := io.WriteString(f, p)
		must(t, err)
	}
	if p, _ := v.ReadFile("log"); len(p) != 0 {
		t.Errorf("seen before it was published: %q", p)
	}
	must(t, f.Sync(ctx))
	if p, err := v.ReadFile("log"); string(p) != "one two three" {
		t.Errorf("after Sync: %q, %v", p, err)
	}
	_, err = f.WriteAt([]byte("TWO"), 4)
	must(t, err)
	f.Abort()
	must(t, f.Close())
	if p, err := v.ReadFile("log"); string(p) != "one two three" {
		t.Errorf("after Abort: %q, %v", p, err)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := v.OpenFile("log", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("O_EXCL: %v", err)
	}
	f, err = v.OpenFile("log", os.O_RDONLY, 0)
	must(t, err)
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.EBADF) {
		t.Errorf("write to a reader: %v", err)
	}
	if p, err := io.ReadAll(f); string(p) != "one two three" {
		t.Errorf("read: %q, %v", p, err)
	}
	must(t, f.Close())
	if _, err := v.WriteFrom(ctx, "log", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), failing{}), 0o644); !errors.Is(err, errFailing) {
		t.Errorf("WriteFrom of a failing reader: %v", err)
	}
	if p, _ := v.ReadFile("log"); string(p) != "one two three" {
		t.Errorf("after a failed WriteFrom: %.20q", p)
	}
	must(t, v.Link("log", "same"))
	must(t, v.WriteFile("same", []byte("shared"), 0o644))
	if p, _ := v.ReadFile("log"); string(p) != "shared" {
		t.Errorf("through the other link: %q", p)
	}
	must(t, v.Chmod("log", 0o640))
	must(t, v.Chtimes("log", time.Time{}, time.Unix(1e9, 5)))
	must(t, v.SetXattr("log", "user.k", []byte("v")))
	st, err := v.Stat("same")
	must(t, err)
	if st.Mode() != 0o640 || st.ModTime().UnixNano() != 1e18+5 {
		t.Errorf("stat: %v %v", st.Mode(), st.ModTime())
	}
	if x, err := v.Xattrs("same"); err != nil || len(x) != 1 || string(x[0].Value) != "v" {
		t.Errorf("xattrs: %v, %v", x, err)
	}
	must(t, v.Rename("same", "moved"))
	if _, err := v.Stat("same"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("renamed: %v", err)
	}
	must(t, v.MkdirAll("d/e/f", 0o755))
	must(t, v.WriteFile("d/e/f/g", nil, 0o644))
	if err := v.Remove("d"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("Remove of a full directory: %v", err)
	}
	must(t, v.RemoveAll(ctx, "d"))
	must(t, v.RemoveAll(ctx, "d"))
}

var errFailing = errors.New("failing")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFailing }

// treeOf describes a host tree: names, types, modes, times, links, contents.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	links := make(map[uint64]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(dir, path)
		st, err := os.Lstat(path)
		must(t, err)
		sys := st.Sys().(*syscall.Stat_t)
		text := st.Mode().String() + " " + st.ModTime().UTC().Format(time.RFC3339Nano)
		switch {
		case st.Mode().IsRegular():
			p, err := os.ReadFile(path)
			must(t, err)
			text += " " + string(p)
			if sys.Nlink > 1 {
				if links[sys.Ino] == "" {
					links[sys.Ino] = rel
				}
				text += " linked to " + links[sys.Ino]
			}
		case st.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			must(t, err)
			text += " " + target
		}
		out[rel] = text
		return nil
	}))
	return out
}

func TestPutAndGetBringATreeBack(t *testing.T) {
	s := newStore(t)
	v := newView(t, s, "")
	src := filepath.Join(t.TempDir(), "src")
	old := time.Unix(1_500_000_000, 123_456_789)
	must(t, os.MkdirAll(filepath.Join(src, "sub/caf\xe9"), 0o755))
	for i := range 700 {
		must(t, os.WriteFile(filepath.Join(src, "sub", strings.Repeat("f", i%7+1)+time.Unix(int64(i), 0).UTC().Format("150405")), []byte(strings.Repeat("x", i)), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(src, "run.sh"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0o600))
	must(t, os.WriteFile(filepath.Join(src, "empty"), nil, 0o444))
	must(t, os.WriteFile(filepath.Join(src, "sub/caf\xe9/\xff\n"), []byte("odd name"), 0o644))
	must(t, os.Link(filepath.Join(src, "big"), filepath.Join(src, "sub/big")))
	must(t, os.Symlink("../nowhere\xfe", filepath.Join(src, "sub/link")))
	must(t, syscall.Mkfifo(filepath.Join(src, "pipe"), 0o640))
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 8<<20)
	must(t, err)
	must(t, sparse.Close())
	must(t, os.Chtimes(filepath.Join(src, "big"), old, old))
	must(t, os.Mkdir(filepath.Join(src, "closed"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "closed/in"), []byte("in"), 0o644))
	must(t, os.Chmod(filepath.Join(src, "closed"), 0o555))
	must(t, os.Chtimes(filepath.Join(src, "sub"), old, old))
	t.Cleanup(func() { os.Chmod(filepath.Join(src, "closed"), 0o755) })

	var calls int
	p, err := v.Put(t.Context(), src, "in", alkfs.PutOptions{Recursive: true, Sync: true, Progress: func(alkfs.Progress) { calls++ }})
	must(t, err)
	if p.Files != 709 || p.Dirs != 4 || calls == 0 {
		t.Errorf("put: %+v, %d calls", p, calls)
	}
	dst := filepath.Join(t.TempDir(), "dst")
	g, err := v.Get(t.Context(), "in", dst, alkfs.GetOptions{Recursive: true})
	must(t, err)
	t.Cleanup(func() { os.Chmod(filepath.Join(dst, "closed"), 0o755) })
	if g.Files != p.Files || g.Dirs != p.Dirs {
		t.Errorf("get: %+v, put: %+v", g, p)
	}
	want, got := treeOf(t, src), treeOf(t, dst)
	for name := range want {
		if want[name] != got[name] {
			t.Errorf("%q came back as %.100q, want %.100q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d names came back, want %d", len(got), len(want))
	}
	var st syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(dst, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the hole was filled: %d bytes on disk", st.Blocks*512)
	}

	// Again, over what is there: new content, a link where a file was.
	must(t, os.WriteFile(filepath.Join(src, "run.sh"), []byte("#!/bin/bash\n"), 0o700))
	must(t, os.Remove(filepath.Join(src, "empty")))
	must(t, os.Symlink("run.sh", filepath.Join(src, "empty")))
	_, err = v.Put(t.Context(), src, "in", alkfs.PutOptions{Recursive: true})
	must(t, err)
	_, err = v.Get(t.Context(), "in", dst, alkfs.GetOptions{Recursive: true})
	must(t, err)
	again := treeOf(t, dst)
	for _, name := range []string{"run.sh", "empty", "sub/big", "pipe"} {
		if want := treeOf(t, src)[name]; again[name] != want {
			t.Errorf("second time %q is %.100q, want %.100q", name, again[name], want)
		}
	}
}

func TestInterruptedGetLeavesNothing(t *testing.T) {
	s := newStore(t)
	v := newView(t, s, "")
	must(t, v.Mkdir("d", 0o755))
	for _, name := range []string{"d/a", "d/b", "d/c"} {
		must(t, v.WriteFile(name, bytes.Repeat([]byte(name), 1<<20), 0o644))
	}
	for _, c := range []struct{ name, host string }{{"d", "tree"}, {"d/a", "file"}} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := v.Get(ctx, c.name, filepath.Join(dir, c.host), alkfs.GetOptions{Recursive: true, Progress: func(alkfs.Progress) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", c.name, err)
		}
		cancel()
		if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
			t.Errorf("%s left %v, %v", c.name, list, err)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	v := newView(t, newStore(t), "")
	dir := t.TempDir()
	if _, err := v.Put(t.Context(), dir, "d", alkfs.PutOptions{}); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("a directory without Recursive: %v", err)
	}
	if _, err := v.Put(t.Context(), filepath.Join(dir, "none"), "d", alkfs.PutOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	host := filepath.Join(dir, "f")
	must(t, os.WriteFile(host, []byte("f"), 0o644))
	if _, err := v.Put(t.Context(), host, "none/f", alkfs.PutOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a missing directory: %v", err)
	}
	must(t, v.Mkdir("d", 0o755))
	if _, err := v.Put(t.Context(), host, "d", alkfs.PutOptions{}); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("over a directory: %v", err)
	}
	must(t, v.WriteFile("file", nil, 0o644))
	if _, err := v.Put(t.Context(), dir, "file", alkfs.PutOptions{Recursive: true}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a tree over a file: %v", err)
	}
}

func TestCopySharesContent(t *testing.T) {
	s := newStore(t)
	v := newView(t, s, "")
	must(t, v.MkdirAll("a/b", 0o755))
	must(t, v.WriteFile("a/f", bytes.Repeat([]byte("f"), 1<<20), 0o750))
	must(t, v.Link("a/f", "a/b/g"))
	must(t, v.Symlink("f", "a/l"))
	before := s.Blobs().Stats()
	must(t, v.Copy(t.Context(), "a", v, "c", alkfs.CopyOptions{Recursive: true}))
	if after := s.Blobs().Stats(); after.Files != before.Files {
		t.Errorf("copying made %d blobs", after.Files-before.Files)
	}
	f, err := v.Lstat("c/f")
	must(t, err)
	g, err := v.Lstat("c/b/g")
	must(t, err)
	if f.Sys().(alkfs.Inode).Ino != g.Sys().(alkfs.Inode).Ino || f.Mode() != 0o750 || f.Size() != 1<<20 {
		t.Errorf("copies: %+v, %+v", f.Sys(), g.Sys())
	}
	if to, err := v.ReadLink("c/l"); to != "f" {
		t.Errorf("link: %q, %v", to, err)
	}
	if err := v.Copy(t.Context(), "a", v, "a/b/again", alkfs.CopyOptions{Recursive: true}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("into itself: %v", err)
	}
	if err := v.Copy(t.Context(), "a/f", v, "a/b/g", alkfs.CopyOptions{}); err == nil {
		t.Error("onto itself")
	}
	if err := v.Copy(t.Context(), "a", v, "x", alkfs.CopyOptions{}); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("a directory without Recursive: %v", err)
	}
}

func TestBranchesAndSnapshots(t *testing.T) {
	s := newStore(t)
	main := newView(t, s, "")
	must(t, main.WriteFile("f", []byte("1"), 0o644))
	_, err := s.CreateBranch("", "exp", alkfs.BranchOptions{})
	must(t, err)
	_, err = s.CreateSnapshot(alkfs.Spec{Branch: "exp"}, "s1", "first")
	must(t, err)
	exp := newView(t, s, "/exp")
	must(t, exp.WriteFile("f", []byte("2"), 0o644))
	_, err = s.CreateBranch("", "old", alkfs.BranchOptions{From: "exp", At: "s1"})
	must(t, err)
	for spec, want := range map[string]string{"": "1", "/exp": "2", "/old": "1"} {
		if p, err := newView(t, s, spec).ReadFile("f"); string(p) != want {
			t.Errorf("%q holds %q, %v; want %q", spec, p, err, want)
		}
	}
	v, err := s.View(alkfs.Spec{At: "s1"})
	must(t, err)
	if v.Spec().Branch != "exp" || !v.ReadOnly() {
		t.Errorf("a snapshot is of its own branch: %+v", v.Spec())
	}
	for _, c := range []struct {
		spec alkfs.Spec
		err  error
	}{
		{alkfs.Spec{Bucket: "no"}, fs.ErrNotExist}, {alkfs.Spec{Branch: "no"}, fs.ErrNotExist},
		{alkfs.Spec{At: "no"}, alkfs.ErrBadSpec}, {alkfs.Spec{Branch: "old", At: "s1"}, alkfs.ErrBadSpec},
	} {
		if _, err := s.View(c.spec); !errors.Is(err, c.err) {
			t.Errorf("%+v: %v, want %v", c.spec, err, c.err)
		}
	}
	if _, err := s.CreateBranch("", "exp", alkfs.BranchOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second exp: %v", err)
	}
	must(t, s.RenameBranch("", "exp", "idea"))
	must(t, s.RemoveSnapshot("", "s1"))
	must(t, s.RemoveBranch("", "idea"))
	list, err := s.Branches("")
	must(t, err)
	names := []string{}
	for _, b := range list {
		names = append(names, b.Name)
	}
	if !slices.Equal(names, []string{"main", "old"}) {
		t.Errorf("branches: %v", names)
	}
	_, err = s.CreateBucket("work")
	must(t, err)
	must(t, s.RemoveBucket("work"))
	if err := s.RemoveBucket("work"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a second removal: %v", err)
	}
}

func TestWatchFollowsOtherStores(t *testing.T) {
	dir := t.TempDir()
	open := func() *alkfs.Store {
		s, err := alkfs.Open(t.Context(), dir, alkfs.Options{})
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		return s
	}
	a, b := open(), open()
	must(t, newView(t, a, "").Mkdir("in", 0o755))
	must(t, a.Barrier())
	seq, err := b.LastEvent()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		v := newView(t, a, "")
		v.WriteFile("out", nil, 0o644)
		v.WriteFile("in/f", []byte("text"), 0o644)
		v.Rename("in/f", "in/g")
		v.Remove("in/g")
	}()
	var got []string
	for e, err := range b.Watch(ctx, &alkfs.Spec{Path: "in"}, seq) {
		must(t, err)
		got = append(got, strings.TrimSpace(e.Op.String()+" "+e.Path+" "+e.OldPath))
		if e.Op.String() == "remove" {
			break
		}
	}
	want := []string{"create in/f", "rename in/g in/f", "remove in/g"}
	if !slices.Equal(slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "content") }), want) {
		t.Errorf("events: %q, want %q", got, want)
	}
	if _, ok := ctx.Deadline(); ctx.Err() != nil {
		t.Errorf("no end: %v %v", ctx.Err(), ok)
	}
}

func TestReadOnlyStore(t *testing.T) {
	dir := t.TempDir()
	s, err := alkfs.Open(t.Context(), dir, alkfs.Options{})
	must(t, err)
	must(t, newView(t, s, "").WriteFile("f", []byte("text"), 0o644))
	must(t, newView(t, s, "").WriteFile("big", bytes.Repeat([]byte("text"), 1<<16), 0o644))
	must(t, s.Close())
	s, err = alkfs.Open(t.Context(), dir, alkfs.Options{ReadOnly: true})
	must(t, err)
	defer s.Close()
	v := newView(t, s, "")
	if p, err := v.ReadFile("f"); string(p) != "text" {
		t.Errorf("read: %q, %v", p, err)
	}
	if p, err := v.ReadFile("big"); len(p) != 4<<16 {
		t.Errorf("read: %d bytes, %v", len(p), err)
	}
	for what, err := range map[string]error{
		"write": v.WriteFile("f", nil, 0o644), "mkdir": v.Mkdir("d", 0o755), "remove": v.Remove("f"),
		"removeall": v.RemoveAll(t.Context(), "f"), "chmod": v.Chmod("f", 0), "copy": v.Copy(t.Context(), "f", v, "g", alkfs.CopyOptions{}),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	if _, err := s.CreateBranch("", "b", alkfs.BranchOptions{}); !errors.Is(err, alkfs.ErrReadOnly) {
		t.Errorf("branch: %v", err)
	}
}
