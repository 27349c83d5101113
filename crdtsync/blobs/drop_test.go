package blobs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// nodes makes nodes of one bucket that are all connected. What each names is what
// names says, and each guards what it is made to.
func nodes(t *testing.T, n int) []*node {
	all := make([]*node, n)
	for i := range all {
		all[i] = newNode(t, byte(i+1), Options{})
	}
	for _, a := range all {
		for _, b := range all {
			if a != b {
				a.connect(b)
			}
		}
	}
	return all
}

// guard makes the last version that names c at n go.
func (n *node) guard(t *testing.T, c Content) {
	t.Helper()
	n.names.Delete(c.Hash)
	err := n.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("INSERT OR IGNORE INTO bucket (id, uuid, name, root, policy, created) VALUES (7, ?, 'work', 2, '{}', 0)")
		q.BindBytes(1, bucket[:])
		if _, err := q.Step(); err != nil {
			return err
		}
		return blobstore.Guard(tx, 7, c.Hash)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// collection is a Dropping of n that asks all others.
func (n *node) collection(all []*node) *Dropping {
	return &Dropping{
		Fetcher: n.f, Wanted: map[identity.Key]int{}, Silent: map[identity.Key]int{},
		Members: func([16]byte) (keys []identity.Key, err error) {
			for _, o := range all {
				if o != n {
					keys = append(keys, o.key)
				}
			}
			return keys, nil
		},
		Current:  func(_ [16]byte, k identity.Key) (bool, error) { return slices.Contains(n.f.Peers(), k), nil },
		Patience: func([16]byte) (time.Duration, error) { return 30 * 24 * time.Hour, nil },
	}
}

// collect returns how many contents go at n.
func (n *node) collect(t *testing.T, d *Dropping) int64 {
	t.Helper()
	went, _, err := n.blobs.CollectGuarded(context.Background(), -1, d.May)
	if err != nil {
		t.Fatal(err)
	}
	return went
}

func (n *node) here(t *testing.T, c Content) (here bool) {
	t.Helper()
	err := n.db.Read(func(tx *schema.Tx) (err error) {
		here, err = n.blobs.Here(tx, c.Hash)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return here
}

func TestLastCopyStaysWhileItIsNamed(t *testing.T) {
	all := nodes(t, 3)
	a, b, c := all[0], all[1], all[2]
	p := noise(3000, mib)
	content := a.add(t, p)
	b.names.Store(content.Hash, true)
	b.expect(t, content)
	a.guard(t, content)
	d := a.collection(all)
	if n := a.collect(t, d); n != 0 || d.Wanted[b.key] != 1 || len(d.Silent) != 0 {
		t.Errorf("%d went; wanted %v, silent %v", n, d.Wanted, d.Silent)
	}
	// A member that is not there keeps it, one that is behind as well.
	b.names.Delete(content.Hash)
	a.f.RemovePeer(c.key)
	d = a.collection(all)
	if n := a.collect(t, d); n != 0 || len(d.Wanted) != 0 || d.Silent[c.key] != 1 {
		t.Errorf("%d went; wanted %v, silent %v", n, d.Wanted, d.Silent)
	}
	a.connect(c)
	d = a.collection(all)
	d.Current = func(_ [16]byte, k identity.Key) (bool, error) { return k != c.key, nil }
	if n := a.collect(t, d); n != 0 || d.Silent[c.key] != 1 {
		t.Errorf("%d went; silent %v", n, d.Silent)
	}
	// It is fetched from where no version names it, by one that has a version.
	b.names.Store(content.Hash, true)
	b.wantContent(t, p)
	// b keeps it, whoever else is silent.
	a.f.RemovePeer(c.key)
	if n := a.collect(t, a.collection(all)); n != 1 || a.here(t, content) {
		t.Errorf("%d went though another has it", n)
	}
	if _, err := b.blobs.Evict(context.Background(), content.Hash, b.f.MayDrop); err == nil {
		t.Error("it did not keep what it promised to")
	}
}

func TestUnwantedContentGoesEverywhere(t *testing.T) {
	all := nodes(t, 3)
	small, large := noise(3010, 100), noise(3011, mib)
	for _, p := range [][]byte{small, large} {
		for _, n := range all[:2] {
			n.guard(t, n.add(t, p))
		}
	}
	for i, n := range all[:2] {
		if went := n.collect(t, n.collection(all)); went != 2 {
			t.Errorf("node %d: %d went", i, went)
		}
	}
}

// Two nodes that collect at once while a third is away: just one drops its copy.
func TestOneOfTwoKeepsTheLastCopy(t *testing.T) {
	all := nodes(t, 3)
	a, b, c := all[0], all[1], all[2]
	for _, n := range all {
		n.f.RemovePeer(c.key)
	}
	var contents []Content
	for i := range 40 {
		p := noise(uint64(3100+i), 100+i*1000)
		contents = append(contents, a.add(t, p))
		b.add(t, p)
		a.guard(t, contents[i])
		b.guard(t, contents[i])
	}
	// Each asks while the other is asking.
	var both sync.WaitGroup
	both.Add(2)
	meet := func(d *Dropping) blobstore.MayCollect {
		return func(ctx context.Context, bucket [16]byte, list []blobstore.Guarded) ([]bool, error) {
			both.Done()
			both.Wait()
			return d.May(ctx, bucket, list)
		}
	}
	errs := make(chan error, 2)
	for _, n := range []*node{a, b} {
		go func() {
			_, _, err := n.blobs.CollectGuarded(context.Background(), -1, meet(n.collection(all)))
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	for i, content := range contents {
		if a.here(t, content) == b.here(t, content) {
			t.Errorf("content %d is at a: %v, at b: %v", i, a.here(t, content), b.here(t, content))
		}
	}
}

func TestSilentMembersAreNotWaitedForForever(t *testing.T) {
	all := nodes(t, 2)
	a, b := all[0], all[1]
	a.f.RemovePeer(b.key)
	content := a.add(t, noise(3200, 1000))
	a.guard(t, content)
	at := func(began, since time.Duration, patience time.Duration) bool {
		a.f.began = time.Now().Add(-began)
		d := a.collection(all)
		d.Patience = func([16]byte) (time.Duration, error) { return patience, nil }
		ok, err := d.May(context.Background(), bucket, []blobstore.Guarded{{Hash: content.Hash, Size: content.Size, Since: time.Now().Add(-since)}})
		if err != nil {
			t.Fatal(err)
		}
		return ok[0]
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		began, since, patience time.Duration
		want                   bool
	}{
		{2 * time.Hour, 31 * day, 30 * day, true},
		{2 * time.Hour, 29 * day, 30 * day, false},
		{time.Minute, 31 * day, 30 * day, false}, // it was away itself
		{2 * time.Hour, 3000 * day, -1, false},
		{time.Minute, time.Minute, time.Second, true},
	} {
		if got := at(c.began, c.since, c.patience); got != c.want {
			t.Errorf("%v after its start, %v after it was named, patience %v: %v", c.began, c.since, c.patience, got)
		}
	}
	// One that answers is heard, however long it took.
	a.connect(b)
	b.names.Store(content.Hash, true)
	if at(2*time.Hour, 3000*day, 30*day) {
		t.Error("what a member wants went")
	}
}

func TestWhoMayAskWhatIsNamed(t *testing.T) {
	all := nodes(t, 2)
	a, b := all[0], all[1]
	content := b.add(t, noise(3300, 1000))
	a.add(t, noise(3300, 1000))
	a.guard(t, content)
	b.deny.Store(true)
	d := a.collection(all)
	if n := a.collect(t, d); n != 0 || d.Silent[b.key] != 1 {
		t.Errorf("%d went; silent %v", n, d.Silent)
	}
	// What is there for another reason than this bucket is nobody's business, and no
	// promise.
	b.deny.Store(false)
	b.names.Clear()
	b.forgets.Store(true)
	words := a.f.ask(context.Background(), opDrop, bucket, []Content{content}, 60, nil)
	if w := words[b.key]; len(w) != 1 || w[0] != (word{}) {
		t.Errorf("b said %+v", words)
	}
}
