package integration_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The journal of a kill-loop worker is a plain file outside of the mount. Two
// kinds of lines:
//
//	B name state   name may be in this state from now on
//	A name state   it was acknowledged by fsync that name is in this state
//
// A state is the SHA-256 of the content, or "-" when the name is absent. So at
// any moment a name may be in the state acknowledged last or in one that was
// begun after it, and in no other: never a mixture, never an older one.

const absent = "-"

func init() {
	workers["killloop"] = func(args []string) error {
		seed, err := strconv.ParseUint(args[2], 10, 64)
		if err != nil {
			return err
		}
		return killWorker(args[0], args[1], seed)
	}
}

type journal struct{ f *os.File }

func (j journal) begin(name, state string) { fmt.Fprintf(j.f, "B %s %s\n", name, state) }
func (j journal) ack(name, state string)   { fmt.Fprintf(j.f, "A %s %s\n", name, state) }

// killFiles is one worker's directory and what it believes is in it.
type killFiles struct {
	dir     string
	j       journal
	rng     *rand.Rand
	content map[string][]byte
}

// killWorker changes files below dir until an operation fails, which it does
// once the server of the mount is killed.
func killWorker(dir, journalPath string, seed uint64) error {
	known, err := replay(journalPath)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(journalPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &killFiles{dir: dir, j: journal{f}, rng: rand.New(rand.NewPCG(seed, 1)), content: map[string][]byte{}}
	for name := range known {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			w.content[name] = b
		} else if !os.IsNotExist(err) {
			return err
		}
		// What is there now was checked by the test: it is where we start.
		w.j.ack(name, w.state(name))
	}
	steps := []func(string) error{w.replace, w.replace, w.overwrite, w.appendTo, w.remove, w.move, w.unsynced, w.truncate}
	for {
		name := fmt.Sprintf("f%d", w.rng.IntN(12))
		if err := steps[w.rng.IntN(len(steps))](name); err != nil {
			fmt.Fprintln(os.Stderr, "ended by:", err)
			return nil
		}
	}
}

func (w *killFiles) path(name string) string { return filepath.Join(w.dir, name) }

func (w *killFiles) state(name string) string {
	b, ok := w.content[name]
	return stateOf(b, ok)
}

