package writesession

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// The test binary is also the process that gets killed: with childEnv set it
// plays the part of that name in the store in its first argument.
const childEnv = "WRITESESSION_TEST_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(childEnv); part != "" {
		child(part, os.Args[1])
		return
	}
	os.Exit(m.Run())
}

// childTB makes the child die of what would fail a test.
type childTB struct{ testing.TB }

func (childTB) Helper()        {}
func (childTB) Log(...any)     {}
func (childTB) Cleanup(func()) {}
func (childTB) Fatal(args ...any) {
	fmt.Println(append([]any{"failed:"}, args...)...)
	os.Exit(1)
}
func (t childTB) Fatalf(format string, args ...any) { t.Fatal(fmt.Sprintf(format, args...)) }

func child(part, dir string) {
	w := openWorld(childTB{}, dir, Options{MemoryMax: 40 << 10, PersistAfter: 20 * time.Millisecond})
	switch part {
	case "unsynced":
		w.put(w.open(w.main, "small"), 1, []byte("new"))
		w.put(w.open(w.main, "big"), 5000, fill(9000, 9))
		eventually(childTB{}, func() bool { return w.s.Stats().Saved >= 2 })
	case "synced":
		for _, name := range []string{"small", "big"} {
			f := w.open(w.main, name)
			w.put(f, 1, []byte("new"))
			if name == "big" {
				w.put(f, 5000, fill(9000, 9))
			}
			if err := f.Sync(ctx); err != nil {
				w.t.Fatal(err)
			}
		}
		f := w.create(w.main, "made")
		w.put(f, 0, fill(70<<10, 7))
		if err := f.Sync(ctx); err != nil {
			w.t.Fatal(err)
		}
		w.put(f, 70<<10, fill(1000, 8)) // not synced
	case "torn", "folded", "overlaid":
		f := w.open(w.main, "big")
		sync := func() {
			if err := f.Sync(ctx); err != nil {
				w.t.Fatal(err)
			}
		}
		w.put(f, 5000, fill(9000, 9))
		sync()
		w.put(f, 9000, fill(9000, 7)) // half over what was synced
		if part == "torn" {
			break
		}
		sync()
		if part == "folded" {
			w.put(f, 8000, fill(2000, 3))
		}
	case "load":
		load(w)
	}
	if err := w.db.Commit(); err != nil {
		w.t.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}

// kill runs the child until it prints a line that ok accepts, and kills it.
func kill(t *testing.T, dir, part string, ok func(line string) bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), childEnv+"="+part)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	done := false
	for !done && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "failed:") {
			t.Error(lines.Text())
		}
		done = ok(lines.Text())
	}
	cmd.Process.Signal(syscall.SIGKILL)
	for lines.Scan() { // what it said before it died counts
		ok(lines.Text())
	}
	cmd.Wait()
	if !done {
		t.Fatal("the child ended by itself")
	}
}

func ready(line string) bool { return line == "ready" }

// prepare makes the files that the child changes.
func prepare(t *testing.T) (dir string, small, big []byte) {
	dir, small, big = t.TempDir(), []byte("small file"), fill(100<<10, 1)
	w := openWorld(t, dir, Options{})
	for name, p := range map[string][]byte{"small": small, "big": big} {
		f := w.create(w.main, name)
		w.put(f, 0, p)
		w.shut(f)
	}
	w.close()
	return dir, small, big
}

