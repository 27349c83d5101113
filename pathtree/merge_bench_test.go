package pathtree

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// forest makes n files, a hundred to a directory, and a branch with 100 edits.
func forest(b *testing.B, n int) (w *world, dev *View) {
	w = newWorld(b)
	for d := 0; d < n/100; d++ {
		w.write(func(tx *schema.Tx) error {
			dir, err := w.main.Create(tx, w.main.Root(), fmt.Sprintf("d%d", d), NewInode{Mode: unix.S_IFDIR | 0o755})
			if err != nil {
				return err
			}
			for f := range 100 {
				if _, err := w.main.Create(tx, dir.Ino, fmt.Sprintf("f%d", f), NewInode{Mode: unix.S_IFREG | 0o644}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	dev = w.fork(w.main, "dev", Origin{})
	w.write(func(tx *schema.Tx) error {
		for k := range 100 {
			in, err := dev.Resolve(tx, fmt.Sprintf("d%d/f%d", k%10, k))
			if err != nil {
				return err
			}
			s := fmt.Sprint(k)
			if _, err := dev.SetContent(tx, in.Ino, Content{Hash: blobstore.Sum([]byte(s)), Size: int64(len(s))}); err != nil {
				return err
			}
		}
		return nil
	})
	return w, dev
}

func BenchmarkDiff100(b *testing.B) {
	for _, n := range []int{1000, 100000} {
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) {
			w, dev := forest(b, n)
			for b.Loop() {
				if got := len(w.diff(w.main, dev)); got != 100 {
					b.Fatal(got)
				}
			}
		})
	}
}

func BenchmarkMerge100(b *testing.B) {
	for _, n := range []int{1000, 100000} {
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) {
			w, dev := forest(b, n)
			k := 0
			for b.Loop() {
				dst := w.fork(w.main, fmt.Sprint("m", k), Origin{})
				k++
				if r, err := w.merge(dev, dst, MergeOptions{}); err != nil || len(r.Applied) != 100 {
					b.Fatal(len(r.Applied), err)
				}
			}
		})
	}
}
