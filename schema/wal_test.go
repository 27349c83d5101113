package schema

import (
	"sync"
	"testing"
)

// TestWALIsBounded has writers of two processes outrun the background
// checkpoint: together they write ten times what the WAL may hold.
func TestWALIsBounded(t *testing.T) {
	dir := t.TempDir()
	value := make([]byte, 1<<20)
	const rounds = 10 * walPagesMost * 4096 / 2 / (1 << 20)
	var wg sync.WaitGroup
	for p := range 2 {
		db := open(t, dir, Options{})
		wg.Go(func() {
			for i := range rounds {
				err := db.Write(func(tx *Tx) error {
					s := tx.Stmt("INSERT OR REPLACE INTO write_session (id, owner, branch, ino, base, size, mtime, staging, created, updated) VALUES (?, 'x', 2, 2, ?, 0, 0, '', 0, 0)")
					s.BindInt64(1, int64(2+p))
					s.BindBytes(2, value)
					_, err := s.Step()
					return err
				})
				if err == nil && i%4 == 3 {
					err = db.Commit()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		t.Cleanup(func() {
			if got, most := db.Stats().WALBytes, int64(3*walPagesMost*4096); got > most {
				t.Errorf("the WAL has %d MiB, want at most %d", got>>20, most>>20)
			}
		})
	}
	wg.Wait()
}