func TestKilledBeforeSyncLeavesOldVersionsAndOrphans(t *testing.T) {
	dir, smallOld, bigOld := prepare(t)
	kill(t, dir, "unsynced", ready)
	w := openWorld(t, dir, small)
	w.same(w.published(w.main, "small"), smallOld)
	w.same(w.published(w.main, "big"), bigOld)
	smallNew, bigNew := []byte("snewl file"), bytes.Clone(bigOld)
	copy(bigNew[5000:], fill(9000, 9))
	l := w.sessions()
	if len(l) != 2 {
		t.Fatalf("%+v", l)
	}
	for _, in := range l {
		want := bigNew
		if in.Ino == w.stat(w.main, "small").Ino {
			want = smallNew
		}
		var got bytes.Buffer
		if err := w.s.Recover(ctx, in.ID, &got); err != nil {
			t.Fatal(err)
		}
		w.same(got.Bytes(), want)
		if in.Alive || in.Synced || in.Size != int64(len(want)) {
			t.Fatalf("%+v", in)
		}
		if len(want) < 100 {
			if err := w.s.Abort(ctx, in.ID); err != nil {
				t.Fatal(err)
			}
		} else if _, err := w.s.Publish(ctx, in.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.same(w.published(w.main, "small"), smallOld)
	w.same(w.published(w.main, "big"), bigNew)
	if l := w.sessions(); len(l) != 0 {
		t.Fatalf("%+v", l)
	}
	w.noStaging()
}

func TestKilledAfterSyncIsPublishedByTheNext(t *testing.T) {
	dir, _, bigNew := prepare(t)
	kill(t, dir, "synced", ready)
	w := openWorld(t, dir, small)
	copy(bigNew[1:], "new")
	copy(bigNew[5000:], fill(9000, 9))
	w.same(w.published(w.main, "small"), []byte("snewl file"))
	w.same(w.published(w.main, "big"), bigNew)
	w.same(w.published(w.main, "made"), fill(70<<10, 7))
	if l := w.sessions(); len(l) != 0 {
		t.Fatalf("%+v", l)
	}
}

// What was written after the last fsync, and not synced, must not show in part.
func TestKilledAfterSyncShowsNothingOfWhatFollowed(t *testing.T) {
	for _, part := range []string{"torn", "folded", "overlaid"} {
		dir, _, want := prepare(t)
		kill(t, dir, part, ready)
		w := openWorld(t, dir, small)
		copy(want[5000:], fill(9000, 9))
		if part != "torn" {
			copy(want[9000:], fill(9000, 7))
		}
		w.same(w.published(w.main, "big"), want)
		if part == "overlaid" { // else something unrecorded is left for the collection
			w.noStaging()
		}
		w.close()
	}
}

func TestASyncedSessionDoesNotUndoALaterVersion(t *testing.T) {
	dir, _, _ := prepare(t)
	other := openWorld(t, dir, small)
	kill(t, dir, "synced", ready)
	later := fill(50<<10, 50)
	for _, name := range []string{"big", "made"} {
		f := other.open(other.main, name)
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		other.put(f, 0, later)
		other.shut(f)
	}
	other.close()
	w := openWorld(t, dir, small)
	w.same(w.published(w.main, "big"), later)
	w.same(w.published(w.main, "made"), later)
	if l := w.sessions(); len(l) != 2 || !l[0].Synced {
		t.Fatalf("%+v", l)
	}
}

// A version that another node wrote earlier, and that came after the session was
// recorded, is a later one here; one that came before is not, whatever its stamp.
func TestASyncedSessionAndWhatCameFromAnotherNode(t *testing.T) {
	for _, before := range []bool{true, false} {
		dir, _, big := prepare(t)
		other := openWorld(t, dir, Options{})
		comes := func(at time.Time) {
			ino := other.stat(other.main, "big").Ino
			other.write(func(tx *schema.Tx) error {
				tx.ObserveStamp(schema.StampAt(at))
				return notify.Append(tx, &notify.Event{
					Stamp: schema.StampAt(at), Node: 7, Branch: other.main.Branch().ID, Op: notify.OpContent, Ino: uint64(ino),
				})
			})
		}
		if before {
			comes(time.Now().Add(time.Minute)) // by a clock that is ahead
		}
		kill(t, dir, "synced", ready)
		if !before {
			comes(time.Now().Add(-time.Minute))
		}
		other.close()
		w := openWorld(t, dir, Options{})
		if kept := bytes.Equal(w.published(w.main, "big"), big); kept == before {
			t.Errorf("before %v: the version of the other node is left as it is: %v", before, kept)
		}
		w.close()
	}
}

func TestTheSessionsOfARunningProcessAreLeftAlone(t *testing.T) {
	dir, _, bigOld := prepare(t)
	kill(t, dir, "synced", func(line string) bool {
		w := openWorld(t, dir, small)
		defer w.close()
		w.same(w.published(w.main, "big"), bigOld)
		l := w.sessions()
		if len(l) != 2 {
			t.Fatalf("%+v", l)
		}
		for _, in := range l {
			if !in.Alive {
				t.Fatalf("%+v", in)
			}
			for _, err := range []error{w.s.Abort(ctx, in.ID), w.s.Recover(ctx, in.ID, io.Discard), second(w.s.Publish(ctx, in.ID))} {
				if !errors.Is(err, syscall.EBUSY) {
					t.Fatal(err)
				}
			}
		}
		return true
	})
}

func second(_ pathtree.Inode, err error) error { return err }

// A power cut after a publish can take the blob; what was synced before is
// published again then. Without one the session just ends.
func TestASyncedSessionOutlivesItsPublishUntilTheBlobIsSafe(t *testing.T) {
	for _, damage := range []bool{false, true} {
		dir, _, want := prepare(t)
		w := openWorld(t, dir, small)
		f := w.open(w.main, "big")
		w.put(f, 5000, fill(9000, 9))
		copy(want[5000:], fill(9000, 9))
		if err := f.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		f.change.Lock() // publish, up to what comes after the transaction
		st, err := f.store(ctx)
		if err == nil {
			_, err = f.record(st)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.leave()
		f.release()
		w.shut(f)
		w.close()
		if damage {
			h := st.hash.String()
			path := filepath.Join(dir, "blobs", h[:2], h[2:])
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, make([]byte, len(want)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w = openWorld(t, dir, small)
		w.same(w.published(w.main, "big"), want)
		if l := w.sessions(); len(l) != 0 {
			t.Fatalf("%+v", l)
		}
		w.noStaging()
		w.close()
	}
}

// load rewrites four files for ever, in whole versions of which each says its
// number, and reports what a sync was answered for.
func load(w *world) {
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 0))
	for version := uint64(1); ; version++ {
		name := fmt.Sprint("f", r.IntN(4))
		f := w.find(name)
		if f == nil {
			f = w.create(w.main, name)
		}
		if err := f.Truncate(0); err != nil {
			w.t.Fatal(err)
		}
		p := numbered(version, r.IntN(120<<10))
		for off := 0; off < len(p); off += 32 << 10 {
			w.put(f, int64(off), p[off:min(off+32<<10, len(p))])
		}
		switch r.IntN(3) {
		case 0:
			if err := f.Sync(ctx); err != nil {
				w.t.Fatal(err)
			}
			fmt.Println(name, version)
		case 1:
			w.publish(f)
			w.put(f, 0, []byte("not a version"))
			f.Abort()
		}
		w.shut(f)
	}
}

// find opens a file by name, if it is there.
func (w *world) find(name string) (f *File) {
	w.read(func(tx *schema.Tx) error {
		if in, err := w.main.LookupInode(tx, w.main.Root(), name); err == nil {
			f = w.openInode(w.main, in)
		}
		return nil
	})
	return f
}

// numbered returns the content of a version.
func numbered(version uint64, n int) []byte {
	p := fill(n+16, byte(version))
	binary.LittleEndian.PutUint64(p, version)
	binary.LittleEndian.PutUint64(p[8:], uint64(n))
	return p
}

func TestKilledAtAnyMomentKeepsWhatWasSynced(t *testing.T) {
	dir := t.TempDir()
	openWorld(t, dir, small).close()
	for round := range rounds {
		synced := make(map[string]uint64)
		left := 1 + rand.IntN(40)
		kill(t, dir, "load", func(line string) bool {
			var name string
			var version uint64
			if n, _ := fmt.Sscan(line, &name, &version); n == 2 {
				synced[name] = version
				left--
			}
			return left <= 0
		})
		w := openWorld(t, dir, small)
		for name, version := range synced {
			p := w.published(w.main, name)
			if len(p) < 16 {
				t.Fatalf("round %d: %s has %d bytes, version %d was synced", round, name, len(p), version)
			}
			got := binary.LittleEndian.Uint64(p)
			w.same(p, numbered(got, int(binary.LittleEndian.Uint64(p[8:]))))
			if got < version {
				t.Fatalf("round %d: %s has version %d, %d was synced", round, name, got, version)
			}
		}
		for _, in := range w.sessions() {
			if err := w.s.Abort(ctx, in.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := stagingFiles(w); err != nil {
			t.Log(err) // not recorded before the kill: for the collection
		}
		for i := range 4 { // the next child counts anew
			if f := w.find(fmt.Sprint("f", i)); f != nil {
				if err := errors.Join(f.Truncate(0), f.Close()); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.close()
	}
}
