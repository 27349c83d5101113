package pathtree

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// swarm is a few replicas that change one bucket and exchange what they wrote,
// in any order, doubled, and over third parties.
type swarm struct {
	all    []*replica
	clock  []schema.Stamp         // of each; they are not right
	parts  []Batch                // all that was ever exported, in pieces
	told   [][]bool               // by replica and piece
	noted  map[int][]BucketRecord // by piece: records that it does not bring, as they do not count
	unsent map[int]blobstore.Hash // by replica: content written since its last export
	serial int
	trace  []string
}

// epoch is a time ahead of every clock, so that stamps do not depend on it.
const epoch = schema.Stamp(4102444800000 << 16) // 2100

func (w *swarm) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// tick sets the clock of a replica on.
func (w *swarm) tick(t *rapid.T, k int) {
	step := rapid.SampledFrom([]int64{0, 0, 1, 400, 5000}).Draw(t, "ms")
	w.clock[k] += schema.Stamp(step << 16)
	r := w.all[k]
	r.write(func(tx *schema.Tx) error { tx.ObserveStamp(w.clock[k]); return nil })
}

func (w *swarm) pick(t *rapid.T) (*replica, int) {
	k := rapid.IntRange(0, len(w.all)-1).Draw(t, "replica")
	w.tick(t, k)
	return w.all[k], k
}

// head returns a view of some branch of a replica.
func (w *swarm) head(t *rapid.T, r *replica) *View {
	var all []Branch
	r.read(func(tx *schema.Tx) (err error) { all, err = r.tree.Branches(tx, r.bucket.ID); return err })
	for {
		b := rapid.SampledFrom(all).Draw(t, "branch")
		var v *View
		err := r.db.Read(func(tx *schema.Tx) (err error) { v, err = r.tree.View(tx, b.ID, 0); return err })
		if err == nil {
			return v
		}
		if b.Name == MainBranch {
			t.Skip("nothing there yet")
		}
	}
}

// paths returns every path of a view, "" the root.
func (r *replica) paths(v *View, dirs bool) []string {
	all := []string{}
	for _, p := range strings.Fields(r.list(v)) {
		if strings.HasSuffix(p, "/") || !dirs {
			all = append(all, strings.TrimSuffix(p, "/"))
		}
	}
	return all
}

