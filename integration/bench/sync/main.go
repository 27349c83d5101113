// Command sync measures what two nodes on one machine need to share a bucket:
// the first sync of many small files, one change afterwards, from its making on one
// node until a program on the other hears of it, a restart, and what they exchange
// when they meet after ten changes apart, each with its processor time and memory.
// With -content
// it measures instead the content of a large file against plain bytes over
// quic-go, over a link that may be slow and lossy.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	alkfs := flag.String("alkfs", "", "alkfs binary (default: built)")
	files := flag.Int("files", 100_000, "files")
	per := flag.Int("per", 100, "files to a directory")
	changes := flag.Int("changes", 40, "changes afterwards")
	size := flag.Int64("content", 0, "MiB of content to move instead")
	conns := flag.String("conns", "1,2,4", "numbers of connections to move it over")
	var o contentOptions
	flag.DurationVar(&o.link.rtt, "rtt", 0, "there and back, of the link")
	flag.BoolVar(&o.mount, "read", false, "have it read through a mount")
	flag.Float64Var(&o.link.loss, "loss", 0, "of the packets of each direction, 0 to 1")
	flag.Parse()
	for n := range strings.SplitSeq(*conns, ",") {
		i, _ := strconv.Atoi(n)
		o.conns = append(o.conns, i)
	}
	o.size = *size << 20
	if err := command(*alkfs, tree{*files, *per}, *changes, o); err != nil {
		fmt.Fprintln(os.Stderr, "sync:", err)
		os.Exit(1)
	}
}

// command measures, or is a process of a measurement.
func command(bin string, t tree, changes int, o contentOptions) error {
	switch flag.Arg(0) {
	case "raw-serve":
		return rawServe()
	case "raw-fetch":
		size, _ := strconv.ParseInt(flag.Arg(2), 10, 64)
		conns, _ := strconv.Atoi(flag.Arg(3))
		return rawFetch(flag.Arg(1), size, conns, flag.Arg(4))
	}
	dir, err := os.MkdirTemp("", "alkfs-bench-sync-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if bin == "" {
		bin = filepath.Join(dir, "alkfs")
		if out, err := exec.Command("go", "build", "-o", bin, "./cmd/alkfs").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	if o.size > 0 {
		return compareContent(bin, dir, o)
	}
	return scale(bin, dir, t, changes)
}

// node is a store and the process that serves it.
type node struct {
	bin, dir string
	cmd      *exec.Cmd
}

// oneByOne makes directories in one of the tree's on a, and returns how long after the
// moment that the event of each bears it came to a watch on b.
func oneByOne(a, b *node, n int) ([]time.Duration, error) {
	watch := exec.Command(b.bin, "--store", b.dir, "--json", "watch", "work", "--since", "0")
	out, err := watch.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := watch.Start(); err != nil {
		return nil, err
	}
	defer func() { watch.Process.Kill(); watch.Wait() }()
	seen := make(chan time.Duration, n+1)
	go func() {
		defer close(seen)
		for s := bufio.NewScanner(out); s.Scan(); {
			var e struct {
				Time time.Time
				Path string
			}
			if json.Unmarshal(s.Bytes(), &e) == nil && strings.Contains(e.Path, "one-change") {
				seen <- time.Since(e.Time)
			}
		}
	}()
	var took []time.Duration
	for i := range n + 1 {
		if _, err := a.alkfs("mkdir", fmt.Sprint("work:0/0/one-change", i)); err != nil {
			return nil, err
		}
		d, ok := <-seen
		if !ok {
			return nil, fmt.Errorf("the watch ended")
		}
		if i > 0 { // the first may have come before the watch began
			took = append(took, d)
		}
	}
	slices.Sort(took)
	return took, nil
}

func (n *node) alkfs(args ...string) (string, error) {
	cmd := exec.Command(n.bin, append([]string{"--store", n.dir}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("alkfs %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return string(out), nil
}

// serve starts the node's process, and returns when it synchronises and has said
// where.
func (n *node) serve(args ...string) error {
	n.cmd = exec.Command(n.bin, append([]string{"--store", n.dir, "serve", "--sftp", ""}, args...)...)
	if err := n.cmd.Start(); err != nil {
		return err
	}
	for range 12_000 {
		if _, err := os.Stat(filepath.Join(n.dir, "sync.json")); err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("serve does not start")
}

func (n *node) stop() {
	if n.cmd != nil {
		n.cmd.Process.Signal(os.Interrupt)
		n.cmd.Wait()
		n.cmd = nil
	}
}

// peak returns the most memory that the node's process had, in MiB.
func (n *node) peak() int { return memory(n.cmd.Process.Pid, "VmHWM:") }

// memory returns a line of a process's status, in MiB.
func memory(pid int, line string) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), line)
	var kib int
	fmt.Sscan(rest, &kib)
	return kib >> 10
}
