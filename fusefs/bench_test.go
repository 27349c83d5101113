package fusefs

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// benchFS is a file system that no kernel asks: what a request costs here,
// beside the 25 to 35 µs that one costs anyway.
func benchFS(b *testing.B) *fileSystem {
	b.Helper()
	c := testStore(b, b.TempDir())
	fs := newFileSystem(c, mainBranch)
	root, err := fs.root()
	if err != nil {
		b.Fatal(err)
	}
	fs.nodes = newNodes(root)
	return fs
}

// cpuTime is what this process has used, which on a busy machine says more
// than the clock.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func reportCPU(b *testing.B, before time.Duration) {
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
}

func ok(b *testing.B, st fuse.Status) {
	if !st.Ok() {
		b.Helper()
		b.Fatal(st)
	}
}

func header(id uint64) fuse.InHeader { return fuse.InHeader{NodeId: id} }

// benchFile makes a file as creat(2), write(2) and close(2) do.
func benchFile(b *testing.B, fs *fileSystem, dir uint64, name string, content []byte) uint64 {
	var out fuse.CreateOut
	ok(b, fs.Create(nil, &fuse.CreateIn{InHeader: header(dir), Flags: syscall.O_WRONLY, Mode: 0o644}, name, &out))
	if _, st := fs.Write(nil, &fuse.WriteIn{InHeader: header(out.NodeId), Fh: out.Fh}, content); !st.Ok() {
		b.Fatal(st)
	}
	ok(b, fs.Flush(nil, &fuse.FlushIn{InHeader: header(out.NodeId), Fh: out.Fh}))
	fs.Release(nil, &fuse.ReleaseIn{InHeader: header(out.NodeId), Fh: out.Fh})
	return out.NodeId
}

func benchDir(b *testing.B, fs *fileSystem, name string) uint64 {
	var out fuse.EntryOut
	ok(b, fs.Mkdir(nil, &fuse.MkdirIn{InHeader: header(1), Mode: 0o755}, name, &out))
	return out.NodeId
}

func BenchmarkCreateWriteClose(b *testing.B) {
	fs := benchFS(b)
	content := make([]byte, 4096)
	var dir uint64
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		if i%200 == 0 {
			dir = benchDir(b, fs, fmt.Sprintf("d%d", i))
		}
		copy(content, fmt.Sprint(i))
		benchFile(b, fs, dir, fmt.Sprintf("f%d", i), content)
		var out fuse.AttrOut
		ok(b, fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(dir)}, &out))
		i++
	}
}

func BenchmarkMkdir(b *testing.B) {
	fs := benchFS(b)
	dir := uint64(1)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		if i%200 == 0 {
			dir = benchDir(b, fs, fmt.Sprintf("d%d", i))
		}
		var out fuse.EntryOut
		ok(b, fs.Mkdir(nil, &fuse.MkdirIn{InHeader: header(dir), Mode: 0o755}, fmt.Sprintf("f%d", i), &out))
		i++
	}
}

// benchTree makes n files of 4 KiB, 200 in a directory.
func benchTree(b *testing.B, fs *fileSystem, n int) (dirs, files []uint64) {
	content := make([]byte, 4096)
	for i := range n {
		if i%200 == 0 {
			dirs = append(dirs, benchDir(b, fs, fmt.Sprintf("d%d", i/200)))
		}
		copy(content, fmt.Sprint(i))
		files = append(files, benchFile(b, fs, dirs[i/200], fmt.Sprintf("f%d", i), content))
	}
	return dirs, files
}

const benchN = 2000

func BenchmarkLookup(b *testing.B) {
	fs := benchFS(b)
	dirs, _ := benchTree(b, fs, benchN)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		h := header(dirs[i%benchN/200])
		var out fuse.EntryOut
		ok(b, fs.Lookup(nil, &h, fmt.Sprintf("f%d", i%benchN), &out))
		i++
	}
}

func BenchmarkLookupMissing(b *testing.B) {
	fs := benchFS(b)
	dirs, _ := benchTree(b, fs, benchN)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		h := header(dirs[i%benchN/200])
		var out fuse.EntryOut
		ok(b, fs.Lookup(nil, &h, fmt.Sprintf("g%d", i%benchN), &out))
		i++
	}
}

func BenchmarkGetAttr(b *testing.B) {
	fs := benchFS(b)
	_, files := benchTree(b, fs, benchN)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		var out fuse.AttrOut
		ok(b, fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(files[i%benchN])}, &out))
		i++
	}
}

func BenchmarkOpenReadClose(b *testing.B) {
	fs := benchFS(b)
	_, files := benchTree(b, fs, benchN)
	buf := make([]byte, 4096)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		id := files[i%benchN]
		var out fuse.OpenOut
		ok(b, fs.Open(nil, &fuse.OpenIn{InHeader: header(id)}, &out))
		if _, st := fs.Read(nil, &fuse.ReadIn{InHeader: header(id), Fh: out.Fh, Size: 4096}, buf); !st.Ok() {
			b.Fatal(st)
		}
		fs.Release(nil, &fuse.ReleaseIn{InHeader: header(id), Fh: out.Fh})
		i++
	}
}

func BenchmarkChmod(b *testing.B) {
	fs := benchFS(b)
	_, files := benchTree(b, fs, benchN)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		in := &fuse.SetAttrIn{}
		in.NodeId, in.Valid, in.Mode = files[i%benchN], fuse.FATTR_MODE, uint32(0o600+i%8)
		var out fuse.AttrOut
		ok(b, fs.SetAttr(nil, in, &out))
		i++
	}
}

func BenchmarkRename(b *testing.B) {
	fs := benchFS(b)
	dirs, _ := benchTree(b, fs, benchN)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		k := i % benchN
		old, renamed := fmt.Sprintf("f%d", k), fmt.Sprintf("r%d", k)
		if i/benchN%2 == 1 {
			old, renamed = renamed, old
		}
		dir := dirs[k/200]
		ok(b, fs.Rename(nil, &fuse.RenameIn{InHeader: header(dir), Newdir: dir}, old, renamed))
		i++
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	fs := benchFS(b)
	dirs, _ := benchTree(b, fs, benchN)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		name := fmt.Sprintf("x%d", i)
		h := header(dirs[i%len(dirs)])
		var out fuse.EntryOut
		ok(b, fs.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: syscall.S_IFREG | 0o644}, name, &out))
		ok(b, fs.Unlink(nil, &h, name))
		fs.Forget(out.NodeId, 1)
		i++
	}
}

func BenchmarkReadDirPlus(b *testing.B) {
	fs := benchFS(b)
	dirs, _ := benchTree(b, fs, benchN)
	buf := make([]byte, 64<<10)
	i := 0
	defer reportCPU(b, cpuTime())
	for b.Loop() {
		id := dirs[i%len(dirs)]
		var open fuse.OpenOut
		ok(b, fs.OpenDir(nil, &fuse.OpenIn{InHeader: header(id)}, &open))
		out := fuse.NewDirEntryList(buf, 0)
		ok(b, fs.ReadDirPlus(nil, &fuse.ReadIn{InHeader: header(id), Fh: open.Fh, Size: uint32(len(buf))}, out))
		fs.ReleaseDir(&fuse.ReleaseIn{InHeader: header(id), Fh: open.Fh})
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200, "ns/entry")
}
