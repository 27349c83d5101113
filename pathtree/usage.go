package pathtree

import "github.com/alkdev/alkfs/schema"

// BranchUsage is what one branch has of its own, apart from what it shares with
// those it was forked from.
type BranchUsage struct {
	Bucket, Branch string
	Versions       int64 // of inodes, superseded ones too
	Bytes          int64 // of their contents, each version counted
}

// Usage returns what each branch has of its own, by name. It reads every inode
// version: give it a snapshot.
func (t *Tree) Usage(tx *schema.Tx) (list []BranchUsage, err error) {
	s := tx.Stmt(`SELECT bucket.name, branch.name, coalesce(n, 0), coalesce(bytes, 0)
		FROM branch JOIN bucket ON bucket.id = branch.bucket
		LEFT JOIN (SELECT branch AS id, count(*) AS n, sum(size) FILTER (WHERE hash IS NOT NULL) AS bytes FROM inode GROUP BY branch) AS own
			ON own.id = branch.id
		WHERE branch.deleted IS NULL ORDER BY bucket.name, branch.name`)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return list, err
		}
		list = append(list, BranchUsage{s.ColumnText(0), s.ColumnText(1), s.ColumnInt64(2), s.ColumnInt64(3)})
	}
}
