package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// lacks returns how many files below a pin are not all here, -1 if it is not
// pinned.
func (n *node) lacks(t *testing.T, spec string) int {
	t.Helper()
	for line := range strings.Lines(n.alkfs(t, "pin", "ls", "--json")) {
		var pin struct {
			Spec          string
			Files, Absent int
		}
		must(t, json.Unmarshal([]byte(line), &pin))
		if pin.Spec == spec {
			return pin.Absent
		}
	}
	return -1
}

// has returns how much of a file's content is on the node: none, part or all.
func (n *node) has(t *testing.T, spec string) string {
	t.Helper()
	var here struct{ Has string }
	must(t, json.NewDecoder(strings.NewReader(n.alkfs(t, "where", "--json", spec))).Decode(&here))
	return here.Has
}

// Pinned content comes without a read, follows what is changed, and is there when
// the other machine is away; a policy set while nothing runs is followed
// afterwards.
func TestPinAndPolicy(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	big := bytes.Repeat([]byte("a large file "), 300_000)
	fill := func(dir string, from int) {
		must(t, os.MkdirAll(a.path(dir), 0o755))
		for i := range 20 {
			must(t, os.WriteFile(a.path(dir, fmt.Sprint(from+i)), fmt.Appendln(nil, dir, i), 0o644))
		}
		must(t, os.WriteFile(a.path(dir, "big"), fmt.Appendf(big, "%s %d", dir, from), 0o644))
	}
	fill("pinned", 0)
	fill("other", 0)
	caughtUp(t, a)
	eventually(t, "the names on b", func() bool { return exists(b.path("other", "big")) })
	b.alkfs(t, "pin", "work:pinned")
	eventually(t, "pinned content", func() bool { return b.lacks(t, "work/main:pinned") == 0 })
	b.alkfs(t, "pin", "work:other/7")
	b.alkfs(t, "unpin", "work:other/7")
	if b.lacks(t, "work/main:other/7") != -1 {
		t.Error("it is still pinned")
	}
	if has := b.has(t, "work:other/big"); has != "none" {
		t.Errorf("of content that nobody asked for %s is here", has)
	}
	fill("pinned", 100)
	caughtUp(t, a)
	eventually(t, "what changed below the pin", func() bool {
		return b.lacks(t, "work/main:pinned") == 0 && exists(b.path("pinned", "119"))
	})
	b.stop(t)
	b.alkfs(t, "sync", "policy", "work", "eager")
	b.serve(t)
	eventually(t, "all content", func() bool { return b.has(t, "work:other/big") == "all" && b.has(t, "work:other/0") == "all" })
	a.stop(t)
	for _, dir := range []string{"pinned", "other"} {
		p, err := os.ReadFile(b.path(dir, "big"))
		if err != nil || !bytes.HasPrefix(p, big) {
			t.Errorf("%s: %d bytes, %v", dir, len(p), err)
		}
	}
	if said := b.alkfs(t, "sync", "policy", "--json"); !strings.Contains(said, `"policy":"eager"`) {
		t.Errorf("the policy is shown as %s", said)
	}
}