func (w *swarm) place(t *rapid.T, r *replica, v *View) string {
	dir := rapid.SampledFrom(append(r.paths(v, true), "")).Draw(t, "directory")
	return join(dir, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"))
}

func (w *swarm) existing(t *rapid.T, r *replica, v *View) string {
	all := r.paths(v, false)
	if len(all) == 0 {
		t.Skip("empty")
	}
	return rapid.SampledFrom(all).Draw(t, "path")
}

// try does an operation, which may be refused.
func (w *swarm) try(k int, what string, f func(tx *schema.Tx) error) {
	err := w.all[k].db.Write(f)
	w.log("%d: %s: %v", k, what, err)
	if err != nil && Errno(err) == unix.EIO {
		w.all[k].t.Fatalf("%s: %v", what, err)
	}
}

func (w *swarm) create(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p := w.place(t, r, v)
	dir := rapid.Bool().Draw(t, "directory")
	c := rapid.SampledFrom([]string{"", "x", "yy"}).Draw(t, "content")
	w.try(k, fmt.Sprintf("%s: create %q dir %v", v.branch.Name, p, dir), func(tx *schema.Tx) error {
		n := NewInode{Mode: unix.S_IFREG | 0o644}
		if dir {
			n.Mode = unix.S_IFDIR | 0o755
		} else if c != "" {
			n.Hash, n.Size = blobstore.Sum([]byte(c)), int64(len(c))
		}
		d, base, err := v.ResolveParent(tx, p)
		if err != nil {
			return err
		}
		_, err = v.Create(tx, d.Ino, base, n)
		return err
	})
}

func (w *swarm) write(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p := w.existing(t, r, v)
	w.serial++
	c := fmt.Sprint("content ", w.serial)
	w.unsent[k] = blobstore.Sum([]byte(c))
	w.try(k, fmt.Sprintf("%s: write %q %q", v.branch.Name, p, c), func(tx *schema.Tx) error {
		in, err := v.Resolve(tx, p)
		if err != nil {
			return err
		}
		_, err = v.SetContent(tx, in.Ino, Content{Hash: blobstore.Sum([]byte(c)), Size: int64(len(c))})
		return err
	})
}

func (w *swarm) chmod(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p := w.existing(t, r, v)
	mode := rapid.SampledFrom([]uint32{0o600, 0o700, 0o755}).Draw(t, "mode")
	var mtime *int64
	if rapid.Bool().Draw(t, "mtime") {
		mtime = new(int64)
		*mtime = int64(mode)
	}
	w.try(k, fmt.Sprintf("%s: chmod %q %o", v.branch.Name, p, mode), func(tx *schema.Tx) error {
		in, err := v.Resolve(tx, p)
		if err != nil {
			return err
		}
		_, err = v.SetAttr(tx, in.Ino, SetAttr{Mode: &mode, Mtime: mtime})
		return err
	})
}

func (w *swarm) xattr(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p := w.existing(t, r, v)
	value := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")
	w.try(k, fmt.Sprintf("%s: xattr %q %q", v.branch.Name, p, value), func(tx *schema.Tx) error {
		in, err := v.Resolve(tx, p)
		if err != nil {
			return err
		}
		if value == "" {
			return v.Removexattr(tx, in.Ino, "user.a")
		}
		return v.Setxattr(tx, in.Ino, "user.a", []byte(value), 0)
	})
}

func (w *swarm) remove(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p := w.existing(t, r, v)
	w.try(k, fmt.Sprintf("%s: remove %q", v.branch.Name, p), func(tx *schema.Tx) error {
		d, base, err := v.ResolveParent(tx, p)
		if err != nil {
			return err
		}
		if _, err = v.Unlink(tx, d.Ino, base); Errno(err) == unix.EISDIR {
			_, err = v.Rmdir(tx, d.Ino, base)
		}
		return err
	})
}

func (w *swarm) rename(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p, q := w.existing(t, r, v), w.place(t, r, v)
	flags := rapid.SampledFrom([]uint32{0, 0, 0, unix.RENAME_EXCHANGE}).Draw(t, "flags")
	w.try(k, fmt.Sprintf("%s: rename %q to %q, %d", v.branch.Name, p, q, flags), func(tx *schema.Tx) error {
		a, an, err := v.ResolveParent(tx, p)
		if err != nil {
			return err
		}
		b, bn, err := v.ResolveParent(tx, q)
		if err != nil {
			return err
		}
		_, err = v.Rename(tx, a.Ino, an, b.Ino, bn, flags)
		return err
	})
}

func (w *swarm) link(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	p, q := w.existing(t, r, v), w.place(t, r, v)
	w.try(k, fmt.Sprintf("%s: link %q as %q", v.branch.Name, p, q), func(tx *schema.Tx) error {
		in, err := v.Resolve(tx, p)
		if err != nil {
			return err
		}
		d, base, err := v.ResolveParent(tx, q)
		if err != nil {
			return err
		}
		_, err = v.Link(tx, in.Ino, d.Ino, base)
		return err
	})
}

func (w *swarm) fork(t *rapid.T) {
	if w.serial > 60 {
		t.Skip("enough")
	}
	r, k := w.pick(t)
	v := w.head(t, r)
	o := Origin{Branch: v.branch.ID, Live: rapid.IntRange(0, 4).Draw(t, "live") == 0}
	if !o.Live && rapid.IntRange(0, 2).Draw(t, "past") == 0 {
		o.At = w.clock[k] - schema.Stamp(rapid.SampledFrom([]int64{1, 500, 3000}).Draw(t, "ago"))<<16
	}
	name := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "branch name")
	w.serial += 10
	w.try(k, fmt.Sprintf("fork %s of %s, %+v", name, v.branch.Name, o), func(tx *schema.Tx) error {
		b, err := r.tree.CreateBranch(tx, r.bucket.ID, name, o)
		if err == nil {
			_, err = r.tree.View(tx, b.ID, 0)
		}
		return err
	})
}

