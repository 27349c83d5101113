package blobstore

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// refer adds an inode version with content h, and unrefer removes it.
func refer(tx *schema.Tx, ino int64, h Hash) error {
	q := tx.Stmt(`INSERT INTO inode (ino, branch, stamp, node, groups, home, mode, uid, gid, rdev, nlink, size, hash, atime, mtime, ctime, btime)
		VALUES (?, 2, 2, 2, 7, 2, 0, 0, 0, 0, 1, 1, ?, 0, 0, 0, 0)`)
	q.BindInt64(1, ino)
	q.BindBytes(2, h[:])
	_, err := q.Step()
	return err
}

func unrefer(tx *schema.Tx, ino int64) error {
	q := tx.Stmt("DELETE FROM inode WHERE ino = ?")
	q.BindInt64(1, ino)
	_, err := q.Step()
	return err
}

var noGrace = GCOptions{Grace: -1}

func TestGC(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	ctx := context.Background()
	kept, leased, based, dropped := noise(30, 50_000), noise(31, 50_000), noise(32, 50_000), noise(33, 3*spanSize)
	var small Hash
	for _, p := range [][]byte{kept, leased, based, dropped} {
		sealFile(t, s, p)
	}
	err := s.db.Write(func(tx *schema.Tx) (err error) {
		if small, err = s.PutInline(tx, []byte("small")); err != nil {
			return err
		}
		if err := refer(tx, 100, Sum(kept)); err != nil {
			return err
		}
		q := tx.Stmt(`INSERT INTO write_session (owner, branch, ino, base, size, mtime, staging, created, updated)
			VALUES ('me', 2, 2, ?, 0, 0, 'named', 0, 0)`)
		h := Sum(based)
		q.BindBytes(1, h[:])
		if _, err := q.Step(); err != nil {
			return err
		}
		return s.Lease(tx, Sum(leased), "me", time.Now().Add(time.Hour))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"named", "orphan"} {
		if err := os.WriteFile(s.stagingPath(name), []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	live, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	defer live.Discard()
	stray := Sum([]byte("stray"))
	os.Mkdir(s.dir+"/blobs/"+stray.String()[:2], 0o700)
	if err := os.WriteFile(s.blobPath(stray), []byte("stray"), 0o600); err != nil {
		t.Fatal(err)
	}

	if rep, err := s.GC(ctx, GCOptions{}); err != nil || rep.Blobs != 0 || rep.Strays != 0 {
		t.Errorf("within the grace: %+v, %v", rep, err)
	}
	want := GCReport{Blobs: 2, Bytes: int64(len(dropped)) + 5, Strays: 1, StrayBytes: 5}
	dry := want
	if rep, err := s.GC(ctx, GCOptions{Grace: -1, DryRun: true}); err != nil || rep != dry {
		t.Errorf("dry run: %+v, %v; want %+v", rep, err, dry)
	}
	if rep, err := s.GC(ctx, noGrace); err != nil || rep != want {
		t.Errorf("%+v, %v; want %+v", rep, err, want)
	}
	for _, p := range [][]byte{kept, leased, based} {
		wantBlob(t, s, p)
	}
	for _, h := range []Hash{Sum(dropped), small} {
		if _, err := readBlob(s, h, 5); err == nil {
			t.Errorf("%s is still there", h)
		}
	}
	for _, path := range []string{s.blobPath(Sum(dropped)), s.outboardPath(Sum(dropped)), s.blobPath(stray), s.stagingPath("orphan")} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if _, err := os.Stat(s.stagingPath("named")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.stagingPath(live.Name())); err != nil {
		t.Error(err)
	}
}

// publisher seals contents of a small set, refers to them, reads them and lets
// go, as fast as it can. What it refers to must be there.
func publisher(s *Store, id int64, rounds int) error {
	rnd := rand.New(rand.NewPCG(uint64(id), 3))
	for i := range rounds {
		p := noise(1000+uint64(rnd.IntN(4)), 20_000)
		ino := id<<32 + int64(i) + 2
		small := p[:1000]
		st, err := s.NewStaging()
		if err != nil {
			return err
		}
		if _, err := st.WriteAt(p, 0); err != nil {
			return err
		}
		h, err := st.Seal(context.Background(), int64(len(p)))
		if err != nil {
			return err
		}
		if rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
		}
		err = s.db.Write(func(tx *schema.Tx) error {
			if err := s.AddFile(tx, h, int64(len(p))); err != nil {
				return err
			}
			inline, err := s.PutInline(tx, small)
			if err != nil {
				return err
			}
			if err := refer(tx, -ino, inline); err != nil {
				return err
			}
			return refer(tx, ino, h)
		})
		if err != nil {
			return err
		}
		for h, size := range map[Hash]int64{h: int64(len(p)), Sum(small): int64(len(small))} {
			b, err := s.Open(h, size)
			if err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			_, err = io.Copy(io.Discard, io.NewSectionReader(b, 0, size))
			b.Close()
			if err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			if _, err := os.Stat(s.blobPath(h)); size > InlineMax && err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
		}
		if rnd.IntN(4) == 0 {
			if err := s.Sync(context.Background(), h); err != nil {
				return err
			}
		}
		err = s.db.Write(func(tx *schema.Tx) error {
			if err := unrefer(tx, -ino); err != nil {
				return err
			}
			return unrefer(tx, ino)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Collections without grace run all the time, and nothing that is referred to
// goes away: in one process, two stores on one directory, and a process more.
func TestGCBesidePublishes(t *testing.T) {
	dir := t.TempDir()
	rounds := 60
	stores := []*Store{openTest(t, dir, Options{}), openTest(t, dir, Options{})}
	if err := stores[0].db.Sync(); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestPublisherProcess$")
	child.Env = append(os.Environ(), "BLOBSTORE_TEST_DIR="+dir)
	child.Stdout, child.Stderr = os.Stderr, os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, s := range stores {
		for j := range 2 {
			wg.Go(func() {
				if err := publisher(s, int64(i*2+j+1), rounds); err != nil {
					t.Error(err)
				}
			})
		}
	}
	ended := make(chan struct{})
	var gc sync.WaitGroup
	for _, s := range stores {
		gc.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				if _, err := s.GC(context.Background(), noGrace); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := child.Wait(); err != nil {
		t.Errorf("the other process: %v", err)
	}
	close(ended)
	gc.Wait()
	if _, err := stores[0].GC(context.Background(), noGrace); err != nil {
		t.Fatal(err)
	}
	st := stores[0].Stats()
	if st.Files != 0 || st.Inline != 0 {
		t.Errorf("left over: %+v", st)
	}
}

// TestPublisherProcess is the other process of TestGCBesidePublishes; on its
// own it publishes a little.
func TestPublisherProcess(t *testing.T) {
	dir, rounds := os.Getenv("BLOBSTORE_TEST_DIR"), 60
	if dir == "" {
		dir, rounds = t.TempDir(), 2
	}
	if err := publisher(openTest(t, dir, Options{}), 9, rounds); err != nil {
		t.Fatal(err)
	}
}

// The same content sealed many times at once ends in one good blob.
func TestSealedTwiceAtOnce(t *testing.T) {
	dir := t.TempDir()
	stores := []*Store{openTest(t, dir, Options{}), openTest(t, dir, Options{})}
	p := noise(40, 2*spanSize)
	for range 5 {
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() { sealFile(t, stores[i%2], p) })
		}
		wg.Wait()
		wantBlob(t, stores[0], p)
		if _, err := stores[1].GC(context.Background(), noGrace); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"staging"} {
		if left, _ := os.ReadDir(dir + "/" + d); len(left) != 0 {
			t.Errorf("%s holds %v", d, left)
		}
	}
}
