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
