package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// node is a machine of a test: a store with a serve process that synchronises
// it, and a mount of the bucket "work" in the same process.
type node struct {
	*process
	*store
	dir  string   // of the mount
	addr string   // where others find it
	in   []string // command that runs another on the node's machine; nil: on this one
}

// newNode makes a node, with the bucket when it is the first.
func newNode(t testing.TB, first bool) *node {
	t.Helper()
	n := &node{store: newStore(t), dir: t.TempDir(), addr: "127.0.0.1:0"}
	if first {
		n.alkfs(t, "bucket", "create", "work")
	}
	return n
}

// command is a command of alkfs on the node's machine.
func (n *node) command(args ...string) *exec.Cmd {
	line := append(append(slices.Clone(n.in), n.bin), n.args(args)...)
	return exec.Command(line[0], line[1:]...)
}

// serve starts the node's process, on the address it had before.
func (n *node) serve(t testing.TB, flags ...string) {
	t.Helper()
	cmd := n.command(append([]string{"--json", "serve", "--sftp", "", "--sync", n.addr, "--mount", "work=" + n.dir}, flags...)...)
	t.Cleanup(func() { detach(n.dir) })
	n.process = start(t, cmd)
	eventually(t, "synchronising", func() bool {
		if !n.running() {
			t.Fatalf("%s ended: %v\n%s", cmd, n.err, n.output())
		}
		for line := range bytes.Lines([]byte(n.output())) {
			var said struct{ Sync string }
			if json.Unmarshal(line, &said) == nil && said.Sync != "" {
				n.addr = said.Sync
				return true
			}
		}
		return false
	})
}

// stop ends the node's process in order.
func (n *node) stop(t testing.TB) {
	t.Helper()
	must(t, n.cmd.Process.Signal(os.Interrupt))
	if err := n.wait(t); err != nil {
		t.Fatalf("after Ctrl-C: %v\n%s", err, n.output())
	}
}

// crash kills the node's process, and the one that keeps its documents.
func (n *node) crash() {
	n.kill()
	detach(n.dir)
}

func (n *node) path(elem ...string) string { return filepath.Join(append([]string{n.dir}, elem...)...) }

// ticket returns a ticket of the node for so many others.
func (n *node) ticket(t testing.TB, role string) string {
	t.Helper()
	var ticket string
	eventually(t, "a ticket", func() bool { // until serve has said where it listens
		r := n.try(t, "share", "work", "--role", role, "--uses", "9")
		ticket = strings.TrimSpace(r.out)
		return r.code == 0
	})
	return ticket
}

// join has the node join by a ticket, and start.
func (n *node) join(t testing.TB, ticket string) {
	t.Helper()
	n.redeem(t, ticket)
	n.serve(t)
	eventually(t, "a mount of what was still to come", func() bool { _, ok := mountedOn(t, n.dir); return ok })
}

func (n *node) redeem(t testing.TB, ticket string) {
	t.Helper()
	cmd := n.command("join", ticket)
	tool{}.run(t, cmd.Path, cmd.Args[1:]...)
}

// serveUnmounted synchronises the node without a mount.
func (n *node) serveUnmounted(t testing.TB) *process {
	t.Helper()
	return start(t, n.command("--json", "serve", "--sftp", "", "--sync", n.addr))
}

// caughtUp waits until each node has what the others wrote.
func caughtUp(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		n.alkfs(t, "sync", "wait", "work", "--timeout", "3m")
	}
}

// tree returns the names, types, sizes and hashes in the node's bucket.
func (n *node) tree(t testing.TB) string {
	t.Helper()
	return n.alkfs(t, "ls", "-lR", "work")
}

