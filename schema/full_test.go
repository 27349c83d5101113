package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// smallDisk mounts a file system of the given size and returns its directory.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("alkfs-test", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a small file system (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes rows of 64 KiB until the store refuses one; it returns how many
// it took and the error.
func fill(db *DB) (n int64, err error) {
	value := make([]byte, 64<<10)
	for ; n < 200; n++ {
		err = db.Write(func(tx *Tx) error {
			s := tx.Stmt("INSERT INTO blob (id, hash, size, data, synced, created) VALUES (?, ?, 0, ?, 1, 0)")
			s.BindInt64(1, n+2)
			s.BindBytes(2, []byte{byte(n), byte(n >> 8), 1})
			s.BindBytes(3, value)
			_, err := s.Step()
			return err
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func rows(t *testing.T, db *DB) (n int64) {
	t.Helper()
	err := db.Read(func(tx *Tx) error {
		s := tx.Stmt("SELECT count(*) FROM blob")
		_, err := s.Step()
		n = s.ColumnInt64(0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFullDiskIsTheWritersErrorAndLosesNothing(t *testing.T) {
	dir := smallDisk(t, "size=8m")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	db := open(t, dir, Options{})
	n, err := fill(db)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d rows: %v, want ENOSPC", n, err)
	}
	if got := rows(t, db); got != n {
		t.Fatalf("%d rows, want the %d acknowledged", got, n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", 1) }); err != nil {
		t.Fatalf("after making room: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, open(t, dir, Options{})); got != n {
		t.Fatalf("%d rows after reopening, want %d", got, n)
	}
}

func TestLostBatchIsReportedByTheNextSync(t *testing.T) {
	defer func(old uint64) { roomForBatches = old }(roomForBatches)
	roomForBatches = 0
	dir := smallDisk(t, "size=4m")
	db := open(t, dir, Options{CommitInterval: 1 << 40})
	var told error
	db.OnLost(func(err error) { told = err })
	n, err := fill(db)
	if err == nil && n == 0 {
		t.Fatal("a disk of 4 MiB took nothing")
	}
	_ = db.Commit()
	if err := db.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Sync: %v, want ENOSPC", err)
	}
	if !errors.Is(told, syscall.ENOSPC) {
		t.Fatalf("OnLost was told %v", told)
	}
	if err := db.Sync(); err != nil {
		t.Fatalf("second Sync: %v, want the loss told once", err)
	}
	if got := rows(t, db); got != 0 {
		t.Fatalf("%d rows of a lost batch", got)
	}
}

// TestOlderFormatsOpen keeps every format that was ever released openable. The
// next migration adds its number to the loop's range by itself.
func TestOlderFormatsOpen(t *testing.T) {
	for version := 1; version <= Format; version++ {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		c := openOld(t, path, version)
		if err := sqlitex.ExecuteTransient(c, "INSERT INTO cursor (name, seq) VALUES ('kept', 42)", nil); err != nil {
			t.Fatal(err)
		}
		c.Close()

		db := open(t, dir, Options{})
		if got := cursor(t, db, "kept"); got != 42 {
			t.Errorf("format %d: got %d, want 42", version, got)
		}
		backups, _ := filepath.Glob(path + ".format*.bak")
		if want := version < Format; (len(backups) == 1) != want {
			t.Errorf("format %d: backups %v, want one: %v", version, backups, want)
		}
		if err := db.Close(); err != nil { // before migrations changes again
			t.Error(err)
		}
	}
}

// openOld makes a database of an older format.
func openOld(t *testing.T, path string, version int) *sqlite.Conn {
	t.Helper()
	all := migrations
	migrations = all[:version]
	defer func() { migrations = all }()
	c, err := openConn(path, false)
	if err == nil {
		err = migrate(context.Background(), c, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFormat14Opens: a session that was recorded by format 14 is after the event that it
// was after, by the digits of created below a millisecond or before an event that is
// later by its stamp; and documents that were full are.
func TestFormat14Opens(t *testing.T) {
	dir := t.TempDir()
	c := openOld(t, filepath.Join(dir, fileName), 14)
	const ms = int64(1e6)
	script := fmt.Sprintf(`
		INSERT INTO bucket (id, uuid, name, root, created) VALUES (9, x'00', 'b', 5, 1);
		INSERT INTO sync_bucket (bucket, owner) VALUES (9, x'00');
		INSERT INTO sync_doc (id, bucket, branch, dir, gen, heads, bad) VALUES (7, 9, x'00', 1, 0, x'', 1), (8, 9, x'00', 2, 0, x'', 0);
		INSERT INTO event (seq, stamp, node, bucket, branch, origin, op, ino, parent, name, size, ref) VALUES
			(2500000, %[1]d, 2, 9, 5, 0, 5, 40, 0, x'', 0, 0), (2500010, %[2]d, 2, 9, 5, 0, 5, 41, 0, x'', 0, 0);
		INSERT INTO write_session (id, owner, branch, ino, size, mtime, staging, created, updated) VALUES
			(2, 'o', 5, 40, 0, 0, '', %[3]d, 0), (3, 'o', 5, 40, 0, 0, '', %[4]d, 0), (4, 'o', 5, 41, 0, 0, '', %[5]d, 0);`,
		999<<16, 1001<<16, 1000*ms+500005, 1000*ms+500011, 1000*ms+500010)
	if err := sqlitex.ExecuteScript(c, script, nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	db := open(t, dir, Options{})
	var got []int64
	err := db.Read(func(tx *Tx) error {
		got = nil
		s := tx.Stmt("SELECT began, created FROM write_session ORDER BY id")
		for err := range Rows(s) {
			if err != nil {
				return err
			}
			got = append(got, s.ColumnInt64(0), s.ColumnInt64(1))
		}
		s = tx.Stmt("SELECT full FROM sync_doc ORDER BY id")
		for err := range Rows(s) {
			if err != nil {
				return err
			}
			got = append(got, s.ColumnInt64(0))
		}
		return nil
	})
	want := []int64{2500005, 1000 * ms, 1500011, 1000 * ms, 2500009, 1000 * ms, 1, 0}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %v, %v, want %v", got, err, want)
	}
}

func TestReadOnlyStore(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir, Options{})
	if err := db.Write(func(tx *Tx) error { return putCursor(tx, "a", 9) }); err != nil {
		t.Fatal(err)
	}
	ro := open(t, dir, Options{ReadOnly: true})
	if err := db.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := cursor(t, ro, "a"); got != 9 {
		t.Fatalf("got %d, want 9", got)
	}
	if err := ro.Write(func(*Tx) error { return nil }); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("got %v, want ErrReadOnly", err)
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	for name, content := range map[string]string{
		"no database": "this is a text file, long enough to be read as a header by SQLite, which it is not. " + string(make([]byte, 4096)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, fileName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(context.Background(), dir, Options{}); !errors.Is(err, ErrNotAStore) {
				t.Fatalf("got %v, want ErrNotAStore", err)
			}
		})
	}
	dir := t.TempDir()
	c, err := openConn(filepath.Join(dir, fileName), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecScript(c, "CREATE TABLE other (x); PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Open(context.Background(), dir, Options{}); !errors.Is(err, ErrNotAStore) {
		t.Fatalf("another application's database: got %v, want ErrNotAStore", err)
	}
}

// A copy of the database onto a disk that is too small fails, wherever that is.
func TestCopyToAFullDisk(t *testing.T) {
	db := open(t, t.TempDir(), Options{})
	if err := db.Write(func(tx *Tx) error { // for the copy to forget
		return sqlitex.ExecuteTransient(tx.Conn(), "INSERT INTO lease (hash, owner, expires) VALUES (x'01', 'test', 1)", nil)
	}); err != nil {
		t.Fatal(err)
	}
	room := t.TempDir()
	full := 0
	for kib := 4; ; kib += 4 {
		err := syscall.Mount("alkfs-test", room, "tmpfs", 0, fmt.Sprintf("size=%dk", kib))
		if err != nil {
			t.Fatalf("mount a small file system (needs root): %v", err)
		}
		err = db.CopyTo(context.Background(), filepath.Join(room, "copy"))
		if e := syscall.Unmount(room, syscall.MNT_DETACH); e != nil {
			t.Fatal(e)
		}
		if err == nil {
			break
		}
		if full++; !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d KiB: %v, want ENOSPC", kib, err)
		}
	}
	if full < 20 {
		t.Errorf("full only %d times", full)
	}
}
