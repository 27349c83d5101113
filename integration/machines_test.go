package integration_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// told is what was written and answered for: content by path.
type told map[string]string

// write writes a file on a machine and has it on the disk.
func (o told) write(t testing.TB, m *machine, name, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	f, err := os.Create(m.path(name))
	must(t, err)
	_, err = io.WriteString(f, content)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	o[name] = content
}

// some writes n files below a directory of the machine's own.
func (o told) some(t testing.TB, m *machine, what string, n int) {
	t.Helper()
	for i := range n {
		o.write(t, m, fmt.Sprintf("%s/from %s/%d/%d", what, m.ip, i%7, i), fmt.Sprintf("%s %d of %s", what, i, m.ip))
	}
}

// reaches has machines reach for the others until they meet somebody.
func reaches(t testing.TB, all ...*machine) {
	t.Helper()
	for _, m := range all {
		eventually(t, m.ip+" to reach another", func() bool { return m.try(t, "sync", "now", "work", "--timeout", "20s").code == 0 })
	}
}

// converged waits until all machines show the same and everything they were told
// was written, and checks their stores.
func (o told) converged(t testing.TB, all ...*machine) {
	t.Helper()
	var differ string
	same := func() bool {
		want := all[0].tree(t)
		for _, m := range all[1:] {
			if got := m.tree(t); got != want {
				differ = fmt.Sprintf("%s has\n%s\n%s has\n%s", all[0].ip, tail([]byte(want)), m.ip, tail([]byte(got)))
				return false
			}
		}
		for name := range o {
			if !exists(all[0].path(name)) {
				differ = "missing: " + name
				return false
			}
		}
		return true
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(differ)
		}
	})
	eventually(t, "all machines to show the same", same)
	for _, m := range all {
		for _, name := range slices.Sorted(maps.Keys(o)) {
			if got := read(t, m.path(name)); got != o[name] {
				t.Errorf("%s: %s has %d bytes that are not what was written", m.ip, name, len(got))
			}
		}
		m.fsckDeep(t)
	}
	differ = ""
}

// three are machines a, b and c that share the bucket work.
func three(t testing.TB) (o told, a, b, c *machine) {
	t.Helper()
	w := newNetwork(t)
	a, b, c = w.machine(t), w.machine(t), w.machine(t)
	a.serve(t)
	b.join(t, a.ticket(t, "admin"))
	c.join(t, b.ticket(t, "rw"))
	return told{}, a, b, c
}

// shows reports whether a machine shows a file of a size; others see it empty
// between create and close.
func (m *machine) shows(name string, size int) bool {
	st, err := os.Stat(m.path(name))
	return err == nil && st.Size() == int64(size)
}

// changes returns how many changes a machine has of the bucket.
func (m *machine) changes(t testing.TB) (n int) {
	t.Helper()
	for line := range strings.Lines(m.alkfs(t, "sync", "status")) {
		if _, err := fmt.Sscanf(line, "work: rw here, %d changes", &n); err == nil {
			return n
		}
	}
	return 0
}

// In a first sync the one who joins is killed, then the one who sends; what came
// stays.
func TestMachinesKilledInAFirstSync(t *testing.T) {
	w := newNetwork(t)
	a, b := w.machine(t), w.machine(t)
	host := filepath.Join(t.TempDir(), "tree")
	for i := range firstSyncFiles { // names that cannot be compressed, so that it is several messages
		dir := filepath.Join(host, fmt.Sprint(i%50))
		must(t, os.MkdirAll(dir, 0o755))
		write(t, filepath.Join(dir, strings.Repeat(rand.Text(), 9)), "")
	}
	a.alkfs(t, "put", "-r", host, "work:")
	a.serve(t)
	b.redeem(t, a.ticket(t, "rw"))
	a.throttle(t, 4000)
	p := b.serveUnmounted(t)
	eventually(t, "the first changes", func() bool { return b.changes(t) > 0 })
	p.kill()
	killed := b.changes(t)
	p = b.serveUnmounted(t)
	eventually(t, "b to be connected again", func() bool { return strings.Contains(b.alkfs(t, "sync", "status"), " connected") })
	a.crash()
	p.kill()
	sent := b.changes(t)
	a.throttle(t, 0)
	a.serve(t)
	p = b.serveUnmounted(t)
	reaches(t, b)
	p.kill()
	b.serve(t)
	reaches(t, b)
	told{}.converged(t, a, b)
	if all := b.changes(t); killed >= all {
		t.Errorf("b had all %d changes when it was killed", all)
	} else {
		t.Logf("b had %d of %d changes when it was killed, %d when a was", killed, all, sent)
	}
}

