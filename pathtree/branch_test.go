package pathtree

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

func TestBucketsAreIsolated(t *testing.T) {
	w := newWorld(t)
	f := w.make(w.main, "f")
	w.write(func(tx *schema.Tx) error {
		b, err := w.tree.CreateBucket(tx, "other")
		if err != nil {
			return err
		}
		main, err := w.tree.Branch(tx, b.ID, MainBranch)
		if err != nil {
			return err
		}
		v, err := w.tree.View(tx, main.ID, 0)
		if err != nil {
			return err
		}
		if _, err := v.Inode(tx, f.Ino); Errno(err) != syscall.ENOENT {
			t.Errorf("inode of another bucket: %v", err)
		}
		root, err := v.Inode(tx, v.Root())
		if err != nil || root.Mode != dir || root.UID != uint32(os.Getuid()) || root.Nlink != 2 {
			t.Errorf("root %+v %v", root, err)
		}
		if _, err := w.tree.CreateBranch(tx, b.ID, "x", Origin{Branch: w.main.Branch().ID}); Errno(err) != syscall.EXDEV {
			t.Errorf("branch across buckets: %v", err)
		}
		if _, err := w.tree.CreateBucket(tx, "other"); Errno(err) != syscall.EEXIST {
			t.Errorf("again: %v", err)
		}
		p := Policy{Retention: time.Hour, ExclusiveWrites: true}
		if err := w.tree.SetPolicy(tx, b.ID, p); err != nil {
			return err
		}
		if b, err := w.tree.Bucket(tx, "other"); err != nil || b.Policy != p {
			t.Errorf("%+v %v", b, err)
		}
		if err := w.tree.SetPolicy(tx, 1<<40, p); Errno(err) != syscall.ENOENT {
			t.Errorf("policy of nothing: %v", err)
		}
		all, err := w.tree.Buckets(tx)
		if len(all) != 2 || all[0].Name != "default" {
			t.Errorf("%+v", all)
		}
		if _, err := v.Create(tx, v.Root(), "x", NewInode{}); err != nil {
			return err
		}
		if err := w.tree.RemoveBucket(tx, "other"); err != nil {
			return err
		}
		if _, err := v.Create(tx, v.Root(), "y", NewInode{}); Errno(err) != syscall.ESTALE {
			t.Errorf("in a removed bucket: %v", err)
		}
		if _, err := v.Inode(tx, v.Root()); Errno(err) != syscall.ENOENT {
			t.Errorf("root of a removed bucket: %v", err)
		}
		return err
	})
	w.wantList(w.main, "f")
}

func TestLabels(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"", ".", "..", "a/b", "a:b", "a\nb", "\xff", strings.Repeat("n", 256)} {
		w.fails(Errno(checkLabel(n)), func(tx *schema.Tx) error { _, err := w.tree.CreateBucket(tx, n); return err })
		if checkLabel(n) == nil {
			t.Errorf("%q is allowed", n)
		}
	}
	w.fork(w.main, "feature ß 1.0", Origin{})
}

func TestForkOfTheParentsPast(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "old")
	w.age()
	early := w.stamp()
	w.age()
	w.make(w.main, "new")
	child := w.fork(w.main, "child", Origin{})
	w.make(child, "own")
	w.wantList(child, "new old own")
	// A bound before the fork bounds the ancestors too.
	w.wantList(w.view("child", early), "old")
	w.wantList(w.fork(child, "grandchild", Origin{At: early}), "old")
	w.wantList(w.fork(child, "future", Origin{At: schema.MaxStamp}), "new old own")
	w.make(child, "later")
	w.wantList(w.view("future", 0), "new old own")
	w.fails(syscall.ENOENT, func(tx *schema.Tx) error { _, err := w.tree.View(tx, child.Branch().ID, 1); return err })
	w.fails(syscall.EINVAL, func(tx *schema.Tx) error {
		_, err := w.tree.CreateBranch(tx, w.bucket.ID, "x", Origin{Branch: child.Branch().ID, At: early, Live: true})
		return err
	})
}