func (w *swarm) snapshot(t *rapid.T) {
	r, k := w.pick(t)
	v := w.head(t, r)
	name := rapid.SampledFrom([]string{"s", "u"}).Draw(t, "snapshot name")
	w.try(k, "snapshot "+name+" of "+v.branch.Name, func(tx *schema.Tx) error {
		_, err := r.tree.CreateSnapshot(tx, v.branch.ID, name, "")
		return err
	})
}

func (w *swarm) merge(t *rapid.T) {
	r, k := w.pick(t)
	src, dst := w.head(t, r), w.head(t, r)
	if src.branch.ID == dst.branch.ID {
		t.Skip("itself")
	}
	w.try(k, "merge "+src.branch.Name+" into "+dst.branch.Name, func(tx *schema.Tx) error {
		_, err := r.tree.Merge(tx, src, dst, MergeOptions{Strategy: Both})
		return err
	})
}

// export cuts what a replica has to say in two, and adds it to what can be heard.
func (w *swarm) export(t *rapid.T) {
	r, k := w.pick(t)
	w.publish(t, r, k)
}

func (w *swarm) publish(t *rapid.T, r *replica, k int) {
	b := r.exportBy(rapid.SampledFrom([]int{1, 3, math.MaxInt32}).Draw(t, "at once"))
	delete(w.unsent, k)
	if b.Empty() {
		return
	}
	cut := rapid.IntRange(0, len(b.Versions)).Draw(t, "cut")
	w.parts = append(w.parts,
		Batch{Records: b.Records, Versions: b.Versions[:cut]}, Batch{Versions: b.Versions[cut:]})
	w.log("%d: exports %d versions, %d records, as %d and %d", k, len(b.Versions), len(b.Records), len(w.parts)-2, len(w.parts)-1)
	for j := range w.told {
		w.told[j] = append(w.told[j], j == k, j == k)
	}
}

// hear tells a replica one of the pieces, perhaps again.
func (w *swarm) hear(t *rapid.T) {
	if len(w.parts) == 0 {
		t.Skip("silence")
	}
	_, k := w.pick(t)
	w.tell(t, k, rapid.IntRange(0, len(w.parts)-1).Draw(t, "part"))
}

func (w *swarm) tell(t *rapid.T, k, part int) {
	r := w.all[k]
	w.publish(t, r, k)
	var res ImportResult
	err := r.db.Write(func(tx *schema.Tx) (err error) {
		if err := r.tree.NoteBranches(tx, r.bucket.ID, w.noted[part]); err != nil {
			return err
		}
		res, err = r.tree.ImportBucket(tx, r.bucket.ID, w.parts[part])
		return err
	})
	w.log("%d: hears %d: %d new, %v", k, part, res.New, err)
	if bytes.Contains([]byte(fmt.Sprint(err)), []byte(ErrUnknownBranch.Error())) {
		return // told again in the end
	}
	if err != nil {
		t.Fatalf("replica %d hears part %d: %v\n%s", k, part, err, strings.Join(w.trace, "\n"))
	}
	w.told[k][part] = true
}

// finish lets everybody hear everything.
func (w *swarm) finish(t *rapid.T) {
	for k, r := range w.all {
		w.publish(t, r, k)
	}
	for round := 0; ; round++ {
		news := false
		for k := range w.all {
			order := rapid.Permutation(indices(len(w.parts))).Draw(t, "order")
			for _, p := range order {
				if !w.told[k][p] {
					w.tell(t, k, p)
					news = true
				}
			}
		}
		for k, r := range w.all {
			w.publish(t, r, k)
		}
		if !news {
			return
		}
		if round > 50 {
			t.Fatalf("it never ends\n%s", strings.Join(w.trace, "\n"))
		}
	}
}

