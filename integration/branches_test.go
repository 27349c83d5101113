package integration_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alkdev/alkfs"
)

// nameStatus returns the lines of `alkfs diff --name-status`, sorted.
func (s *store) nameStatus(t testing.TB, a, b string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(s.alkfs(t, "diff", "--name-status", a, b)), "\n")
	slices.Sort(lines)
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return lines
}

// Two branches mounted at once do not see each other; diff says exactly what
// was done to one, and merge brings it to the other.
func TestBranchesDiffAndMerge(t *testing.T) {
	s := newStore(t)
	main := s.mount(t, "default/main")
	tool{}.run(t, "cp", "-a", gorootPart(t, "src", "strings"), main.path("src"))
	write(t, main.path("mode"), "m")
	write(t, main.path("moved"), strings.Repeat("a file that moves\n", 100))
	must(t, os.Symlink("mode", main.path("link")))
	s.alkfs(t, "branch", "create", "work", "--from", "main")
	work := s.mount(t, "default/work")
	sameTree(t, main.dir, work.dir)

	write(t, work.path("added"), "new")
	write(t, work.path("src", "builder.go"), "package strings // edited\n")
	must(t, os.Remove(work.path("src", "reader.go")))
	must(t, os.Mkdir(work.path("dir"), 0o755))
	must(t, os.Rename(work.path("moved"), work.path("dir", "new-name")))
	must(t, os.Chmod(work.path("mode"), 0o755))
	must(t, os.Remove(work.path("link")))
	must(t, os.Symlink("added", work.path("link")))
	// What is done and undone is no difference.
	write(t, work.path("temporary"), "t")
	must(t, os.Remove(work.path("temporary")))

	if _, err := os.Stat(main.path("added")); !os.IsNotExist(err) {
		t.Fatalf("main sees what was added in work: %v", err)
	}
	sameTree(t, gorootPart(t, "src", "strings"), main.path("src"))

	want := []string{"A added", "A dir/", "D src/reader.go", "M link", "M src/builder.go", "P mode", "R moved -> dir/new-name"}
	if got := s.nameStatus(t, "default/main", "default/work"); !slices.Equal(got, want) {
		t.Errorf("diff says %q, want %q", got, want)
	}

	write(t, main.path("of-main"), "only here")
	s.alkfs(t, "merge", "--dry-run", "work", "main")
	if _, err := os.Stat(main.path("added")); !os.IsNotExist(err) {
		t.Fatal("a dry run changed something")
	}
	s.alkfs(t, "merge", "work", "main")
	eventually(t, "main's mount shows the merge", func() bool {
		b, err := os.ReadFile(main.path("src", "builder.go"))
		return err == nil && strings.Contains(string(b), "edited")
	})
	if got := read(t, main.path("of-main")); got != "only here" {
		t.Errorf("of-main: %q", got)
	}
	must(t, os.Remove(main.path("of-main")))
	eventually(t, "the trees are equal", func() bool {
		out := tool{}.try(t, "diff", "-r", "--no-dereference", work.dir, main.dir)
		return out.code == 0
	})
	st, err := os.Stat(main.path("mode"))
	must(t, err)
	if st.Mode().Perm() != 0o755 {
		t.Errorf("mode %v", st.Mode())
	}
	if got := s.nameStatus(t, "default/main", "default/work"); len(got) != 0 {
		t.Errorf("after the merge they differ by %q", got)
	}
	main.unmount(t)
	work.unmount(t)
	s.fsckDeep(t)
}

// A conflict names the path, applies nothing, and is decided by a flag.
func TestMergeConflict(t *testing.T) {
	s := newStore(t)
	main := s.mount(t, "default/main")
	write(t, main.path("both"), "base\n")
	write(t, main.path("kept"), "base\n")
	s.alkfs(t, "branch", "create", "work", "--from", "main")
	work := s.mount(t, "default/work")
	write(t, main.path("both"), "main says\n")
	write(t, work.path("both"), "work says\n")
	write(t, work.path("kept"), "work edits\n")

	r := s.try(t, "merge", "work", "main")
	if r.code != 4 {
		t.Fatalf("merge of a conflict: exit status %d\n%s\n%s", r.code, r.out, r.err)
	}
	if text := r.out + r.err; !strings.Contains(text, "both") || !strings.Contains(strings.ToLower(text), "conflict") {
		t.Errorf("the conflict is not named:\n%s", text)
	}
	if got := read(t, main.path("kept")); got != "base\n" {
		t.Fatalf("a part of the merge was applied: %q", got)
	}
	s.alkfs(t, "merge", "--theirs", "work", "main")
	eventually(t, "the merge on main's mount", func() bool { return read(t, main.path("kept")) == "work edits\n" })
	if got := read(t, main.path("both")); got != "work says\n" {
		t.Fatalf("--theirs gives %q", got)
	}
	main.unmount(t)
	work.unmount(t)
}

