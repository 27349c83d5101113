package schema

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// disk is what lies below the VFS in tests: SQLite's own, whose writes to WALs
// are counted and can be made to fail.
var disk struct {
	vfs     lib.Tsqlite3_vfs
	methods lib.Tsqlite3_io_methods // of a WAL
	own     uintptr                 // SQLite's own VFS
	write   uintptr                 // its xWrite

	writes  int
	failAt  int   // the write that fails, counted down; 0 none
	code    int32 // of its error
	written func()
}

// useDisk puts disk below the VFS until the test ends.
func useDisk(t *testing.T) {
	if err := startEngine(); err != nil {
		t.Fatal(err)
	}
	disk.own, disk.vfs = unixVFS, *at[lib.Tsqlite3_vfs](unixVFS)
	disk.vfs.FxOpen = cFunc(diskOpen)
	disk.writes, disk.failAt, disk.written = 0, 0, func() {}
	unixVFS = uintptr(unsafe.Pointer(&disk.vfs))
	t.Cleanup(func() { unixVFS = disk.own })
}

func diskOpen(tls *libc.TLS, _, name, file uintptr, flags int32, out uintptr) int32 {
	rc := goFunc[openFunc](at[lib.Tsqlite3_vfs](disk.own).FxOpen)(tls, disk.own, name, file, flags, out)
	if rc == lib.SQLITE_OK && flags&lib.SQLITE_OPEN_WAL != 0 {
		f := at[lib.Tsqlite3_file](file)
		disk.methods = *at[lib.Tsqlite3_io_methods](f.FpMethods)
		disk.write = disk.methods.FxWrite
		disk.methods.FxWrite = cFunc(diskWrite)
		f.FpMethods = uintptr(unsafe.Pointer(&disk.methods))
	}
	return rc
}

func diskWrite(tls *libc.TLS, file, p uintptr, n int32, off int64) int32 {
	disk.writes++
	defer disk.written()
	own := goFunc[writeFunc](disk.write)
	if disk.failAt > 0 {
		if disk.failAt--; disk.failAt == 0 {
			own(tls, file, p, n-n/3-1, off) // all that there was room for
			return disk.code
		}
	}
	return own(tls, file, p, n, off)
}

func run(t interface{ Fatal(...any) }, c *sqlite.Conn, query string, args ...any) {
	if err := sqlitex.Execute(c, query, &sqlitex.ExecOptions{Args: args}); err != nil {
		t.Fatal(query, err)
	}
}

// values is the content of a test's table t: for each k, of what its v is made.
type values map[int]byte

// The constraint makes an UPDATE one that can be undone by itself.
const valueTable = "CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB CHECK (length(v) > 0))"

// value is of one page or several.
func value(b byte) []byte { return bytes.Repeat([]byte{b}, 1000+int(b)*60) }

func valuesOf(c *sqlite.Conn) (values, error) {
	m := values{}
	err := sqlitex.Execute(c, "SELECT k, v FROM t", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		v := Bytes(s, 1)
		if len(v) == 0 || !bytes.Equal(v, value(v[0])) {
			return fmt.Errorf("row %d is damaged", s.ColumnInt(0))
		}
		m[s.ColumnInt(0)] = v[0]
		return nil
	}})
	return m, err
}