func TestLiveBranch(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "f")
	w.make(w.main, "g")
	live := w.fork(w.main, "live", Origin{Live: true})
	mode := uint32(0o600)
	w.write(func(tx *schema.Tx) error {
		f, err := live.Resolve(tx, "f")
		if err != nil {
			return err
		}
		_, err = live.SetAttr(tx, f.Ino, SetAttr{Mode: &mode})
		return err
	})
	w.setContent(w.main, "f", "parent's")
	in := w.mustStat(live, "f")
	if parent := w.mustStat(w.main, "f"); in.Size != 8 || in.Mode&0o777 != 0o600 || in.Mtime != parent.Mtime || parent.Mode&0o777 != 0o644 {
		t.Errorf("live %+v\nparent %+v", in, parent)
	}
	w.setContent(live, "f", "own")
	w.setContent(w.main, "f", "parent's again")
	if in := w.mustStat(live, "f"); in.Size != 3 {
		t.Errorf("own content is hidden: %+v", in)
	}
	w.unlink(live, "g")
	w.make(live, "temporary")
	w.unlink(live, "temporary")
	w.make(w.main, "temporary")
	w.make(w.main, "h")
	w.wantList(live, "f h") // what it removed stays away
	pinned := w.fork(live, "pinned", Origin{})
	w.unlink(w.main, "h")
	w.setContent(w.main, "f", "x")
	w.wantList(pinned, "f h")
	w.wantList(live, "f")
}

func TestBranchNames(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "f")
	a := w.fork(w.main, "a", Origin{})
	b := w.fork(a, "b", Origin{})
	w.fails(syscall.EEXIST, func(tx *schema.Tx) error {
		_, err := w.tree.CreateBranch(tx, w.bucket.ID, "a", Origin{})
		return err
	})
	w.fails(syscall.EEXIST, func(tx *schema.Tx) error { return w.tree.RenameBranch(tx, a.Branch().ID, "b") })
	w.write(func(tx *schema.Tx) error {
		if err := w.tree.RenameBranch(tx, a.Branch().ID, "a2"); err != nil {
			return err
		}
		return w.tree.RemoveBranch(tx, a.Branch().ID)
	})
	w.fails(syscall.ENOENT, func(tx *schema.Tx) error { return w.tree.RemoveBranch(tx, a.Branch().ID) })
	w.wantList(b, "f") // children keep what they see
	w.wantList(a, "f")
	w.fails(syscall.ESTALE, func(tx *schema.Tx) error { _, err := a.Create(tx, a.Root(), "x", NewInode{}); return err })
	again := w.fork(w.main, "a2", Origin{}) // the name is free again
	if again.Branch().ID <= b.Branch().ID {
		t.Errorf("branch id %d is not greater than %d", again.Branch().ID, b.Branch().ID)
	}
	w.read(func(tx *schema.Tx) error {
		all, err := w.tree.Branches(tx, w.bucket.ID)
		var names []string
		for _, b := range all {
			names = append(names, b.Name)
		}
		if got := strings.Join(names, " "); got != "a2 b main" {
			t.Error(got)
		}
		return err
	})
}

func TestSnapshots(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "f")
	w.setContent(w.main, "f", "one")
	var n Snapshot
	w.write(func(tx *schema.Tx) (err error) {
		n, err = w.tree.CreateSnapshot(tx, w.main.Branch().ID, "v1", "first")
		return err
	})
	w.setContent(w.main, "f", "second") // within the same second
	w.unlink(w.main, "f")
	old := w.view(MainBranch, n.Stamp)
	if in := w.mustStat(old, "f"); in.Size != 3 || in.Nlink != 1 {
		t.Errorf("%+v", in)
	}
	w.wantList(w.fork(w.main, "from", Origin{At: n.Stamp}), "f")
	w.fails(syscall.EEXIST, func(tx *schema.Tx) error {
		_, err := w.tree.CreateSnapshot(tx, w.main.Branch().ID, "v1", "")
		return err
	})
	w.write(func(tx *schema.Tx) error {
		if got, err := w.tree.Snapshot(tx, w.bucket.ID, "v1"); err != nil || got.Message != "first" || got.Stamp != n.Stamp {
			t.Errorf("%+v %v", got, err)
		}
		return w.tree.RemoveSnapshot(tx, n.ID)
	})
	w.read(func(tx *schema.Tx) error {
		all, err := w.tree.Snapshots(tx, w.bucket.ID)
		if len(all) != 0 {
			t.Errorf("%+v", all)
		}
		return err
	})
}