// While bytes are fetched, the one who fetches is killed, then the one who
// sends, and then the line goes dead; what came stays, and the rest comes from
// whoever has it.
func TestMachinesKilledWhileBytesAreFetched(t *testing.T) {
	o, a, b, c := three(t)
	big := make([]byte, 24<<20)
	rand.Read(big)
	o.write(t, a, "big", string(big))
	eventually(t, "the name on b and c", func() bool { return b.shows("big", len(big)) && c.shows("big", len(big)) })
	a.throttle(t, 64_000)
	begin := func(m *machine) (ended chan error) { // returns when some of it has come
		t.Helper()
		ended = make(chan error, 1)
		f, err := os.Open(m.path("big"))
		must(t, err)
		_, err = io.ReadFull(f, make([]byte, 1<<20))
		must(t, err)
		go func() {
			_, err := io.Copy(io.Discard, f)
			f.Close()
			ended <- err
		}()
		return ended
	}
	part := func(m *machine) bool {
		return strings.HasPrefix(m.alkfs(t, "where", "work:big"), "part ")
	}

	ended := begin(b)
	b.crash()
	<-ended
	if !part(b) {
		t.Error("b was not killed in the middle of the fetch")
	}
	b.serve(t)
	ended = begin(b)
	a.crash()
	if !part(b) {
		t.Error("a was not killed in the middle of the fetch")
	}
	a.serve(t)
	if err := <-ended; err != nil { // within the half minute that a read waits
		t.Errorf("the read that was going on when the other side was killed: %v", err)
	}
	ended = begin(c)
	a.unplug(t)
	if err := <-ended; err != nil { // b has it
		t.Errorf("the read that was going on when the line went dead: %v", err)
	}
	a.plug(t)
	reaches(t, a)
	o.converged(t, a, b, c)
}

// Both sides of a partition go on writing, to the same files too, and machines
// are killed on both sides; and again while the two sides tell each other.
func TestMachinesPartitioned(t *testing.T) {
	o, a, b, c := three(t)
	o.some(t, a, "before", 20)
	eventually(t, "the files on b and c", func() bool { return len(b.tree(t)) == len(a.tree(t)) && len(c.tree(t)) == len(a.tree(t)) })
	for round := range partitionRounds {
		a.unplug(t)
		what := fmt.Sprintf("apart %d", round)
		for _, m := range []*machine{a, b, c} {
			o.some(t, m, what, 20)
			must(t, os.WriteFile(m.path(what, "same name"), []byte("as on "+m.ip), 0o644))
			must(t, os.WriteFile(m.path("before", "from "+a.ip, "0", "0"), []byte(what+" on "+m.ip), 0o644))
			delete(o, "before/from "+a.ip+"/0/0")
		}
		must(t, os.RemoveAll(a.path("before", "from "+a.ip, "1")))
		for name := range o {
			if strings.HasPrefix(name, "before/from "+a.ip+"/1/") {
				delete(o, name)
			}
		}
		a.crash()
		b.crash()
		a.serve(t)
		o.some(t, a, what+", after a was killed", 10)
		b.serve(t)
		o.some(t, b, what+", after b was killed", 10)

		a.throttle(t, 300)
		a.plug(t)
		reached := []*machine{c, b, a}[round%3]
		start(t, reached.command("sync", "now"))
		victim := []*machine{a, c, b}[round%3]
		eventually(t, "something of a on b", func() bool { return exists(b.path(what, "from "+a.ip)) })
		victim.crash()
		victim.serve(t)
		a.throttle(t, 0)
		reaches(t, a, b, c)
		o.converged(t, a, b, c)
	}
}

// A machine that stalls keeps nobody else from going on.
func TestMachineStalls(t *testing.T) {
	o, a, b, c := three(t)
	o.write(t, a, "at first", "on all")
	big := bytes.Repeat([]byte("from c alone "), 1<<20)
	o.write(t, c, "of c", string(big))
	eventually(t, "the names on a and b", func() bool {
		return exists(b.path("at first")) && a.shows("of c", len(big)) && b.shows("of c", len(big))
	})

	must(t, c.cmd.Process.Signal(syscall.SIGSTOP))
	ended := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(a.path("of c"))
		ended <- err
	}()
	o.some(t, a, "while c stalls", 20)
	o.some(t, b, "while c stalls", 20)
	eventually(t, "the files on a and b", func() bool {
		return exists(a.path("while c stalls", "from "+b.ip, "5", "19")) && exists(b.path("while c stalls", "from "+a.ip, "5", "19"))
	})
	for name, content := range o { // a and b answer each other
		if strings.HasPrefix(name, "while") && (read(t, a.path(name)) != content || read(t, b.path(name)) != content) {
			t.Errorf("%s is not what was written", name)
		}
	}
	if nightly {
		if err := <-ended; err == nil {
			t.Error("what only the stalled machine has was read")
		}
	}
	must(t, c.cmd.Process.Signal(syscall.SIGCONT))
	if !nightly {
		if err := <-ended; err != nil { // a read waits for half a minute
			t.Errorf("the read of what only the stalled machine had, after it went on: %v", err)
		}
	}
	reaches(t, a, b, c)
	o.converged(t, a, b, c)

	// The same with a line that goes dead without a word.
	c.unplug(t)
	o.some(t, a, "while c is cut off", 20)
	o.some(t, c, "while c is cut off", 20)
	eventually(t, "the files of a on b", func() bool { return exists(b.path("while c is cut off", "from "+a.ip, "5", "19")) })
	c.plug(t)
	o.converged(t, a, b, c) // by itself
}

