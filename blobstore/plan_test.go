package blobstore

import (
	"strings"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

// Marking looks inode versions up by hash rather than scanning them per blob.
func TestMarkUsesIndex(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	var plan strings.Builder
	err := s.db.Read(func(tx *schema.Tx) error {
		q := tx.Stmt("EXPLAIN QUERY PLAN SELECT hash FROM blob WHERE created < ? AND " + unreferenced)
		q.BindInt64(1, 0)
		q.BindInt64(2, 0)
		for {
			more, err := q.Step()
			if err != nil || !more {
				return err
			}
			plan.WriteString(q.ColumnText(3) + "\n")
		}
	})
	if err != nil || !strings.Contains(plan.String(), "inode_by_hash") {
		t.Errorf("%v, plan:\n%s", err, plan.String())
	}
}
