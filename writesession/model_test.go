package writesession

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// modelled is a file and what it should hold.
type modelled struct {
	name       string
	file       *File
	now, saved []byte // seen by its surface; published
	synced     []byte // recorded by an fsync; nil: nothing
	dirty      bool
}

// TestAgainstBytes drives two files through everything that can be done to
// them, with so little memory that content moves between all of its forms.
func TestAgainstBytes(t *testing.T) {
	w := newWorld(t, small)
	defer func() { w.t = t }()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		w.t = t
		files := make([]*modelled, 2)
		for i := range files {
			name := fmt.Sprint(run, "-", i)
			files[i] = &modelled{name: name, file: w.create(w.main, name)}
		}
		t.Repeat(w.actions(files))
		for _, m := range files {
			w.shut(m.file)
			m.publish()
			if got := w.published(w.main, m.name); !bytes.Equal(got, m.saved) {
				t.Fatalf("published %d bytes, want %d", len(got), len(m.saved))
			}
			w.write(func(tx *schema.Tx) error {
				_, err := w.main.Unlink(tx, w.main.Root(), m.name)
				return err
			})
		}
		if n := w.s.Stats().Open; n != 0 {
			t.Fatalf("%d files left open", n)
		}
		if l := w.sessions(); len(l) > 0 {
			t.Fatalf("sessions left: %+v", l)
		}
	})
}

// TestSyncedAgainstBytes does to a long file what can be done to what an fsync
// recorded of it.
func TestSyncedAgainstBytes(t *testing.T) {
	w := newWorld(t, Options{MemoryMax: 1 << 10, PersistAfter: time.Hour})
	defer func() { w.t = t }()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		w.t = t
		m := &modelled{name: fmt.Sprint(run)}
		m.file = w.create(w.main, m.name)
		actions := w.actions([]*modelled{m})
		p := fill(blobstore.InlineMax+rapid.IntRange(0, 50<<10).Draw(t, "published"), 1)
		w.put(m.file, 0, p)
		m.write(0, p)
		actions["publish"](t)
		p = fill(rapid.IntRange(0, 50<<10).Draw(t, "appended"), 2)
		w.put(m.file, int64(len(m.now)), p)
		m.write(int64(len(m.now)), p)
		maps.DeleteFunc(actions, func(name string, _ func(*rapid.T)) bool {
			return !slices.Contains([]string{"", "write", "append", "truncate", "allocate", "copy", "sync", "seek"}, name)
		})
		t.Repeat(actions)
		w.shut(m.file)
		m.publish()
		if got := w.published(w.main, m.name); !bytes.Equal(got, m.saved) {
			t.Fatalf("published %d bytes, want %d", len(got), len(m.saved))
		}
	})
}

