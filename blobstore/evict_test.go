package blobstore

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

func yes(_ context.Context, hashes []Hash) ([]bool, error) {
	ok := make([]bool, len(hashes))
	for i := range ok {
		ok[i] = true
	}
	return ok, nil
}

func no(_ context.Context, hashes []Hash) ([]bool, error) { return make([]bool, len(hashes)), nil }

func TestEvict(t *testing.T) {
	here, there, src := pair(t)
	ctx := context.Background()
	small, large := noise(900, 500), noise(901, 3*spanSize)
	for i, p := range [][]byte{small, large} {
		add(t, there, p)
		add(t, here, p)
		if err := here.db.Write(func(tx *schema.Tx) error { return refer(tx, int64(100+i), Sum(p)) }); err != nil {
			t.Fatal(err)
		}
		if _, err := here.Evict(ctx, Sum(p), no); !errors.Is(err, ErrLastCopy) {
			t.Errorf("the last copy: %v", err)
		}
		wantBlob(t, here, p)
		if freed, err := here.Evict(ctx, Sum(p), yes); err != nil || freed != int64(len(p)) {
			t.Fatalf("freed %d, %v", freed, err)
		}
		if _, err := os.Stat(here.blobPath(Sum(p))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file: %v", err)
		}
		if _, err := here.Evict(ctx, Sum(p), yes); !errors.Is(err, ErrNotHere) {
			t.Errorf("evicted twice: %v", err)
		}
		if rep, err := here.GC(ctx, noGrace); err != nil || rep != (GCReport{}) {
			t.Errorf("collected: %+v, %v", rep, err)
		}
		before := src.groups.Load()
		wantBlob(t, here, p)
		if src.groups.Load() == before {
			t.Error("it was not brought again")
		}
	}
}

func TestEvictKeepsWhatIsInUse(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	ctx := context.Background()
	p := noise(910, 100_000)
	h := sealFile(t, s, p)
	wantSynced(t, s, h)
	write := func(f func(tx *schema.Tx) error) {
		t.Helper()
		if err := s.db.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	session := `INSERT INTO write_session (id, owner, branch, ino, base, size, mtime, staging, created, updated) VALUES (7, 'me', 2, 2, ?, 0, 0, '', 0, 0)`
	for _, c := range []struct {
		name      string
		take, end func(tx *schema.Tx) error
	}{
		{"promised", func(tx *schema.Tx) error {
			ok, err := s.Hold(tx, h, "them", time.Now().Add(time.Hour), false)
			if err == nil && !ok {
				err = errors.New("no promise")
			}
			return err
		}, func(tx *schema.Tx) error { return s.Unlease(tx, h, holdOwner+"them") }},
		{"base of a session", func(tx *schema.Tx) error {
			q := tx.Stmt(session)
			q.BindBytes(1, h[:])
			_, err := q.Step()
			return err
		}, func(tx *schema.Tx) error {
			_, err := tx.Stmt("DELETE FROM write_session WHERE id = 7").Step()
			return err
		}},
	} {
		write(c.take)
		if _, err := s.Evict(ctx, h, yes); !errors.Is(err, syscall.EBUSY) || errors.Is(err, ErrLastCopy) {
			t.Errorf("%s: %v", c.name, err)
		}
		write(c.end)
	}
	// A session that begins while others are asked is respected too.
	_, err := s.Evict(ctx, h, func(ctx context.Context, hs []Hash) ([]bool, error) {
		write(func(tx *schema.Tx) error {
			q := tx.Stmt(session)
			q.BindBytes(1, h[:])
			_, err := q.Step()
			return err
		})
		return yes(ctx, hs)
	})
	if !errors.Is(err, syscall.EBUSY) {
		t.Errorf("while others were asked: %v", err)
	}
	wantBlob(t, s, p)
}

// Two nodes that would each drop their copy because the other has one: not both
// do, whatever the order.
func TestNotBothDrop(t *testing.T) {
	a, b, _ := pair(t)
	ctx := context.Background()
	p := noise(920, 100_000)
	h := sealFile(t, a, p)
	sealFile(t, b, p)
	wantSynced(t, a, h)
	wantSynced(t, b, h)
	ask := func(other *Store, name string) MayDrop {
		return func(ctx context.Context, hashes []Hash) ([]bool, error) {
			ok := make([]bool, len(hashes))
			err := other.db.Write(func(tx *schema.Tx) (err error) {
				for i, h := range hashes {
					if ok[i], err = other.Hold(tx, h, name, time.Now().Add(time.Hour), false); err != nil {
						return err
					}
				}
				return nil
			})
			return ok, err
		}
	}
	// b begins while a is asking.
	_, errA := a.Evict(ctx, h, func(ctx context.Context, hashes []Hash) ([]bool, error) {
		if _, err := b.Evict(ctx, h, ask(a, "b")); !errors.Is(err, ErrLastCopy) {
			t.Errorf("b, while a is leaving: %v", err)
		}
		return ask(b, "a")(ctx, hashes)
	})
	if errA != nil {
		t.Errorf("a: %v", errA)
	}
	if _, err := b.Evict(ctx, h, ask(a, "b")); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("b, which promised to keep it: %v", err)
	}
	wantBlob(t, b, p)
}

