package blobs

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// kept is a store with a bucket whose files' content is elsewhere.
type kept struct {
	*node
	t      *testing.T
	tree   *pathtree.Tree
	bucket pathtree.Bucket
	main   *pathtree.View
	dirs   map[string]pathtree.Ino
}

func newKept(t *testing.T) *kept {
	k := &kept{node: newNode(t, 1, Options{}), t: t, dirs: map[string]pathtree.Ino{}}
	k.tree = pathtree.New(k.db)
	k.write(func(tx *schema.Tx) (err error) {
		if k.bucket, err = k.tree.CreateBucket(tx, "work"); err != nil {
			return err
		}
		br, err := k.tree.Branch(tx, k.bucket.ID, pathtree.MainBranch)
		if err == nil {
			k.main, err = k.tree.View(tx, br.ID, 0)
		}
		for _, d := range []string{"a", "ab"} {
			if err == nil {
				var in pathtree.Inode
				in, err = k.main.Create(tx, k.main.Root(), d, pathtree.NewInode{Mode: unix.S_IFDIR | 0o755})
				k.dirs[d] = in.Ino
			}
		}
		return err
	})
	return k
}

func (k *kept) write(f func(tx *schema.Tx) error) {
	k.t.Helper()
	if err := k.db.Write(f); err != nil {
		k.t.Fatal(err)
	}
}

// absent makes a file in a directory whose content is elsewhere.
func (k *kept) absent(dir, name string) {
	k.t.Helper()
	k.write(func(tx *schema.Tx) error {
		h := blobstore.Sum([]byte(dir + "/" + name))
		if err := blobstore.Expect(tx, h, 1000); err != nil {
			return err
		}
		_, err := k.main.Create(tx, k.dirs[dir], name, pathtree.NewInode{Mode: unix.S_IFREG | 0o644, Hash: h, Size: 1000})
		return err
	})
}

// all lets the keeper look until it has looked at everything, and returns what is
// wanted, in the order in which it is fetched.
func (k *kept) all(keeper *Keeper) (hashes []blobstore.Hash, prios []blobstore.Priority) {
	k.t.Helper()
	for more := true; more; {
		var err error
		if more, err = keeper.look(); err != nil {
			k.t.Fatal(err)
		}
	}
	err := k.db.Read(func(tx *schema.Tx) error {
		rows, _, err := due(tx, 10_000)
		hashes, prios = nil, nil
		for _, r := range rows {
			hashes, prios = append(hashes, r.Hash), append(prios, r.prio)
		}
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return hashes, prios
}

func (k *kept) keeper(reserve int64) *Keeper {
	return NewKeeper(k.db, k.tree, reserve, slog.New(slog.DiscardHandler))
}

func hashesOf(names ...string) (all []blobstore.Hash) {
	for _, n := range names {
		all = append(all, blobstore.Sum([]byte(n)))
	}
	return all
}

func TestPinsAndPolicies(t *testing.T) {
	k := newKept(t)
	keeper := k.keeper(1)
	check := func(what string, want ...string) {
		t.Helper()
		if got, _ := k.all(keeper); !slices.Equal(got, hashesOf(want...)) {
			t.Errorf("%s: %d contents are wanted, not %v", what, len(got), want)
		}
	}
	k.absent("a", "one")
	k.absent("ab", "two")
	check("on demand")
	pin := Keep{Bucket: k.bucket.ID, Branch: k.main.Branch().ID, Path: "a", Pinned: true}
	k.write(func(tx *schema.Tx) error { return AddKeep(tx, pin) })
	check("pinned", "a/one")
	k.absent("a", "three")
	k.absent("ab", "four")
	check("pinned, and more came", "a/one", "a/three")
	k.write(func(tx *schema.Tx) error { return AddKeep(tx, Keep{Bucket: k.bucket.ID}) })
	check("eager", "a/one", "a/three", "ab/four", "ab/two")
	if err := k.db.Commit(); err != nil {
		t.Fatal(err)
	}
	gen := k.db.Generation()
	check("again", "a/one", "a/three", "ab/four", "ab/two")
	if err := k.db.Commit(); err != nil || k.db.Generation() != gen {
		t.Errorf("a look that found nothing was committed (%v)", err)
	}
	k.write(func(tx *schema.Tx) error { return RemoveKeep(tx, pin) })
	check("not pinned", "ab/four", "a/three", "ab/two", "a/one")
	k.write(func(tx *schema.Tx) error { return RemoveKeep(tx, Keep{Bucket: k.bucket.ID}) })
	check("on demand again")
}

func TestPolicyIsBounded(t *testing.T) {
	k := newKept(t)
	k.write(func(tx *schema.Tx) error { return AddKeep(tx, Keep{Bucket: k.bucket.ID, Branch: k.main.Branch().ID}) })
	for i := range keepAhead + 300 {
		k.absent("a", fmt.Sprint(i))
	}
	keeper := k.keeper(1)
	got, _ := k.all(keeper)
	if want := hashesOf(fmt.Sprint("a/", keepAhead+299)); len(got) != keepAhead || got[0] != want[0] {
		t.Fatalf("%d are wanted, of which %s is the first", len(got), got[0])
	}
	k.write(func(tx *schema.Tx) error { return Unwant(tx, got[0]) }) // as when it is here
	again, _ := k.all(keeper)
	if len(again) != keepAhead || slices.Contains(again, got[0]) {
		t.Errorf("%d are wanted when one was fetched", len(again))
	}
}

func TestPolicyLeavesAReserve(t *testing.T) {
	k := newKept(t)
	k.write(func(tx *schema.Tx) error { return AddKeep(tx, Keep{Bucket: k.bucket.ID}) })
	k.absent("a", "one")
	keeper := k.keeper(1 << 60)
	for range 2 {
		if _, err := keeper.look(); !errors.Is(err, ErrReserve) {
			t.Fatalf("beyond the reserve: %v", err)
		}
	}
	if got, _ := k.all(k.keeper(1)); len(got) != 1 {
		t.Errorf("%d contents are wanted where there is room", len(got))
	}
	keeper.reserve = 1
	if got, _ := k.all(keeper); len(got) != 1 {
		t.Errorf("%d contents are wanted when room was made", len(got))
	}
}
