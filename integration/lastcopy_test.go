package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// gc is what `alkfs gc --json` says.
type gc struct {
	Versions, Blobs int
	HeldBlobs       int      `json:"held_blobs"`
	HeldBytes       int      `json:"held_bytes"`
	WantedBy        []string `json:"wanted_by"`
	Unheard         []string
}

// forget has the node keep no history, and collect.
func (n *node) forget(t *testing.T) (said gc) {
	t.Helper()
	must(t, json.Unmarshal([]byte(n.alkfs(t, "gc", "--keep", "1ns", "--grace", "-1s", "--json")), &said))
	return said
}

// A node that forgets a version keeps its content for one that has the version and
// not the bytes, or that is away; and when nobody has the version the content goes
// everywhere.
func TestLastCopyOfHistory(t *testing.T) {
	a, b := newNode(t, true), newNode(t, false)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	first, small := bytes.Repeat([]byte("the first "), 30_000), []byte("a small first version")
	write := func(big, small []byte) {
		t.Helper()
		must(t, os.WriteFile(a.path("big"), big, 0o644))
		must(t, os.WriteFile(a.path("small"), small, 0o644))
		caughtUp(t, a) // or what is replaced at once would never leave a
	}
	write(nil, nil) // a file's first version is never pruned in a shared bucket
	write(first, small)
	at := time.Now().Format(time.RFC3339Nano)
	write(bytes.Repeat([]byte("the second "), 30_000), []byte("a small second version"))
	read := func() {
		t.Helper()
		if got := b.alkfs(t, "cat", "work:small", "--at", at); got != string(small) {
			t.Errorf("the small file was %q", got)
		}
		if got := b.alkfs(t, "cat", "work:big", "--at", at); got != string(first) {
			t.Errorf("the large file was %d bytes, want %d", len(got), len(first))
		}
	}

	said := a.forget(t)
	if said.Versions == 0 || said.Blobs != 0 || said.HeldBlobs != 2 || said.HeldBytes != len(first)+len(small) {
		t.Errorf("gc on a: %+v", said)
	}
	if len(said.WantedBy) != 1 || len(said.Unheard) != 0 {
		t.Errorf("held back for %q, and %q did not say", said.WantedBy, said.Unheard)
	}
	var df struct {
		HeldBytes int `json:"held_bytes"`
	}
	must(t, json.Unmarshal([]byte(a.alkfs(t, "df", "--json")), &df))
	if df.HeldBytes != said.HeldBytes {
		t.Errorf("df says that %d bytes are held back", df.HeldBytes)
	}
	if out := a.alkfs(t, "df"); !strings.Contains(out, "held back") {
		t.Errorf("df says nothing of it:\n%s", out)
	}
	read() // what a has forgotten

	// b forgets it as well, first while a is away.
	a.stop(t)
	if said := b.forget(t); said.Blobs != 0 || said.HeldBlobs != 2 || len(said.WantedBy) != 0 || len(said.Unheard) != 1 {
		t.Errorf("gc on b, while a is away: %+v", said)
	}
	a.serve(t)
	caughtUp(t, a, b)
	for _, n := range []*node{b, a} {
		if said := n.forget(t); said.Blobs != 2 || said.HeldBlobs != 0 {
			t.Errorf("gc when nobody wants it: %+v", said)
		}
	}

	// What b has a need not keep.
	write(first, small)
	at = time.Now().Format(time.RFC3339Nano)
	read()
	write([]byte("the last"), []byte("the last, small"))
	if said := a.forget(t); said.HeldBlobs != 2 || said.Blobs != 2 {
		t.Errorf("gc on a, when b has a copy: %+v", said)
	}
	a.stop(t)
	read()
	b.fsckDeep(t)
	a.fsckDeep(t)
}
