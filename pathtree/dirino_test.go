package pathtree

import (
	"testing"

	"github.com/alkdev/alkfs/schema"
)

func TestDirectoryMadeAgainHasANewInode(t *testing.T) {
	w := newWorld(t)
	v := w.view("main", 0)
	seen := map[Ino]int{}
	for i := range 300 {
		in := w.make(v, "lock/")
		if before, again := seen[in.Ino]; again {
			t.Fatalf("round %d has the inode of round %d", i, before)
		}
		seen[in.Ino] = i
		w.write(func(tx *schema.Tx) error {
			_, err := v.Rmdir(tx, v.Root(), "lock")
			return err
		})
	}
}