// Two nodes: a tree unpacked on one is listed and read on the other, its bytes
// fetched as they are read; changes go both ways through both kernels' caches;
// a third that only ever spoke to the second ends equal.
func TestNodesShareABucket(t *testing.T) {
	a, b, c := newNode(t, true), newNode(t, false), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))

	src := syncTree(t)
	tool{}.run(t, "cp", "-a", src, a.path("src"))
	caughtUp(t, a)
	if out := (tool{}).run(t, "diff", "-r", "--no-dereference", src, b.path("src")); out != "" {
		t.Fatalf("diff -r says:\n%s", tail([]byte(out)))
	}
	sameTree(t, src, b.path("src"))

	// Edits come to a mount that has the old state in the kernel's caches.
	file := b.path("edited")
	must(t, os.WriteFile(a.path("edited"), []byte("first"), 0o644))
	eventually(t, "the first version on b", func() bool { return fileHas(file, "first") })
	var took []time.Duration
	for i := range 25 {
		want := strings.Repeat("x", i+1)
		began := time.Now()
		must(t, os.WriteFile(a.path("edited"), []byte(want), 0o644))
		eventually(t, "an edit on b", func() bool { return fileHas(file, want) })
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("from an edit on one node to the mount of the other: median %v, slowest %v", took[len(took)/2], took[len(took)-1])
	must(t, os.Rename(b.path("src"), b.path("renamed")))
	must(t, os.Remove(file))
	eventually(t, "a rename and a removal on a", func() bool {
		_, err := os.Stat(a.path("edited"))
		_, err2 := os.Stat(a.path("renamed"))
		return os.IsNotExist(err) && err2 == nil
	})

	// The third comes late, and the first is gone.
	ticket := a.ticket(t, "admin")
	d := newNode(t, false)
	d.join(t, ticket)
	caughtUp(t, a, d)
	a.stop(t)
	c.join(t, d.ticket(t, "ro"))
	caughtUp(t, d)
	if got, want := c.tree(t), d.tree(t); got != want {
		t.Errorf("the third node has\n%s\nwant\n%s", tail([]byte(got)), tail([]byte(want)))
	}
	sameTree(t, src, c.path("renamed"))
	for _, n := range []*node{b, c, d} {
		n.fsckDeep(t)
	}
}

func fileHas(name, want string) bool {
	b, err := os.ReadFile(name)
	return err == nil && string(b) == want
}

// A node that is killed in the midst of things, and one that was away while
// others wrote, catch up.
func TestNodesCatchUpAfterCrashes(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	src := gorootPart(t, "src", "encoding")
	for _, victim := range []*node{a, b, a} {
		done := start(t, exec.Command("cp", "-a", src, a.path("copy")))
		eventually(t, "some files on a", func() bool { return exists(a.path("copy")) })
		victim.crash()
		<-done.done
		victim.serve(t)
		must(t, os.RemoveAll(a.path("copy")))
		tool{}.run(t, "cp", "-a", src, a.path("copy"))
		must(t, os.WriteFile(b.path("from b"), []byte(victim.store.dir), 0o644))
		caughtUp(t, a, b)
		sameTree(t, src, b.path("copy"))
		eventually(t, "b's file on a", func() bool { return fileHas(a.path("from b"), victim.store.dir) })
		must(t, os.RemoveAll(a.path("copy")))
		caughtUp(t, a)
	}
	a.fsckDeep(t)
	b.fsckDeep(t)
	if got, want := b.tree(t), a.tree(t); got != want {
		t.Errorf("b has\n%s\na has\n%s", got, want)
	}
}

