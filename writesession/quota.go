package writesession

import (
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// roomStep is how many bytes a file grows before its bucket's quota is looked
// at again.
const roomStep = 1 << 20

// room fails with EDQUOT when the file at a size of size bytes would be more
// than the quota of its bucket has room for as far as can be told now: other
// open files have not published what they hold. Publishing has the last word.
// change must be held.
func (f *File) room(size int64) error {
	if size <= f.roomy || size <= f.mu.inode.Size {
		return nil
	}
	p := f.s.policies.Load()
	if p == nil || !p.limited[f.view.Bucket().ID] {
		return nil
	}
	return f.s.db.Read(func(tx *schema.Tx) error {
		b := f.view.Bucket()
		q, ok, err := f.view.Tree().Quota(tx, b.ID)
		if err != nil || !ok || q.MaxBytes == 0 {
			return err
		}
		left, _ := q.Left()
		if size-f.mu.inode.Size > left {
			return &pathtree.QuotaError{Bucket: b.Name, Max: q.MaxBytes, Held: q.Bytes}
		}
		f.roomy = min(size+roomStep, f.mu.inode.Size+left)
		return nil
	})
}
