package schema

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// TestSplitsKeepTheGreatestPageNumber splits pages out of order, as keys in no
// order do, and sees that the page cache never believes it holds a page beyond
// the end of the file.
func TestSplitsKeepTheGreatestPageNumber(t *testing.T) {
	if err := startEngine(); err != nil {
		t.Fatal(err)
	}
	own := rekeyPage
	defer func() { rekeyPage = own }()
	for _, size := range []int{512, 4096, 65536} {
		exchanges, greatest := 0, uint32(0)
		rekeyPage = func(tls *libc.TLS, cache, page uintptr, from, to uint32) {
			own(tls, cache, page, from, to)
			if to == 0 {
				exchanges++
			}
			greatest = max(greatest, at[lib.TPCache1](cache).FiMaxKey)
		}
		c, err := sqlite.OpenConn(":memory:", sqlite.OpenReadWrite|sqlite.OpenCreate)
		if err != nil {
			t.Fatal(err)
		}
		err = sqlitex.ExecScript(c, fmt.Sprintf("PRAGMA page_size = %d; CREATE TABLE t (k BLOB PRIMARY KEY) WITHOUT ROWID", size))
		if err != nil {
			t.Fatal(err)
		}
		const rows = 1500
		r := rand.NewChaCha8([32]byte{})
		key := make([]byte, size/16)
		for range rows {
			r.Read(key)
			if err := sqlitex.Execute(c, "INSERT INTO t VALUES (?)", &sqlitex.ExecOptions{Args: []any{key}}); err != nil {
				t.Fatal(err)
			}
		}
		pages := uint32(number(t, c, "PRAGMA page_count"))
		if exchanges < rows/100 || greatest > pages {
			t.Errorf("pages of %d: %d exchanges, greatest page %d of %d", size, exchanges, greatest, pages)
		}
		if n := number(t, c, "SELECT count(*) FROM t"); n != rows {
			t.Errorf("pages of %d: %d rows, want %d", size, n, rows)
		}
		if err := quickCheck(c); err != nil {
			t.Errorf("pages of %d: %v", size, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func number(t *testing.T, c *sqlite.Conn, query string) (n int64) {
	t.Helper()
	err := sqlitex.ExecuteTransient(c, query, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