func wantSynced(t *testing.T, s *Store, h Hash) {
	t.Helper()
	if err := s.Sync(context.Background(), h); err != nil {
		t.Fatal(err)
	}
}

// guardIn makes a bucket, and guards what it is given there.
func guardIn(t *testing.T, s *Store, id int64, hashes ...Hash) {
	t.Helper()
	err := s.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("INSERT OR IGNORE INTO bucket (id, uuid, name, root, policy, created) VALUES (?1, ?2, ?1, 2, '{}', 0)")
		q.BindInt64(1, id)
		q.BindBytes(2, append(make([]byte, 15), byte(id)))
		if _, err := q.Step(); err != nil {
			return err
		}
		for _, h := range hashes {
			if err := Guard(tx, id, h); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// collectable is a MayCollect that gives one answer for all.
func collectable(ok bool) MayCollect {
	return func(_ context.Context, _ [16]byte, list []Guarded) ([]bool, error) {
		answers := make([]bool, len(list))
		for i := range answers {
			answers[i] = ok
		}
		return answers, nil
	}
}

func TestGuardedContentIsCollectedAfterAsking(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	ctx := context.Background()
	p, small, both := noise(930, 100_000), noise(931, 100), noise(932, 100)
	for _, p := range [][]byte{p, small, both} {
		add(t, s, p)
	}
	guardIn(t, s, 7, Sum(p), Sum(small), Sum(both), Sum(noise(933, 50)))
	guardIn(t, s, 8, Sum(both))
	if rep, err := s.GC(ctx, noGrace); err != nil || rep.Blobs != 0 {
		t.Errorf("without asking: %+v, %v", rep, err)
	}
	if n, _, err := s.CollectGuarded(ctx, -1, collectable(false)); err != nil || n != 0 {
		t.Errorf("refused, and %d went, %v", n, err)
	}
	unreachable := func(context.Context, [16]byte, []Guarded) ([]bool, error) { return nil, ErrNotHere }
	if n, _, err := s.CollectGuarded(ctx, -1, unreachable); !errors.Is(err, ErrNotHere) || n != 0 {
		t.Errorf("nobody asked, and %d went, %v", n, err)
	}
	if n, _, err := s.CollectGuarded(ctx, 0, collectable(true)); err != nil || n != 0 {
		t.Errorf("%d went in their grace, %v", n, err)
	}
	wantBlob(t, s, p)
	inSeven := func(ctx context.Context, bucket [16]byte, list []Guarded) ([]bool, error) {
		if bucket[15] == 7 && len(list) != 3 || bucket[15] == 8 && len(list) != 1 {
			t.Errorf("asked about %d in bucket %d", len(list), bucket[15])
		}
		return collectable(bucket[15] == 7)(ctx, bucket, list)
	}
	n, bytes, err := s.CollectGuarded(ctx, -1, inSeven)
	if err != nil || n != 2 || bytes != 100_100 {
		t.Errorf("%d blobs of %d bytes, %v", n, bytes, err)
	}
	wantBlob(t, s, both)
	err = s.db.Read(func(tx *schema.Tx) (err error) { n, bytes, err = HeldBack(tx); return err })
	if err != nil || n != 1 || bytes != 100 {
		t.Errorf("held back: %d blobs of %d bytes, %v", n, bytes, err)
	}
	if n, _, err := s.CollectGuarded(ctx, -1, collectable(true)); err != nil || n != 1 {
		t.Errorf("%d went, %v", n, err)
	}
}

// What is promised, or named again, while others are asked stays guarded.
func TestGuardedContentStays(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	ctx := context.Background()
	p := noise(935, 100_000)
	h := sealFile(t, s, p)
	wantSynced(t, s, h)
	guardIn(t, s, 7, h)
	hold := func(first bool) (ok bool) {
		err := s.db.Write(func(tx *schema.Tx) (err error) {
			ok, err = s.Hold(tx, h, "them", time.Now().Add(time.Hour), first)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for _, c := range []struct {
		name      string
		meanwhile func(tx *schema.Tx) error
		end       func(tx *schema.Tx) error
	}{
		{"named", func(tx *schema.Tx) error { return refer(tx, 100, h) }, func(tx *schema.Tx) error { // as pruning does
			return errors.Join(unrefer(tx, 100), Guard(tx, 7, h))
		}},
		{"promised", nil, func(tx *schema.Tx) error { return s.Unlease(tx, h, holdOwner+"them") }},
		{"too late", func(tx *schema.Tx) error { return s.Lease(tx, h, leavingOwner, time.Now().Add(-time.Second)) }, nil},
	} {
		asked := 0
		n, _, err := s.CollectGuarded(ctx, -1, func(ctx context.Context, b [16]byte, list []Guarded) ([]bool, error) {
			asked = len(list)
			if c.meanwhile == nil {
				if hold(false) || !hold(true) {
					t.Error("what is leaving is promised to one that goes first, and to no other")
				}
			} else if err := s.db.Write(c.meanwhile); err != nil {
				return nil, err
			}
			return collectable(true)(ctx, b, list)
		})
		if n != 0 || asked != 1 || err != nil {
			t.Errorf("%s: %d of %d went, %v", c.name, n, asked, err)
		}
		if c.end != nil {
			if err := s.db.Write(c.end); err != nil {
				t.Fatal(err)
			}
		}
		wantBlob(t, s, p)
	}
	if n, _, err := s.CollectGuarded(ctx, -1, collectable(true)); err != nil || n != 1 {
		t.Errorf("%d went, %v", n, err)
	}
}

func TestPartialsAreCollected(t *testing.T) {
	here, there, _ := pair(t)
	ctx := context.Background()
	p := noise(940, 4*spanSize)
	add(t, there, p)
	h, size := expect(t, here, p), int64(len(p))
	if err := here.db.Write(func(tx *schema.Tx) error { return refer(tx, 100, h) }); err != nil {
		t.Fatal(err)
	}
	b, err := here.Open(h, size)
	if err != nil {
		t.Fatal(err)
	}
	q := make([]byte, 1000)
	if _, err := b.ReadAt(q, 2*spanSize); err != nil {
		t.Fatal(err)
	}
	if rep, err := here.GC(ctx, noGrace); err != nil || rep.Partials != 0 {
		t.Errorf("while a version names it: %+v, %v", rep, err)
	}
	if err := here.db.Write(func(tx *schema.Tx) error { return unrefer(tx, 100) }); err != nil {
		t.Fatal(err)
	}
	if rep, err := here.GC(ctx, noGrace); err != nil || rep.Partials != 0 || rep.Blobs != 0 {
		t.Errorf("while it is open: %+v, %v", rep, err)
	}
	if _, err := b.ReadAt(q, 2*spanSize); err != nil {
		t.Error(err)
	}
	b.Close()
	if rep, err := here.GC(ctx, noGrace); err != nil || rep.Partials != 1 || rep.PartialBytes == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	if n := partialsLeft(t, here); n != 0 {
		t.Errorf("%d files are left", n)
	}
}
