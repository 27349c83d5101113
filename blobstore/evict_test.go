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
			ok, err := s.Hold(tx, h, "them", time.Now().Add(time.Hour))
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
	ask := func(other *Store, name string) MayDrop {
		return func(ctx context.Context, hashes []Hash) ([]bool, error) {
			ok := make([]bool, len(hashes))
			err := other.db.Write(func(tx *schema.Tx) (err error) {
				for i, h := range hashes {
					if ok[i], err = other.Hold(tx, h, name, time.Now().Add(time.Hour)); err != nil {
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

func TestGuardedContentIsCollectedAfterAsking(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	ctx := context.Background()
	p, small := noise(930, 100_000), noise(931, 100)
	add(t, s, p)
	add(t, s, small)
	err := s.db.Write(func(tx *schema.Tx) error { return errors.Join(s.Guard(tx, Sum(p)), s.Guard(tx, Sum(small))) })
	if err != nil {
		t.Fatal(err)
	}
	unreachable := func(context.Context, []Hash) ([]bool, error) { return nil, ErrNotHere }
	for _, may := range []MayDrop{nil, no, unreachable} {
		if rep, err := s.GC(ctx, GCOptions{Grace: -1, MayDrop: may}); err != nil || rep.Guarded != 2 || rep.Blobs != 0 {
			t.Errorf("%+v, %v", rep, err)
		}
	}
	wantBlob(t, s, p)
	if rep, err := s.GC(ctx, GCOptions{Grace: -1, MayDrop: yes}); err != nil || rep.Guarded != 0 || rep.Blobs != 2 {
		t.Errorf("%+v, %v", rep, err)
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
