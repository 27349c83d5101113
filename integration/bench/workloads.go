package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// workload is one row of the table: run works below a directory of the system
// under test. They run in the order of the list and build on each other.
type workload struct {
	name, says string
	unit       string
	amount     float64 // how many units one run does; 0 means the row shows seconds
	cold       bool    // caches are dropped before it
	warm       bool    // it runs once before it is timed
	after      string  // the workload whose leavings it uses
	large      bool    // it only reads a large file
	run        func(dir string) error
}

func (b *bench) workloads() []workload {
	files, big, reads := 10_000, int64(1<<30), 100_000
	if b.quick {
		files, big, reads = 1_000, 64<<20, 5_000
	}
	size := fmt.Sprintf("%d MiB", big>>20)
	n, mb := float64(files), float64(big)/1e6
	return []workload{
		{name: "untar", says: "untar GOROOT/src", unit: "s", run: func(dir string) error {
			to := filepath.Join(dir, "src")
			if err := os.Mkdir(to, 0o755); err != nil {
				return err
			}
			return command("", "tar", "-xf", b.source, "-C", to)
		}},
		{name: "stat", after: "untar", says: "stat of all of it, warm", unit: "s", warm: true, run: func(dir string) error { return statAll(filepath.Join(dir, "src")) }},
		{name: "stat-cold", after: "untar", says: "stat of all of it, cold", unit: "s", cold: true, run: func(dir string) error { return statAll(filepath.Join(dir, "src")) }},
		{name: "read-tree", after: "untar", says: "read all of it", unit: "s", run: func(dir string) error { return readAll(filepath.Join(dir, "src")) }},
		{name: "rm", after: "untar", says: "rm -rf of it", unit: "s", run: func(dir string) error {
			return command("", "rm", "-rf", filepath.Join(dir, "src"))
		}},
		{name: "git", says: "git clone and git status", unit: "s", run: func(dir string) error {
			to := filepath.Join(dir, "clone")
			if err := command("", "git", "clone", "-q", "--no-local", b.repo, to); err != nil {
				return err
			}
			return command(to, "git", "status", "--porcelain")
		}},
		{name: "git-status", after: "git", says: "git status again", unit: "s", run: func(dir string) error {
			return command(filepath.Join(dir, "clone"), "git", "status", "--porcelain")
		}},
		{name: "create", says: "create, write 4 KiB, close", unit: "files/s", amount: n, run: func(dir string) error {
			if err := os.Mkdir(filepath.Join(dir, "small"), 0o755); err != nil {
				return err
			}
			buf := make([]byte, 4096)
			return each(files, func(i int) error {
				rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), 7}).Read(buf)
				return os.WriteFile(small(dir, i), buf, 0o644)
			})
		}},
		{name: "open", after: "create", says: "open, read 4 KiB, close", unit: "files/s", amount: n, run: func(dir string) error {
			return each(files, func(i int) error { _, err := os.ReadFile(small(dir, i)); return err })
		}},
		{name: "chmod", after: "create", says: "chmod", unit: "/s", amount: n, run: func(dir string) error {
			return each(files, func(i int) error { return os.Chmod(small(dir, i), 0o600) })
		}},
		{name: "rename", after: "create", says: "rename", unit: "/s", amount: 2 * n, run: func(dir string) error {
			if err := each(files, func(i int) error { return os.Rename(small(dir, i), small(dir, i)+"-") }); err != nil {
				return err
			}
			return each(files, func(i int) error { return os.Rename(small(dir, i)+"-", small(dir, i)) })
		}},
		{name: "unlink", after: "create", says: "unlink", unit: "/s", amount: n, run: func(dir string) error {
			return each(files, func(i int) error { return os.Remove(small(dir, i)) })
		}},
		{name: "mkdir", says: "mkdir", unit: "/s", amount: n, run: func(dir string) error {
			if err := os.Mkdir(filepath.Join(dir, "dirs"), 0o755); err != nil {
				return err
			}
			return each(files, func(i int) error { return os.Mkdir(filepath.Join(dir, "dirs", fmt.Sprintf("d%06d", i)), 0o755) })
		}},
		{name: "write", says: "write " + size + " and close", unit: "MB/s", amount: mb, run: func(dir string) error {
			return writeBig(filepath.Join(dir, "big"), big)
		}},
		{name: "read-cold", after: "write", large: true, says: "read " + size + ", cold", unit: "MB/s", amount: mb, cold: true, run: func(dir string) error { return readFile(filepath.Join(dir, "big")) }},
		{name: "read-warm", after: "write", large: true, says: "read " + size + ", warm", unit: "MB/s", amount: mb, warm: true, run: func(dir string) error { return readFile(filepath.Join(dir, "big")) }},
		{name: "random", after: "write", large: true, says: "4 KiB random reads, warm", unit: "/s", amount: float64(reads), warm: true, run: func(dir string) error {
			return randomReads(filepath.Join(dir, "big"), big, reads)
		}},
		{name: "random-cold", after: "write", large: true, says: "4 KiB random reads, cold", unit: "/s", amount: float64(reads / 20), cold: true, run: func(dir string) error {
			return randomReads(filepath.Join(dir, "big"), big, reads/20)
		}},
	}
}

func small(dir string, i int) string {
	return filepath.Join(dir, "small", fmt.Sprintf("f%06d", i))
}

func each(n int, f func(i int) error) error {
	for i := range n {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

func statAll(root string) error {
	return filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			_, err = d.Info()
		}
		return err
	})
}

func readAll(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			_, err = os.ReadFile(path)
		}
		return err
	})
}

func writeBig(path string, size int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(buf)
	for off := int64(0); off < size; off += int64(len(buf)) {
		rng.Read(buf[:64]) // so that no two blocks are alike
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		if _, err := f.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func randomReads(path string, size int64, n int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	buf := make([]byte, 4096)
	return each(n, func(int) error {
		_, err := f.ReadAt(buf, rng.Int64N(size/4096)*4096)
		return err
	})
}
