package schema

import (
	"iter"

	"zombiezen.com/go/sqlite"
)

// Rows steps s, and yields nil for each row, to be read from s, or once the
// error that ends it.
func Rows(s *sqlite.Stmt) iter.Seq[error] {
	return func(yield func(error) bool) {
		for {
			ok, err := s.Step()
			if err != nil {
				yield(err)
				return
			}
			if !ok || !yield(nil) {
				return
			}
		}
	}
}

// Bytes returns a copy of a column of the row that s is at.
func Bytes(s *sqlite.Stmt, col int) []byte {
	b := make([]byte, s.ColumnLen(col))
	s.ColumnBytes(col, b)
	return b
}
