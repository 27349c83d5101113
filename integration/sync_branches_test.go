package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// branchStates returns how the branches of work stand on the node, by name.
func (n *node) branchStates(t testing.TB) map[string]string {
	t.Helper()
	states := map[string]string{}
	d := json.NewDecoder(strings.NewReader(n.alkfs(t, "--json", "sync", "branches", "work")))
	for d.More() {
		var b struct{ Branch, State string }
		must(t, d.Decode(&b))
		states[b.Branch] = b.State
	}
	return states
}

// diskUse returns the bytes of the node's store.
func (n *node) diskUse(t testing.TB) (bytes int64) {
	t.Helper()
	n.alkfs(t, "--json", "stats") // opening and closing it checkpoints
	must(t, filepath.WalkDir(n.store.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			bytes += fi.Size()
		}
		return err
	}))
	return bytes
}

// A node keeps two of many branches: it shows these alone and its store is much
// smaller; edits go both ways; it gets another branch, and lets one go; a third that
// joins through it shows what that one has, says that it lacks the rest, and gets it
// from the first.
func TestNodeKeepsSomeBranches(t *testing.T) {
	a, b, c := newNode(t, true), newNode(t, false), newNode(t, false)
	a.serve(t)
	must(t, os.WriteFile(a.path("shared"), []byte("shared"), 0o644))
	const branches, files = 30, 60
	for i := range branches {
		name := fmt.Sprintf("agent-%d", i)
		a.alkfs(t, "branch", "create", "work/"+name)
		from := filepath.Join(t.TempDir(), "made")
		must(t, os.Mkdir(from, 0o755))
		for k := range files {
			must(t, os.WriteFile(filepath.Join(from, fmt.Sprintf("%d-%d", i, k)), fmt.Append(nil, i, " ", k), 0o644))
		}
		a.alkfs(t, "put", "-r", from, "work/"+name+":")
	}
	b.alkfs(t, "join", "--name", "b", "--branches", "main,agent-1", a.ticket(t, "rw"))
	p := b.serveUnmounted(t)
	eventually(t, "the branches that are kept", func() bool {
		s := b.branchStates(t)
		return s["main"] == "kept" && s["agent-1"] == "kept" && len(s) == branches+1 && b.try(t, "ls", "work/agent-1:made").code == 0 &&
			b.alkfs(t, "ls", "work/agent-1:made") == a.alkfs(t, "ls", "work/agent-1:made")
	})
	for name, state := range b.branchStates(t) {
		if want := name == "main" || name == "agent-1"; (state == "kept") != want {
			t.Errorf("%s is %s", name, state)
		}
	}
	for _, command := range [][]string{
		{"ls", "work/agent-2:"}, {"mount", "work/agent-2", t.TempDir()}, {"diff", "work/agent-1", "work/agent-2"},
		{"merge", "work/agent-2", "work/main"}, {"where", "work/agent-2:made/2-0"}, {"pin", "work/agent-2:"}, {"branch", "create", "work/x", "--from", "agent-2"},
		{"log", "work/agent-2:"}, {"cat", "work/agent-2:made/2-0"}, {"snapshot", "create", "s", "work/agent-2"},
	} {
		if r := b.try(t, command...); r.code == 0 || !strings.Contains(r.err, "`alkfs sync branches work agent-2` fetches it") {
			t.Errorf("%s: %d %s", strings.Join(command, " "), r.code, r.err)
		}
	}
	if out := b.alkfs(t, "branch", "ls", "work"); !strings.Contains(out, "not kept on this machine") {
		t.Errorf("branch ls says\n%s", out)
	}
	must(t, p.cmd.Process.Signal(os.Interrupt))
	must(t, p.wait(t))
	if all, part := a.diskUse(t), b.diskUse(t); part > all/2 {
		t.Errorf("a store with 2 of %d branches has %d bytes, one with all %d", branches+1, part, all)
	}
	b.serve(t)
	must(t, os.WriteFile(b.path("from b"), []byte("b"), 0o644))
	a.alkfs(t, "put", b.path("shared"), "work/agent-1:from-a")
	caughtUp(t, a, b)
	eventually(t, "edits both ways", func() bool {
		return a.try(t, "cat", "work:from b").out == "b" && b.try(t, "cat", "work/agent-1:from-a").out == "shared"
	})

	b.alkfs(t, "sync", "branches", "work", "agent-2")
	eventually(t, "a branch more", func() bool { return b.try(t, "cat", "work/agent-2:made/2-0").out == "2 0" })
	if r := b.try(t, "sync", "branches", "work", "--only", "agent-2"); r.code != 0 {
		t.Fatalf("narrowing: %s", r.err)
	}
	eventually(t, "a branch less", func() bool { return b.branchStates(t)["agent-1"] == "not kept" })
	if s := b.branchStates(t); s["main"] != "kept" || s["agent-2"] != "kept" {
		t.Errorf("%v", s)
	}

	a.alkfs(t, "peer", "grant", "work", "b", "admin")
	ticket := b.ticket(t, "rw")
	a.stop(t)
	c.redeem(t, ticket)
	c.serveUnmounted(t)
	eventually(t, "what b has", func() bool { return c.try(t, "cat", "work/agent-2:made/2-0").code == 0 })
	eventually(t, "what it lacks", func() bool {
		return c.branchStates(t)["agent-3"] == "coming" && strings.Contains(c.alkfs(t, "sync", "status"), "changes still to come")
	})
	b.alkfs(t, "sync", "branches", "work", "--only", "main")
	eventually(t, "what a branch waits for that is not kept", func() bool {
		for _, said := range []struct{ text, is string }{
			{b.alkfs(t, "sync", "branches", "work"), `agent-2 +leaving: waits, as (.*; )?\S+ is not connected`},
			{b.alkfs(t, "sync", "branches", "work"), `agent-2 +leaving: waits, as (.*; )?\S+ has yet to get \d+ changes`},
			{b.alkfs(t, "sync", "status"), `branch agent-2 is leaving: waits, as (.*; )?\S+ is not connected`},
			{b.alkfs(t, "--json", "sync", "branches", "work"), `"branch":"agent-2".*"waits":\[.*"why":"is not connected"\}`},
		} {
			if !regexp.MustCompile(said.is).MatchString(said.text) {
				return false
			}
		}
		return true
	})
	b.alkfs(t, "sync", "branches", "work", "agent-2")
	a.serve(t)
	eventually(t, "the rest", func() bool {
		s := c.branchStates(t)
		return !slices.Contains(slices.Collect(maps.Values(s)), "coming") && len(s) == branches+1
	})
	for _, name := range []string{"main", "agent-2", "agent-3", "agent-29"} {
		if got, want := c.alkfs(t, "ls", "-lR", "work/"+name), a.alkfs(t, "ls", "-lR", "work/"+name); got != want {
			t.Errorf("%s: c has\n%s\na has\n%s", name, got, want)
		}
	}
	for _, n := range []*node{a, b, c} {
		n.fsckDeep(t)
	}
}

