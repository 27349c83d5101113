package pathtree

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

func (r *replica) conflicts() (all []SyncConflict) {
	r.t.Helper()
	r.read(func(tx *schema.Tx) (err error) { all, err = r.tree.SyncConflicts(tx, r.bucket.ID); return err })
	return all
}

func (r *replica) resolve(f SyncConflict, keep Keep, other VersionID) {
	r.t.Helper()
	r.write(func(tx *schema.Tx) error { return r.tree.ResolveSyncConflict(tx, f, keep, other) })
}

// onlyConflict checks that all replicas list one conflict, alike.
func onlyConflict(t *testing.T, kind SyncConflictKind, path string, all ...*replica) (f SyncConflict) {
	t.Helper()
	for k, r := range all {
		fs := r.conflicts()
		if len(fs) != 1 || fs[0].Kind != kind || fs[0].Path != path {
			t.Fatalf("replica %d lists %+v, want one of kind %d at %q", k, fs, kind, path)
		}
		if k == 0 {
			f = fs[0]
		} else if fs[0].Shown != f.Shown || !slices.Equal(fs[0].Others, f.Others) {
			t.Fatalf("replica %d: %+v, replica 0: %+v", k, fs[0], f)
		}
	}
	return f
}

func noConflict(t *testing.T, all ...*replica) {
	t.Helper()
	for k, r := range all {
		if fs := r.conflicts(); len(fs) > 0 {
			t.Errorf("replica %d lists %+v", k, fs)
		}
	}
}

func (r *replica) shows(t *testing.T, path, content string) {
	t.Helper()
	if in := r.mustStat(r.main, path); in.Hash != blobstore.Sum([]byte(content)) {
		t.Errorf("%s is not %q", path, content)
	}
}

func TestContentConflict(t *testing.T) {
	for _, keep := range []Keep{KeepShown, KeepOther, KeepBoth} {
		all := newReplicas(t, 3)
		a, b, c := all[0], all[1], all[2]
		a.make(a.main, "index")
		a.setContent(a.main, "index", "old")
		meet(a, b, c)
		a.setContent(a.main, "index", "from a")
		b.age()
		b.setContent(b.main, "index", "from b")
		meet(a, b, c)
		wantEqual(t, a, b, c)
		if got := c.list(c.main); got != "index" {
			t.Fatalf("a conflict of content made %s", got)
		}
		c.shows(t, "index", "from b")
		f := onlyConflict(t, ContentConflict, "index", a, b, c)
		if len(f.Others) != 1 || f.Others[0].Hash != blobstore.Sum([]byte("from a")) {
			t.Fatalf("%+v", f)
		}
		// An edit by whoever sees only the winner decides nothing.
		c.age()
		c.setContent(c.main, "index", "edited")
		meet(a, b, c)
		f = onlyConflict(t, ContentConflict, "index", a, b, c)
		c.resolve(f, keep, f.Others[0].ID)
		meet(a, b, c)
		wantEqual(t, a, b, c)
		noConflict(t, a, b, c)
		if want := map[Keep]string{KeepShown: "edited", KeepOther: "from a", KeepBoth: "edited"}[keep]; true {
			a.shows(t, "index", want)
		}
		if keep == KeepBoth {
			a.shows(t, copyName("index", f.Others[0].ID), "from a")
		}
	}
}

// A chmod beside a write, times of directories, and equal bytes exclude nothing,
// and the next change that has seen both ends it.
func TestNoConflict(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	in := a.make(a.main, "f")
	a.make(a.main, "d/")
	meet(a, b)
	mode := uint32(0o700)
	a.write(func(tx *schema.Tx) error { _, err := a.main.SetAttr(tx, in.Ino, SetAttr{Mode: &mode}); return err })
	b.setContent(b.main, "f", "written")
	a.make(a.main, "d/a")
	b.make(b.main, "d/b")
	a.make(a.main, "same")
	b.make(b.main, "same")
	a.setContent(a.main, "same", "bytes")
	b.setContent(b.main, "same", "bytes")
	a.make(a.main, "both/")
	b.make(b.main, "both/")
	meet(a, b)
	wantEqual(t, a, b)
	noConflict(t, a, b)
	if got := a.list(a.main); got != "both/ d/ d/a d/b f same" {
		t.Error(got)
	}
	a.shows(t, "f", "written")
	if got := a.mustStat(a.main, "f").Mode & 0o777; got != 0o700 {
		t.Errorf("mode %o", got)
	}
	a.age()
	a.setContent(a.main, "f", "seen")
	a.setContent(a.main, "same", "changed")
	meet(a, b)
	b.age()
	b.setContent(b.main, "f", "seen again")
	meet(a, b)
	wantEqual(t, a, b)
	noConflict(t, a, b)
}

