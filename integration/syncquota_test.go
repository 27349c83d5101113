package integration_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A quota is the bucket's on every machine. What others wrote counts and is never
// refused; a write that would make it more is, until there is room.
func TestQuotaBetweenNodes(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.alkfs(t, "bucket", "set", "work", "--quota-bytes", "1M")
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	caughtUp(t, a)
	holds := func(n *node, want string) {
		t.Helper()
		eventually(t, "quota of "+want, func() bool { return strings.Contains(n.alkfs(t, "bucket", "ls"), want) })
	}
	holds(b, "holds 0 B of 1.0 MiB")

	// Each has room for its own while they do not see each other.
	b.stop(t)
	must(t, os.WriteFile(a.path("a"), bytes.Repeat([]byte("a"), 700<<10), 0o644))
	b.alkfs(t, "put", a.path("a"), "work:b")
	b.serve(t)
	caughtUp(t, a, b)
	for _, n := range []*node{a, b} {
		holds(n, "holds 1.4 MiB of 1.0 MiB")
		if err := os.WriteFile(n.path("more"), []byte("more"), 0o644); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("a write to a bucket that is over its quota: %v", err)
		}
	}
	must(t, os.Remove(a.path("b")))
	caughtUp(t, a)
	holds(b, "holds 700.0 KiB of 1.0 MiB")
	must(t, os.WriteFile(b.path("more"), []byte("more"), 0o644))
	for _, n := range []*node{a, b} {
		n.stop(t)
		n.fsckDeep(t)
	}
}
