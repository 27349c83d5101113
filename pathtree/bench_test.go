package pathtree

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

const file, dir = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755

// deep returns the head of a chain of n branches, each of which holds the
// file fN in the root and its own version of the file hot.
func (w *world) deep(n int) *View {
	w.t.Helper()
	v := w.main
	w.make(v, "hot")
	w.make(v, "base")
	for i := range n {
		v = w.fork(v, fmt.Sprintf("deep%d", i), Origin{})
		w.setContent(v, "hot", fmt.Sprint(i))
		w.make(v, fmt.Sprintf("f%d", i))
	}
	return v
}

// wide makes n branches of main that each hold a version of hot, and returns
// the last.
func (w *world) wide(n int) (last *View) {
	w.t.Helper()
	w.make(w.main, "hot")
	w.make(w.main, "base")
	w.write(func(tx *schema.Tx) error {
		for i := range n {
			b, err := w.tree.CreateBranch(tx, w.bucket.ID, fmt.Sprintf("wide%d", i), Origin{Branch: w.main.Branch().ID})
			if err != nil {
				return err
			}
			if last, err = w.tree.View(tx, b.ID, 0); err != nil {
				return err
			}
			if i == n/2 {
				continue // one in the middle without
			}
			if _, err := last.Unlink(tx, last.Root(), "hot"); err != nil {
				return err
			}
			if _, err := last.Create(tx, last.Root(), "hot", NewInode{Mode: file}); err != nil {
				return err
			}
		}
		return nil
	})
	return last
}

func (w *world) benchLookup(b *testing.B, v *View, name string) {
	b.ReportAllocs()
	for b.Loop() {
		w.read(func(tx *schema.Tx) error {
			_, err := v.LookupInode(tx, v.Root(), name)
			return err
		})
	}
}

func BenchmarkChain(b *testing.B) {
	for _, depth := range []int{1, 10, 100, 1000} {
		w := newWorld(b)
		v := w.deep(depth - 1)
		for _, name := range []string{"hot", "base"} {
			b.Run(fmt.Sprintf("depth=%d/%s", depth, name), func(b *testing.B) { w.benchLookup(b, v, name) })
		}
		b.Run(fmt.Sprintf("depth=%d/view", depth), func(b *testing.B) {
			for b.Loop() {
				w.read(func(tx *schema.Tx) error { _, err := w.tree.View(tx, v.Branch().ID, 0); return err })
			}
		})
		b.Run(fmt.Sprintf("depth=%d/fork", depth), func(b *testing.B) {
			i := 0
			for b.Loop() {
				w.write(func(tx *schema.Tx) error {
					i++
					_, err := w.tree.CreateBranch(tx, w.bucket.ID, fmt.Sprintf("bench%d", i), Origin{Branch: v.Branch().ID})
					return err
				})
			}
		})
	}
	w := newWorld(b)
	v := w.wide(10000)
	mid := w.view("wide5000", 0)
	b.Run("wide=10000/own", func(b *testing.B) { w.benchLookup(b, v, "hot") })
	b.Run("wide=10000/main", func(b *testing.B) { w.benchLookup(b, w.main, "hot") })
	b.Run("wide=10000/middle", func(b *testing.B) { w.benchLookup(b, mid, "hot") })
}

func BenchmarkResolve6(b *testing.B) {
	w := newWorld(b)
	p := ""
	for i := range 5 {
		p += fmt.Sprintf("directory%d/", i)
		w.make(w.main, p)
	}
	w.make(w.main, p+"file")
	b.ReportAllocs()
	for b.Loop() {
		w.read(func(tx *schema.Tx) error { _, err := w.main.Resolve(tx, p+"file"); return err })
	}
}

func BenchmarkCreate(b *testing.B) {
	w := newWorld(b)
	w.make(w.main, "d/")
	d := w.mustStat(w.main, "d")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Create(tx, d.Ino, fmt.Sprintf("file%d", i), NewInode{Mode: file})
			return err
		})
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Create(tx, w.main.Root(), "temporary", NewInode{Mode: file})
			return err
		})
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Unlink(tx, w.main.Root(), "temporary")
			return err
		})
	}
}

func BenchmarkMkdir(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Create(tx, w.main.Root(), fmt.Sprintf("dir%d", i), NewInode{Mode: dir})
			return err
		})
	}
}

func BenchmarkSetAttr(b *testing.B) {
	w := newWorld(b)
	in := w.make(w.main, "f")
	b.ReportAllocs()
	mode := uint32(0o600)
	for b.Loop() {
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.SetAttr(tx, in.Ino, SetAttr{Mode: &mode})
			return err
		})
	}
}

func BenchmarkSetContent(b *testing.B) {
	w := newWorld(b)
	in := w.make(w.main, "f")
	b.ReportAllocs()
	c := Content{Size: 1}
	for b.Loop() {
		c.Hash[0]++
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.SetContent(tx, in.Ino, c)
			return err
		})
	}
}

// big makes 100 directories of n/100 files each in main:top.
func (w *world) big(n int) {
	w.t.Helper()
	top := w.make(w.main, "top/")
	for i := range 100 {
		w.write(func(tx *schema.Tx) error {
			d, err := w.main.Create(tx, top.Ino, fmt.Sprintf("d%d", i), NewInode{Mode: dir})
			for j := 0; err == nil && j < n/100; j++ {
				_, err = w.main.Create(tx, d.Ino, fmt.Sprintf("file%d", j), NewInode{Mode: file})
			}
			return err
		})
	}
}

func BenchmarkBigTree(b *testing.B) {
	w := newWorld(b)
	w.big(100000)
	names := []string{"top", "pot"}
	b.Run("rename", func(b *testing.B) {
		for b.Loop() {
			w.write(func(tx *schema.Tx) error {
				_, err := w.main.Rename(tx, w.main.Root(), names[0], w.main.Root(), names[1], 0)
				return err
			})
			names[0], names[1] = names[1], names[0]
		}
	})
	i := 0
	b.Run("fork", func(b *testing.B) {
		for b.Loop() {
			i++
			w.write(func(tx *schema.Tx) error {
				_, err := w.tree.CreateBranch(tx, w.bucket.ID, fmt.Sprint("f", i), Origin{Branch: w.main.Branch().ID})
				return err
			})
		}
	})
	b.Run("view", func(b *testing.B) {
		for b.Loop() {
			w.read(func(tx *schema.Tx) error {
				_, err := w.tree.View(tx, w.main.Branch().ID, 0)
				return err
			})
		}
	})
}

func BenchmarkReadDir(b *testing.B) {
	w := newWorld(b)
	d := w.make(w.main, "d/")
	w.write(func(tx *schema.Tx) error {
		for i := range 10000 {
			if _, err := w.main.Create(tx, d.Ino, fmt.Sprintf("file%d", i), NewInode{Mode: file}); err != nil {
				return err
			}
		}
		return nil
	})
	b.Run("n=10000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.read(func(tx *schema.Tx) error { _, err := w.main.ReadDir(tx, d.Ino, "", 0); return err })
		}
	})
	b.Run("plus/n=100", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.read(func(tx *schema.Tx) error { _, _, err := w.main.ReadDirPlus(tx, d.Ino, "file5", 100); return err })
		}
	})
}