// What only the versions of a branch named that has left stays while another machine
// has these and not the bytes, and can be read there; then it goes.
func TestContentOfABranchThatLeft(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	for _, name := range []string{"agent-1", "agent-2"} {
		a.alkfs(t, "branch", "create", "work/"+name)
	}
	b.alkfs(t, "join", "--name", "b", "--branches", "agent-*", a.ticket(t, "rw"))
	b.serve(t)
	eventually(t, "the branches", func() bool { return b.branchStates(t)["agent-2"] == "kept" })
	big, both := bytes.Repeat([]byte("only agent-2 "), 30_000), bytes.Repeat([]byte("both "), 60_000)
	for name, content := range map[string][]byte{"big": big, "both": both} {
		from := filepath.Join(t.TempDir(), name)
		must(t, os.WriteFile(from, content, 0o644))
		b.alkfs(t, "put", from, "work/agent-2:"+name)
		if name == "both" {
			b.alkfs(t, "put", from, "work/agent-1:"+name)
		}
	}
	caughtUp(t, a, b)
	b.alkfs(t, "sync", "branches", "work", "--only", "agent-1")
	eventually(t, "a branch less", func() bool { return b.branchStates(t)["agent-2"] == "not kept" })
	if said := b.forget(t); said.Blobs != 0 || said.HeldBlobs != 1 || said.HeldBytes != len(big) || len(said.WantedBy) != 1 {
		t.Errorf("gc while another has only the version: %+v", said)
	}
	for name, content := range map[string][]byte{"big": big, "both": both} {
		if got := a.alkfs(t, "cat", "work/agent-2:"+name); got != string(content) {
			t.Errorf("%s has %d bytes, want %d", name, len(got), len(content))
		}
	}
	if said := b.forget(t); said.Blobs != 1 || said.HeldBlobs != 0 {
		t.Errorf("gc when another has it: %+v", said)
	}
	a.stop(t)
	if got := b.alkfs(t, "cat", "work/agent-1:both"); got != string(both) {
		t.Errorf("what a branch names that stays has %d bytes", len(got))
	}
	a.serve(t)
	b.alkfs(t, "sync", "branches", "work", "agent-2")
	eventually(t, "the branch again", func() bool { return b.try(t, "cat", "work/agent-2:big").out == string(big) })
	for _, n := range []*node{a, b} {
		n.fsckDeep(t)
	}
}