// One mount of the whole bucket shows its branches as directories, with inode
// numbers of their own.
func TestMountOfSeveralBranches(t *testing.T) {
	s := newStore(t)
	m := s.mount(t, "default/main")
	write(t, m.path("file"), "main")
	m.settle(t)
	s.alkfs(t, "branch", "create", "work", "--from", "main")
	all := s.mount(t, "--branches", "default")
	if a, b := read(t, all.path("main", "file")), read(t, all.path("work", "file")); a != "main" || b != "main" {
		t.Fatalf("%q and %q", a, b)
	}
	x, err := os.Stat(all.path("main", "file"))
	must(t, err)
	y, err := os.Stat(all.path("work", "file"))
	must(t, err)
	if os.SameFile(x, y) {
		t.Error("the same file in two branches passes for one file")
	}
	write(t, all.path("work", "file"), "work")
	if got := read(t, all.path("main", "file")); got != "main" {
		t.Errorf("main became %q", got)
	}
	if r := (tool{}).try(t, "diff", "-r", all.path("main"), all.path("work")); r.code != 1 {
		t.Errorf("diff sees no difference: %+v", r)
	}
	m.unmount(t)
	all.unmount(t)
}

func openStore(t testing.TB, dir string) *alkfs.Store {
	t.Helper()
	st, err := alkfs.Open(context.Background(), dir, alkfs.Options{})
	must(t, err)
	t.Cleanup(func() { st.Close() })
	return st
}

// A branch of a branch of a branch, a thousand times; each adds a file. The
// last lists, resolves, writes and forks.
func TestThousandBranchesDeep(t *testing.T) {
	const depth = 1000
	s := newStore(t)
	st := openStore(t, s.dir)
	from := "main"
	for i := range depth {
		name := fmt.Sprintf("b%04d", i)
		_, err := st.CreateBranch("default", name, alkfs.BranchOptions{From: from})
		must(t, err)
		v, err := st.View(alkfs.Spec{Bucket: "default", Branch: name})
		must(t, err)
		must(t, v.WriteFile(fmt.Sprintf("file%04d", i), []byte(name), 0o644))
		must(t, v.WriteFile("shared", []byte(name), 0o644))
		from = name
	}
	check := func(v *alkfs.View, n int) {
		t.Helper()
		entries, err := fs.ReadDir(v, ".")
		must(t, err)
		if len(entries) != n+1 {
			t.Fatalf("%d entries, want %d", len(entries), n+1)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			b, err := fs.ReadFile(v, fmt.Sprintf("file%04d", i))
			must(t, err)
			if want := fmt.Sprintf("b%04d", i); string(b) != want {
				t.Errorf("file %d: %q", i, b)
			}
		}
		b, err := fs.ReadFile(v, "shared")
		must(t, err)
		if want := fmt.Sprintf("b%04d", n-1); string(b) != want {
			t.Errorf("shared: %q, want %q", b, want)
		}
	}
	for _, n := range []int{1, 10, 100, depth} {
		v, err := st.View(alkfs.Spec{Bucket: "default", Branch: fmt.Sprintf("b%04d", n-1)})
		must(t, err)
		check(v, n)
	}
	_, err := st.CreateBranch("default", "last", alkfs.BranchOptions{From: from})
	must(t, err)
	must(t, st.Close())

	m := s.mount(t, "default/last")
	if got := read(t, m.path("file0000")); got != "b0000" {
		t.Errorf("through the mount: %q", got)
	}
	write(t, m.path("shared"), "last")
	entries, err := os.ReadDir(m.dir)
	must(t, err)
	if len(entries) != depth+1 {
		t.Errorf("%d entries in the mount", len(entries))
	}
	m.unmount(t)
	s.alkfs(t, "fsck")
}

// Many branches of one parent, each with its own version of one name.
func TestManyBranchesWide(t *testing.T) {
	s := newStore(t)
	st := openStore(t, s.dir)
	main, err := st.View(alkfs.Spec{})
	must(t, err)
	must(t, main.WriteFile("shared", []byte("main"), 0o644))
	must(t, main.WriteFile("file", []byte("of main"), 0o644))
	for i := range manyBranches {
		name := fmt.Sprintf("w%05d", i)
		_, err := st.CreateBranch("default", name, alkfs.BranchOptions{})
		must(t, err)
		v, err := st.View(alkfs.Spec{Branch: name})
		must(t, err)
		must(t, v.WriteFile("shared", []byte(name), 0o644))
	}
	for _, i := range []int{0, manyBranches / 2, manyBranches - 1} {
		name := fmt.Sprintf("w%05d", i)
		v, err := st.View(alkfs.Spec{Branch: name})
		must(t, err)
		b, err := fs.ReadFile(v, "shared")
		must(t, err)
		if string(b) != name {
			t.Errorf("%s reads %q", name, b)
		}
		if b, err = fs.ReadFile(v, "file"); err != nil || string(b) != "of main" {
			t.Errorf("%s: file %q, %v", name, b, err)
		}
	}
	list, err := st.Branches("default")
	must(t, err)
	if len(list) != manyBranches+1 {
		t.Errorf("%d branches", len(list))
	}
	must(t, st.RemoveBranch("default", "w00000"))
	must(t, st.Close())
	m := s.mount(t, "default/w00001")
	if got := read(t, m.path("shared")); got != "w00001" {
		t.Errorf("through the mount: %q", got)
	}
	m.unmount(t)
	s.alkfs(t, "fsck")
}