func stateOf(b []byte, exists bool) string {
	if !exists {
		return absent
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func (w *killFiles) bytes() []byte {
	n := w.rng.IntN(9000)
	switch w.rng.IntN(10) {
	case 0:
		n = 0
	case 1:
		n = 16<<10 + w.rng.IntN(200_000)
	case 2:
		n = 1<<20 + w.rng.IntN(1<<20)
	}
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := w.rng.Uint64()
		for k := i; k < min(i+8, n); k++ {
			b[k] = byte(v >> (8 * (k - i)))
		}
	}
	return b
}

func (w *killFiles) syncDir() error {
	d, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (w *killFiles) begin(name string) { w.j.begin(name, w.state(name)) }
func (w *killFiles) ack(name string)   { w.j.ack(name, w.state(name)) }

// set notes that the content of name is about to become b.
func (w *killFiles) set(name string, b []byte) {
	w.content[name] = b
	w.begin(name)
}

// replace is how careful programs save: write beside, fsync, rename, fsync.
func (w *killFiles) replace(name string) error {
	tmp, b := name+".tmp", w.bytes()
	w.j.begin(tmp, stateOf(nil, true)) // created, nothing published yet
	w.set(tmp, b)
	if err := writeSynced(w.path(tmp), os.O_CREATE|os.O_TRUNC, b, 0); err != nil {
		return err
	}
	w.ack(tmp)
	w.set(name, b)
	delete(w.content, tmp)
	w.begin(tmp)
	if err := os.Rename(w.path(tmp), w.path(name)); err != nil {
		return err
	}
	if err := w.syncDir(); err != nil {
		return err
	}
	w.ack(name)
	w.ack(tmp)
	return nil
}

func writeSynced(path string, flags int, b []byte, off int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	return f.Sync()
}

// overwrite changes a part of a file in place, twice, with an fsync between.
func (w *killFiles) overwrite(name string) error {
	old, ok := w.content[name]
	if !ok || len(old) < 2 {
		return nil
	}
	f, err := os.OpenFile(w.path(name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for range 2 {
		b := append([]byte(nil), w.content[name]...)
		at := w.rng.IntN(len(b) - 1)
		part := b[at : at+1+w.rng.IntN(min(len(b)-at-1, 70_000))]
		for i := range part {
			part[i] ^= 0x5a
		}
		w.set(name, b)
		if _, err := f.WriteAt(part, int64(at)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		w.ack(name)
	}
	return f.Close()
}

func (w *killFiles) appendTo(name string) error {
	more := w.bytes()
	if len(w.content[name])+len(more) > 4<<20 {
		return nil
	}
	if _, ok := w.content[name]; !ok {
		w.j.begin(name, stateOf(nil, true))
	}
	b := append(append([]byte(nil), w.content[name]...), more...)
	at := int64(len(w.content[name]))
	w.set(name, b)
	if err := writeSynced(w.path(name), os.O_CREATE, more, at); err != nil {
		return err
	}
	w.ack(name)
	return nil
}

func (w *killFiles) truncate(name string) error {
	old, ok := w.content[name]
	if !ok {
		return nil
	}
	b := append([]byte(nil), old[:w.rng.IntN(len(old)+1)]...)
	f, err := os.OpenFile(w.path(name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	w.set(name, b)
	if err := f.Truncate(int64(len(b))); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	w.ack(name)
	return f.Close()
}

func (w *killFiles) remove(name string) error {
	if _, ok := w.content[name]; !ok {
		return nil
	}
	delete(w.content, name)
	w.begin(name)
	if err := os.Remove(w.path(name)); err != nil {
		return err
	}
	if err := w.syncDir(); err != nil {
		return err
	}
	w.ack(name)
	return nil
}

// move renames a file over another name.
func (w *killFiles) move(name string) error {
	b, ok := w.content[name]
	to := name + "m"
	if !ok {
		return nil
	}
	w.set(to, b)
	delete(w.content, name)
	w.begin(name)
	if err := os.Rename(w.path(name), w.path(to)); err != nil {
		return err
	}
	if err := w.syncDir(); err != nil {
		return err
	}
	w.ack(to)
	w.ack(name)
	return nil
}

// unsynced writes a file and closes it: it may or may not survive, whole.
func (w *killFiles) unsynced(name string) error {
	b := w.bytes()
	w.j.begin(name, stateOf(nil, true)) // truncated at open, or just created
	w.set(name, b)
	f, err := os.Create(w.path(name))
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// replay returns the states each name may be in, the acknowledged one first.
func replay(path string) (map[string][]string, error) {
	allowed := map[string][]string{}
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return allowed, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: line %q", path, sc.Text())
		}
		kind, name, state := fields[0], fields[1], fields[2]
		if kind == "A" {
			allowed[name] = []string{state}
			continue
		}
		if _, ok := allowed[name]; !ok {
			allowed[name] = []string{absent}
		}
		allowed[name] = append(allowed[name], state)
	}
	return allowed, sc.Err()
}

// verify compares a worker's directory with its journal.
func verify(t testing.TB, dir, journalPath string) (files int) {
	t.Helper()
	allowed, err := replay(journalPath)
	must(t, err)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if _, ok := allowed[e.Name()]; !ok {
			t.Errorf("%s: nobody made %s", dir, e.Name())
		}
	}
	for name, states := range allowed {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := stateOf(b, err == nil)
		ok := false
		for _, s := range states {
			ok = ok || s == got
		}
		if !ok {
			t.Errorf("%s/%s is %s (%d bytes), journal allows %v", filepath.Base(dir), name, got, len(b), states)
		}
		files++
	}
	return files
}