func TestNameConflict(t *testing.T) {
	for _, keep := range []Keep{KeepShown, KeepOther, KeepBoth} {
		all := newReplicas(t, 2)
		a, b := all[0], all[1]
		a.make(a.main, "new")
		a.setContent(a.main, "new", "from a")
		b.age()
		b.make(b.main, "new")
		b.setContent(b.main, "new", "from b")
		meet(a, b)
		wantEqual(t, a, b)
		f := onlyConflict(t, NameConflict, "new", a, b)
		copied := f.Others[0].Copy
		if got := a.list(a.main); got != "new "+copied {
			t.Fatalf("%s, copy %q", got, copied)
		}
		a.shows(t, "new", "from b")
		a.shows(t, copied, "from a")
		a.resolve(f, keep, f.Others[0].ID)
		meet(a, b)
		wantEqual(t, a, b)
		noConflict(t, a, b)
		want := map[Keep]string{KeepShown: "new", KeepOther: "new", KeepBoth: "new " + copied}[keep]
		if got := b.list(b.main); got != want {
			t.Errorf("keep %d: %s, want %s", keep, got, want)
		}
		if keep == KeepOther {
			b.shows(t, "new", "from a")
		}
	}
	// Removing the copy decides too.
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.make(a.main, "new")
	a.setContent(a.main, "new", "from a")
	b.make(b.main, "new")
	meet(a, b)
	f := onlyConflict(t, NameConflict, "new", a, b)
	b.unlink(b.main, f.Others[0].Copy)
	meet(a, b)
	wantEqual(t, a, b)
	if got := a.list(a.main); got != "new" {
		t.Error(got)
	}
}

// A directory that is not kept stays while there is something in it, on the replica
// that decides too.
func TestNameConflictWithADirectoryThatIsUsed(t *testing.T) {
	for _, keep := range []Keep{KeepShown, KeepOther, KeepBoth} {
		for _, fileFirst := range []bool{true, false} {
			all := newReplicas(t, 2)
			a, b := all[0], all[1]
			if fileFirst {
				a.make(a.main, "new")
				b.age()
			}
			b.make(b.main, "new/")
			b.make(b.main, "new/in it")
			if !fileFirst {
				a.age()
				a.make(a.main, "new")
			}
			meet(a, b)
			f := onlyConflict(t, NameConflict, "new", a, b)
			a.resolve(f, keep, f.Others[0].ID)
			want := a.list(a.main)
			meet(a, b)
			wantEqual(t, a, b)
			noConflict(t, a, b)
			if got := b.list(b.main); got != want || !strings.Contains(got, "/in it") {
				t.Errorf("keep %d: who decides shows %s, the other %s", keep, want, got)
			}
		}
	}
}

// A directory that was removed has its name as it is used. Who decides that it keeps
// that says so.
func TestDeleteConflictOfADirectoryThatIsUsed(t *testing.T) {
	for _, keep := range []Keep{KeepShown, KeepOther, KeepBoth} {
		all := newReplicas(t, 3)
		a, b := all[0], all[1]
		a.make(a.main, "n/")
		b.age()
		b.make(b.main, "n")
		b.export()
		b.rename(b.main, "n", "m", 0)
		meet(all...)
		f := onlyConflict(t, DeleteConflict, "n", all...)
		a.make(a.main, f.Others[0].Copy+"/in it")
		b.unlink(b.main, f.Others[0].Copy)
		meet(all...)
		f = onlyConflict(t, DeleteConflict, "n", all...)
		if got := a.list(a.main); got != "m n/ n/in it" {
			t.Fatal(got)
		}
		a.resolve(f, keep, f.Others[0].ID)
		want := a.list(a.main)
		noConflict(t, a)
		meet(all...)
		wantEqual(t, all...)
		noConflict(t, all...)
		if got := b.list(b.main); got != want || !strings.Contains(got, "/in it") {
			t.Errorf("keep %d: who decides shows %s, another %s", keep, want, got)
		}
	}
}