// What nobody else has seen is overwritten in place.
func TestRowsInPlace(t *testing.T) {
	w := newWorld(t)
	rows := func() (dentries, inodes int64) {
		return w.count("SELECT count(*) FROM dentry"), w.count("SELECT count(*) FROM inode")
	}
	w.make(w.main, "f")
	w.setContent(w.main, "f", "x")
	w.setContent(w.main, "f", "y")
	w.rename(w.main, "f", "g", 0)
	w.make(w.main, "f")
	w.rename(w.main, "f", "g", 0)
	if d, i := rows(); d != 1 || i != 3 { // the root, and both files
		t.Errorf("%d dentries, %d inodes", d, i)
	}
	w.unlink(w.main, "g")
	if d, _ := rows(); d != 0 {
		t.Errorf("%d dentries after all were removed", d)
	}
	w.make(w.main, "old")
	w.age()
	w.make(w.main, "tmp")
	w.rename(w.main, "tmp", "old", 0)
	w.unlink(w.main, "old")
	if d, _ := rows(); d != 2 { // the old version and a tombstone
		t.Errorf("%d dentries", d)
	}
	w.wantList(w.main, "")
	w.make(w.main, "old")
	w.wantList(w.main, "old")
	w.fork(w.main, "seals", Origin{})
	before, _ := rows()
	w.unlink(w.main, "old")
	if after, _ := rows(); after != before+1 {
		t.Errorf("%d dentries after %d: a version that a fork sees was overwritten", after, before)
	}
}

// A directory made alike on two branches is the same; one made again after it
// was removed or moved is another.
func TestDirectoryNumbers(t *testing.T) {
	w := newWorld(t)
	fork := w.fork(w.main, "fork", Origin{})
	a, b := w.make(w.main, "src/"), w.make(fork, "src/")
	if a.Ino != b.Ino || a.Ino>>62 != 1 {
		t.Errorf("%x and %x", uint64(a.Ino), uint64(b.Ino))
	}
	w.rename(w.main, "src", "moved", 0)
	c := w.make(w.main, "src/")
	w.unlink(w.main, "src")
	d := w.make(w.main, "src/")
	if c.Ino == a.Ino || d.Ino == a.Ino || c.Ino == d.Ino {
		t.Errorf("%x %x %x", uint64(a.Ino), uint64(c.Ino), uint64(d.Ino))
	}
}

func TestDeepChain(t *testing.T) {
	w := newWorld(t)
	v := w.deep(longChain)
	if len(v.chain) != longChain+1 {
		t.Fatalf("chain of %d", len(v.chain))
	}
	if n := strings.Count(w.list(v), " "); n != longChain+1 {
		t.Errorf("%d entries", n+1)
	}
	if in := w.mustStat(w.view("deep150", 0), "hot"); in.Size != 3 {
		t.Errorf("%+v", in)
	}
	w.unlink(v, "base")
	w.mustStat(w.main, "base")
	w.mustStat(w.view(fmt.Sprint("deep", longChain-2), 0), "base")
	if _, err := w.stat(v, "base"); Errno(err) != syscall.ENOENT {
		t.Error(err)
	}
	w.wantList(w.main, "base hot")
}

func TestWideBranches(t *testing.T) {
	const n = manyBranches
	w := newWorld(t)
	w.wide(n)
	base := w.mustStat(w.main, "hot").Ino
	for i := 0; i < n; i += 99 {
		v := w.view(fmt.Sprint("wide", i), 0)
		w.wantList(v, "base hot")
		w.mustStat(v, "hot")
	}
	for _, v := range []*View{w.main, w.view(fmt.Sprint("wide", n/2), 0)} {
		w.wantList(v, "base hot")
		if in := w.mustStat(v, "hot"); in.Ino != base {
			t.Errorf("%s: %v, want %v", v.Branch().Name, in.Ino, base)
		}
	}
	w.read(func(tx *schema.Tx) error {
		all, err := w.tree.Branches(tx, w.bucket.ID)
		if len(all) != n+1 {
			t.Errorf("%d branches", len(all))
		}
		return err
	})
}