// actions returns what can be done to open files, and what holds after each.
func (w *world) actions(files []*modelled) map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			m, p := pick(t, files), drawBytes(t)
			off := drawOffset(t, m)
			w.put(m.file, off, p)
			m.write(off, p)
		},
		"append": func(t *rapid.T) {
			m, p := pick(t, files), drawBytes(t)
			off, err := m.file.Append(p)
			if err != nil || off != int64(len(m.now)) {
				t.Fatal(off, err)
			}
			m.write(off, p)
		},
		"truncate": func(t *rapid.T) {
			m := pick(t, files)
			size := drawOffset(t, m)
			if err := m.file.Truncate(size); err != nil {
				t.Fatal(err)
			}
			m.resize(size)
			m.dirty = true
		},
		"allocate": func(t *rapid.T) {
			m := pick(t, files)
			off, n := drawOffset(t, m), int64(drawLen(t)+1)
			mode := rapid.SampledFrom([]uint32{0, unix.FALLOC_FL_KEEP_SIZE,
				unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE,
				unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}).Draw(t, "mode")
			if err := m.file.Allocate(mode, off, n); err != nil {
				t.Fatal(err)
			}
			m.allocate(mode, off, n)
		},
		"copy": func(t *rapid.T) {
			src, dst := pick(t, files), pick(t, files)
			from, n := drawOffset(t, src), int64(drawLen(t))
			to := drawOffset(t, dst)
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				from, to, n = 0, 0, int64(len(src.now))
			case 1:
				to = from
			}
			if src == dst && from < to+n && to < from+n {
				return
			}
			m, err := CopyRange(dst.file, to, src.file, from, n)
			if want := max(min(n, int64(len(src.now))-from), 0); m != want || err != nil {
				t.Fatalf("copied %d of %d: %v", m, want, err)
			}
			if m > 0 {
				dst.write(to, bytes.Clone(src.now[from:from+m]))
			}
		},
		"publish": func(t *rapid.T) {
			m := pick(t, files)
			w.publish(m.file)
			m.publish()
		},
		"sync": func(t *rapid.T) {
			m := pick(t, files)
			if err := m.file.Sync(ctx); err != nil {
				t.Fatal(err)
			}
			if m.file.Dirty() {
				m.synced = bytes.Clone(m.now)
			} else {
				m.publish()
			}
		},
		"abort": func(t *rapid.T) {
			m := pick(t, files)
			m.file.Abort()
			m.now, m.synced, m.dirty = bytes.Clone(m.saved), nil, false
		},
		"reopen": func(t *rapid.T) {
			m := pick(t, files)
			w.shut(m.file)
			m.publish()
			m.file = w.open(w.main, m.name)
		},
		"save": func(t *rapid.T) { w.saveAndRecover(t, pick(t, files)) },
		"seek": func(t *rapid.T) {
			m := pick(t, files)
			checkSeek(t, m, drawOffset(t, m))
		},
		"other version": func(t *rapid.T) { // another surface publishes
			m, p := pick(t, files), drawBytes(t)
			other := w.open(w.main.WithOrigin(9), m.name)
			if err := other.Truncate(0); err != nil {
				t.Fatal(err)
			}
			w.put(other, 0, p)
			w.shut(other)
			m.saved = p
			w.s.Refresh(w.main.Branch().ID, m.file.Ino())
			if !m.dirty {
				m.now = bytes.Clone(p)
			}
		},
		"": func(t *rapid.T) {
			m := pick(t, files)
			w.holds(m.file, m.now)
			if m.file.Dirty() != m.dirty {
				t.Fatalf("dirty is %v", !m.dirty)
			}
			if got := w.published(w.main, m.name); !bytes.Equal(got, m.saved) {
				t.Fatalf("published %d bytes, want %d", len(got), len(m.saved))
			}
			checkRead(t, m)
			w.syncedIs(t, m)
		},
	}
}

// saveAndRecover records m as the background does, and reads the record back.
func (w *world) saveAndRecover(t *rapid.T, m *modelled) {
	f := m.file
	f.change.Lock()
	defer f.release()
	if err := f.save(false); err != nil {
		t.Fatal(err)
	}
	if f.row.id == 0 || f.row.stale {
		return // clean, or as of an fsync
	}
	w.recorded(t, f, m.now)
}

// syncedIs checks that what the last fsync recorded of m is still what it was.
func (w *world) syncedIs(t *rapid.T, m *modelled) {
	f := m.file
	f.change.Lock()
	defer f.release()
	if f.row.synced != (m.synced != nil) {
		t.Fatalf("synced is %v", f.row.synced)
	}
	if m.synced != nil {
		w.recorded(t, f, m.synced)
	}
}

// recorded checks what a later process would read of the session of f.
func (w *world) recorded(t *rapid.T, f *File, want []byte) {
	var got content
	var info Info
	w.read(func(tx *schema.Tx) (err error) {
		if info, err = readInfo(tx, f.row.id); err == nil {
			got, err = readContent(tx, info)
		}
		return err
	})
	got.staging, got.overlay = w.copyOf(info.staging), w.copyOf(info.overlay)
	defer f.discard(got)
	g := newFile(w.s, w.main, pathtree.Inode{Ino: f.ino})
	g.mu.content = got
	defer g.closeBlobs()
	w.holdsAt(t, g, want)
}

