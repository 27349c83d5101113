package pathtree

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// replica is a store of its own with a share in one bucket.
type replica struct {
	*world
	out []Batch // all it exported
}

// newReplicas returns stores that share a bucket; the first one made it. Node
// keys rise with the index.
func newReplicas(t testing.TB, n int) []*replica {
	t.Helper()
	all := []*replica{newReplica(t, 1)}
	all[0].use("shared")
	for i := 1; i < n; i++ {
		r := newReplica(t, byte(i+1))
		r.join(all[0])
		all = append(all, r)
	}
	return all
}

func newReplica(t testing.TB, key byte) *replica {
	t.Helper()
	k := [32]byte{key}
	db, err := schema.Open(context.Background(), t.TempDir(), schema.Options{NodeKey: k[:]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &replica{world: &world{t: t, db: db, tree: New(db)}}
}

// join has r share the bucket of o, and hear all that o exported.
func (r *replica) join(o *replica) {
	r.t.Helper()
	r.write(func(tx *schema.Tx) (err error) {
		r.bucket, err = r.tree.AdoptBucket(tx, o.bucket.UUID, "shared")
		return err
	})
	o.export()
	for _, b := range o.out {
		r.take(b)
	}
	r.main = r.view(MainBranch, 0)
}

func (r *replica) export() (b Batch) {
	r.t.Helper()
	r.write(func(tx *schema.Tx) (err error) {
		b, err = r.tree.ExportBucket(tx, r.bucket.ID)
		return err
	})
	r.out = append(r.out, b)
	return b
}

// exportBy is export in pieces.
func (r *replica) exportBy(limit int) (all Batch) {
	r.t.Helper()
	for more := true; more; {
		r.write(func(tx *schema.Tx) (err error) {
			var b Batch
			b, more, err = r.tree.ExportSome(tx, r.bucket.ID, limit)
			all.Records, all.Versions = append(all.Records, b.Records...), append(all.Versions, b.Versions...)
			return err
		})
	}
	r.out = append(r.out, all)
	return all
}

func (r *replica) take(b Batch) (res ImportResult) {
	r.t.Helper()
	r.write(func(tx *schema.Tx) (err error) {
		res, err = r.tree.ImportBucket(tx, r.bucket.ID, b)
		return err
	})
	return res
}

// meet has every replica hear all that any of them exported.
func meet(all ...*replica) {
	for _, r := range all {
		r.t.Helper()
		r.export()
	}
	for _, r := range all {
		for _, o := range all {
			if o == r {
				continue
			}
			for _, b := range o.out {
				r.take(b)
			}
		}
		r.export()
	}
}

// dump describes all that a view shows.
func (r *replica) dump(v *View) string {
	r.t.Helper()
	var out strings.Builder
	show := func(tx *schema.Tx, path string, in Inode) error {
		if v.ReadOnly() || v.live && in.IsDir() {
			in.Nlink = 0 // counts of the past and of directories of live branches are approximate
		}
		fmt.Fprintf(&out, "%q %v %o %d:%d nlink %d size %d %x %q %d %d %d\n",
			path, in.Ino, in.Mode, in.UID, in.GID, in.Nlink, in.Size, in.Hash[:4], in.Target, in.Mtime, in.Ctime, in.Btime)
		names, err := v.Listxattr(tx, in.Ino)
		if err != nil {
			return err
		}
		for _, n := range names {
			value, err := v.Getxattr(tx, in.Ino, n)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "  %s=%q\n", n, value)
		}
		return nil
	}
	var walk func(tx *schema.Tx, dir Ino, at string, depth int) error
	walk = func(tx *schema.Tx, dir Ino, at string, depth int) error {
		if depth > 40 {
			return fmt.Errorf("%s: too deep", at)
		}
		entries, err := v.ReadDir(tx, dir, "", 0)
		if err != nil {
			return err
		}
		for _, e := range entries {
			in, err := v.Inode(tx, e.Ino)
			if err != nil {
				if v.ReadOnly() && Errno(err) == unix.ENOENT {
					continue
				}
				return fmt.Errorf("%s: %w", at+e.Name, err)
			}
			if err := show(tx, at+e.Name, in); err != nil {
				return err
			}
			if e.IsDir() {
				if err := walk(tx, e.Ino, at+e.Name+"/", depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	r.read(func(tx *schema.Tx) error {
		root, err := v.Inode(tx, v.Root())
		if err != nil {
			return err
		}
		if err := show(tx, "", root); err != nil {
			return err
		}
		return walk(tx, v.Root(), "", 0)
	})
	return out.String()
}

// dumpAll describes every branch and snapshot.
func (r *replica) dumpAll() string {
	r.t.Helper()
	var out strings.Builder
	var views []*View
	r.read(func(tx *schema.Tx) error {
		branches, err := r.tree.Branches(tx, r.bucket.ID)
		if err != nil {
			return err
		}
		for _, b := range branches {
			v, err := r.tree.View(tx, b.ID, 0)
			if err != nil {
				return fmt.Errorf("branch %s: %w", b.Name, err)
			}
			views = append(views, v)
		}
		snaps, err := r.tree.Snapshots(tx, r.bucket.ID)
		if err != nil {
			return err
		}
		for _, n := range snaps {
			v, err := r.tree.View(tx, n.Branch, n.Stamp)
			if err != nil {
				return fmt.Errorf("snapshot %s: %w", n.Name, err)
			}
			fmt.Fprintf(&out, "snapshot %s of %s at %d\n", n.Name, v.Branch().Name, n.Stamp)
			views = append(views, v)
		}
		return nil
	})
	for _, v := range views {
		fmt.Fprintf(&out, "== %s at %d\n%s", v.Branch().Name, v.At(), r.dump(v))
	}
	return out.String()
}

func (r *replica) check() {
	r.t.Helper()
	r.read(func(tx *schema.Tx) error {
		return r.tree.Check(tx, func(problem string) {
			if !strings.Contains(problem, "not in the blob store") {
				r.t.Errorf("check: %s", problem)
			}
		})
	})
}

// wantEqual checks that all replicas show the same.
func wantEqual(t testing.TB, all ...*replica) {
	t.Helper()
	want := all[0].dumpAll()
	for i, r := range all {
		r.check()
		if got := r.dumpAll(); got != want {
			t.Errorf("replica %d shows\n%s\nreplica 0\n%s\ndifference\n%s", i, got, want, firstDifference(want, got))
		}
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	where := ""
	for k := range min(len(x), len(y)) {
		if strings.HasPrefix(x[k], "==") {
			where = x[k]
		}
		if x[k] != y[k] {
			return where + "\n0: " + x[k] + "\nn: " + y[k]
		}
	}
	return "length"
}

func TestVersionsTravel(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	a.make(a.main, "d/")
	a.make(a.main, "d/f")
	a.setContent(a.main, "d/f", "hello")
	a.age()
	mode := uint32(0o600)
	a.write(func(tx *schema.Tx) error {
		in, err := a.main.Resolve(tx, "d/f")
		if err != nil {
			return err
		}
		_, err = a.main.SetAttr(tx, in.Ino, SetAttr{Mode: &mode})
		return err
	})
	first := a.export()
	if len(first.Versions) == 0 {
		t.Fatal("nothing exported")
	}
	if again := a.export(); !again.Empty() {
		t.Errorf("exported twice: %+v", again)
	}
	if r := b.take(first); r.New != len(first.Versions) {
		t.Errorf("new %d of %d", r.New, len(first.Versions))
	}
	if r := b.take(first); r.New != 0 || r.Known != len(first.Versions) {
		t.Errorf("again: %+v", r)
	}
	wantEqual(t, a, b)
	if e := b.export(); !e.Empty() {
		t.Errorf("what was imported is exported: %+v", e)
	}
	b.make(b.main, "d/g")
	b.rename(b.main, "d/f", "x", 0)
	fork := b.fork(b.main, "feature", Origin{})
	b.make(fork, "only")
	b.unlink(fork, "x")
	meet(a, b)
	wantEqual(t, a, b)
	if got := a.list(a.view("feature", 0)); got != "d/ d/g only" {
		t.Errorf("feature: %s", got)
	}
}

// What there is to export comes in pieces, of every branch, each version once, and a
// piece is no more than was asked for by much.
func TestExportInPieces(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	fork := a.fork(a.main, "fork", Origin{})
	for i := range 20 {
		a.make(a.main, fmt.Sprint("m", i))
		a.make(fork, fmt.Sprint("f", i))
	}
	const limit = 3
	seen := map[string]bool{}
	pieces := 0
	for more := true; more; pieces++ {
		var batch Batch
		a.write(func(tx *schema.Tx) (err error) {
			batch, more, err = a.tree.ExportSome(tx, a.bucket.ID, limit)
			return err
		})
		if n := len(batch.Versions); n > 2*(limit+1)+limit {
			t.Errorf("%d versions at once", n)
		}
		for _, v := range batch.Versions {
			k := fmt.Sprint(v.Branch, v.Kind, v.Parent, v.Name, v.Ino, v.ID)
			if seen[k] {
				t.Errorf("twice: %s", k)
			}
			seen[k] = true
		}
		b.take(batch)
	}
	if pieces < 10 {
		t.Errorf("%d pieces", pieces)
	}
	if e := a.export(); !e.Empty() {
		t.Errorf("left over: %d versions", len(e.Versions))
	}
	wantEqual(t, a, b)
	if want, got := a.list(fork), b.list(b.view("fork", 0)); got != want {
		t.Errorf("fork: %s, want %s", got, want)
	}
	a.make(a.main, "later")
	if e := a.export(); len(e.Versions) == 0 {
		t.Error("what is written afterwards is not exported")
	}
}

// behind counts the versions that the next export of a branch looks through.
func (r *replica) behind(branch int64) (n int) {
	r.t.Helper()
	r.write(func(tx *schema.Tx) error {
		for _, table := range []string{"dentry", "inode", "xattr", "aside"} {
			s := tx.Stmt("SELECT count(*) FROM " + table + " WHERE branch = ?1 AND stamp > (SELECT exported FROM branch WHERE id = ?1)")
			s.BindInt64(1, branch)
			if _, err := s.Step(); err != nil {
				return err
			}
			n += int(s.ColumnInt64(0))
		}
		return nil
	})
	return n
}

// What others wrote is not looked through by the export of what is written here, the
// first one included, and what was written before an import and had no event is not lost.
func TestExportPassesOverImports(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	for i := range 50 {
		a.make(a.main, fmt.Sprint("a", i))
	}
	fork := a.fork(a.main, "fork", Origin{})
	a.make(fork, "only")
	b.take(a.export())
	there := b.view("fork", 0)
	for _, v := range []*View{b.main, there} {
		if n := b.behind(v.branch.ID); n != 0 {
			t.Errorf("branch %d: the first export would look through %d versions", v.branch.ID, n)
		}
	}
	b.make(b.main, "b")
	if n, own := b.behind(b.main.branch.ID), len(b.export().Versions); n != own || own == 0 {
		t.Errorf("%d versions looked through for %d", n, own)
	}

	var nameless Inode
	b.write(func(tx *schema.Tx) (err error) {
		nameless, err = b.main.CreateUnlinked(tx, b.main.Root(), NewInode{Mode: unix.S_IFREG | 0o644})
		return err
	})
	b.export()
	a.make(a.main, "a")
	b.take(a.export())
	if e := b.export(); !slices.ContainsFunc(e.Versions, func(v Version) bool { return v.Ino == nameless.Ino }) {
		t.Error("an inode without a name, made before an import, was passed over")
	}
	a.make(a.main, "aa")
	b.take(a.export())
	if n := b.behind(b.main.branch.ID); n != 0 {
		t.Errorf("%d versions to look through afterwards", n)
	}
	b.make(b.main, "bb")
	meet(a, b)
	wantEqual(t, a, b)
}

// In any order, version by version, and twice.
func TestVersionsInAnyOrder(t *testing.T) {
	all := newReplicas(t, 3)
	a, b, c := all[0], all[1], all[2]
	a.make(a.main, "d/")
	f := a.make(a.main, "d/f")
	a.setContent(a.main, "d/f", "one")
	for k := range 6 {
		a.age()
		a.setContent(a.main, "d/f", fmt.Sprint("content ", k))
		a.age()
		mode := uint32(0o600 + k)
		a.write(func(tx *schema.Tx) error {
			if _, err := a.main.SetAttr(tx, f.Ino, SetAttr{Mode: &mode}); err != nil {
				return err
			}
			return a.main.Setxattr(tx, f.Ino, "user.k", []byte{byte(k)}, 0)
		})
	}
	a.tree.now, b.tree.now, c.tree.now = later, later, later
	fork := a.fork(a.main, "fork", Origin{})
	a.age()
	a.setContent(fork, "d/f", "forked")
	batch := a.export()
	b.take(batch)
	vs := slices.Clone(batch.Versions)
	slices.Reverse(vs)
	c.take(Batch{Records: batch.Records})
	for _, v := range vs {
		c.take(Batch{Versions: []Version{v}})
	}
	c.take(batch)
	wantEqual(t, a, b, c)
}

func later() time.Time { return time.Now().Add(24 * time.Hour) }

// A file that a parent which is followed comes to have later has the names in the
// past that it had.
func TestParentHasItLater(t *testing.T) {
	all := newReplicas(t, 2)
	a, b := all[0], all[1]
	live := a.fork(a.main, "live", Origin{Live: true})
	f := a.make(live, "f")
	a.age()
	then := a.fork(live, "then", Origin{})
	a.age()
	mode := uint32(0o700)
	a.write(func(tx *schema.Tx) error { _, err := live.SetAttr(tx, f.Ino, SetAttr{Mode: &mode}); return err })
	meet(a, b)
	a.age()
	a.write(func(tx *schema.Tx) error {
		_, err := a.tree.Merge(tx, then, a.main, MergeOptions{})
		return err
	})
	meet(a, b)
	wantEqual(t, a, b)
	for _, r := range all {
		if in := r.mustStat(r.view("then", 0), "f"); in.Nlink != 1 {
			t.Errorf("%d names are counted of a file that has one", in.Nlink)
		}
	}
}

// A store that was restored from a backup, or lost its last moments, gives no number of a
// file that it made then, and heard of again, to another file.
func TestNumbersOfARestoredStore(t *testing.T) {
	lost, other, restored := newReplica(t, 1), newReplica(t, 2), newReplica(t, 1)
	lost.use("shared")
	other.join(lost)
	restored.join(lost)
	for _, name := range []string{"a", "b", "c", "d"} {
		lost.make(lost.main, name)
	}
	lost.setContent(lost.main, "d", "of d")
	made := lost.export()
	other.take(made)
	restored.take(made)
	restored.make(restored.main, "e")
	restored.setContent(restored.main, "e", "of e")
	other.take(restored.export())
	wantEqual(t, restored, other)
	other.shows(t, "d", "of d")
	other.shows(t, "e", "of e")
}
