package sftpsrv

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// A grant is for names of branches: an open file obeys that for the name its
// branch has now.
func TestOpenFilesFollowTheNameOfTheirBranch(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws/dev", "ws/seen-*=ro"))
	const p = "/ws/dev/f"
	put(t, c, p, "text")
	f, err := c.OpenFile(p, os.O_RDWR)
	must(t, err)
	rename := func(from, to string) {
		t.Helper()
		w.write(func(tx *schema.Tx) error {
			b, err := w.c.Tree.Bucket(tx, "ws")
			if err != nil {
				return err
			}
			br, err := w.c.Tree.Branch(tx, b.ID, from)
			if err == nil && to == "" {
				return w.c.Tree.RemoveBranch(tx, br.ID)
			}
			if err != nil {
				return err
			}
			return w.c.Tree.RenameBranch(tx, br.ID, to)
		})
	}
	write := func() error { _, err := f.WriteAt([]byte("T"), 0); return err }
	read := func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err }
	rename("dev", "hidden")
	denied(t, "write under a name without a grant", write(), statusDenied)
	denied(t, "read under a name without a grant", read(), statusDenied)
	_, err = f.Stat()
	denied(t, "fstat under a name without a grant", err, statusDenied)
	denied(t, "fsetstat under a name without a grant", f.Chmod(0o600), statusDenied)
	rename("hidden", "seen-1")
	denied(t, "write under a name that may be read", write(), statusDenied)
	must(t, read())
	rename("seen-1", "dev")
	must(t, write())
	must(t, read())
	rename("dev", "")
	denied(t, "write to a branch that was removed", write(), statusFailure)
	denied(t, "read of a branch that was removed", read(), statusFailure)
	if f.Close() == nil {
		t.Error("what was written to a branch that was removed is published")
	}
}

func names(t *testing.T, c *sftp.Client, p string) []string {
	t.Helper()
	list, err := c.ReadDir(p)
	must(t, err)
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	sort.Strings(out)
	return out
}

func TestRootShowsWhatIsGranted(t *testing.T) {
	w := newWorld(t, Options{})
	for user, want := range map[string]struct {
		grants []string
		tree   map[string][]string
	}{
		"all":  {[]string{"*"}, map[string][]string{"/": {"other", "ws"}, "/ws": {"dev", "main"}}},
		"dev":  {[]string{"ws/dev=ro"}, map[string][]string{"/": {"ws"}, "/ws": {"dev"}}},
		"none": {nil, map[string][]string{"/": nil}},
	} {
		c := w.client(user, w.user(user, want.grants...))
		for dir, list := range want.tree {
			if got := names(t, c, dir); !slices.Equal(got, list) {
				t.Errorf("%s sees %v in %s, want %v", user, got, dir, list)
			}
		}
	}
}

// A branch that descends from one of which not all is here is not listed, and does not
// hinder that the others are.
func TestBranchesThatAreComing(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("all", w.user("all", "*"))
	w.write(func(tx *schema.Tx) error {
		b, err := w.c.Tree.Bucket(tx, "ws")
		must(t, err)
		dev, err := w.c.Tree.Branch(tx, b.ID, "dev")
		must(t, err)
		_, err = w.c.Tree.CreateBranch(tx, b.ID, "from dev", pathtree.Origin{Branch: dev.ID})
		must(t, err)
		return w.c.Tree.SetKeep(tx, b.ID, map[int64]pathtree.Keeping{dev.ID: pathtree.Coming})
	})
	if got := names(t, c, "/ws"); !slices.Equal(got, []string{"main"}) {
		t.Error(got)
	}
}

