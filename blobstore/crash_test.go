package blobstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/schema"
	"zombiezen.com/go/sqlite/sqlitex"
)

// crashFS does what osFS does and remembers what a power cut could take back:
// directory changes whose directory was not synced since, and contents that
// were not. It is harsher than ext4, which keeps directory changes in order.
type crashFS struct {
	osFS
	root string

	mu      sync.Mutex
	ops     []dirOp
	paths   map[string]uint64 // what is where now
	synced  map[uint64][]byte // contents at their last sync
	removed map[uint64][]byte // contents of files without a name
	// at each operation outside of a transaction
	between func()
}

type dirOp struct {
	to, from string // from is "" but for a rename; to is "" in a removal
	dir      bool
	ino      uint64
	durable  bool
}

func newCrashFS(root string) *crashFS {
	return &crashFS{root: root, paths: map[string]uint64{}, synced: map[uint64][]byte{}, removed: map[uint64][]byte{}}
}

func inoOf(path string) uint64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

// note adds an operation that was done; what to named before is gone.
func (c *crashFS) note(op dirOp) {
	c.ops = append(c.ops, op)
	delete(c.paths, op.from)
	if op.to != "" && !op.dir {
		c.paths[op.to] = op.ino
	}
}

func (c *crashFS) bury(path string) {
	if ino, ok := c.paths[path]; ok {
		c.removed[ino], _ = os.ReadFile(path)
	}
}

func (c *crashFS) step() {
	if c.between != nil {
		c.between()
	}
}

func (c *crashFS) create(path string) (*os.File, error) {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := c.osFS.create(path)
	if err == nil {
		c.note(dirOp{to: path, ino: inoOf(path)})
	}
	return f, err
}

func (c *crashFS) mkdir(path string) error {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.osFS.mkdir(path)
	if err == nil {
		c.note(dirOp{to: path, dir: true})
	}
	return err
}

func (c *crashFS) rename(from, to string) error { return c.move(c.osFS.rename, from, to) }
func (c *crashFS) adopt(from, to string) error  { return c.move(c.osFS.adopt, from, to) }