// Machines that know no address of each other find each other on the local
// network, also when one has moved; what they announce there tells a stranger
// nothing, and with --mdns=false there is nothing.
func TestMachinesFindEachOther(t *testing.T) {
	t.Parallel()
	w := newNetwork(t)
	a, b := w.machine(t), w.machine(t)
	a.serve(t)
	b.join(t, a.ticket(t, "rw"))
	a.stop(t)
	b.stop(t)
	a.move(t, "10.77.0.11") // where neither knows the other to be
	b.move(t, "10.77.0.12")
	connected := func() bool { return strings.Contains(b.alkfs(t, "sync", "status"), " connected") }
	a.serve(t)
	b.serve(t, "--mdns=false")
	if r := b.try(t, "sync", "now", "work", "--timeout", "3s"); r.code == 0 || connected() {
		t.Errorf("b was not to look for a, and has found it: %+v", r)
	}
	b.stop(t)
	b.serve(t)
	eventually(t, "a and b to find each other", connected)
	o := told{}
	o.write(t, a, "file", "content")
	o.converged(t, a, b)
}

// While bytes are fetched, the machine that fetches them comes to another address,
// with a moment without any. The connection that it had dialled goes on; where it
// was dialled, nobody finds it any more, and it dials.
func TestMachineMovesWhileBytesAreFetched(t *testing.T) {
	t.Parallel()
	w := newNetwork(t)
	a, b := w.machine(t), w.machine(t)
	a.addr, b.addr = ":4747", ":4747"
	o := told{}
	a.serve(t, "--mdns=false")
	b.redeem(t, a.ticket(t, "rw"))
	for i, dialled := range []bool{false, true} { // b, by a
		name := fmt.Sprint("big ", i)
		if dialled {
			b.stop(t)
			a.stop(t)
			a.move(t, "10.77.0.11") // where b does not know it to be
			a.addr, b.addr = ":4747", ":4747"
			a.serve(t, "--mdns=false")
		}
		b.serve(t, "--mdns=false")
		big := make([]byte, 6<<20)
		rand.Read(big)
		o.write(t, a, name, string(big))
		eventually(t, "the name on b", func() bool { return b.shows(name, len(big)) })
		if c := b.connections(t); len(c) != 1 || c[0] == dialled {
			t.Fatalf("b was to be connected once, and dialled to be %v: %v", dialled, c)
		}
		before := b.received(t)
		a.throttle(t, 8_000)
		f, err := os.Open(b.path(name))
		must(t, err)
		t.Cleanup(func() { f.Close() })
		got := make([]byte, len(big))
		_, err = io.ReadFull(f, got[:1<<20])
		must(t, err)
		b.leave(t)
		changes := b.changes(t)
		o.write(t, b, name+" of b", "written without an address")
		eventually(t, "a change on b, of which it cannot tell", func() bool { return b.changes(t) > changes })
		part := b.received(t) - before
		b.move(t, fmt.Sprint("10.77.0.2", i))
		if _, err := io.ReadFull(f, got[1<<20:]); err != nil || !bytes.Equal(got, big) {
			t.Errorf("the read that was going on when b moved: wrong bytes, or %v", err)
		}
		f.Close() // b can be stopped
		a.throttle(t, 0)
		o.converged(t, a, b)
		all := b.received(t) - before
		if part > int64(len(big))-1<<20 || all > int64(len(big))+2<<20 {
			t.Errorf("of %d bytes b had got %d when it moved, and %d in the end", len(big), part, all)
		}
		want := []bool{true}
		if dialled {
			want = []bool{false, true}
		}
		if c := b.connections(t); !slices.Equal(c, want) {
			t.Errorf("connections of b, dialled: %v, want %v", c, want)
		}
		if strings.Contains(read(t, b.log), "no recent network activity") {
			t.Error("b waited until the connection was silent for long")
		}
		eventually(t, "a to hear where b is", func() bool {
			return strings.Contains(a.alkfs(t, "--json", "sync", "status"), b.ip+":4747")
		})
		t.Logf("of %d bytes b had got %d when it moved, and %d in the end", len(big), part, all)
	}
}

// connections returns of each that the machine's process has had whether it dialled.
func (m *machine) connections(t testing.TB) (dialled []bool) {
	t.Helper()
	for line := range strings.Lines(read(t, m.log)) {
		if strings.Contains(line, "msg=connected ") {
			dialled = append(dialled, strings.Contains(line, "dialed=true"))
		}
	}
	return dialled
}

// received returns how many bytes have come to the machine from the one other.
func (m *machine) received(t testing.TB) int64 {
	t.Helper()
	var st struct {
		In int64 `json:"bytes_in"`
	}
	must(t, json.Unmarshal([]byte(m.alkfs(t, "--json", "sync", "status")), &st))
	return st.In
}