// afterCrash opens x.db as its files are now, as after a kill.
func afterCrash(t interface{ Fatal(...any) }, dir string) values {
	image, err := os.MkdirTemp(dir, "image")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(image)
	for _, name := range []string{"x.db", "x.db-wal"} {
		p, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(image, name), p, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := sqlite.OpenConn(filepath.Join(image, "x.db"), sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run(t, c, "PRAGMA synchronous = OFF")
	got, err := valuesOf(c)
	if err != nil {
		t.Fatal("after a crash: ", err)
	}
	return got
}

// TestCommitIsOneWrite counts what a commit writes to the WAL.
func TestCommitIsOneWrite(t *testing.T) {
	useDisk(t)
	c, err := openConn(filepath.Join(t.TempDir(), "a?b#c%41.db"), false) // the name is part of a URI
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run(t, c, valueTable)
	for _, rows := range []int{1, 5, 30, 300} {
		pages := number(t, c, "PRAGMA page_count")
		disk.writes = 0
		run(t, c, "BEGIN")
		for k := range rows {
			run(t, c, "INSERT INTO t (v) VALUES (?)", value(byte(1+k%50)))
		}
		run(t, c, "COMMIT")
		pages = number(t, c, "PRAGMA page_count") - pages
		if most := 2 + int(pages)/25; disk.writes == 0 || disk.writes > most {
			t.Errorf("%d rows, %d new pages: %d writes, want at most %d", rows, pages, disk.writes, most)
		}
	}
}

// TestFailedCommitIsNotMadeLater has a commit fail for want of room that is
// there right afterwards.
func TestFailedCommitIsNotMadeLater(t *testing.T) {
	useDisk(t)
	dir := t.TempDir()
	c, err := openConn(filepath.Join(dir, "x.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run(t, c, valueTable)
	want := values{1: 10}
	run(t, c, "INSERT INTO t (k, v) VALUES (1, ?)", value(10))
	run(t, c, "BEGIN")
	run(t, c, "INSERT INTO t (k, v) VALUES (2, ?)", value(200)) // the file grows, which is in page 1
	disk.failAt, disk.code = 1, lib.SQLITE_FULL
	err = sqlitex.Execute(c, "COMMIT", nil)
	if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultFull || !c.AutocommitEnabled() {
		t.Fatalf("%v; rolled back: %v", err, c.AutocommitEnabled())
	}
	if got, err := valuesOf(c); err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, want %v: %v", got, want, err)
	}
	if got := afterCrash(t, dir); !maps.Equal(got, want) {
		t.Errorf("after a crash %v, want %v", got, want)
	}
}

// TestTransactionSurvivesAFailedStatement fails the write of pages that were
// spilled when a later statement wants to read them, and commits all the same.
func TestTransactionSurvivesAFailedStatement(t *testing.T) {
	useDisk(t)
	dir := t.TempDir()
	c, err := openConn(filepath.Join(dir, "x.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run(t, c, valueTable)
	run(t, c, "PRAGMA cache_size = 5")
	survived := 0
	for rows := 10; rows < 40; rows++ {
		run(t, c, "DELETE FROM t")
		run(t, c, "BEGIN")
		want := values{}
		for k := range rows {
			run(t, c, "INSERT INTO t (k, v) VALUES (?, ?)", k, value(30))
			want[k] = 30
		}
		disk.failAt, disk.code = 1, lib.SQLITE_FULL
		err = sqlitex.Execute(c, "UPDATE t SET v = ?", &sqlitex.ExecOptions{Args: []any{value(20)}})
		if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultFull {
			t.Fatalf("%d rows: %v", rows, err)
		}
		if c.AutocommitEnabled() {
			continue
		}
		run(t, c, "COMMIT")
		survived++
		if got, err := valuesOf(c); err != nil || !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v: %v", got, want, err)
		}
		if got := afterCrash(t, dir); !maps.Equal(got, want) {
			t.Fatalf("after a crash %v, want %v", got, want)
		}
	}
	if survived == 0 {
		t.Error("no transaction survived")
	}
}

// TestLargeTransactionOnAFullDisk runs out of room while a transaction spills.
func TestLargeTransactionOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "size=4m")
	path := filepath.Join(dir, "x.db")
	c, err := openConn(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := openConn(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	run(t, c, valueTable)
	run(t, c, "PRAGMA cache_size = 5")
	run(t, c, "INSERT INTO t (k, v) VALUES (1, ?)", value(1))
	for round := range 3 {
		run(t, c, "BEGIN IMMEDIATE")
		var err error
		n := 0
		for ; n < 1000 && err == nil; n++ {
			err = sqlitex.Execute(c, "INSERT INTO t (v) VALUES (?)", &sqlitex.ExecOptions{Args: []any{value(200)}})
		}
		if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultFull {
			t.Fatalf("after %d rows: %v, want a full disk", n, err)
		}
		if !c.AutocommitEnabled() {
			run(t, c, "ROLLBACK")
		}
		// Another writer goes on where the lost transaction was.
		run(t, other, "UPDATE t SET v = ? WHERE k = 1", value(byte(2+round)))
		for _, c := range []*sqlite.Conn{c, other} {
			got, err := valuesOf(c)
			if want := (values{1: byte(2 + round)}); err != nil || !maps.Equal(got, want) {
				t.Fatalf("got %v, want %v: %v", got, want, err)
			}
			if err := quickCheck(c); err != nil {
				t.Fatal(err)
			}
		}
	}
}

const childEnv = "SCHEMA_TEST_CHILD"

// The test binary is also the process that gets killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Println("failed:", writeRounds(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const roundRows = 60 // of some pages each: one commit is several writes

// roundValue is what all rows have after transaction n.
func roundValue(n int64) byte { return byte(1 + n%200) }

// writeRounds gives all rows a new value in each transaction, and says so.
func writeRounds(dir string) error {
	c, err := openConn(filepath.Join(dir, "x.db"), false)
	if err != nil {
		return err
	}
	exec := func(query string, args ...any) {
		if err == nil {
			err = sqlitex.Execute(c, query, &sqlitex.ExecOptions{Args: args})
		}
	}
	n, _, err := roundOf(c)
	for err == nil {
		n++
		exec("BEGIN IMMEDIATE")
		for k := range roundRows {
			exec("INSERT OR REPLACE INTO t (k, v) VALUES (?, ?)", k, value(roundValue(n)))
		}
		exec("UPDATE round SET n = ?", n)
		exec("COMMIT")
		if err == nil {
			fmt.Println(n)
		}
	}
	return err
}

// roundOf returns the last transaction that c sees, and what the rows are.
func roundOf(c *sqlite.Conn) (n int64, m values, err error) {
	if err := sqlitex.ExecuteTransient(c, "BEGIN", nil); err != nil {
		return 0, nil, err
	}
	defer sqlitex.ExecuteTransient(c, "COMMIT", nil)
	err = sqlitex.ExecuteTransient(c, "SELECT n FROM round", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}})
	if err == nil {
		m, err = valuesOf(c)
	}
	return n, m, err
}

// TestReadersBesideAWriterThatIsKilled looks on, with the VFS and without, while
// a writer in another process is killed again and again: all rows are of one
// transaction, which is no older than what the writer said.
func TestReadersBesideAWriterThatIsKilled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	ours, err := openConn(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	run(t, ours, valueTable)
	run(t, ours, "CREATE TABLE round (n INTEGER)")
	run(t, ours, "INSERT INTO round VALUES (0)")
	other, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	look := func(said int64) {
		t.Helper()
		for _, c := range []*sqlite.Conn{ours, other} {
			n, m, err := roundOf(c)
			if err != nil {
				t.Fatal(err)
			}
			if n < said || len(m) != roundRows {
				t.Fatalf("transaction %d with %d rows after %d was said", n, len(m), said)
			}
			for k, b := range m {
				if b != roundValue(n) {
					t.Fatalf("row %d is not of transaction %d", k, n)
				}
			}
		}
	}
	for round := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := int64(0)
		lines := bufio.NewScanner(out)
		hear := func() {
			if said, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
				t.Error(lines.Text())
			}
		}
		for seen := 0; seen < 2+round && lines.Scan(); seen++ {
			hear()
			look(said)
		}
		cmd.Process.Signal(syscall.SIGKILL)
		for lines.Scan() { // what it said before it died counts
			hear()
		}
		cmd.Wait()
		look(said)
		if err := quickCheck(ours); err != nil {
			t.Fatal(err)
		}
	}
}
