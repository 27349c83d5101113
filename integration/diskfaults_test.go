package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/integration/faultdisk"
	"github.com/alkdev/alkfs/pathtree"
)

func init() {
	workers["diskfaults"] = func(args []string) error {
		kill, err := strconv.ParseBool(args[2])
		if err != nil {
			return err
		}
		return newFaultWorker(args[0], args[1]).run(kill)
	}
}

// faultWorker uses a store on a disk that fails. What it was told goes to a
// journal elsewhere, as notes (see mark); a step that fails is left, and the next
// one begun.
type faultWorker struct {
	dir     string // with store and backup
	journal *os.File
	store   *alkfs.Store
	view    *alkfs.View
	content map[string][]byte
}

func newFaultWorker(dir, journalPath string) *faultWorker {
	j, err := os.OpenFile(journalPath, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		panic(err)
	}
	return &faultWorker{dir: dir, journal: j, content: map[string][]byte{}}
}

func (w *faultWorker) note(format string, args ...any) { fmt.Fprintf(w.journal, format+"\n", args...) }

// begin notes that name is about to become b.
func (w *faultWorker) begin(name string, b []byte) {
	w.content[name] = b
	w.note("f B %s %s", name, stateOf(b, true))
}

func (w *faultWorker) ack(names ...string) {
	for _, name := range names {
		b, ok := w.content[name]
		w.note("f A %s %s", name, stateOf(b, ok))
	}
}

// run goes through the steps and returns the errors that are not the disk's. It
// ends as by kill -9, or closes the store.
func (w *faultWorker) run(kill bool) error {
	var odd []error
	failed := func(what string, err error) {
		if err == nil {
			return
		}
		fmt.Printf("%s: %v\n", what, err)
		if e := pathtree.Errno(err); e != syscall.EIO && e != syscall.ENOSPC {
			odd = append(odd, fmt.Errorf("%s: %w", what, err))
		}
	}
	err := w.open()
	if failed("open", err); err != nil {
		if err = w.open(); err != nil {
			failed("open again", err)
			return errors.Join(odd...)
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"small", w.small}, {"large", w.large}, {"overwrite", w.overwrite}, {"put", w.put}, {"names", w.names},
		{"collect", w.collect}, {"back up", w.backup}, {"restore", w.restore}, {"large again", w.large},
	} {
		failed(step.name, step.do())
	}
	if kill {
		if len(odd) == 0 {
			os.Exit(0)
		}
		return errors.Join(odd...)
	}
	failed("close", w.store.Close())
	return errors.Join(odd...)
}

func (w *faultWorker) open() (err error) {
	if w.store, err = alkfs.Open(context.Background(), filepath.Join(w.dir, "store"), alkfs.Options{MustExist: true}); err != nil {
		return err
	}
	w.view, err = w.store.View(alkfs.Spec{})
	return err
}

// small writes a file that goes into its row, and syncs it.
func (w *faultWorker) small() error {
	w.note("f B small %s", stateOf(nil, true))
	f, err := w.view.Create("f/small")
	if err != nil {
		return err
	}
	w.begin("small", bytes.Repeat([]byte("small "), 300))
	_, err = f.Write(w.content["small"])
	if err == nil {
		err = f.Sync(context.Background())
	}
	if err == nil {
		w.ack("small")
	}
	return errors.Join(err, f.Close())
}

// large writes a file that is staged: its session is synced in the middle, and
// published at its end.
func (w *faultWorker) large() error {
	ctx := context.Background()
	w.note("f B large %s", stateOf(nil, true))
	f, err := w.view.Create("f/large")
	if err != nil {
		return err
	}
	half := bytes.Repeat(fmt.Appendf(nil, "large %d ", len(w.content)), 20_000)
	w.begin("large", half)
	_, err = f.Write(half)
	if err == nil {
		err = f.Sync(ctx)
	}
	if err == nil {
		w.ack("large")
		w.begin("large", append(bytes.Clone(half), half...))
		_, err = f.Write(half)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = w.store.Sync()
	}
	if err == nil {
		w.ack("large")
	}
	return err
}

