package writesession

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// BenchmarkCreate4K is a file made, written and closed; the SQL of it is
// measured by sql.
func BenchmarkCreate4K(b *testing.B) {
	p := fill(4096, 0)
	next := func(i int) []byte { p[0], p[1], p[2] = byte(i), byte(i>>8), byte(i>>16); return p }
	made := func(w *world, i int) (in pathtree.Inode) {
		w.write(func(tx *schema.Tx) (err error) {
			in, err = w.main.Create(tx, w.main.Root(), fmt.Sprint(i), pathtree.NewInode{Mode: 0o644})
			return err
		})
		return in
	}
	b.Run("session", func(b *testing.B) {
		w := newWorld(b, Options{})
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			f := w.openInode(w.main, made(w, i))
			w.put(f, 0, next(i))
			if err := f.Flush(ctx); err != nil {
				b.Fatal(err)
			}
			w.shut(f)
			i++
		}
	})
	b.Run("sql", func(b *testing.B) {
		w := newWorld(b, Options{})
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			in := made(w, i)
			next(i)
			w.write(func(tx *schema.Tx) error {
				h, err := w.blobs.PutInline(tx, p)
				if err == nil {
					_, err = w.main.SetContent(tx, in.Ino, pathtree.Content{Hash: h, Size: 4096})
				}
				return err
			})
			i++
		}
	})
}

// BenchmarkPutTree is what a put of a tree comes to: files of 10 KiB, twelve to
// a directory, each committed before the next is made.
func BenchmarkPutTree(b *testing.B) {
	w := newWorld(b, Options{})
	p := fill(10<<10, 0)
	var dir pathtree.Inode
	i := 0
	for b.Loop() {
		var in pathtree.Inode
		w.write(func(tx *schema.Tx) (err error) {
			if i%12 == 0 {
				dir, err = w.main.Create(tx, w.main.Root(), fmt.Sprint("dir", i), pathtree.NewInode{Mode: unix.S_IFDIR | 0o755})
				if err != nil {
					return err
				}
			}
			in, err = w.main.Create(tx, dir.Ino, fmt.Sprint("file", i), pathtree.NewInode{Mode: 0o644})
			return err
		})
		p[0], p[1], p[2] = byte(i), byte(i>>8), byte(i>>16)
		f := w.openInode(w.main, in)
		w.put(f, 0, p)
		w.publish(f)
		w.shut(f)
		if err := w.db.Commit(); err != nil {
			b.Fatal(err)
		}
		w.db.Ahead() // as sftpsrv does when it has answered
		i++
	}
}

func BenchmarkWrite1GiB(b *testing.B) {
	w := newWorld(b, Options{})
	p := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{})
	r.Read(p)
	b.SetBytes(1 << 30)
	i := 0
	for b.Loop() {
		f := w.create(w.main, fmt.Sprint(i))
		for off := int64(0); off < 1<<30; off += 1 << 20 {
			p[0]++
			w.put(f, off, p)
		}
		w.publish(f)
		w.shut(f)
		w.write(func(tx *schema.Tx) error {
			_, err := w.main.Unlink(tx, w.main.Root(), fmt.Sprint(i))
			return err
		})
		i++
	}
}

// benchFile makes a published file of n bytes.
func benchFile(b *testing.B, w *world, n int) *File {
	f := w.create(w.main, "f")
	p := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(p)
	for off := 0; off < n; off += len(p) {
		p[0]++
		w.put(f, int64(off), p[:min(len(p), n-off)])
	}
	w.publish(f)
	b.ReportAllocs()
	return f
}

func BenchmarkOverwrite4KIn256MiB(b *testing.B) {
	w := newWorld(b, Options{})
	f := benchFile(b, w, 256<<20)
	p := fill(4096, 1)
	for b.Loop() {
		p[0]++
		w.put(f, rand.Int64N(256<<20-4096), p)
		w.publish(f)
	}
}

func BenchmarkRandomWrites4KIn256MiB(b *testing.B) {
	w := newWorld(b, Options{})
	f := benchFile(b, w, 256<<20)
	p := fill(4096, 1)
	b.SetBytes(4096)
	for b.Loop() {
		w.put(f, rand.Int64N(256<<20-4096), p)
	}
	f.Abort()
}

func BenchmarkAppend100(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10, 16 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			w := newWorld(b, Options{})
			f := benchFile(b, w, size)
			p := fill(100, 1)
			i := 0
			for b.Loop() {
				if _, err := f.Append(p); err != nil {
					b.Fatal(err)
				}
				if i++; i%100 == 0 { // as a program that keeps its log open, and is flushed by its children
					if err := f.Flush(ctx); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkFsync(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			w := newWorld(b, Options{})
			f := benchFile(b, w, size)
			p := fill(100, 1)
			for b.Loop() {
				w.put(f, rand.Int64N(int64(size-100)), p)
				if err := f.Sync(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadAt4K(b *testing.B) {
	for _, size := range []int{8 << 10, 256 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			w := newWorld(b, Options{})
			f := benchFile(b, w, size)
			p := make([]byte, 4096)
			b.SetBytes(4096)
			for b.Loop() {
				if _, err := f.ReadAt(p, rand.Int64N(int64(size)/4096)*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenReadClose(b *testing.B) {
	w := newWorld(b, Options{})
	f := benchFile(b, w, 4096)
	in := f.Inode()
	w.shut(f)
	p := make([]byte, 4096)
	for b.Loop() {
		f := w.openInode(w.main, in)
		if _, err := f.ReadAt(p, 0); err != nil {
			b.Fatal(err)
		}
		w.shut(f)
	}
}