// A read of what no node can give fails after a bounded time with an error that
// says so, and works when the node is back.
func TestReadOfAbsentContent(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	must(t, os.WriteFile(a.path("far"), bytes.Repeat([]byte("far "), 100_000), 0o644))
	caughtUp(t, a)
	eventually(t, "the name on b", func() bool { return exists(b.path("far")) })
	a.stop(t)
	if _, err := os.ReadFile(b.path("far")); err == nil {
		t.Fatal("content that is nowhere was read")
	}
	a.serve(t)
	eventually(t, "the content on b", func() bool {
		p, err := os.ReadFile(b.path("far"))
		return err == nil && len(p) == 400_000
	})
	b.fsckDeep(t)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// Two nodes change one file while they are apart. Both show the same afterwards,
// what lost is listed on both, and settling it on one settles it.
func TestConflictsBetweenNodes(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	must(t, os.WriteFile(a.path("notes"), []byte("from the start"), 0o644))
	caughtUp(t, a)
	eventually(t, "the file on b", func() bool { return fileHas(b.path("notes"), "from the start") })
	a.stop(t)
	b.stop(t)
	host := t.TempDir()
	for _, n := range []*node{a, b} {
		name := filepath.Join(host, "notes")
		must(t, os.WriteFile(name, []byte("changed in "+n.store.dir), 0o644))
		n.alkfs(t, "put", name, "work:")
		must(t, os.WriteFile(filepath.Join(host, "same"), []byte("the same on both"), 0o644))
		n.alkfs(t, "put", filepath.Join(host, "same"), "work:")
	}
	a.serve(t)
	b.serve(t)
	eventually(t, "the conflict on both", func() bool {
		return strings.Contains(a.alkfs(t, "conflicts", "ls", "work"), ":notes") && strings.Contains(b.alkfs(t, "conflicts", "ls", "work"), ":notes")
	})
	listed := func(n *node) string { // "here" says which of them asks
		return strings.NewReplacer(`"here":true`, "", `"here":false`, "").Replace(n.alkfs(t, "conflicts", "ls", "work", "--json"))
	}
	if got, want := listed(b), listed(a); got != want || strings.Contains(got, ":same") {
		t.Errorf("b lists\n%s\na lists\n%s", got, want)
	}
	shown := a.alkfs(t, "cat", "work:notes")
	if got := b.alkfs(t, "cat", "work:notes"); got != shown {
		t.Errorf("b shows %q, a shows %q", got, shown)
	}
	a.alkfs(t, "conflicts", "resolve", "work:notes", "--other", "1")
	eventually(t, "the settlement on both", func() bool {
		return a.alkfs(t, "conflicts", "ls", "work") == "" && b.alkfs(t, "conflicts", "ls", "work") == ""
	})
	settled := a.alkfs(t, "cat", "work:notes")
	if settled == shown || !strings.HasPrefix(settled, "changed in ") {
		t.Errorf("after --other 1: %q, before it %q", settled, shown)
	}
	eventually(t, "the other content on b", func() bool { return fileHas(b.path("notes"), settled) })
}

// `sync now` gets at once what the others have, and says whom it did not reach;
// `where` tells who has a file's bytes.
func TestReachAndWhere(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	must(t, os.WriteFile(a.path("big"), bytes.Repeat([]byte("some of "), 100_000), 0o644))
	caughtUp(t, a)
	b.alkfs(t, "sync", "now", "work")
	where := func() (here, there, problem string) {
		t.Helper()
		for line := range strings.Lines(b.alkfs(t, "where", "work:big", "--json")) {
			var p struct {
				Here       bool
				Has, Error string
			}
			must(t, json.Unmarshal([]byte(line), &p))
			if p.Here {
				here = p.Has
			} else {
				there, problem = p.Has, p.Error
			}
		}
		return here, there, problem
	}
	if here, there, _ := where(); here != "none" || there != "all" {
		t.Errorf("before it is read: here %s, on the other node %s", here, there)
	}
	must(t, exec.Command("cmp", a.path("big"), b.path("big")).Run())
	if here, _, _ := where(); here != "all" {
		t.Errorf("after it was read: here %s", here)
	}
	var st struct {
		Ahead   int
		BytesIn int64 `json:"bytes_in"`
	}
	eventually(t, "the traffic in the status", func() bool {
		must(t, json.Unmarshal([]byte(b.alkfs(t, "sync", "status", "--json")), &st))
		return st.BytesIn > 800_000 && st.Ahead == 0
	})

	a.stop(t)
	if r := b.try(t, "sync", "now", "work"); r.code != 1 || !strings.Contains(r.out, "not reached: ") {
		t.Errorf("with nobody there: %+v", r)
	}
	if here, there, problem := where(); here != "all" || there != "?" || problem != "not connected" {
		t.Errorf("with nobody there: here %s, on the other node %s (%s)", here, there, problem)
	}
	name := filepath.Join(t.TempDir(), "late")
	must(t, os.WriteFile(name, nil, 0o644))
	a.alkfs(t, "put", name, "work:")
	a.serve(t)
	eventually(t, "the other node", func() bool { return b.try(t, "sync", "now").code == 0 })
	if out := b.alkfs(t, "ls", "work"); !strings.Contains(out, "late") {
		t.Errorf("after sync now there is no late:\n%s", out)
	}
	b.stop(t)
	if r := b.try(t, "sync", "now"); r.code != 1 || !strings.Contains(r.err, "alkfs serve --sync") {
		t.Errorf("with nothing to ask: %+v", r)
	}
	if r := b.try(t, "bucket", "rm", "work"); r.code != 2 || !strings.Contains(r.err, "none is known to have everything") {
		t.Errorf("removing a shared bucket: %+v", r)
	}
	b.alkfs(t, "bucket", "rm", "--force", "work")
	b.join(t, a.ticket(t, "rw"))
	if out := b.alkfs(t, "ls", "work"); !strings.Contains(out, "late") {
		t.Errorf("after it was removed and joined again there is no late:\n%s", out)
	}
}
