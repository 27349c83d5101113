package fusefs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// aclValue makes an ACL attribute of (tag, permissions, id) triples.
func aclValue(entries ...[3]uint32) []byte {
	p := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		p = binary.LittleEndian.AppendUint16(p, uint16(e[0]))
		p = binary.LittleEndian.AppendUint16(p, uint16(e[1]))
		p = binary.LittleEndian.AppendUint32(p, e[2])
	}
	return p
}

const (
	aclUser = 0x02
	noID    = ^uint32(0)
)

func getACL(t *testing.T, path, name string) string {
	t.Helper()
	p := make([]byte, 256)
	n, err := unix.Getxattr(path, name, p)
	if err == unix.ENODATA {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(p[:n])
}

func mode(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode & 0o7777
}

func TestACL(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	f := filepath.Join(dir, "f")
	write(t, f, "x")
	named := aclValue([3]uint32{aclUserObj, 6, noID}, [3]uint32{aclUser, 7, 1234}, [3]uint32{aclGroupObj, 4, noID}, [3]uint32{aclMask, 7, noID}, [3]uint32{aclOther, 0, noID})
	if err := unix.Setxattr(f, nameAccess, named, 0); err != nil {
		t.Fatal(err)
	}
	if m := mode(t, f); m != 0o670 {
		t.Errorf("mode %o after setting an ACL, want 670: the group bits are its mask", m)
	}
	if err := unix.Chmod(f, 0o640); err != nil {
		t.Fatal(err)
	}
	masked := aclValue([3]uint32{aclUserObj, 6, noID}, [3]uint32{aclUser, 7, 1234}, [3]uint32{aclGroupObj, 4, noID}, [3]uint32{aclMask, 4, noID}, [3]uint32{aclOther, 0, noID})
	if got := getACL(t, f, nameAccess); got != string(masked) {
		t.Errorf("chmod left the ACL %x, want %x", got, masked)
	}
	minimal := aclValue([3]uint32{aclUserObj, 6, noID}, [3]uint32{aclGroupObj, 6, noID}, [3]uint32{aclOther, 4, noID})
	if err := unix.Setxattr(f, nameAccess, minimal, 0); err != nil {
		t.Fatal(err)
	}
	if got := getACL(t, f, nameAccess); got != "" || mode(t, f) != 0o664 {
		t.Errorf("an ACL that is only a mode: %x, mode %o", got, mode(t, f))
	}
}

func TestDefaultACLIsInherited(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	d := filepath.Join(dir, "d")
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	if m := mode(t, d); m != 0o700 {
		t.Fatalf("mode %o without a default ACL: the umask does not count", m)
	}
	def := aclValue([3]uint32{aclUserObj, 7, noID}, [3]uint32{aclUser, 6, 1234}, [3]uint32{aclGroupObj, 5, noID}, [3]uint32{aclMask, 7, noID}, [3]uint32{aclOther, 1, noID})
	if err := unix.Setxattr(d, nameDefault, def, 0); err != nil {
		t.Fatal(err)
	}
	f, sub := filepath.Join(d, "f"), filepath.Join(d, "sub")
	fd, err := unix.Open(f, unix.O_CREAT|unix.O_WRONLY, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if err := unix.Mkdir(sub, 0o777); err != nil {
		t.Fatal(err)
	}
	want := aclValue([3]uint32{aclUserObj, 6, noID}, [3]uint32{aclUser, 6, 1234}, [3]uint32{aclGroupObj, 5, noID}, [3]uint32{aclMask, 6, noID}, [3]uint32{aclOther, 0, noID})
	if got := getACL(t, f, nameAccess); got != string(want) || mode(t, f) != 0o660 {
		t.Errorf("file: ACL %x, want %x, mode %o", got, want, mode(t, f))
	}
	if got := getACL(t, f, nameDefault); got != "" {
		t.Errorf("file: default ACL %x", got)
	}
	if got := getACL(t, sub, nameDefault); got != string(def) || mode(t, sub) != 0o771 {
		t.Errorf("directory: default ACL %x, want %x, mode %o", got, def, mode(t, sub))
	}
}

// TestChangeOfContentOrOwnerTakesPrivileges: suid, sgid and capabilities.
func TestChangeOfContentOrOwnerTakesPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to set capabilities and owners")
	}
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service=p, revision 2
	for what, change := range map[string]func(path string) error{
		"write": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			f.Write([]byte("y"))
			return f.Close()
		},
		"truncate": func(path string) error { return os.Truncate(path, 0) },
		"chown":    func(path string) error { return os.Chown(path, 1, 1) },
	} {
		path := filepath.Join(dir, what)
		write(t, path, "x")
		if err := unix.Chmod(path, 0o6755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(path, nameCaps, caps, 0); err != nil {
			t.Fatal(err)
		}
		if err := change(path); err != nil {
			t.Fatal(what, err)
		}
		if _, err := unix.Getxattr(path, nameCaps, make([]byte, 64)); err != unix.ENODATA {
			t.Errorf("%s left capabilities: %v", what, err)
		}
		want := uint32(0o6755) // root may
		if what == "chown" {
			want = 0o755
		}
		if m := mode(t, path); m != want {
			t.Errorf("%s left mode %o, want %o", what, m, want)
		}
	}
}

