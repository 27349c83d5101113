package integration_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
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
		steps := -1
		if len(args) > 3 {
			if steps, err = strconv.Atoi(args[3]); err != nil {
				return err
			}
		}
		return killWorker(args[0], args[1], seed, steps)
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
	loose   map[string]bool // names of which no fsync was answered since they changed
	power   bool            // a power cut is to be survived, not only a kill
}

func newKillFiles(dir string, j *os.File, seed uint64) *killFiles {
	return &killFiles{dir: dir, j: journal{j}, rng: rand.New(rand.NewPCG(seed, 1)), content: map[string][]byte{}, loose: map[string]bool{}}
}

// killWorker changes files below dir, in so many steps, or until an operation
// fails when steps is negative: then the server of the mount was killed.
func killWorker(dir, journalPath string, seed uint64, steps int) error {
	known, err := replay(journalPath)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(journalPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	w := newKillFiles(dir, f, seed)
	w.power = steps >= 0
	for name := range known {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			w.content[name] = b
		} else if !os.IsNotExist(err) {
			return err
		}
		// What is there now was checked by the test: it is where we start.
		w.j.ack(name, w.state(name))
	}
	do := []func(string) error{w.replace, w.replace, w.overwrite, w.appendTo, w.remove, w.move, w.unsynced, w.truncate}
	for n := 0; n != steps; n++ {
		name := fmt.Sprintf("f%d", w.rng.IntN(12))
		if err := do[w.rng.IntN(len(do))](name); err != nil {
			if steps >= 0 {
				return err
			}
			fmt.Fprintln(os.Stderr, "ended by:", err)
			return nil
		}
	}
	return nil
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
	if err := writeSynced(w.path(tmp), os.O_CREATE|os.O_TRUNC, b, 0, func() { w.ack(tmp) }); err != nil {
		return err
	}
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

// writeSynced writes to a file, and calls synced when an fsync was answered, with
// the file still open.
func writeSynced(path string, flags int, b []byte, off int64, synced func()) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	synced()
	return nil
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
	return writeSynced(w.path(name), os.O_CREATE, more, at, func() { w.ack(name) })
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
	if w.power && w.loose[name] { // the fsync of a directory is for names
		if err := writeSynced(w.path(name), 0, nil, 0, func() {}); err != nil {
			return err
		}
		delete(w.loose, name)
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
	w.loose[name] = true
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
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return replayText(text)
}

func replayText(text []byte) (map[string][]string, error) {
	allowed := map[string][]string{}
	sc := bufio.NewScanner(bytes.NewReader(text))
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) != 3 {
			return nil, fmt.Errorf("line %q of a journal", sc.Text())
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
	wrong, err := compare(os.DirFS(dir), ".", allowed)
	must(t, err)
	for _, text := range wrong {
		t.Errorf("%s: %s", filepath.Base(dir), text)
	}
	return len(allowed)
}

// compare returns what in a directory is not as a journal allows.
func compare(fsys fs.FS, dir string, allowed map[string][]string) (wrong []string, err error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, ok := allowed[e.Name()]; !ok {
			wrong = append(wrong, "nobody made "+e.Name())
		}
	}
	for name, states := range allowed {
		b, err := fs.ReadFile(fsys, path.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = append(wrong, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		if got := stateOf(b, err == nil); !slices.Contains(states, got) {
			wrong = append(wrong, fmt.Sprintf("%s is %s (%d bytes), its journal allows %v", name, got, len(b), states))
		}
	}
	slices.Sort(wrong)
	return wrong, nil
}