func TestDeleteConflict(t *testing.T) {
	for _, keep := range []Keep{KeepShown, KeepOther, KeepBoth} {
		all := newReplicas(t, 2)
		a, b := all[0], all[1]
		a.make(a.main, "f")
		meet(a, b)
		a.age()
		b.setContent(b.main, "f", "edited")
		a.unlink(a.main, "f")
		meet(a, b)
		wantEqual(t, a, b)
		f := onlyConflict(t, DeleteConflict, "f", a, b)
		if f.Others[0].Hash != blobstore.Sum([]byte("edited")) || !f.Shown.Gone {
			t.Fatalf("%+v", f)
		}
		a.resolve(f, keep, f.Others[0].ID)
		meet(a, b)
		wantEqual(t, a, b)
		noConflict(t, a, b)
		if keep != KeepShown {
			b.shows(t, "f", "edited")
		} else if got := b.list(b.main); got != "" {
			t.Error(got)
		}
	}
}

// Two edits of a file that a third replica removed: both come back.
func TestKeepBothOfWhatWasRemoved(t *testing.T) {
	all := newReplicas(t, 3)
	a, b, c := all[0], all[1], all[2]
	a.make(a.main, "f")
	meet(all...)
	a.age()
	a.unlink(a.main, "f")
	b.setContent(b.main, "f", "by b")
	c.age()
	c.setContent(c.main, "f", "by c")
	meet(all...)
	f := onlyConflict(t, DeleteConflict, "f", all...)
	a.resolve(f, KeepBoth, VersionID{})
	meet(all...)
	wantEqual(t, all...)
	noConflict(t, all...)
	b.shows(t, "f", "by c")
	b.shows(t, copyName("f", f.Others[1].ID), "by b")
}

