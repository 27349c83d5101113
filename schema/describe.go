package schema

import (
	"fmt"
	"strings"
)

// pragmas are those that Describe tells.
var pragmas = []string{
	"application_id", "user_version", "page_size", "page_count", "freelist_count", "journal_mode", "synchronous",
	"wal_autocheckpoint", "cache_size", "foreign_keys", "encoding", "auto_vacuum", "compile_options",
}

// Describe returns the structure of the database for a bug report: the
// statements that made it, its pragmas, and the number of rows of each table,
// for which it reads all of it. It tells nothing that is stored.
func Describe(tx *Tx) (string, error) {
	var b strings.Builder
	for _, p := range pragmas {
		values, err := columnTexts(tx, "PRAGMA "+p)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s: %s\n", p, strings.Join(values, " "))
	}
	tables, err := columnTexts(tx, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
	if err != nil {
		return "", err
	}
	b.WriteByte('\n')
	for _, t := range tables {
		n, err := columnTexts(tx, `SELECT count(*) FROM "`+t+`"`)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s: %s rows\n", t, strings.Join(n, ""))
	}
	statements, err := columnTexts(tx, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "\n%s;\n", strings.Join(statements, ";\n"))
	return b.String(), nil
}

// columnTexts returns the first column of what query selects.
func columnTexts(tx *Tx, query string) (list []string, err error) {
	s, _, err := tx.conn.PrepareTransient(query)
	if err != nil {
		return nil, err
	}
	defer s.Finalize()
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return list, err
		}
		list = append(list, s.ColumnText(0))
	}
}