func (c *crashFS) move(rename func(from, to string) error, from, to string) error {
	if !strings.HasPrefix(from, c.root+"/blobs") { // else in a transaction
		defer c.step()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ino, old := c.paths[from], []byte(nil)
	was, replaces := c.paths[to]
	if replaces {
		old, _ = os.ReadFile(to)
	}
	err := rename(from, to)
	if err == nil {
		if replaces {
			c.removed[was] = old
		}
		c.note(dirOp{to: to, from: from, ino: ino})
	}
	return err
}

func (c *crashFS) remove(path string) error {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bury(path)
	err := c.osFS.remove(path)
	if err == nil {
		c.note(dirOp{from: path})
	}
	return err
}

func (c *crashFS) sync(f *os.File) error {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	p := make([]byte, fi.Size())
	_, err = f.ReadAt(p, 0)
	c.synced[fi.Sys().(*syscall.Stat_t).Ino] = p
	return err
}

func (c *crashFS) syncDir(path string) error {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.ops {
		op := &c.ops[i]
		if filepath.Dir(op.to) == path || op.to == "" && filepath.Dir(op.from) == path {
			op.durable = true
		}
	}
	return nil
}

func (c *crashFS) syncAll(string) error {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.ops {
		c.ops[i].durable = true
	}
	for path, ino := range c.paths {
		c.synced[ino], _ = os.ReadFile(path)
	}
	return nil
}

// image makes in dir what a power cut might leave.
func (c *crashFS) image(tb testing.TB, dir string, rnd *rand.Rand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	files, dirs := map[string]uint64{}, map[string]bool{c.root: true}
	for _, op := range c.ops {
		if !op.durable && rnd.IntN(2) == 0 {
			continue
		}
		delete(files, op.from)
		switch {
		case op.dir:
			dirs[op.to] = true
		case op.to != "":
			files[op.to] = op.ino
		}
	}
	here := func(path string) string { return dir + strings.TrimPrefix(path, c.root) }
	for d := range dirs {
		if err := os.MkdirAll(here(d), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	current := map[uint64][]byte{}
	for path, ino := range c.paths {
		current[ino], _ = os.ReadFile(path)
	}
	for path, ino := range files {
		if !dirs[filepath.Dir(path)] {
			continue
		}
		now, ok := current[ino]
		if !ok {
			now = c.removed[ino]
		}
		if err := os.WriteFile(here(path), torn(rnd, c.synced[ino], now), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// torn returns a mixture of what was synced and what was written since.
func torn(rnd *rand.Rand, synced, now []byte) []byte {
	if bytes.Equal(synced, now) {
		return now
	}
	size := len(now)
	if rnd.IntN(2) == 0 {
		size = len(synced)
	}
	p := make([]byte, size)
	all := rnd.IntN(3)
	for off := 0; off < size; off += 4096 {
		src := synced
		if all == 0 || all == 1 && rnd.IntN(2) == 0 {
			src = now
		}
		if off < len(src) {
			copy(p[off:min(off+4096, size)], src[off:])
		}
	}
	return p
}

// A row with synced 1 never points at missing or wrong bytes, wherever the
// power is cut: after VerifyUnsynced every good row reads right, and what Sync
// answered is good.
func TestPowerCut(t *testing.T) {

	for round := range powerCuts {
		seed := uint64(round)
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) { powerCut(t, rand.New(rand.NewPCG(seed, 77))) })
		if !ok {
			return
		}
	}
}

func powerCut(t *testing.T, rnd *rand.Rand) {
	ctx := context.Background()
	dir, after := t.TempDir(), t.TempDir()
	db, err := schema.Open(ctx, dir, schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c := newCrashFS(dir)
	acked := map[Hash]bool{}
	want := map[Hash]bool{}
	left := 1 + rnd.IntN(150)
	c.between = func() {
		if left--; left == 0 {
			snapshotDB(t, db, after)
			c.image(t, after, rnd)
			for h := range acked {
				want[h] = true
			}
		}
	}
	s, err := open(ctx, dir, db, Options{SyncAfter: -1}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	contents := make(map[Hash][]byte)
	for i := int64(2); left > 0; i++ {
		powerCutStep(t, s, rnd, i, contents, acked)
	}
	verifyAfterCut(t, after, contents, want)
}

// powerCutStep does one thing to the store.
func powerCutStep(t *testing.T, s *Store, rnd *rand.Rand, i int64, contents map[Hash][]byte, acked map[Hash]bool) {
	ctx := context.Background()
	sizes := []int{17_000, 40_000, spanSize + 5, 2*spanSize + 100}
	p := noise(500+uint64(rnd.IntN(8)), sizes[rnd.IntN(len(sizes))])
	h := Sum(p)
	contents[h] = p
	var err error
	switch rnd.IntN(8) {
	default:
		sealFile(t, s, p)
		err = s.db.Write(func(tx *schema.Tx) error { return refer(tx, i, h) })
	case 0, 1:
		has := false
		if err = s.db.Read(func(tx *schema.Tx) (err error) { has, err = s.Has(tx, h); return err }); err == nil && has {
			if err = s.Sync(ctx, h); err == nil {
				acked[h] = true
			}
		}
	case 2:
		err = s.flushNew(ctx)
	case 3: // collected, so no longer promised
		delete(acked, h)
		err = s.db.Write(func(tx *schema.Tx) error {
			q := tx.Stmt("DELETE FROM inode WHERE hash = ?")
			q.BindBytes(1, h[:])
			_, err := q.Step()
			return err
		})
		if err == nil {
			_, err = s.GC(ctx, noGrace)
		}
	case 4: // sealed, but the row never comes
		var st *Staging
		if st, err = s.NewStaging(); err == nil {
			if _, err = st.WriteAt(p, 0); err == nil {
				_, err = st.Seal(ctx, int64(len(p)))
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The machine may crash again, or the process be killed, before what the first
// crash took is withdrawn.
func TestVerifyUnsyncedGoesOnWhereItStopped(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), Options{SyncAfter: -1})
	h := sealFile(t, s, noise(1, 50_000))
	if err := os.Remove(s.blobPath(h)); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	if _, err := s.VerifyUnsynced(ctx, func(*schema.Tx, Hash) error { return stopped }); !errors.Is(err, stopped) {
		t.Fatal(err)
	}
	var got Hash
	bad, err := s.VerifyUnsynced(ctx, func(_ *schema.Tx, h Hash) error { got = h; return nil })
	if err != nil || len(bad) != 1 || bad[0] != h || got != h {
		t.Fatalf("%v, withdrawn %s, %v; want %s", bad, got, err, h)
	}
	if rep, err := s.Check(ctx, CheckOptions{Deep: true}); err != nil || rep.Blobs != 0 || len(rep.Quarantined) != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
}

func snapshotDB(t *testing.T, db *schema.DB, dir string) {
	err := db.Snapshot(func(tx *schema.Tx) error {
		if err := sqlitex.ExecuteTransient(tx.Conn(), "COMMIT", nil); err != nil {
			return err
		}
		err := sqlitex.ExecuteTransient(tx.Conn(), "VACUUM INTO ?", &sqlitex.ExecOptions{Args: []any{dir + "/alkfs.db"}})
		if err != nil {
			return err
		}
		return sqlitex.ExecuteTransient(tx.Conn(), "BEGIN", nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func verifyAfterCut(t *testing.T, dir string, contents map[Hash][]byte, want map[Hash]bool) {
	s := openTest(t, dir, Options{SyncAfter: -1})
	bad, err := s.VerifyUnsynced(context.Background(), func(*schema.Tx, Hash) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range bad {
		if want[h] {
			t.Errorf("%s was synced, and is lost", h)
		}
	}
	rows, err := s.rowsAfter(0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	have := map[Hash]bool{}
	for _, r := range rows {
		if r.state == stateQuarantined {
			continue
		}
		have[r.hash] = true
		if !r.synced {
			t.Errorf("%s is not synced after all were verified", r.hash)
		}
		if got, err := readBlob(s, r.hash, r.size); err != nil || !bytes.Equal(got, contents[r.hash]) {
			t.Errorf("%s, %d bytes, is called synced: %v", r.hash, r.size, err)
		}
	}
	for h := range want {
		if !have[h] {
			t.Errorf("%s was synced, and has no row", h)
		}
	}
	// All can be stored anew over whatever the cut left.
	for _, p := range contents {
		sealFile(t, s, p)
		wantBlob(t, s, p)
	}
	if again, err := s.VerifyUnsynced(context.Background(), func(*schema.Tx, Hash) error { return nil }); err != nil || again != nil {
		t.Errorf("the second time: %v, %v", again, err)
	}
}
