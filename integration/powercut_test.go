package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/integration/faultdisk"
)

// A recording is all that several processes did to the disk under one store,
// with what they were told: the lines of their journals (see killworker_test.go)
// are notes in the log.
type recording struct {
	log    []faultdisk.Op
	marks  []mark
	before int // operations before the store was in use
}

// mark is a line of a journal: of the directory of that name in the store, or
// of "backup".
type mark struct {
	at         int // operations before it
	name, line string
}

// marksDir is where workers keep their journals, on the disk itself.
const marksDir = "marks"

// newRecording collects the notes in a log.
func newRecording(log []faultdisk.Op) *recording {
	r := &recording{log: log}
	half := map[string]string{} // a line may come in two writes
	for i, op := range log {
		switch {
		case op.Kind == faultdisk.Mark && op.Path == "start":
			r.before = i
		case op.Kind == faultdisk.Mark:
			name, line, _ := strings.Cut(op.Path, " ")
			r.marks = append(r.marks, mark{i, name, line})
		case op.Kind == faultdisk.Write && strings.HasPrefix(op.Path, marksDir+"/"):
			name := filepath.Base(op.Path)
			half[name] += string(op.Data)
			for {
				line, rest, whole := strings.Cut(half[name], "\n")
				if !whole {
					break
				}
				r.marks, half[name] = append(r.marks, mark{i, name, line}), rest
			}
		}
	}
	return r
}

// allowed returns what the journals allow at a point, by directory.
func (r *recording) allowed(at int) (map[string]map[string][]string, error) {
	return r.allowedFrom(at, at)
}