// copyOf returns a staging file with the bytes of the one of that name, which
// may be locked; nil for none.
func (w *world) copyOf(name string) *blobstore.Staging {
	if name == "" {
		return nil
	}
	p, err := os.ReadFile(w.s.stagingPath(name))
	if err != nil {
		w.t.Fatal(err)
	}
	st, err := w.blobs.NewStaging()
	if err == nil {
		_, err = st.WriteAt(p, 0)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) holdsAt(t *rapid.T, f *File, want []byte) {
	got := make([]byte, len(want)+1)
	n, err := f.ReadAt(got, 0)
	if err != io.EOF || !bytes.Equal(got[:n], want) {
		t.Fatalf("recovered %d bytes of %d: %v", n, len(want), err)
	}
}

func (m *modelled) resize(size int64) {
	if size > int64(len(m.now)) {
		m.now = append(m.now, make([]byte, size-int64(len(m.now)))...)
	}
	m.now = slices.Clip(m.now[:size])
}

func (m *modelled) write(off int64, p []byte) {
	if len(p) == 0 {
		return
	}
	m.resize(max(int64(len(m.now)), off+int64(len(p))))
	copy(m.now[off:], p)
	m.dirty = true
}

func (m *modelled) allocate(mode uint32, off, n int64) {
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+n > int64(len(m.now)) {
		m.resize(off + n)
		m.dirty = true
	}
	end := min(off+n, int64(len(m.now)))
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 && off < end {
		clear(m.now[off:end])
		m.dirty = true
	}
}

func (m *modelled) publish() {
	if m.dirty {
		m.saved, m.synced, m.dirty = bytes.Clone(m.now), nil, false
	}
}

func pick(t *rapid.T, files []*modelled) *modelled {
	return files[rapid.IntRange(0, len(files)-1).Draw(t, "file")]
}

func drawLen(t *rapid.T) int {
	if rapid.Bool().Draw(t, "long") {
		return rapid.IntRange(0, 60<<10).Draw(t, "len")
	}
	return rapid.IntRange(0, 300).Draw(t, "len")
}

func drawBytes(t *rapid.T) []byte {
	return fill(drawLen(t), byte(rapid.IntRange(0, 255).Draw(t, "seed")))
}

// drawOffset prefers places where something changes.
func drawOffset(t *rapid.T, m *modelled) int64 {
	const limit = 200 << 10
	size := int64(len(m.now))
	switch rapid.IntRange(0, 3).Draw(t, "place") {
	case 0:
		return 0
	case 1:
		return min(size, limit)
	case 2:
		return rapid.Int64Range(0, 12).Draw(t, "group") * blobstore.GroupSize
	default:
		return rapid.Int64Range(0, limit).Draw(t, "off")
	}
}

// checkRead reads a part.
func checkRead(t *rapid.T, m *modelled) {
	off, n := drawOffset(t, m), drawLen(t)
	p := make([]byte, n)
	got, err := m.file.ReadAt(p, off)
	want := []byte{}
	if off < int64(len(m.now)) {
		want = m.now[off:min(off+int64(n), int64(len(m.now)))]
	}
	if short := off >= int64(len(m.now)) || len(want) < n; got != len(want) || short != (err == io.EOF) || !bytes.Equal(p[:got], want) {
		t.Fatalf("read %d bytes at %d: %d, %v", n, off, got, err)
	}
}

// checkSeek checks that a hole is zeros and that data is not passed over.
func checkSeek(t *rapid.T, m *modelled, off int64) {
	size := int64(len(m.now))
	data, err := m.file.Seek(off, unix.SEEK_DATA)
	switch {
	case off >= size:
		if pathtree.Errno(err) != unix.ENXIO {
			t.Fatal(data, err)
		}
		return
	case pathtree.Errno(err) == unix.ENXIO:
		data = size
	case err != nil:
		t.Fatal(err)
	}
	if hole := m.now[off:data]; !bytes.Equal(hole, make([]byte, len(hole))) {
		t.Fatalf("no data from %d to %d in a file of %d, they say", off, data, size)
	}
	hole, err := m.file.Seek(off, unix.SEEK_HOLE)
	if err != nil || hole < off || hole > size || data > off && hole > off && data < size && hole > data {
		t.Fatal(off, hole, data, err)
	}
}
