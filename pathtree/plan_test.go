package pathtree

import (
	"strings"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

// Every query on the hot path must seek by all the terms it has.
func TestQueryPlans(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ query, want string }{
		{selectDentry, "SEARCH dentry USING PRIMARY KEY (parent=? AND name=? AND (branch,stamp)<(?,?))"},
		{selectInode, "SEARCH inode USING PRIMARY KEY (ino=? AND (branch,stamp)<(?,?))"},
		{selectXattr, "SEARCH xattr USING PRIMARY KEY (ino=? AND name=? AND (branch,stamp)<(?,?))"},
		{selectDir, "SEARCH dentry USING PRIMARY KEY (parent=? AND name>?)"},
		{selectPlaces, "SEARCH dentry USING COVERING INDEX dentry_by_ino (ino=? AND (parent,name)>(?,?))"},
	} {
		w.read(func(tx *schema.Tx) error {
			var plan []string
			s := tx.Stmt("EXPLAIN QUERY PLAN " + c.query)
			for {
				ok, err := s.Step()
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				plan = append(plan, s.ColumnText(3))
			}
			if got := strings.Join(plan, "; "); got != c.want {
				t.Errorf("%s\n got %s\nwant %s", c.query, got, c.want)
			}
			return nil
		})
	}
}