// allowedFrom returns what the journals allow at some moment between two points.
func (r *recording) allowedFrom(from, to int) (map[string]map[string][]string, error) {
	text := map[string]*bytes.Buffer{}
	for _, m := range r.marks {
		if m.at >= to {
			break
		}
		if m.name == "backup" {
			continue
		}
		if text[m.name] == nil {
			text[m.name] = &bytes.Buffer{}
		}
		if m.at < from || strings.HasPrefix(m.line, "B ") {
			fmt.Fprintln(text[m.name], m.line)
		}
	}
	all := map[string]map[string][]string{}
	for name, b := range text {
		states, err := replayText(b.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = states
	}
	return all, nil
}

// backup returns between which points the state lies that the backup has at a
// point; ok is false when there is none yet for sure.
func (r *recording) backup(at int) (from, to int, ok bool) {
	begun := 0
	for _, m := range r.marks {
		switch {
		case m.at >= at:
			return from, at, ok
		case m.name == "backup" && m.line == "begin":
			begun = m.at
		case m.name == "backup":
			from, ok = begun, true
		}
	}
	return from, at, ok
}

// acks returns the points right after something was acknowledged.
func (r *recording) acks() (at []int) {
	for _, m := range r.marks {
		if m.at > r.before && !strings.HasPrefix(m.line, "B ") {
			at = append(at, m.at+1)
		}
	}
	return at
}

// newDisk mounts a disk on dir, with its files in below.
func newDisk(t testing.TB) (d *faultdisk.Disk, dir, below string) {
	t.Helper()
	needRoot(t)
	dir, below = t.TempDir(), t.TempDir()
	d, err := faultdisk.Mount(dir, below)
	must(t, err)
	t.Cleanup(func() { detach(dir) })
	return d, dir, below
}

// record uses a store on a disk that records: a mount with workers in it, an
// SSH server, puts, collections and backups, all at once; and all of that again
// after everything was closed, so that the database is checkpointed.
func record(t *testing.T, seed uint64) *recording {
	t.Helper()
	d, dir, _ := newDisk(t)
	d.Record()
	tool{}.run(t, "mkdir", filepath.Join(dir, marksDir))
	u := &underPower{d: d, dir: dir, store: storeAt(t, filepath.Join(dir, "store")), mnt: t.TempDir()}
	m := u.store.mountAt(t, u.mnt)
	must(t, os.Mkdir(m.path("old"), 0o755))
	for name, b := range samples() {
		must(t, writeSynced(m.path("old", name), os.O_CREATE, b, 0, func() {}))
	}
	for _, name := range []string{"w0", "w1", "put", "sftp"} {
		must(t, os.Mkdir(m.path(name), 0o755))
	}
	u.store.alkfs(t, "snapshot", "create", "then")
	m.settle(t)
	d.Mark("start")
	u.use(t, m, seed)
	m.unmount(t)
	u.use(t, u.store.mountAt(t, u.mnt), seed+10)
	return newRecording(d.Log())
}

// underPower is a store on a disk that records.
type underPower struct {
	d     *faultdisk.Disk
	dir   string // of the disk
	mnt   string
	store *store
}

func (u *underPower) note(format string, args ...any) { u.d.Mark(fmt.Sprintf(format, args...)) }

// use does everything at once that is done with a store mounted as m.
func (u *underPower) use(t *testing.T, m *mount, seed uint64) {
	t.Helper()
	srv := u.store.serve(t)
	var ps []*process
	for i, name := range []string{"w0", "w1"} {
		ps = append(ps, worker(t, "killloop", m.path(name), filepath.Join(u.dir, marksDir, name), fmt.Sprint(seed+uint64(i)), fmt.Sprint(powerSteps)))
	}
	done := make(chan error, 2)
	go func() { done <- u.put(t) }()
	go func() { done <- u.send(srv, rand.New(rand.NewPCG(seed, 3))) }()
	for i := range 2 {
		u.note("backup begin")
		u.store.alkfs(t, "backup", filepath.Join(u.dir, "backup"))
		u.note("backup done")
		if i == 0 {
			u.store.alkfs(t, "gc", "--keep", "1ns", "--grace", "-1s")
		}
	}
	for range 2 {
		must(t, <-done)
	}
	for _, p := range ps {
		if err := p.wait(t); err != nil {
			t.Fatalf("worker: %v\n%s", err, p.output())
		}
	}
	srv.terminate(t)
}

// put puts files with --sync.
func (u *underPower) put(t *testing.T) error {
	host := t.TempDir()
	for i := range 6 {
		name, b := fmt.Sprintf("p%d", i%5), bytes.Repeat(fmt.Appendf(nil, "put %d ", i), 10+i*9000)
		if err := os.WriteFile(filepath.Join(host, name), b, 0o644); err != nil {
			return err
		}
		u.note("put B %s %s", name, stateOf(b, true))
		r := u.store.try(t, "put", "--sync", filepath.Join(host, name), "default/main:put/"+name)
		if r.code != 0 {
			return fmt.Errorf("put: %s", r.err)
		}
		u.note("put A %s %s", name, stateOf(b, true))
	}
	return nil
}

// send uploads files over SFTP, with and without fsync.
func (u *underPower) send(srv *sshServer, rnd *rand.Rand) error {
	c, err := srv.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range 12 {
		name, b := fmt.Sprintf("s%d", rnd.IntN(6)), bytes.Repeat(fmt.Appendf(nil, "sent %d ", i), 10+rnd.IntN(50_000))
		u.note("sftp B %s %s", name, stateOf(nil, true))
		u.note("sftp B %s %s", name, stateOf(b, true))
		f, err := c.Create("/default/main/sftp/" + name)
		if err != nil {
			return err
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
		sync := rnd.IntN(3) > 0
		if sync {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
		if sync {
			u.note("sftp A %s %s", name, stateOf(b, true))
		}
	}
	return nil
}

// ram returns a directory in memory, if there is one: what the opened store
// syncs is of no interest.
func ram() string {
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		return "/dev/shm"
	}
	return scratch
}

// backupEvery is how many cuts there are to one after which the backup is
// restored.
const backupEvery = 4

// cut is one power cut: where, and the seed of what is left.
type cut struct {
	at   int
	seed uint64
}

func (c cut) String() string { return fmt.Sprintf("cut %d, seed %d", c.at, c.seed) }

// cuts picks n of them in order, half of them right after an acknowledgement.
func (r *recording) cuts(n int, seed uint64) (all []cut) {
	rnd := rand.New(rand.NewPCG(seed, 9))
	acks := r.acks()
	for i := range n {
		at := r.before + 1 + rnd.IntN(len(r.log)-r.before)
		if i%2 == 0 {
			at = acks[rnd.IntN(len(acks))]
		}
		all = append(all, cut{at, rnd.Uint64()})
	}
	slices.SortFunc(all, func(a, b cut) int { return a.at - b.at })
	return all
}

// syncs returns where the syncs are that f picks.
func (r *recording) syncs(f func(faultdisk.Op) bool) (at []int) {
	for i, op := range r.log {
		if i > r.before && op.Kind == faultdisk.Sync && f(op) {
			at = append(at, i)
		}
	}
	return at
}

// cutsAfter returns cuts right after the acknowledgements that follow syncs,
// that of a backup among them, which is looked at in all of them.
func (r *recording) cutsAfter(syncs []int) (all []cut) {
	acks := r.acks()
	rnd := rand.New(rand.NewPCG(uint64(len(syncs)), 4))
	for _, i := range syncs {
		next, _ := slices.BinarySearch(acks, i)
		for n := range 3 {
			if next+n < len(acks) {
				all = append(all, cut{acks[next+n], rnd.Uint64() &^ (backupEvery - 1)})
			}
		}
		for _, m := range r.marks {
			if m.at > i && m.name == "backup" && m.line == "done" {
				all = append(all, cut{m.at + 1, rnd.Uint64() &^ (backupEvery - 1)})
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b cut) int { return a.at - b.at })
	return all
}

// try cuts the power at each of the cuts and returns what is wrong then, until
// that are most.
func (r *recording) try(t *testing.T, cuts []cut, lose func(faultdisk.Op) bool, most int) (wrong []string) {
	t.Helper()
	crash := faultdisk.NewCrash(r.log, lose)
	for _, c := range cuts {
		crash.Advance(c.at)
		dir, err := os.MkdirTemp(ram(), "alkfs-cut-")
		must(t, err)
		must(t, crash.Image(rand.New(rand.NewPCG(c.seed, 1)), dir))
		for _, text := range r.check(t.Context(), c, dir) {
			wrong = append(wrong, fmt.Sprintf("%s: %s", c, text))
		}
		must(t, os.RemoveAll(dir))
		if len(wrong) >= most {
			break
		}
	}
	return wrong
}

// check opens what a power cut left, as after a start of the machine, and
// returns what is wrong with it.
func (r *recording) check(ctx context.Context, c cut, dir string) (wrong []string) {
	allowed, err := r.allowed(c.at)
	if err != nil {
		return []string{err.Error()}
	}
	wrong = checkStore(ctx, filepath.Join(dir, "store"), allowed, true)
	from, to, ok := r.backup(c.at)
	if !ok || c.seed%backupEvery != 0 {
		return wrong
	}
	restored := filepath.Join(dir, "restored")
	if _, err := alkfs.RestoreStore(ctx, filepath.Join(dir, "backup"), restored, alkfs.BackupOptions{}); err != nil {
		return append(wrong, err.Error())
	}
	if allowed, err = r.allowedFrom(from, to); err != nil {
		return append(wrong, err.Error())
	}
	for _, text := range checkStore(ctx, restored, allowed, false) {
		wrong = append(wrong, "backup: "+text)
	}
	return wrong
}

// checkStore compares a store that a crash of the machine left with journals.
func checkStore(ctx context.Context, dir string, allowed map[string]map[string][]string, collect bool) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	// The machine was started anew.
	if _, err := os.Stat(filepath.Join(dir, "boot_id")); err == nil {
		if err := os.WriteFile(filepath.Join(dir, "boot_id"), []byte("an earlier one"), 0o600); err != nil {
			return []string{err.Error()}
		}
	}
	var logged bytes.Buffer
	s, err := alkfs.Open(ctx, dir, alkfs.Options{MustExist: true, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		return []string{fmt.Sprintf("open: %v", err)}
	}
	look := func(when string) {
		rep, err := s.Check(ctx, alkfs.CheckOptions{Deep: true})
		if err != nil || !rep.OK() {
			say("%s: fsck: %v, %v, missing %v, damaged %v, quarantined %v", when, err, rep.Problems, rep.Missing, rep.Damaged, rep.Quarantined)
		}
		v, err := s.View(alkfs.Spec{})
		if err != nil {
			say("%s: %v", when, err)
			return
		}
		for name, states := range allowed {
			bad, err := compare(v, name, states)
			if err != nil {
				say("%s: %v", when, err)
			}
			for _, text := range bad {
				say("%s: %s/%s", when, name, text)
			}
		}
		for _, spec := range []alkfs.Spec{{}, {At: "then"}} {
			v, err := s.View(spec)
			if err != nil {
				say("%s: %v", when, err)
				continue
			}
			for name, want := range samples() {
				if got, err := v.ReadFile("old/" + name); err != nil || !bytes.Equal(got, want) {
					say("%s: old/%s at %q: %d bytes, %v", when, name, spec.At, len(got), err)
				}
			}
		}
	}
	look("opened")
	if collect {
		if _, err := s.GC(ctx, alkfs.GCOptions{Retention: 1, Grace: -1}); err != nil {
			say("collection: %v", err)
		}
		look("collected")
	}
	if err := s.Close(); err != nil {
		say("close: %v", err)
	}
	if len(wrong) > 0 {
		say("logged: %s", tail(logged.Bytes()))
	}
	return wrong
}

// TestPowerCutAnywhere replays power cuts under everything that a store does at once,
// and then shows that it would notice a program that left out one kind of fsync.
func TestPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	r := record(t, 5)
	t.Logf("%d operations, %d notes", len(r.log), len(r.marks))
	cuts := r.cuts(powerCuts, 5)
	for _, text := range r.try(t, cuts, nil, 5) {
		t.Error(text)
	}
	for _, left := range []struct {
		what  string
		under string // prefix of the path
		isDir bool
	}{
		{"the content", "store/blobs/", false},
		{"its directories", "store/blobs", true},
		{"the write-ahead log", "store/alkfs.db-wal", false},
		{"the database", "store/alkfs.db", false},
		{"staging files", "store/staging/", false},
		{"their directory", "store/staging", true},
		{"the backup's content", "backup/blobs/", false},
		{"the backup's database", "backup/new/", false},
	} {
		lose := func(op faultdisk.Op) bool {
			return op.IsDir == left.isDir && (op.Path == left.under || strings.HasSuffix(left.under, "/") && strings.HasPrefix(op.Path, left.under) ||
				left.isDir && strings.HasPrefix(op.Path, left.under+"/"))
		}
		lost := r.syncs(lose)
		wrong := r.try(t, r.cutsAfter(lost), lose, 1)
		t.Logf("without %d fsyncs of %s: %.300q", len(lost), left.what, wrong)
		if len(wrong) == 0 {
			t.Errorf("no power cut shows that %d fsyncs of %s were left out", len(lost), left.what)
		}
	}
}
