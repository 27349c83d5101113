package schema

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	lib "modernc.org/sqlite/lib"
	"pgregory.net/rapid"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// walWorld is a database with two connections that write and one that reads
// through SQLite's own VFS, as any other program would.
type walWorld struct {
	dir       string
	writers   [2]*sqlite.Conn
	reader    *sqlite.Conn
	committed values

	tx         *sqlite.Conn // the writer in a transaction
	now        values       // what it sees
	saved      values       // what its savepoint goes back to; nil without one
	committing bool
	images     int
}

func newWALWorld(t *rapid.T, dir string) *walWorld {
	w := &walWorld{dir: dir, committed: values{}}
	path := filepath.Join(dir, "x.db")
	var err error
	for i := range w.writers {
		if w.writers[i], err = openConn(path, false); err != nil {
			t.Fatal(err)
		}
		run(t, w.writers[i], "PRAGMA cache_size = 5") // so that transactions spill
		if i == 0 {
			run(t, w.writers[i], valueTable)
		}
	}
	if w.reader, err = sqlite.OpenConn(path, sqlite.OpenReadOnly); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *walWorld) close() {
	for _, c := range []*sqlite.Conn{w.reader, w.writers[0], w.writers[1]} {
		c.Close()
	}
}

// crash looks at what a crash would leave now.
func (w *walWorld) crash(t *rapid.T) {
	w.images++
	got := afterCrash(t, w.dir)
	if !maps.Equal(got, w.committed) && !(w.committing && maps.Equal(got, w.now)) {
		t.Fatalf("after a crash: %v, want %v", got, w.committed)
	}
}

// do runs a statement of the transaction and reports whether it worked.
func (w *walWorld) do(t *rapid.T, query string, args ...any) bool {
	err := sqlitex.Execute(w.tx, query, &sqlitex.ExecOptions{Args: args})
	w.survived(t, err)
	return err == nil
}

// survived reports whether the transaction goes on after err, which only a
// failing disk may be the cause of. SQLite may have rolled everything back.
func (w *walWorld) survived(t *rapid.T, err error) bool {
	if code := sqlite.ErrCode(err).ToPrimary(); err != nil && code != sqlite.ResultFull && code != sqlite.ResultIOErr {
		t.Fatal(err)
	}
	if w.tx.AutocommitEnabled() {
		w.tx, w.saved = nil, nil
	}
	return w.tx != nil
}

// TestWALAgainstModel has transactions that spill, go back to savepoints, fail
// for want of room and overlap checkpoints. At every turn the transaction, a
// reader and whoever comes after a crash see what the model says.
func TestWALAgainstModel(t *testing.T) {
	useDisk(t)
	images := 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "wal")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		disk.failAt = 0
		w := newWALWorld(t, dir)
		defer w.close()
		disk.written = func() {
			if w.committing || disk.writes%16 == 0 {
				w.crash(t)
			}
		}
		defer func() { disk.written = func() {} }()
		put := func(t *rapid.T) {
			k := rapid.IntRange(0, 50).Draw(t, "k")
			b := byte(rapid.IntRange(1, 255).Draw(t, "v"))
			if w.tx != nil && w.do(t, "INSERT OR REPLACE INTO t (k, v) VALUES (?, ?)", k, value(b)) {
				w.now[k] = b
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				if w.tx != nil {
					t.Skip()
				}
				w.tx = w.writers[rapid.IntRange(0, 1).Draw(t, "writer")]
				w.now = maps.Clone(w.committed)
				w.do(t, "BEGIN IMMEDIATE")
			},
			"put": put,
			"puts": func(t *rapid.T) {
				if w.tx == nil {
					t.Skip()
				}
				for range rapid.IntRange(2, 30).Draw(t, "n") {
					put(t)
				}
			},
			"update": func(t *rapid.T) {
				if w.tx == nil {
					t.Skip()
				}
				b := byte(rapid.IntRange(1, 255).Draw(t, "v"))
				if w.do(t, "UPDATE t SET v = ? WHERE k % 2 = 0", value(b)) {
					for k := range w.now {
						if k%2 == 0 {
							w.now[k] = b
						}
					}
				}
			},
			"delete": func(t *rapid.T) {
				if w.tx == nil {
					t.Skip()
				}
				from := rapid.IntRange(0, 50).Draw(t, "from")
				if w.do(t, "DELETE FROM t WHERE k BETWEEN ? AND ?", from, from+5) {
					for k := from; k <= from+5; k++ {
						delete(w.now, k)
					}
				}
			},
			"savepoint": func(t *rapid.T) {
				if w.tx == nil || w.saved != nil {
					t.Skip()
				}
				if w.do(t, "SAVEPOINT s") {
					w.saved = maps.Clone(w.now)
				}
			},
			"back": func(t *rapid.T) {
				if w.tx == nil || w.saved == nil {
					t.Skip()
				}
				if w.do(t, "ROLLBACK TO s") && w.do(t, "RELEASE s") {
					w.now, w.saved = w.saved, nil
				} else if w.tx != nil { // it is no longer known what it has
					w.do(t, "ROLLBACK")
					w.tx, w.saved = nil, nil
				}
			},
			"commit": func(t *rapid.T) {
				if w.tx == nil {
					t.Skip()
				}
				w.committing = true
				ok := w.do(t, "COMMIT")
				w.committing = false
				switch {
				case ok:
					w.committed = w.now
				case w.tx != nil:
					t.Fatal("a commit failed and did not roll back")
				}
				w.tx, w.saved = nil, nil
				w.crash(t)
			},
			"rollback": func(t *rapid.T) {
				if w.tx == nil {
					t.Skip()
				}
				w.do(t, "ROLLBACK")
				w.tx, w.saved = nil, nil
			},
			"checkpoint": func(t *rapid.T) {
				mode := rapid.SampledFrom([]string{"PASSIVE", "RESTART", "TRUNCATE"}).Draw(t, "mode")
				c := w.writers[rapid.IntRange(0, 1).Draw(t, "conn")]
				if c != w.tx {
					_ = sqlitex.ExecuteTransient(c, "PRAGMA wal_checkpoint("+mode+")", nil) // busy beside a transaction
				}
			},
			"fail": func(t *rapid.T) {
				disk.failAt = rapid.IntRange(1, 4).Draw(t, "write")
				disk.code = rapid.SampledFrom([]int32{lib.SQLITE_FULL, lib.SQLITE_IOERR_WRITE}).Draw(t, "code")
			},
			"": func(t *rapid.T) {
				if w.tx != nil {
					got, err := valuesOf(w.tx)
					if !w.survived(t, err) || err != nil {
						return
					}
					if !maps.Equal(got, w.now) {
						t.Fatalf("the transaction sees %v, want %v", got, w.now)
					}
				}
				got, err := valuesOf(w.reader)
				if err != nil || !maps.Equal(got, w.committed) {
					t.Fatalf("a reader sees %v, want %v: %v", got, w.committed, err)
				}
			},
		})
		images += w.images
	})
	t.Log(disk.writes, "writes,", images, "crashes")
}
