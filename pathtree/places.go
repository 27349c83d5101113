package pathtree

import (
	"slices"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// Places returns where the content h is a file's present content, as
// BUCKET/BRANCH:PATH, sorted. A branch that sees a file through its parent is
// not listed besides that. None means that only history shows h.
func (t *Tree) Places(tx *schema.Tx, h blobstore.Hash) ([]string, error) {
	type version struct {
		ino    Ino
		branch int64
	}
	var found []version
	s := tx.Stmt("SELECT DISTINCT ino, branch FROM inode WHERE hash = ?")
	s.BindBytes(1, h[:])
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		found = append(found, version{Ino(s.ColumnInt64(0)), s.ColumnInt64(1)})
	}
	var places []string
	for _, f := range found {
		v, err := t.View(tx, f.branch, 0)
		if err != nil {
			continue // the branch was removed
		}
		in, err := v.Inode(tx, f.ino)
		if err != nil || in.Hash != h {
			continue
		}
		paths, err := v.Paths(tx, f.ino)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			places = append(places, v.Bucket().Name+"/"+v.Branch().Name+":"+p)
		}
	}
	slices.Sort(places)
	return places, nil
}
