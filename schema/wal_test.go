package schema

import (
	"sync"
	"testing"
	"time"
)

// TestWALIsBounded has two processes write ten times what the WAL may hold,
// with no checkpoint but the writers' own.
func TestWALIsBounded(t *testing.T) {
	defer func(every time.Duration, most int) { checkpointEvery, walPagesMost = every, most }(checkpointEvery, walPagesMost)
	checkpointEvery, walPagesMost = time.Hour, 1024
	dir := t.TempDir()
	dbs := []*DB{open(t, dir, Options{}), open(t, dir, Options{})}
	value := make([]byte, 16<<10)
	total := 10 * walPagesMost * 4096
	var wg sync.WaitGroup
	for p, db := range dbs {
		wg.Go(func() {
			for range total / len(value) / len(dbs) {
				err := db.Write(func(tx *Tx) error {
					s := tx.Stmt("INSERT OR REPLACE INTO write_session (id, owner, branch, ino, base, size, mtime, staging, created, updated) VALUES (?, 'x', 2, 2, ?, 0, 0, '', 0, 0)")
					s.BindInt64(1, int64(2+p))
					s.BindBytes(2, value)
					_, err := s.Step()
					return err
				})
				if err == nil {
					err = db.Commit()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, most := dbs[0].Stats().WALBytes, int64(4*walPagesMost*4096); got > most {
		t.Errorf("the WAL has %d KiB, want at most %d", got>>10, most>>10)
	}
	for _, db := range dbs {
		if err := db.Close(); err != nil { // before the variables are set back
			t.Error(err)
		}
	}
}

// TestWALIsBoundedBesideReaders has readers follow each other so closely that
// there is always one, each of which keeps the WAL from starting anew.
func TestWALIsBoundedBesideReaders(t *testing.T) {
	defer func(every time.Duration, most int) { checkpointEvery, walPagesMost = every, most }(checkpointEvery, walPagesMost)
	checkpointEvery, walPagesMost = 10*time.Millisecond, 512
	dir := t.TempDir()
	writer := open(t, dir, Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	dbs := []*DB{writer}
	for range 2 {
		db := open(t, dir, Options{})
		dbs = append(dbs, db)
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					err := db.Snapshot(func(tx *Tx) error {
						s := tx.Stmt("SELECT count(*) FROM write_session")
						_, err := s.Step()
						time.Sleep(3 * time.Millisecond) // what a reader does with it
						return err
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	value := make([]byte, 16<<10)
	for i := range 20 * walPagesMost * 4096 / len(value) {
		err := writer.Write(func(tx *Tx) error {
			s := tx.Stmt("INSERT OR REPLACE INTO write_session (id, owner, branch, ino, base, size, mtime, staging, created, updated) VALUES (?, 'x', 2, 2, ?, 0, 0, '', 0, 0)")
			s.BindInt64(1, int64(2+i%8))
			s.BindBytes(2, value)
			_, err := s.Step()
			return err
		})
		if err == nil {
			err = writer.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if got, most := writer.Stats().WALBytes, int64(6*walPagesMost*4096); got > most {
		t.Errorf("the WAL has %d KiB, want at most %d", got>>10, most>>10)
	}
	t.Log(writer.Stats().WALBytes>>10, "KiB")
	for _, db := range dbs {
		if err := db.Close(); err != nil { // before the variables are set back
			t.Error(err)
		}
	}
}