func TestNothingElseCanBeNamed(t *testing.T) {
	w := newWorld(t, Options{})
	all := w.client("all", w.user("all", "*"))
	for _, p := range []string{"/ws/main/secret", "/other/main/secret", "/ws/dev/mine"} {
		put(t, all, p, "text of "+p)
	}
	must(t, all.Symlink("../../main/secret", "/ws/dev/up"))
	must(t, all.Symlink("/ws/main/secret", "/ws/dev/abs"))
	must(t, all.Symlink("/other/main/secret", "/ws/dev/across"))
	must(t, all.Symlink("/etc/passwd", "/ws/dev/host"))
	must(t, all.Symlink("/ws/dev/mine", "/ws/dev/own"))
	must(t, all.Symlink("../..", "/ws/dev/top"))
	must(t, all.Symlink("loop", "/ws/dev/loop"))
	must(t, all.Symlink("/ws/developer/x", "/ws/dev/prefix"))

	c := w.client("dev", w.user("dev", "ws/dev"))
	if got := get(t, c, "/ws/dev/own"); got != "text of /ws/dev/mine" {
		t.Errorf("a link within the branch leads to %q", got)
	}
	long := strings.Repeat("x", 300)
	for _, p := range []string{
		"/ws/main", "/ws/main/secret", "/other", "/other/main/secret", "/ws/dev/../main/secret",
		"/ws/dev/up", "/ws/dev/abs", "/ws/dev/across", "/ws/dev/host", "/ws/dev/top/main/secret",
		"/ws/dev/loop", "/ws/dev/prefix", "/../etc/passwd", "../../etc/passwd", "/etc/passwd",
		"/WS/dev/mine", "/ws/DEV/mine", "/ws/dev/MINE", "/ws/dev/mine\x00", "/ws\x00/dev/mine", "/ws/\x00/dev",
		"//other//main//secret", "/ws/dev/./../../other/main/secret", "/ws/nobody/mine", "/nobody",
		"/ws/*/mine", "/ws/dev\\..\\main", "/ws/" + long,
	} {
		_, err := c.Stat(p)
		denied(t, "stat "+p, err, statusNoFile)
		_, err = c.Open(p)
		denied(t, "open "+p, err, statusNoFile)
		_, err = c.ReadDir(p)
		denied(t, "list "+p, err, statusNoFile)
	}
	if _, err := c.Stat("/ws/dev/" + long); err == nil {
		t.Error("a name of 300 bytes exists")
	}
	for what, err := range map[string]error{
		"link out":         c.Link("/ws/main/secret", "/ws/dev/x"),
		"link across":      c.Link("/other/main/secret", "/ws/dev/x"),
		"rename out":       c.Rename("/ws/dev/mine", "/ws/main/mine"),
		"posix-rename out": c.PosixRename("/ws/dev/mine", "/other/main/mine"),
		"rename of branch": c.PosixRename("/ws/dev", "/ws/dev2"),
		"remove branch":    c.RemoveDirectory("/ws/dev"),
		"remove bucket":    c.RemoveDirectory("/ws"),
		"remove root":      c.RemoveDirectory("/"),
		"remove other":     c.Remove("/ws/main/secret"),
		"mkdir bucket":     c.Mkdir("/new"),
		"chmod other":      c.Chmod("/ws/main/secret", 0o777),
		"file as branch":   func() error { _, err := c.Create("/ws/file"); return err }(),
		"symlink in root":  c.Symlink("x", "/ws/link"),
		"write via link":   func() error { _, err := c.OpenFile("/ws/dev/abs", os.O_WRONLY|os.O_TRUNC); return err }(),
		"create via link":  func() error { _, err := c.Create("/ws/dev/prefix"); return err }(),
	} {
		if code := codeOf(err); code != statusNoFile && code != statusDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := get(t, all, "/ws/main/secret"); got != "text of /ws/main/secret" {
		t.Errorf("the secret is now %q", got)
	}
}

func TestReadOnlyGrantsRefuseEveryChange(t *testing.T) {
	w := newWorld(t, Options{})
	all := w.client("all", w.user("all", "*"))
	put(t, all, "/ws/main/f", "text")
	must(t, all.Mkdir("/ws/main/d"))
	c := w.client("ro", w.user("ro", "ws=ro"))
	if got := get(t, c, "/ws/main/f"); got != "text" {
		t.Fatalf("read %q", got)
	}
	for what, flags := range map[string]int{
		"write": os.O_WRONLY, "read-write": os.O_RDWR, "append": os.O_WRONLY | os.O_APPEND,
		"truncate": os.O_WRONLY | os.O_TRUNC, "create": os.O_WRONLY | os.O_CREATE,
	} {
		_, err := c.OpenFile("/ws/main/f", flags)
		denied(t, what, err, statusDenied)
	}
	for what, err := range map[string]error{
		"create new":   func() error { _, err := c.Create("/ws/main/new"); return err }(),
		"remove":       c.Remove("/ws/main/f"),
		"rmdir":        c.RemoveDirectory("/ws/main/d"),
		"mkdir":        c.Mkdir("/ws/main/e"),
		"rename":       c.Rename("/ws/main/f", "/ws/main/g"),
		"posix-rename": c.PosixRename("/ws/main/f", "/ws/main/g"),
		"link":         c.Link("/ws/main/f", "/ws/main/g"),
		"symlink":      c.Symlink("f", "/ws/main/g"),
		"chmod":        c.Chmod("/ws/main/f", 0o600),
		"chown":        c.Chown("/ws/main/f", 1, 1),
		"chtimes":      c.Chtimes("/ws/main/f", time.Unix(1, 0), time.Unix(1, 0)),
		"truncate":     c.Truncate("/ws/main/f", 1),
		"fork":         c.Mkdir("/ws/branch"),
	} {
		denied(t, what, err, statusDenied)
	}
	f, err := c.Open("/ws/main/f")
	must(t, err)
	defer f.Close()
	denied(t, "fchmod", f.Chmod(0o600), statusDenied)
	denied(t, "ftruncate", f.Truncate(0), statusDenied)
	if got := get(t, all, "/ws/main/f"); got != "text" {
		t.Fatalf("now %q", got)
	}
}

func TestGrantsChangeUnderOpenConnections(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	put(t, c, "/ws/main/f", "text")
	r, err := c.Open("/ws/main/f")
	must(t, err)
	f, err := c.OpenFile("/ws/main/f", os.O_RDWR)
	must(t, err)
	_, err = f.WriteAt([]byte("T"), 0)
	must(t, err)

	w.grant("ann", "ws=ro")
	_, err = f.WriteAt([]byte("T"), 0)
	denied(t, "write after the grant became ro", err, statusDenied)
	_, err = r.ReadAt(make([]byte, 1), 0)
	must(t, err)
	denied(t, "close of what was written before", f.Close(), statusDenied)

	w.revoke("ann", "ws")
	_, err = r.ReadAt(make([]byte, 1), 0)
	denied(t, "read after the grant was revoked", err, statusDenied)
	_, err = c.Stat("/ws/main/f")
	denied(t, "stat after the grant was revoked", err, statusNoFile)

	if got := get(t, w.client("bob", w.user("bob", "ws=ro")), "/ws/main/f"); got != "text" {
		t.Errorf("read %q; what was written before the change of grants was published", got)
	}
}

func TestMkdirForksMain(t *testing.T) {
	w := newWorld(t, Options{})
	all := w.client("all", w.user("all", "*"))
	put(t, all, "/ws/main/f", "from main")
	agent := w.client("agent", w.user("agent", "ws/main=ro", "ws/agent-*=rw"))
	must(t, agent.Mkdir("/ws/agent-a"))
	if got := get(t, agent, "/ws/agent-a/f"); got != "from main" {
		t.Errorf("the new branch has %q", got)
	}
	put(t, agent, "/ws/agent-a/f", "changed")
	if got := get(t, all, "/ws/main/f"); got != "from main" {
		t.Errorf("main has %q", got)
	}
	denied(t, "a branch outside the grant", agent.Mkdir("/ws/other"), statusNoFile)
	denied(t, "a branch that exists", agent.Mkdir("/ws/agent-a"), statusFailure)
	denied(t, "rmdir of a branch", agent.RemoveDirectory("/ws/agent-a"), statusDenied)
	blind := w.client("blind", w.user("blind", "ws/agent-*=rw"))
	denied(t, "a fork of a main that may not be read", blind.Mkdir("/ws/agent-b"), statusDenied)
}

func TestOpenFlags(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	p := "/ws/main/f"
	_, err := c.OpenFile(p, os.O_WRONLY)
	denied(t, "write of what is not there", err, statusNoFile)
	f, err := c.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	must(t, err)
	must(t, f.Close())
	_, err = c.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	denied(t, "exclusive create of what is there", err, statusFailure)

	put(t, c, p, "0123456789")
	f, err = c.OpenFile(p, os.O_RDWR) // neither truncates
	must(t, err)
	_, err = f.WriteAt([]byte("ab"), 4)
	must(t, err)
	got := make([]byte, 10)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	if string(got) != "0123ab6789" {
		t.Errorf("read back %q through the handle", got)
	}
	if other := get(t, w.client("bob", w.user("bob", "ws")), p); other != "0123456789" {
		t.Errorf("another connection sees %q before the close", other)
	}
	must(t, f.Close())
	if got := get(t, c, p); got != "0123ab6789" {
		t.Errorf("published %q", got)
	}
	f, err = c.OpenFile(p, os.O_WRONLY|os.O_APPEND)
	must(t, err)
	for _, s := range []string{"x", "y", "z"} { // offsets do not count
		_, err = f.WriteAt([]byte(s), 0)
		must(t, err)
	}
	must(t, f.Close())
	if got := get(t, c, p); got != "0123ab6789xyz" {
		t.Errorf("appended: %q", got)
	}
	f, err = c.OpenFile(p, os.O_WRONLY|os.O_TRUNC)
	must(t, err)
	must(t, f.Close())
	if got := get(t, c, p); got != "" {
		t.Errorf("truncated: %q", got)
	}
	f, err = c.OpenFile(p, os.O_RDONLY)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	denied(t, "write on a handle for reading", err, statusDenied)
	_, err = f.ReadAt(make([]byte, 1), 0)
	if err != io.EOF {
		t.Errorf("read at the end: %v", err)
	}
	must(t, f.Close())
}

func TestWritesInAnyOrder(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(i*7 + i>>13)
	}
	f, err := c.OpenFile("/ws/main/f", os.O_RDWR|os.O_CREATE)
	must(t, err)
	const step = 30_000
	offs := []int{}
	for off := 0; off < len(want); off += step {
		offs = append(offs, off)
	}
	rand.Shuffle(len(offs), func(i, j int) { offs[i], offs[j] = offs[j], offs[i] })
	for _, off := range offs {
		end := min(off+step+5_000, len(want)) // they overlap
		_, err := f.WriteAt(want[off:end], int64(off))
		must(t, err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != int64(len(want)) {
		t.Errorf("size before the close: %v, %v", st, err)
	}
	must(t, f.Close())
	if got := get(t, c, "/ws/main/f"); !bytes.Equal([]byte(got), want) {
		t.Error("the content differs")
	}
}

func TestAttributes(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	p := "/ws/main/f"
	put(t, c, p, "text")
	must(t, c.Chmod(p, 0o751))
	when := time.Unix(1_000_000_000, 0)
	must(t, c.Chtimes(p, when, when))
	st, err := c.Stat(p)
	must(t, err)
	if st.Mode() != 0o751 || !st.ModTime().Equal(when) || st.Size() != 4 {
		t.Errorf("got %v %v %d", st.Mode(), st.ModTime(), st.Size())
	}
	must(t, c.Chmod(p, os.ModeSetuid|0o755))
	if st, _ = c.Stat(p); st.Mode() != 0o755 {
		t.Errorf("a set-id bit was set: %v", st.Mode())
	}
	must(t, c.Chown(p, 12345, 23456))
	must(t, c.Chown(p, 12346, math.MaxUint32)) // as sshfs says that the group stays
	if st, _ = c.Stat(p); st.Sys().(*sftp.FileStat).UID != 12346 || st.Sys().(*sftp.FileStat).GID != 23456 {
		t.Errorf("after chown: %+v", st.Sys())
	}
	must(t, c.Truncate(p, 2))
	if got := get(t, c, p); got != "te" {
		t.Errorf("truncated: %q", got)
	}
	// By handle: it follows the file and not the name, and times set before
	// the close survive it.
	f, err := c.OpenFile(p, os.O_RDWR)
	must(t, err)
	_, err = f.WriteAt([]byte("more"), 0)
	must(t, err)
	must(t, c.PosixRename(p, "/ws/main/g"))
	put(t, c, p, "something else")
	if st, err := f.Stat(); err != nil || st.Size() != 4 {
		t.Errorf("fstat after rename: %v, %v", st, err)
	}
	must(t, f.Chmod(0o600))
	must(t, f.Close())
	must(t, c.Chtimes("/ws/main/g", when, when))
	if st, err = c.Stat("/ws/main/g"); err != nil || st.Mode() != 0o600 || st.Size() != 4 || !st.ModTime().Equal(when) {
		t.Errorf("got %v, %v", st, err)
	}
	if st, err = c.Stat(p); err != nil || st.Mode() != 0o644 {
		t.Errorf("the new file got %v, %v", st, err)
	}
	// Removed while open.
	f, err = c.Open(p)
	must(t, err)
	must(t, c.Remove(p))
	if st, err := f.Stat(); err != nil || st.Size() != 14 {
		t.Errorf("fstat after unlink: %v, %v", st, err)
	}
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "some" {
		t.Errorf("read after unlink: %q, %v", b, err)
	}
	must(t, f.Close())
}

// A set-id bit that root made on a mount does not outlive what an SFTP user does
// to the file.
func TestSetIDBitsDoNotOutliveAChange(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	const p = "/ws/main/f"
	open := func(flags int, do func(f *sftp.File) error) error {
		f, err := c.OpenFile(p, flags)
		must(t, err)
		must(t, do(f))
		return f.Close()
	}
	for what, change := range map[string]func() error{
		"write": func() error {
			return open(os.O_WRONLY, func(f *sftp.File) error { _, err := f.Write([]byte("x")); return err })
		},
		"append": func() error {
			return open(os.O_WRONLY|os.O_APPEND, func(f *sftp.File) error { _, err := f.Write([]byte("x")); return err })
		},
		"fsync after write": func() error {
			return open(os.O_WRONLY, func(f *sftp.File) error {
				if _, err := f.Write([]byte("x")); err != nil {
					return err
				}
				return f.Sync()
			})
		},
		"open to truncate": func() error { return open(os.O_WRONLY|os.O_TRUNC, func(*sftp.File) error { return nil }) },
		"truncate":         func() error { return c.Truncate(p, 1) },
		"chown":            func() error { return c.Chown(p, 77, 77) },
		"chmod":            func() error { return c.Chmod(p, 0o755) },
	} {
		put(t, c, p, "text")
		w.write(func(tx *schema.Tx) error {
			v := w.main(tx)
			in, err := v.Resolve(tx, "f")
			if err != nil {
				return err
			}
			mode := uint32(0o6755)
			_, err = v.SetAttr(tx, in.Ino, pathtree.SetAttr{Mode: &mode})
			return err
		})
		must(t, change())
		w.read(func(tx *schema.Tx) error {
			in, err := w.main(tx).Resolve(tx, "f")
			if in.Mode&0o7777 != 0o755 {
				t.Errorf("after %s: mode %o", what, in.Mode)
			}
			return err
		})
	}
}

func TestLinksAndDirectories(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	base := "/ws/main/"
	must(t, c.Mkdir(base+"d"))
	put(t, c, base+"d/f", "text")
	must(t, c.Symlink("d", base+"l"))
	must(t, c.Symlink("../d/f", base+"d/back"))
	if got, err := c.ReadLink(base + "d/back"); err != nil || got != "../d/f" {
		t.Errorf("readlink: %q, %v", got, err)
	}
	for _, p := range []string{"l/f", "l/back", "d/back"} {
		if got := get(t, c, base+p); got != "text" {
			t.Errorf("%s: %q", p, got)
		}
	}
	if st, err := c.Lstat(base + "l"); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("lstat: %v, %v", st, err)
	}
	put(t, c, base+"l/through", "made through a link")
	must(t, c.Link(base+"d/f", base+"hard"))
	f, err := c.OpenFile(base+"hard", os.O_WRONLY|os.O_TRUNC)
	must(t, err)
	_, err = f.Write([]byte("both"))
	must(t, err)
	must(t, f.Close())
	if got := get(t, c, base+"d/f"); got != "both" {
		t.Errorf("the other name has %q", got)
	}
	denied(t, "rename onto a file", c.Rename(base+"hard", base+"d/through"), statusFailure)
	must(t, c.PosixRename(base+"hard", base+"d/through"))
	denied(t, "rmdir of a full directory", c.RemoveDirectory(base+"d"), statusFailure)
	denied(t, "remove of a directory", c.Remove(base+"nothing"), statusNoFile)
	must(t, c.Symlink("missing", base+"dangling"))
	put(t, c, base+"dangling", "made where it points")
	if got := get(t, c, base+"missing"); got != "made where it points" {
		t.Errorf("got %q", got)
	}
}

func TestLargeDirectoryComesInPages(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("ann", w.user("ann", "ws"))
	const n = largeDir
	s := newSession(w.c, 1, nil)
	w.write(func(tx *schema.Tx) error {
		b, err := w.c.Tree.Bucket(tx, "ws")
		if err != nil {
			return err
		}
		br, err := w.c.Tree.Branch(tx, b.ID, "main")
		if err != nil {
			return err
		}
		v, err := s.view(tx, br.ID)
		if err != nil {
			return err
		}
		for i := range n {
			if _, err := v.Create(tx, v.Root(), fmt.Sprintf("f%05d", i), newFile); err != nil {
				return err
			}
		}
		return nil
	})
	got := names(t, c, "/ws/main")
	if len(got) != n || got[0] != "f00000" || got[n-1] != fmt.Sprintf("f%05d", n-1) {
		t.Errorf("%d names, from %s to %s", len(got), got[0], got[len(got)-1])
	}
}

func TestDroppedConnectionPublishesNothing(t *testing.T) {
	w := newWorld(t, Options{})
	key := w.user("ann", "ws")
	c := w.client("ann", key)
	for _, size := range []int{5_000, 3 << 20} {
		p := path.Join("/ws/main", fmt.Sprint("f", size))
		put(t, c, p, "old")
		conn := w.dial("ann", key)
		d, err := sftp.NewClient(conn)
		must(t, err)
		f, err := d.OpenFile(p, os.O_WRONLY|os.O_TRUNC)
		must(t, err)
		_, err = f.Write(bytes.Repeat([]byte("n"), size))
		must(t, err)
		conn.Close()
	}
	w.stop()
	var infos []writesession.Info
	w.read(func(tx *schema.Tx) (err error) {
		infos, err = w.c.Sessions.List(tx)
		return err
	})
	slices.SortFunc(infos, func(a, b writesession.Info) int { return int(a.Size - b.Size) })
	if len(infos) != 2 || infos[0].Size != 5_000 || infos[1].Size != 3<<20 || infos[0].Alive {
		t.Errorf("sessions: %+v", infos)
	}
	w.serve()
	c = w.client("ann", key)
	for _, size := range []int{5_000, 3 << 20} {
		if got := get(t, c, path.Join("/ws/main", fmt.Sprint("f", size))); got != "old" {
			t.Errorf("%d bytes: %.20q was published", size, got)
		}
	}
}

func TestSecondWriterFollowsThePolicy(t *testing.T) {
	w := newWorld(t, Options{})
	key := w.user("ann", "ws")
	a, b := w.client("ann", key), w.client("ann", key)
	put(t, a, "/ws/main/f", "old")
	open := func(c *sftp.Client) *sftp.File {
		t.Helper()
		f, err := c.OpenFile("/ws/main/f", os.O_WRONLY)
		must(t, err)
		return f
	}
	// By default both write, unmixed, and the last close wins.
	f, g := open(a), open(b)
	_, err := f.Write([]byte("AAA"))
	must(t, err)
	_, err = g.Write([]byte("BB"))
	must(t, err)
	must(t, g.Close())
	must(t, f.Close())
	if got := get(t, b, "/ws/main/f"); got != "AAA" {
		t.Errorf("got %q", got)
	}
	w.write(func(tx *schema.Tx) error {
		bucket, err := w.c.Tree.Bucket(tx, "ws")
		if err != nil {
			return err
		}
		return w.c.Tree.SetPolicy(tx, bucket.ID, pathtree.Policy{ExclusiveWrites: true})
	})
	must(t, w.c.Sessions.Policies())
	f, g = open(a), open(b)
	_, err = f.Write([]byte("first"))
	must(t, err)
	_, err = g.Write([]byte("second"))
	denied(t, "the second writer", err, statusFailure)
	if me := fmt.Sprintf("process %d is writing it", os.Getpid()); !strings.Contains(err.Error(), me) {
		t.Errorf("the writer is not named: %v", err)
	}
	must(t, f.Close())
	g.Close()
	if got := get(t, b, "/ws/main/f"); got != "first" {
		t.Errorf("got %q", got)
	}
}

// A directory that turns into a link out of the branch and back, while others
// open files through it: nobody gets out.
func TestRenameAgainstOpenStaysInside(t *testing.T) {
	w := newWorld(t, Options{})
	all := w.client("all", w.user("all", "*"))
	must(t, all.Mkdir("/ws/main/d"))
	put(t, all, "/ws/main/d/f", "secret")
	must(t, all.Mkdir("/ws/dev/dir"))
	put(t, all, "/ws/dev/dir/f", "mine")
	must(t, all.Symlink("../main/d", "/ws/dev/link"))
	must(t, all.Symlink("/ws/main/d", "/ws/dev/abs"))
	key := w.user("dev", "ws/dev")
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		c := w.client("dev", key)
		for range 100 {
			for _, from := range []string{"dir", "link", "abs"} {
				if err := c.PosixRename("/ws/dev/"+from, "/ws/dev/x"); err != nil {
					t.Error(err)
					return
				}
				if err := c.PosixRename("/ws/dev/x", "/ws/dev/"+from); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 3 {
		c := w.client("dev", key)
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				f, err := c.Open("/ws/dev/x/f")
				if err != nil {
					continue
				}
				b, err := io.ReadAll(f)
				f.Close()
				if string(b) != "mine" || err != nil {
					t.Errorf("read %q, %v", b, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A bucket's quota is what df shows, and who goes beyond it is told.
func TestQuota(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("all", w.user("all", "*"))
	put(t, c, "/ws/main/f", "12345678")
	w.write(func(tx *schema.Tx) error {
		bucket, err := w.c.Tree.Bucket(tx, "ws")
		if err != nil {
			return err
		}
		return w.c.Tree.SetPolicy(tx, bucket.ID, pathtree.Policy{QuotaBytes: 1 << 20, QuotaInodes: 9})
	})
	must(t, w.c.Sessions.Policies())
	for _, p := range []string{"/ws/main", "/ws", "/ws/main/f"} {
		st, err := c.StatVFS(p)
		must(t, err)
		if st.Frsize*st.Blocks != 1<<20 || st.Frsize*st.Bavail >= 1<<20 || st.Files != 9 {
			t.Errorf("%s: %+v", p, st)
		}
	}
	if st, err := c.StatVFS("/"); err != nil || st.Frsize*st.Blocks == 1<<20 {
		t.Errorf("above the buckets: %+v, %v", st, err)
	}
	f, err := c.Create("/ws/main/big")
	must(t, err)
	_, err = f.WriteAt(make([]byte, 1000), 1<<20)
	denied(t, "a write beyond the quota", err, statusFailure)
	if !strings.Contains(err.Error(), "disk quota exceeded") {
		t.Error(err)
	}
	f.Close()
	for i := range 9 {
		if err = c.Mkdir(fmt.Sprint("/ws/main/d", i)); err != nil {
			break
		}
	}
	denied(t, "too many directories", err, statusFailure)
}
