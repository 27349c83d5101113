package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kept returns how many changes of work the node keeps, and in the place of how many
// a pack is.
func (n *node) kept(t testing.TB) (changes, packed int64) {
	t.Helper()
	var st struct{ Changes, Packed int64 }
	must(t, json.NewDecoder(strings.NewReader(n.alkfs(t, "--json", "sync", "status"))).Decode(&st))
	return st.Changes, st.Packed
}

// Two nodes write, replace and delete thousands of files; one compacts, and both keep
// no changes from before. A third joins through the one that did not, with the other
// down, and ends equal; edits go on among the three, also after all were started anew.
func TestNodesCompact(t *testing.T) {
	a, b, c := newNode(t, true), newNode(t, false), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "admin"))
	const files, rounds = 2000, 4
	sources := []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
	for round := range rounds {
		for k, n := range []*node{a, b} {
			from := sources[k]
			for i := range files / 2 {
				dir := filepath.Join(from, fmt.Sprint(i%40))
				must(t, os.MkdirAll(dir, 0o755))
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Append(nil, round, " ", i, " ", k), 0o644))
			}
			n.alkfs(t, "put", "-r", from, "work:")
		}
		caughtUp(t, a, b)
	}
	for i := range 10 {
		must(t, os.RemoveAll(a.path("a", fmt.Sprint(i))))
	}
	caughtUp(t, a, b)
	before, _ := b.kept(t)
	tree := a.tree(t)
	if r := b.try(t, "sync", "compact", "nowhere"); r.code == 0 {
		t.Error("a bucket that is not there was compacted")
	}
	var said struct {
		ChangesBefore int64 `json:"changes_before"`
		ChangesAfter  int64 `json:"changes_after"`
		BytesBefore   int64 `json:"bytes_before"`
		PackBytes     int64 `json:"pack_bytes"`
	}
	must(t, json.Unmarshal([]byte(a.alkfs(t, "--json", "sync", "compact", "work")), &said))
	if said.ChangesBefore < rounds*80 || said.ChangesAfter != 0 {
		t.Errorf("compacted: %+v", said)
	}
	for _, n := range []*node{a, b} {
		eventually(t, "a pack in the place of changes", func() bool { changes, packed := n.kept(t); return changes == 0 && packed >= before })
		if got := n.tree(t); got != tree {
			t.Errorf("%s has\n%s\nand had\n%s", n.addr, tail([]byte(got)), tail([]byte(tree)))
		}
	}
	must(t, os.WriteFile(b.path("after"), []byte("of b"), 0o644))
	caughtUp(t, a, b)
	ticket := b.ticket(t, "rw")
	a.stop(t)
	c.join(t, ticket)
	caughtUp(t, c)
	eventually(t, "what b has", func() bool { return c.tree(t) == b.tree(t) })
	if changes, packed := c.kept(t); changes > 8 || packed < before {
		t.Errorf("the one that joined keeps %d changes, and a pack in the place of %d of %d", changes, packed, before)
	}
	must(t, os.WriteFile(c.path("of c"), []byte("c"), 0o644))
	a.serve(t)
	must(t, os.WriteFile(a.path("of a"), []byte("a"), 0o644))
	eventually(t, "edits of each on all", func() bool {
		return fileHas(a.path("of c"), "c") && fileHas(b.path("of c"), "c") && fileHas(b.path("of a"), "a") && fileHas(c.path("of a"), "a")
	})
	for _, n := range []*node{a, b, c} {
		n.stop(t)
	}
	for _, n := range []*node{a, b, c} {
		n.serve(t)
	}
	must(t, os.Remove(c.path("after")))
	must(t, os.WriteFile(b.path("of a"), []byte("b"), 0o644))
	eventually(t, "edits after all were started anew", func() bool {
		return !exists(a.path("after")) && !exists(b.path("after")) && fileHas(a.path("of a"), "b") && fileHas(c.path("of a"), "b")
	})
	caughtUp(t, a, b, c)
	if r := c.try(t, "sync", "compact", "work"); r.code == 0 || !strings.Contains(r.err, "the owner or an admin compacts") {
		t.Errorf("compacted by a writer: %d %s", r.code, r.err)
	}
	for _, n := range []*node{a, b, c} {
		if got := n.tree(t); got != a.tree(t) {
			t.Errorf("%s has\n%s", n.addr, tail([]byte(got)))
		}
		n.fsckDeep(t)
	}
}