func TestTimes(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	// As tar and cp -p do: before the close, which must not undo it.
	want := []unix.Timespec{{Sec: 100, Nsec: 1}, {Sec: -5, Nsec: 999}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, want, 0); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Stat_t
	if err := unix.Stat(path, &before); err != nil {
		t.Fatal(err)
	}
	f.Close()
	// Has the kernel read the attributes again.
	if err := unix.Setxattr(path, "user.x", nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Removexattr(path, "user.x"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(path, &after); err != nil {
		t.Fatal(err)
	}
	for _, st := range []unix.Stat_t{before, after} {
		if st.Atim != want[0] || st.Mtim != want[1] {
			t.Fatalf("times %v %v, want %v", st.Atim, st.Mtim, want)
		}
	}
}

// TestStatIsTheSameAfterClose: what fstat(2) says of a file being written
// stays true when it is closed; build tools and git compare it.
func TestStatIsTheSameAfterClose(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, s := testMount(t, c, mainBranch)
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	if _, err := f.WriteString("some content"); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &before); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	dir, _ = testMount(t, c, mainBranch)
	if err := unix.Stat(filepath.Join(dir, "f"), &after); err != nil {
		t.Fatal(err)
	}
	after.Dev = before.Dev
	if before != after {
		t.Fatalf("before the close\n%+v, after it\n%+v", before, after)
	}
}

func TestOverridesAndReadOnly(t *testing.T) {
	c := testStore(t, t.TempDir())
	dir, _ := testMount(t, c, mainBranch)
	write(t, filepath.Join(dir, "f"), "x")
	uid, gid, umask := uint32(1234), uint32(2345), uint32(0o027)
	dir, _ = testMount(t, c, Options{Bucket: "b", Branch: "main", UID: &uid, GID: &gid, Umask: &umask, ReadOnly: true})
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != uid || st.Gid != gid || st.Mode&0o777 != 0o640 {
		t.Errorf("owner %d, group %d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	if err := os.WriteFile(filepath.Join(dir, "g"), nil, 0o644); err == nil || err.(*os.PathError).Err != syscall.EROFS {
		t.Errorf("create on a read-only mount: %v", err)
	}
}

// TestDirectoryStream: what was there and stays is listed once, whatever else
// comes and goes, and from wherever it is read again.
func TestDirectoryStream(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	const n = 500
	name := func(i int) string {
		return filepath.Join(dir, "entry-with-a-longish-name-"+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	for i := range n {
		write(t, name(i), "")
	}
	f := open(t, dir, os.O_RDONLY)
	seen := make(map[string]int)
	for round := 0; ; round++ {
		list, err := f.Readdirnames(40)
		if len(list) == 0 || err != nil {
			break
		}
		for _, e := range list {
			seen[e]++
			if i := seen[e]; i > 1 {
				t.Fatalf("%s listed %d times", e, i)
			}
		}
		if round >= 5 {
			continue // or the listing would never come to its end
		}
		write(t, filepath.Join(dir, "new"+string(rune('a'+round))), "")
		if err := os.Remove(filepath.Join(dir, list[0])); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if seen[filepath.Base(name(i))] != 1 {
			t.Fatalf("%s was not listed", name(i))
		}
	}
}

// TestCachedListingGoesOn: a stream that the kernel has served from its cache goes on
// from there in this process when the cache is gone, as it is once memory was needed
// or an entry has changed.
func TestCachedListingGoesOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string, listed []string)
	}{
		{"nothing has changed", func(t *testing.T, dir string, _ []string) {
			if err := unix.Fadvise(int(open(t, dir, os.O_RDONLY).Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
		}},
		{"all that was listed is removed", func(t *testing.T, dir string, listed []string) {
			for _, name := range listed {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"one is made", func(t *testing.T, dir string, _ []string) {
			write(t, filepath.Join(dir, "a-new-one"), "")
		}},
		{"all that was listed is removed, and listed again", func(t *testing.T, dir string, listed []string) {
			for _, name := range listed {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if list, err := os.ReadDir(dir); err != nil || len(list) == 0 {
				t.Fatal(list, err)
			}
		}},
		{"listed again before it goes on", func(t *testing.T, dir string, listed []string) {
			if err := os.Remove(filepath.Join(dir, listed[0])); err != nil {
				t.Fatal(err)
			}
			if list, err := os.ReadDir(dir); err != nil || len(list) == 0 {
				t.Fatal(list, err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
			const n = 700
			want := make(map[string]bool, n)
			for i := range n {
				name := fmt.Sprintf("entry-with-a-longish-name-%04d", i)
				want[name] = true
				write(t, filepath.Join(dir, name), "")
			}
			for range 2 { // the second finds it in the cache
				if list, err := os.ReadDir(dir); err != nil || len(list) != n {
					t.Fatal(len(list), err)
				}
			}
			f := open(t, dir, os.O_RDONLY)
			var listed []string
			first := true
			for buf := make([]byte, 4096); ; {
				k, err := unix.Getdents(int(f.Fd()), buf)
				if err != nil {
					t.Fatal(err)
				}
				if k == 0 {
					break
				}
				_, _, names := unix.ParseDirent(buf[:k], -1, nil)
				listed = append(listed, names...)
				if first {
					c.change(t, dir, listed)
					first = false
				}
			}
			for _, name := range listed {
				if name != "a-new-one" && !want[name] {
					t.Fatalf("%s was listed twice", name)
				}
				delete(want, name)
			}
			if len(want) > 0 {
				t.Fatalf("%d of %d were not listed", len(want), n)
			}
		})
	}
}

// TestAttributesOfAnOpenFileAreRecorded: they wait for the publish, but not
// for longer than a moment, and not beyond fsync(2).
func TestAttributesOfAnOpenFileAreRecorded(t *testing.T) {
	store := t.TempDir()
	c := testStore(t, store)
	dir, _ := testMount(t, c, mainBranch)
	other, _ := testMount(t, testStore(t, store), mainBranch)
	path, there := filepath.Join(dir, "f"), filepath.Join(other, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o4711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fchown(int(f.Fd()), 3, 4); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	if m := mode(t, path); m != 0o711 && os.Geteuid() == 0 {
		t.Errorf("mode %o: a new owner takes suid", m)
	}
	eventually(t, "the mode of a file that is still open", func() bool {
		var st unix.Stat_t
		return unix.Stat(there, &st) == nil && st.Mode&0o777 == 0o711 && st.Size == 0
	})
	if err := f.Chmod(0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, path+"2"); err != nil { // reads and writes the inode meanwhile
		t.Fatal(err)
	}
	if m := mode(t, path); m != 0o600 {
		t.Errorf("mode %o after a link, want 600", m)
	}
	f.Close()
	eventually(t, "content and mode", func() bool {
		var st unix.Stat_t
		return unix.Stat(there, &st) == nil && st.Mode&0o777 == 0o600 && st.Size == 1 && st.Nlink == 2
	})
}

// TestFileHandleOutlivesTheMount, as NFS servers need it.
func TestFileHandleOutlivesTheMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to open file handles")
	}
	c := testStore(t, t.TempDir())
	dir, s := testMount(t, c, mainBranch)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "d/f"), "x")
	write(t, filepath.Join(dir, "d/g"), "y")
	f, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, "d/f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, "d/g"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "d/g")); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	dir, _ = testMount(t, c, mainBranch)
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	fd, err := unix.OpenByHandleAt(root, f, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 9)
	if n, err := unix.Read(fd, p); err != nil || string(p[:n]) != "x" {
		t.Errorf("read %q, %v", p[:n], err)
	}
	unix.Close(fd)
	if fd, err := unix.OpenByHandleAt(root, g, unix.O_RDONLY); err != unix.ESTALE {
		unix.Close(fd)
		t.Errorf("handle of a removed file: %v, want ESTALE", err)
	}
}
