package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/blobstore"
)

// contentOptions say what is compared.
type contentOptions struct {
	size  int64 // bytes
	conns []int
	link  linkOptions
	mount bool // read it through a mount of the other node
}

// turn is what one transfer took.
type turn struct {
	rate     float64 // MB/s
	cpu      float64 // seconds of both sides
	from, to int     // MiB of memory at most, of the sides
}

// compareContent moves the content of one file from node to node, and as many
// plain bytes over quic-go, taking turns.
func compareContent(bin, dir string, o contentOptions) error {
	big := filepath.Join(dir, "big")
	if err := makeNoise(big, o.size); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Println("| connections | plain, thrown away | plain, to a file | alkfs | of thrown away | of a file | CPU s, plain and alkfs | memory MiB, alkfs from and to |")
	fmt.Println("|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, n := range o.conns {
		gone, err := rawTurn(self, "", n, o)
		if err != nil {
			return err
		}
		file, err := rawTurn(self, filepath.Join(dir, "copy"), n, o)
		if err != nil {
			return err
		}
		ours, err := nodesTurn(bin, dir, big, n, o)
		if err != nil {
			return err
		}
		fmt.Printf("| %d | %.0f MB/s | %.0f MB/s | %.0f MB/s | %.2f | %.2f | %.1f, %.1f | %d, %d |\n", n, gone.rate, file.rate, ours.rate,
			ours.rate/gone.rate, ours.rate/file.rate, file.cpu, ours.cpu, ours.from, ours.to)
	}
	return nil
}

// warm uses as much memory as the turn to come will, for files, and frees it: a
// virtual machine may have given free memory back to its host, and whoever needs
// it next waits for seconds.
func warm(size int64) error {
	f, err := os.CreateTemp("", "alkfs-bench-warm-")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	b := make([]byte, rawPiece)
	for n := int64(0); n < size+size/4; n += rawPiece {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func makeNoise(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		return err
	}
	return f.Close()
}

// rawTurn moves plain bytes, to a file if path is not "".
func rawTurn(self, path string, conns int, o contentOptions) (t turn, err error) {
	serve := exec.Command(self, "raw-serve")
	in, err := serve.StdinPipe()
	if err != nil {
		return t, err
	}
	out, err := serve.StdoutPipe()
	if err != nil {
		return t, err
	}
	if err := serve.Start(); err != nil {
		return t, err
	}
	defer serve.Wait()
	defer in.Close()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return t, err
	}
	at, stop, err := o.link.between(strings.TrimSpace(addr))
	if err != nil {
		return t, err
	}
	defer stop()
	defer os.Remove(path)
	if err := warm(o.size); err != nil {
		return t, err
	}
	began, before := time.Now(), cpuSeconds(serve.Process.Pid)
	fetch := exec.Command(self, "raw-fetch", at, strconv.FormatInt(o.size, 10), strconv.Itoa(conns), path)
	fetch.Stderr = os.Stderr
	if err := fetch.Run(); err != nil {
		return t, err
	}
	t.rate = float64(o.size) / 1e6 / time.Since(began).Seconds()
	t.cpu = cpuSeconds(serve.Process.Pid) - before + fetch.ProcessState.UserTime().Seconds() + fetch.ProcessState.SystemTime().Seconds()
	return t, nil
}

// nodesTurn brings the content of a file to a new node.
func nodesTurn(bin, dir, big string, conns int, o contentOptions) (t turn, err error) {
	a, b := &node{bin: bin, dir: filepath.Join(dir, "a")}, &node{bin: bin, dir: filepath.Join(dir, "b")}
	defer os.RemoveAll(a.dir)
	defer os.RemoveAll(b.dir)
	defer a.stop()
	defer b.stop()
	for _, args := range [][]string{{"bucket", "create", "work"}, {"put", "--sync", big, "work:big"}} {
		if _, err := a.alkfs(args...); err != nil {
			return t, err
		}
	}
	addr := map[*node][]string{}
	for _, n := range []*node{a, b} {
		if n == b {
			ticket, err := a.alkfs("share", "work")
			if err == nil {
				_, err = b.alkfs("join", strings.TrimSpace(ticket))
			}
			if err != nil {
				return t, err
			}
		}
		port, err := freePort()
		if err != nil {
			return t, err
		}
		own := fmt.Sprint("127.0.0.1:", port)
		at, stop, err := o.link.between(own)
		if err != nil {
			return t, err
		}
		defer stop()
		addr[n] = []string{"--sync", own, "--announce", at, "--sync-connections", strconv.Itoa(conns)}
		if err := n.serve(addr[n]...); err != nil {
			return t, err
		}
	}
	if _, err := a.alkfs("sync", "wait", "work", "--timeout", "1m"); err != nil {
		return t, err
	}
	if err := warm(o.size); err != nil {
		return t, err
	}
	bring := func() (time.Duration, error) { return b.bring("big", o.size) }
	if o.mount {
		b.stop() // it can be mounted now that it has come
		at := filepath.Join(dir, "mount")
		if err := os.MkdirAll(at, 0o755); err != nil {
			return t, err
		}
		if err := b.serve(append(addr[b], "--mount", "work="+at)...); err != nil {
			return t, err
		}
		if _, err := b.alkfs("sync", "wait", "work", "--timeout", "1m"); err != nil {
			return t, err
		}
		bring = func() (time.Duration, error) { return readThrough(filepath.Join(at, "big")) }
	}
	before := cpuSeconds(a.cmd.Process.Pid) + cpuSeconds(b.cmd.Process.Pid)
	took, err := bring()
	t.rate = float64(o.size) / 1e6 / took.Seconds()
	t.cpu = cpuSeconds(a.cmd.Process.Pid) + cpuSeconds(b.cmd.Process.Pid) - before
	t.from, t.to = a.peak(), b.peak()
	return t, err
}

// bring has the node fetch the content of a file, and waits until it is there.
func (n *node) bring(name string, size int64) (took time.Duration, err error) {
	ctx := context.Background()
	s, err := alkfs.Open(ctx, n.dir, alkfs.Options{MustExist: true})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	v, err := s.View(alkfs.Spec{Bucket: "work"})
	if err != nil {
		return 0, err
	}
	fi, err := v.Stat(name)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = s.Blobs().Fetch(ctx, fi.Sys().(alkfs.Inode).Hash, size, blobstore.Pinned)
	return time.Since(began), err
}

// readThrough reads a file from its beginning to its end, 128 KiB at a time.
func readThrough(path string) (time.Duration, error) {
	began := time.Now()
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 128<<10))
	return time.Since(began), err
}

// cpuSeconds returns the processor time of a process so far, and of its children
// that have ended.
func cpuSeconds(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	ticks := 0
	for _, f := range strings.Fields(rest)[11:15] {
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return float64(ticks) / 100
}