func indices(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// compare checks that all replicas have the same and show the same.
func (w *swarm) compare(t *rapid.T) {
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf(format+"\n%s", append(args, strings.Join(w.trace, "\n"))...)
	}
	want := w.all[0].dumpAll()
	held := w.all[0].everything()
	for k, r := range w.all {
		if got := r.dumpAll(); got != want {
			fail("replica %d shows\n%s\nreplica 0\n%s\n%s", k, got, want, firstDifference(want, got))
		}
		r.read(func(tx *schema.Tx) error {
			return r.tree.Check(tx, func(problem string) {
				if !strings.Contains(problem, "not in the blob store") {
					fail("replica %d: check: %s\n%s", k, problem, want)
				}
			})
		})
		mine := r.everything()
		for id := range mine {
			if !held[id] {
				fail("replica %d has %s, replica 0 does not", k, id)
			}
		}
		for id := range held {
			if !mine[id] {
				fail("replica 0 has %s, replica %d does not", id, k)
			}
		}
	}
	for _, p := range w.parts {
		for k := range p.Versions {
			if !held[versionKey(&p.Versions[k])] {
				fail("lost %s", versionKey(&p.Versions[k]))
			}
		}
	}
}

func versionKey(v *Version) string {
	return fmt.Sprintf("%x %s %v", v.Branch[:4], v.what(), v.ID)
}

// everything returns all versions that a replica keeps.
func (r *replica) everything() map[string]bool {
	r.t.Helper()
	all := map[string]bool{}
	r.read(func(tx *schema.Tx) error {
		_, err := r.tree.ExportAll(tx, r.bucket.ID, func(v *Version) error {
			all[versionKey(v)] = true
			return nil
		})
		return err
	})
	return all
}

// newSwarm makes a bucket of its own that some of the stores have.
func newSwarm(t *rapid.T, stores []*replica, run int) (w *swarm, done func()) {
	uuid.SetRand(rand.NewChaCha8([32]byte{byte(run), byte(run >> 8)}))
	n := rapid.IntRange(2, len(stores)).Draw(t, "replicas")
	w = &swarm{told: make([][]bool, n), unsent: map[int]blobstore.Hash{}}
	name := fmt.Sprint("bucket", run)
	first := stores[0]
	for k, r := range stores[:n] {
		r := &replica{world: &world{t: r.t, db: r.db, tree: r.tree}}
		start := max(epoch, first.stamp()) + schema.Stamp(k*rapid.IntRange(0, 3000).Draw(t, "skew"))<<16
		w.clock = append(w.clock, start)
		r.write(func(tx *schema.Tx) (err error) {
			tx.ObserveStamp(start)
			if k == 0 {
				r.bucket, err = r.tree.CreateBucket(tx, name)
			} else {
				r.bucket, err = r.tree.AdoptBucket(tx, w.all[0].bucket.UUID, name)
			}
			return err
		})
		w.all = append(w.all, r)
	}
	w.publish(t, w.all[0], 0)
	for k := 1; k < n; k++ {
		for p := range w.parts {
			w.tell(t, k, p)
		}
	}
	return w, func() {
		for _, r := range w.all {
			r.write(func(tx *schema.Tx) error { return r.tree.RemoveBucket(tx, name) })
		}
	}
}

// operations are what is done at random, and how often.
func (w *swarm) operations() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"create": w.create, "create2": w.create, "write": w.write, "chmod": w.chmod, "xattr": w.xattr,
		"remove": w.remove, "remove2": w.remove, "rename": w.rename, "rename2": w.rename, "rename3": w.rename, "link": w.link,
		"fork": w.fork, "snapshot": w.snapshot, "merge": w.merge, "export": w.export, "hear": w.hear, "hear2": w.hear,
	}
}

func newStores(t *testing.T) []*replica {
	stores := newReplicas(t, 4)
	for _, r := range stores {
		r.tree.now = func() time.Time { return epoch.Time().Add(1000 * time.Hour) }
	}
	t.Cleanup(func() { uuid.SetRand(nil) })
	return stores
}

func TestReplicasConverge(t *testing.T) {
	stores, runs := newStores(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w, done := newSwarm(t, stores, runs)
		defer done()
		t.Repeat(w.operations())
		w.finish(t)
		w.compare(t)
	})
}