// overwrite changes a little of a file that is a blob, and of one in its row.
func (w *faultWorker) overwrite() error {
	for name, size := range map[string]int{"group": 16<<10 + 1, "inline": 700} {
		w.content[name] = bytes.Clone(samples()[name])
		f, err := w.view.OpenFile("f/"+name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b := bytes.Clone(w.content[name])
		copy(b[size-7:], "changed")
		w.begin(name, b)
		_, err = f.WriteAt([]byte("changed"), int64(size-7))
		if e := f.Close(); err == nil {
			err = e
		}
		if err == nil {
			err = w.store.Sync()
		}
		if err != nil {
			return err
		}
		w.ack(name)
	}
	return nil
}

// put takes a host tree in.
func (w *faultWorker) put() error {
	host, err := os.MkdirTemp("", "put-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(host)
	for name, size := range map[string]int{"put-small": 100, "put-large": 100_000} {
		w.begin(name, bytes.Repeat([]byte("p"), size))
		if err := os.WriteFile(filepath.Join(host, name), w.content[name], 0o644); err != nil {
			return err
		}
	}
	if _, err := w.view.Put(context.Background(), host, "f", alkfs.PutOptions{Recursive: true, Sync: true}); err != nil {
		return err
	}
	w.ack("put-small", "put-large")
	return nil
}

// names renames one file and removes another.
func (w *faultWorker) names() error {
	w.content["empty"], w.content["inline-full"] = samples()["empty"], samples()["inline-full"]
	w.begin("renamed", w.content["inline-full"])
	delete(w.content, "inline-full")
	delete(w.content, "empty")
	w.note("f B inline-full %s", absent)
	w.note("f B empty %s", absent)
	if err := w.view.Rename("f/inline-full", "f/renamed"); err != nil {
		return err
	}
	if err := w.view.Remove("f/empty"); err != nil {
		return err
	}
	if err := w.store.Sync(); err != nil {
		return err
	}
	w.ack("renamed", "inline-full", "empty")
	return nil
}

func (w *faultWorker) collect() error {
	_, err := w.store.GC(context.Background(), alkfs.GCOptions{Retention: 1, Grace: -1})
	return err
}

func (w *faultWorker) backup() error {
	w.note("backup begin")
	r, err := w.store.Backup(context.Background(), filepath.Join(w.dir, "backup"), alkfs.BackupOptions{})
	if err == nil && !r.OK() {
		return fmt.Errorf("backup: missing %v, damaged %v: %w", r.Missing, r.Damaged, syscall.EINVAL)
	}
	if err == nil {
		w.note("backup done")
	}
	return err
}

func (w *faultWorker) restore() error {
	r, err := alkfs.RestoreStore(context.Background(), filepath.Join(w.dir, "backup"), filepath.Join(w.dir, "restored"), alkfs.BackupOptions{})
	if err == nil && !r.OK() {
		return fmt.Errorf("restore: missing %v, damaged %v: %w", r.Missing, r.Damaged, syscall.EINVAL)
	}
	if err == nil {
		w.note("restored done")
	}
	return err
}

// faultBase makes the directory that every run begins with: a store with
// samples in it and in a snapshot, a backup of it, and a journal that says so.
func faultBase(t *testing.T) (dir string, journal string) {
	t.Helper()
	dir = t.TempDir()
	s := storeAt(t, filepath.Join(dir, "store"))
	host := t.TempDir()
	for name, b := range samples() {
		must(t, os.WriteFile(filepath.Join(host, name), b, 0o644))
		if name == "large" { // takes long, and "group" is no different
			continue
		}
		journal += fmt.Sprintf("f A %s %s\n", name, stateOf(b, true))
	}
	s.alkfs(t, "put", "-r", "--sync", host, "default/main:old")
	must(t, os.Remove(filepath.Join(host, "large")))
	s.alkfs(t, "put", "-r", "--sync", host, "default/main:f")
	s.alkfs(t, "snapshot", "create", "then")
	journal += "backup begin\n"
	s.alkfs(t, "backup", filepath.Join(dir, "backup"))
	journal += "backup done\n"
	return dir, journal
}

// faultRuns is a disk on which one run after the other is made from base.
type faultRuns struct {
	d          *faultdisk.Disk
	dir, below string
	base       string
	journal    string
	n          int
}

// try makes a run in which the disk fails as f says, and returns what is wrong
// with what it left; fired is false when the fault did not come about.
func (r *faultRuns) try(t *testing.T, f faultdisk.Fault, kill bool) (wrong []string, fired bool) {
	t.Helper()
	r.n++
	name := fmt.Sprintf("run%d", r.n)
	below := filepath.Join(r.below, name)
	tool{}.run(t, "cp", "-a", r.base, below)
	journal := filepath.Join(scratch, "journal")
	must(t, os.WriteFile(journal, []byte(r.journal), 0o644))
	f.Only = func(_ faultdisk.Kind, path string) bool { return strings.HasPrefix(path, name+"/") }
	r.d.Fail(f)
	p := worker(t, "diskfaults", filepath.Join(r.dir, name), journal, strconv.FormatBool(kill))
	if err := p.wait(t); err != nil {
		wrong = append(wrong, err.Error())
	}
	count, failed := r.d.Count()
	r.d.Fail(faultdisk.Fault{})
	text, err := os.ReadFile(journal)
	must(t, err)
	wrong = append(wrong, checkFaults(t.Context(), below, string(text))...)
	if len(wrong) > 0 {
		wrong = append(wrong, fmt.Sprintf("operation %d of %d: %s; kill -9: %v", f.At, count, failed, kill), "the run says: "+p.output())
	}
	must(t, os.RemoveAll(below))
	return wrong, failed != ""
}

// checkFaults looks at a store, its backup and what was made of that.
func checkFaults(ctx context.Context, dir, journal string) (wrong []string) {
	r := &recording{}
	restored := false
	for line := range strings.Lines(journal) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if name == "restored" {
			restored = true
			continue
		}
		r.marks = append(r.marks, mark{len(r.marks), name, rest})
	}
	end := len(r.marks)
	allowed, err := r.allowed(end)
	if err != nil {
		return []string{err.Error()}
	}
	wrong = checkStore(ctx, filepath.Join(dir, "store"), allowed, true)
	from, to, _ := r.backup(end)
	if allowed, err = r.allowedFrom(from, to); err != nil {
		return append(wrong, err.Error())
	}
	again := filepath.Join(dir, "again")
	if _, err := alkfs.RestoreStore(ctx, filepath.Join(dir, "backup"), again, alkfs.BackupOptions{}); err != nil {
		return append(wrong, err.Error())
	}
	for _, text := range checkStore(ctx, again, allowed, false) {
		wrong = append(wrong, "backup: "+text)
	}
	first := filepath.Join(dir, "restored")
	if _, err := os.Stat(first); err == nil {
		for _, text := range checkStore(ctx, first, allowed, false) {
			wrong = append(wrong, "restored: "+text)
		}
	} else if restored {
		wrong = append(wrong, "what was restored is not there")
	}
	return wrong
}

// TestEveryDiskFault fails each operation on the disk in turn, with every error,
// once and from then on (in CI a part of them): whatever it was that failed, what
// was acknowledged is kept.
func TestEveryDiskFault(t *testing.T) {
	t.Parallel()
	base, journal := faultBase(t)
	d, dir, below := newDisk(t)
	r := &faultRuns{d: d, dir: dir, below: below, base: base, journal: journal}
	if wrong, _ := r.try(t, faultdisk.Fault{}, false); len(wrong) > 0 {
		t.Fatalf("without a fault: %s", strings.Join(wrong, "\n"))
	}
	all := []faultdisk.Fault{{Errno: syscall.EIO}, {Errno: syscall.ENOSPC, Stay: true}, {Errno: syscall.ENOSPC}, {Errno: syscall.EIO, Stay: true}}
	for at := 1; ; at += faultStep {
		end := true
		for i, f := range all {
			if !nightly && i != at/faultStep%len(all) {
				continue
			}
			f.At = at
			wrong, fired := r.try(t, f, at%2 == 0)
			if len(wrong) > 0 {
				t.Errorf("%v, stays: %v: %s", f.Errno, f.Stay, strings.Join(wrong, "\n"))
			}
			end = end && !fired
		}
		if end {
			t.Logf("%d runs, %d operations", r.n, at-faultStep)
			return
		}
		if t.Failed() {
			return
		}
	}
}
