package integration_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// A node's key is replaced while its process serves a mount: the process goes on
// with the new key on the same address, the other one takes it for the same
// member, also when it was away meanwhile, and neither knows the old key any more.
func TestKeyReplacedWhileServing(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	must(t, os.WriteFile(b.path("before"), []byte("1"), 0o644))
	caughtUp(t, b)
	rotate := func(n *node) (key, was string) {
		t.Helper()
		var said struct{ Key, Was string }
		must(t, json.Unmarshal([]byte(n.alkfs(t, "peer", "rotate-key", "--json")), &said))
		return said.Key, said.Was
	}
	// heir waits until n lists key with a role, and the one before it no more.
	heir := func(n *node, key, was, role string) {
		t.Helper()
		eventually(t, "the new key among the members", func() bool {
			all := members(t, n)
			return len(all) == 2 && all[key] == role && all[was] == ""
		})
	}

	key, was := rotate(b)
	must(t, os.WriteFile(b.path("after"), []byte("2"), 0o644))
	eventually(t, "a file of the new key", func() bool { return fileHas(a.path("after"), "2") })
	heir(a, key, was, "rw")
	must(t, os.WriteFile(a.path("from a"), []byte("3"), 0o644))
	eventually(t, "a's file on b", func() bool { return fileHas(b.path("from a"), "3") })

	b.stop(t)
	key, was = rotate(a)
	must(t, os.WriteFile(a.path("meanwhile"), []byte("4"), 0o644))
	b.serve(t)
	eventually(t, "what the owner wrote with its new key", func() bool { return fileHas(b.path("meanwhile"), "4") })
	heir(b, key, was, "owner")
	caughtUp(t, a, b)
	if got, want := b.tree(t), a.tree(t); got != want {
		t.Errorf("b has\n%s\na has\n%s", got, want)
	}
	for _, n := range []*node{a, b} {
		n.fsckDeep(t)
	}
}

// members returns the roles by key that a node lists.
func members(t *testing.T, n *node) map[string]string {
	t.Helper()
	all := map[string]string{}
	d := json.NewDecoder(strings.NewReader(n.alkfs(t, "peer", "ls", "work", "--json")))
	for d.More() {
		var m struct{ Key, Role string }
		must(t, d.Decode(&m))
		all[m.Key] = m.Role
	}
	return all
}