// Of two directories of one name one was removed, but shows as something was made in
// it meanwhile, and the other moved on from its name beside it. To keep both changes
// the directory above twice.
func TestKeepBothOfDirectories(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.make(a.main, "c/")
	meet(a, b)
	a.make(a.main, "n/")
	b.age()
	b.rename(b.main, "c", "n", 0)
	meet(a, b)
	f := onlyConflict(t, NameConflict, "n", a, b)
	a.make(a.main, "n/new")
	a.rename(a.main, f.Others[0].Copy, "d", 0)
	b.age()
	b.unlink(b.main, "n")
	meet(a, b)
	if got := a.list(a.main); got != "d/ n/ n/new" {
		t.Fatal(got)
	}
	f = onlyConflict(t, DeleteConflict, "n", a, b)
	a.resolve(f, KeepBoth, VersionID{})
	meet(a, b)
	wantEqual(t, a, b)
	noConflict(t, a, b)
	if got, want := b.list(b.main), "n/ n/new "+f.Others[0].Copy+"/"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Of two versions with one stamp the one that no row shows has content, too, that the
// blob store is to know and to keep, and others are to be asked for.
func TestContentOfWhatIsPutAside(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.make(a.main, "f")
	meet(a, b)
	at := schema.StampAt(time.Now().Add(time.Minute))
	for k, r := range all {
		r.write(func(tx *schema.Tx) error { tx.ObserveStamp(at); return nil })
		r.setContent(r.main, "f", []string{"of a", "of b"}[k])
	}
	meet(a, b)
	f := onlyConflict(t, ContentConflict, "f", a, b)
	h := f.Others[0].Hash
	if f.Shown.ID.Stamp != f.Others[0].ID.Stamp {
		t.Fatalf("the stamps differ: %+v", f)
	}
	for k, r := range all {
		r.write(func(tx *schema.Tx) error {
			s := tx.Stmt("UPDATE bucket SET shared = 1")
			_, err := s.Step()
			return err
		})
		blobs, err := blobstore.Open(t.Context(), t.TempDir(), r.db, blobstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := blobs.GC(t.Context(), blobstore.GCOptions{Grace: -1}); err != nil {
			t.Fatal(err)
		}
		r.read(func(tx *schema.Tx) error {
			s := tx.Stmt("SELECT EXISTS (SELECT 1 FROM blob WHERE hash = ?)")
			s.BindBytes(1, h[:])
			_, err := s.Step()
			if err == nil && s.ColumnInt64(0) == 0 {
				t.Errorf("replica %d does not know the content, after a collection", k)
			}
			if uuids, err := r.tree.BucketsWith(tx, h); err != nil || len(uuids) != 1 {
				t.Errorf("replica %d finds it in %d buckets, %v", k, len(uuids), err)
			}
			return err
		})
	}
	a.resolve(f, KeepOther, f.Others[0].ID)
	meet(a, b)
	wantEqual(t, a, b)
}

// Of two branches, and two snapshots, of one name the one that shows by it is removed:
// the other then has the name, also where it was removed.
func TestNameThatIsFreeAgain(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	for _, r := range all {
		r.write(func(tx *schema.Tx) error {
			_, err := r.tree.CreateSnapshot(tx, r.main.branch.ID, "s", "")
			if err == nil {
				_, err = r.tree.CreateBranch(tx, r.bucket.ID, "x", Origin{Branch: r.main.branch.ID})
			}
			return err
		})
		b.age()
	}
	meet(a, b)
	named := func(r *replica) (names []string) {
		r.read(func(tx *schema.Tx) error {
			snaps, err := r.tree.Snapshots(tx, r.bucket.ID)
			for _, s := range snaps {
				names = append(names, s.Name)
			}
			branches, err2 := r.tree.Branches(tx, r.bucket.ID)
			for _, x := range branches {
				names = append(names, x.Name)
			}
			return errors.Join(err, err2)
		})
		slices.Sort(names)
		return names
	}
	if got := named(b); len(got) != 5 || !slices.Equal(got, named(a)) {
		t.Fatalf("b has %q, a %q", got, named(a))
	}
	b.write(func(tx *schema.Tx) error {
		snaps, err := b.tree.Snapshots(tx, b.bucket.ID)
		for _, s := range snaps {
			if s.Name == "s" {
				err = errors.Join(err, b.tree.RemoveSnapshot(tx, s.ID))
			}
		}
		x, err2 := b.tree.Branch(tx, b.bucket.ID, "x")
		return errors.Join(err, err2, b.tree.RemoveBranch(tx, x.ID))
	})
	meet(a, b)
	for k, r := range all {
		if got := named(r); !slices.Equal(got, []string{MainBranch, "s", "x"}) {
			t.Errorf("replica %d has %q", k, got)
		}
	}
	wantEqual(t, a, b)
}

func TestRepairs(t *testing.T) {
	cases := []struct {
		name string
		a, b func(r *replica)
		want string
	}{
		{"orphan", func(r *replica) { r.unlink(r.main, "d/s"); r.unlink(r.main, "d") },
			func(r *replica) { r.make(r.main, "d/s/new") }, "d/ d/s/ d/s/new e/"},
		{"two parents", func(r *replica) { r.rename(r.main, "d", "e/d", 0) },
			func(r *replica) { r.rename(r.main, "d", "x", 0) }, "e/ x/ x/s/"},
		{"cycle", func(r *replica) { r.rename(r.main, "d", "e/d", 0) },
			func(r *replica) { r.rename(r.main, "e", "d/e", 0) }, "e/ e/d/ e/d/s/"},
		{"one derived number", func(r *replica) { r.make(r.main, "n/"); r.rename(r.main, "n", "m", 0); r.make(r.main, "m/a") },
			func(r *replica) { r.make(r.main, "n/"); r.make(r.main, "n/b") }, "d/ d/s/ e/ n/ n/a n/b"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			all := newReplicas(t, 3)
			a, b, third := all[0], all[1], all[2]
			a.make(a.main, "d/")
			a.make(a.main, "d/s/")
			a.make(a.main, "e/")
			meet(all...)
			c.a(a)
			b.age()
			c.b(b)
			meet(all...)
			wantEqual(t, all...)
			if got := third.list(third.main); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			// What is repaired can be changed, and removed.
			for range 5 {
				paths := third.paths(third.main, false)
				if len(paths) == 0 {
					break
				}
				slices.SortFunc(paths, func(x, y string) int { return strings.Count(y, "/") - strings.Count(x, "/") })
				third.age()
				for _, p := range paths {
					third.db.Write(func(tx *schema.Tx) error {
						d, base, err := third.main.ResolveParent(tx, p)
						if err != nil {
							return err
						}
						if _, err = third.main.Unlink(tx, d.Ino, base); Errno(err) == unix.EISDIR {
							_, err = third.main.Rmdir(tx, d.Ino, base)
						}
						return err
					})
				}
				meet(all...)
			}
			wantEqual(t, all...)
			if got := a.list(a.main); got != "" {
				t.Errorf("removed, there is %s", got)
			}
		})
	}
}

// Every change that an import makes to be seen has an event that names it.
func TestImportTellsWhatChanged(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.make(a.main, "d/")
	f := a.make(a.main, "d/f")
	a.make(a.main, "gone")
	meet(a, b)
	var last int64
	b.read(func(tx *schema.Tx) (err error) { last, err = notify.Last(tx); return err })
	a.rename(a.main, "d/f", "moved", 0)
	a.setContent(a.main, "moved", "x")
	a.unlink(a.main, "gone")
	a.make(a.main, "d/new")
	a.write(func(tx *schema.Tx) error { return a.main.Setxattr(tx, f.Ino, "user.a", []byte("1"), 0) })
	b.take(a.export())
	got := map[string]bool{}
	b.read(func(tx *schema.Tx) error {
		events, _, err := notify.SinceExcept(tx, last, 0, 1000)
		for _, e := range events {
			got[e.Op.String()+" "+string(e.Name)] = true
			if e.Node == schema.LocalNode {
				t.Errorf("%v of this node", e.Op)
			}
			if e.Branch != b.main.Branch().ID {
				t.Errorf("%v of branch %d", e.Op, e.Branch)
			}
		}
		return err
	})
	for _, want := range []string{"rename moved", "content ", "remove gone", "create new", "xattr user.a", "attr "} {
		if !got[want] {
			t.Errorf("no %q among %v", want, got)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.make(a.main, "d/")
	a.make(a.main, "d/f")
	a.setContent(a.main, "d/f", "x")
	batch := a.export()
	b.take(batch)
	before := b.dumpAll()
	pick := func(kind VersionKind, tomb bool) Version {
		for _, v := range batch.Versions {
			if v.Kind == kind && v.Tombstone() == tomb && (kind != InodeVersion || !isDirIno(v.Ino)) {
				if v.Inode != nil {
					in := *v.Inode
					v.Inode = &in
				}
				v.ID.Stamp++ // another one
				return v
			}
		}
		t.Fatal("no such version")
		return Version{}
	}
	cases := []struct {
		name string
		kind VersionKind
		want error
		harm func(v *Version)
	}{
		{"slash", DentryVersion, ErrInvalid, func(v *Version) { v.Name = "a/b" }},
		{"nul", DentryVersion, ErrInvalid, func(v *Version) { v.Name = "a\x00" }},
		{"dot dot", DentryVersion, ErrInvalid, func(v *Version) { v.Name = ".." }},
		{"empty name", DentryVersion, ErrInvalid, func(v *Version) { v.Name = "" }},
		{"long name", DentryVersion, ErrInvalid, func(v *Version) { v.Name = strings.Repeat("x", 256) }},
		{"in a file", DentryVersion, ErrInvalid, func(v *Version) { v.Parent = 77 }},
		{"in itself", DentryVersion, ErrInvalid, func(v *Version) { v.Ino, v.FileType = v.Parent, unix.S_IFDIR }},
		{"inode 1", DentryVersion, ErrInvalid, func(v *Version) { v.Ino = 1 }},
		{"64 bits", DentryVersion, ErrInvalid, func(v *Version) { v.Ino = 1 << 63 }},
		{"type", DentryVersion, ErrInvalid, func(v *Version) { v.FileType = 0o170000 }},
		{"directory type", DentryVersion, ErrInvalid, func(v *Version) { v.FileType ^= unix.S_IFDIR ^ unix.S_IFREG }},
		{"future", DentryVersion, ErrFuture, func(v *Version) { v.ID.Stamp = schema.StampAt(time.Now().Add(time.Hour)) }},
		{"year 2100", InodeVersion, ErrFuture, func(v *Version) { v.ID.Stamp = epoch }},
		{"no stamp", InodeVersion, ErrInvalid, func(v *Version) { v.ID.Stamp = 0 }},
		{"after itself", InodeVersion, ErrInvalid, func(v *Version) { v.Prev = v.ID }},
		{"branch", InodeVersion, ErrUnknownBranch, func(v *Version) { v.Branch[3]++ }},
		{"size without content", InodeVersion, ErrInvalid, func(v *Version) { v.Inode.Hash = blobstore.Hash{} }},
		{"content without size", InodeVersion, ErrInvalid, func(v *Version) { v.Inode.Size = 0 }},
		{"target of a file", InodeVersion, ErrInvalid, func(v *Version) { v.Inode.Target = "x" }},
		{"home", InodeVersion, ErrInvalid, func(v *Version) { v.Home = 5 }},
		{"another home", InodeVersion, ErrInvalid, func(v *Version) { v.Home = a.bucket.Root }},
		{"another type", InodeVersion, ErrInvalid, func(v *Version) { v.Inode.Mode = unix.S_IFIFO; v.Inode.Hash = blobstore.Hash{}; v.Inode.Size = 0 }},
		{"groups", InodeVersion, ErrInvalid, func(v *Version) { v.Inode.Groups = 64 }},
		{"forged", InodeVersion, ErrForged, func(v *Version) { v.ID.Stamp--; v.Inode.Mtime++ }},
		{"forged entry", DentryVersion, ErrForged, func(v *Version) { v.ID.Stamp--; v.Ino++ }},
	}
	for _, c := range cases {
		v := pick(c.kind, false)
		c.harm(&v)
		err := b.db.Write(func(tx *schema.Tx) error {
			_, err := b.tree.ImportBucket(tx, b.bucket.ID, Batch{Versions: []Version{v}})
			return err
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	policy := BucketRecord{Kind: PolicyRecord, ID: batch.Versions[0].ID, Policy: Policy{QuotaBytes: -1}}
	err := b.db.Write(func(tx *schema.Tx) error {
		_, err := b.tree.ImportBucket(tx, b.bucket.ID, Batch{Records: []BucketRecord{policy}})
		return err
	})
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("a quota below 0: %v", err)
	}
	if got := b.dumpAll(); got != before {
		t.Errorf("something has changed:\n%s", firstDifference(before, got))
	}
}

// What is pruned on one node and not on another makes no difference to what
// they show, also when old versions come late.
func TestPruneKeepsReplicasAlike(t *testing.T) {
	all := newReplicas(t, 3)
	a, b, late := all[0], all[1], all[2]
	a.make(a.main, "d/")
	in := a.make(a.main, "d/f")
	a.make(a.main, "g")
	meet(all...)
	late.setContent(late.main, "d/f", "late")
	late.make(late.main, "d/late")
	late.make(late.main, "g2")
	held := late.export()
	for k := range 5 {
		a.age()
		a.setContent(a.main, "d/f", strings.Repeat("x", k+1))
		a.age()
		mode := uint32(0o600 + k)
		a.write(func(tx *schema.Tx) error { _, err := a.main.SetAttr(tx, in.Ino, SetAttr{Mode: &mode}); return err })
	}
	a.unlink(a.main, "g")
	a.age()
	b.take(a.export())
	a.write(func(tx *schema.Tx) error {
		before := tx.NextStamp()
		for more := true; more; {
			var err error
			if _, more, err = a.tree.Prune(tx, Cut{Before: before}, 0); err != nil {
				return err
			}
		}
		return nil
	})
	for _, r := range all {
		r.tree.now = later
	}
	late.out = nil
	a.take(held)
	b.take(held)
	for _, o := range a.out {
		late.take(o)
	}
	wantEqual(t, a, b, late)
}

func TestSameBranchNameTwice(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	x := a.fork(a.main, "x", Origin{})
	a.make(x, "a")
	b.age()
	y := b.fork(b.main, "x", Origin{})
	b.make(y, "b")
	meet(a, b)
	wantEqual(t, a, b)
	if got := a.list(a.view("x", 0)); got != "a" {
		t.Error(got)
	}
	if got := a.list(a.view("x.0200", 0)); got != "b" {
		t.Error(got)
	}
}

// TestConflictsOfOneBatch has a replica hear at once what others heard bit by
// bit: versions of an inode whose authors did not know of each other.
func TestConflictsOfOneBatch(t *testing.T) {
	all := newReplicas(t, 3)
	a, b, c := all[0], all[1], all[2]
	in := a.make(a.main, "d/")
	mode := uint32(0o711)
	a.age()
	a.write(func(tx *schema.Tx) error { _, err := a.main.SetAttr(tx, in.Ino, SetAttr{Mode: &mode}); return err })
	b.age()
	b.age()
	b.make(b.main, "d/") // the same directory, with another mode
	first, second := a.export(), b.export()
	b.take(first)
	c.take(Batch{Versions: append(first.Versions, second.Versions...)})
	meet(a, b, c)
	wantEqual(t, a, b, c)
	onlyConflict(t, AttributeConflict, "d", a, b, c)
}

// Whether content was lost with its file is decided anew when a name of the
// file comes or goes later than what is known of the file itself.
func TestDeletionHeardOfLast(t *testing.T) {
	all := newReplicas(t, 3)
	a, b, c := all[0], all[1], all[2]
	a.make(a.main, "f")
	meet(all...)
	a.age()
	b.setContent(b.main, "f", "edited")
	a.unlink(a.main, "f")
	c.take(b.export())
	var names, files Batch
	for _, v := range a.export().Versions {
		if v.Kind == DentryVersion {
			names.Versions = append(names.Versions, v)
		} else {
			files.Versions = append(files.Versions, v)
		}
	}
	c.take(files)
	c.take(names)
	meet(all...)
	wantEqual(t, all...)
	onlyConflict(t, DeleteConflict, "f", all...)
}

// What is said of a file whose making has not come is no conflict yet, in whatever order
// it was heard: the file does not show.
func TestNoConflictAboutAFileThatIsNotKnown(t *testing.T) {
	all := newReplicas(t, 5)
	a, b, c, d, e := all[0], all[1], all[2], all[3], all[4]
	a.make(a.main, "f")
	made := a.export()
	b.take(made)
	c.take(made)
	b.setContent(b.main, "f", "edited")
	c.age()
	c.rename(c.main, "f", "g", 0)
	edited, renamed := b.export(), c.export()
	d.take(Batch{Versions: append(edited.Versions, renamed.Versions...)})
	e.take(renamed)
	e.take(edited)
	noConflict(t, d, e)
	d.take(made)
	e.take(made)
	meet(all...)
	wantEqual(t, all...)
	noConflict(t, all...)
}

// A file has the name that it was given, also where a directory that was put back was shown
// under it until then: its content is not lost, and what else is in conflict is told.
func TestNameWhereADirectoryWasPutBack(t *testing.T) {
	all := newReplicas(t, 4)
	a, b, c, d := all[0], all[1], all[2], all[3]
	a.make(a.main, "f")
	a.make(a.main, "g")
	a.make(a.main, "d/")
	meet(all...)
	b.make(b.main, "d/x")
	b.setContent(b.main, "f", "edited")
	b.setContent(b.main, "g", "from b")
	a.unlink(a.main, "d")
	removed, edited := a.export(), b.export()
	c.take(removed)
	c.age()
	c.rename(c.main, "f", "d", 0)
	c.setContent(c.main, "g", "from c")
	d.take(removed)
	d.take(edited)
	if told := d.take(c.export()).Conflicts; len(told) != 1 || told[0].Path != "g" {
		t.Errorf("told of %+v", told)
	}
	meet(all...)
	wantEqual(t, all...)
	onlyConflict(t, ContentConflict, "g", all...)
}

// A file that loses its conflict copy, its last name, is judged anew.
func TestDeletionByLosingTheCopy(t *testing.T) {
	all := newReplicas(t, 6)
	a, b, c, d, e, f := all[0], all[1], all[2], all[3], all[4], all[5]
	a.make(a.main, "n")
	a.setContent(a.main, "n", "from a")
	b.age()
	b.make(b.main, "n")
	b.setContent(b.main, "n", "from b")
	first, second := a.export(), b.export()
	c.take(first)
	d.take(first)
	c.setContent(c.main, "n", "edited")
	d.age()
	n := d.mustStat(d.main, "n")
	d.write(func(tx *schema.Tx) error { _, err := d.main.Link(tx, n.Ino, d.main.Root(), "m"); return err })
	d.unlink(d.main, "m")
	edited, linked := c.export(), d.export()
	b.age()
	b.setContent(b.main, "n", "edited")
	last := b.export()
	for _, part := range []Batch{first, second, edited, linked, last} {
		e.take(part)
	}
	for _, part := range []Batch{first, second, last, edited, linked} {
		f.take(part)
	}
	meet(all...)
	wantEqual(t, all...)
	onlyConflict(t, DeleteConflict, "n", all...)
}
