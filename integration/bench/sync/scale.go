package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tree is what is shared: so many files, and of them so many to a directory.
type tree struct{ files, per int }

// hostFiles is how many files are made on the host; of more, the same are put
// several times.
const hostFiles = 100_000

// put makes the tree in the bucket.
func (t tree) put(n *node, dir string) error {
	host := filepath.Join(dir, "host")
	at := min(t.files, hostFiles)
	for i := range at {
		d := filepath.Join(host, fmt.Sprint(i/t.per))
		if i%t.per == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint("file", i)), fmt.Appendln(nil, i), 0o644); err != nil {
			return err
		}
	}
	if _, err := n.alkfs("bucket", "create", "work"); err != nil {
		return err
	}
	for i := range (t.files + at - 1) / at {
		if _, err := n.alkfs("put", "-r", host, fmt.Sprint("work:", i)); err != nil {
			return err
		}
	}
	return nil
}

// used returns the processor time of a node, in seconds.
func (n *node) used() float64 {
	if n.cmd == nil {
		return 0
	}
	return cpuSeconds(n.cmd.Process.Pid)
}

// says tells of processor time and memory at most since before.
func (n *node) says(before float64) string {
	return fmt.Sprintf("%.1f CPU s, %d MiB", n.used()-before, n.peak())
}

// scale shares a tree between two nodes and measures.
func scale(bin, dir string, t tree, changes int) error {
	a, b := &node{bin: bin, dir: filepath.Join(dir, "a")}, &node{bin: bin, dir: filepath.Join(dir, "b")}
	defer a.stop()
	defer b.stop()
	began := time.Now()
	if err := t.put(a, dir); err != nil {
		return err
	}
	fmt.Printf("%d files, %d to a directory, made and put in %.1f s\n", t.files, t.per, time.Since(began).Seconds())
	args := map[*node][]string{}
	for _, n := range []*node{a, b} { // the same after a restart
		port, err := freePort()
		if err != nil {
			return err
		}
		args[n] = []string{"--sync", fmt.Sprint("127.0.0.1:", port)}
	}
	if err := a.serve(args[a]...); err != nil {
		return err
	}
	ticket, err := a.alkfs("share", "work")
	if err != nil {
		return err
	}
	began = time.Now()
	if _, err := b.alkfs("join", strings.TrimSpace(ticket)); err != nil {
		return err
	}
	if err := b.serve(args[b]...); err != nil {
		return err
	}
	if _, err = a.alkfs("sync", "wait", "work", "--timeout", "1h"); err != nil {
		return err
	}
	fmt.Printf("first sync: %.1f s; where they were %s; where they came %s\n", time.Since(began).Seconds(), a.says(0), b.says(0))

	beforeA, beforeB := a.used(), b.used()
	took, err := oneByOne(a, b, changes)
	if err != nil {
		return err
	}
	n := float64(changes + 1)
	ua, ub := a.used(), b.used()
	fmt.Printf("one change, from its making to a watch on the other: median %v, slowest of %d %v; CPU ms a change: %.1f there and %.1f here\n",
		took[len(took)/2].Round(10*time.Microsecond), changes, took[len(took)-1].Round(10*time.Microsecond),
		1e3*(ua-beforeA)/n, 1e3*(ub-beforeB)/n)

	if err := meet(a, b, args, t); err != nil {
		return err
	}
	return restart(b, args[b], dir)
}

// meet has both make five directories in some of the tree's while they are apart.
func meet(a, b *node, args map[*node][]string, t tree) error {
	for _, n := range []*node{a, b} {
		n.stop()
	}
	dirs := min(t.files, hostFiles) / t.per
	for i, n := range []*node{a, b} {
		for k := range 5 {
			if _, err := n.alkfs("mkdir", fmt.Sprintf("work:0/%d/apart%d", (5*i+k)*(dirs-1)/9, 5*i+k)); err != nil {
				return err
			}
		}
	}
	if err := a.serve(args[a]...); err != nil {
		return err
	}
	before, began := a.used(), time.Now()
	if err := b.serve(args[b]...); err != nil {
		return err
	}
	for _, n := range []*node{a, b} {
		if _, err := n.alkfs("sync", "now", "work"); err != nil {
			return err
		}
		if _, err := n.alkfs("sync", "wait", "work", "--timeout", "10m"); err != nil {
			return err
		}
	}
	took := time.Since(began)
	in, out, err := a.traffic()
	fmt.Printf("ten changes apart in %d documents: %.2f s from the second's start until both have them, %d KiB in and %d KiB out; %s; %s\n",
		t.files/t.per, took.Seconds(), in>>10, out>>10, a.says(before), b.says(0))
	return err
}

// traffic returns how many bytes came from others and went to them.
func (n *node) traffic() (in, out int64, err error) {
	said, err := n.alkfs("--json", "sync", "status")
	for s := bufio.NewScanner(strings.NewReader(said)); s.Scan(); {
		var m struct {
			In  int64 `json:"bytes_in"`
			Out int64 `json:"bytes_out"`
		}
		if json.Unmarshal(s.Bytes(), &m) == nil {
			in, out = in+m.In, out+m.Out
		}
	}
	return in, out, err
}

// restart starts a node anew, with a mount, until that has answered.
func restart(n *node, args []string, dir string) error {
	at := filepath.Join(dir, "mount")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	n.stop()
	began := time.Now()
	if err := n.serve(append(args, "--mount", "work="+at)...); err != nil {
		return err
	}
	listed := 0
	for listed == 0 && time.Since(began) < time.Minute {
		all, err := os.ReadDir(filepath.Join(at, "0", "0"))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		listed = len(all)
	}
	took, rss := time.Since(began), memory(n.cmd.Process.Pid, "VmRSS:")
	time.Sleep(5 * time.Second) // for what it does after that
	fmt.Printf("restart: a directory of %d listed through its mount after %v, with %d MiB of memory; five seconds later %s\n",
		listed, took.Round(time.Millisecond), rss, n.says(0))
	return nil
}
