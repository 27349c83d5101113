package blobstore

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

// A process is killed at random moments of bringing a content: whatever the
// bitmap says then is here, and right, and in the end all is here.
func TestPartialKilled(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	thereDir := t.TempDir()
	there := openTest(t, thereDir, Options{SyncAfter: -1})
	for round := range killRounds {
		p := noise(uint64(800+round), 1+rnd.IntN(12*spanSize))
		sealFile(t, there, append(p, make([]byte, GroupSize)...)) // above a row's size
		p = append(p, make([]byte, GroupSize)...)
		if err := there.db.Commit(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		h, size := Sum(p), int64(len(p))
		for life := range 4 {
			killBringer(t, thereDir, dir, h, size, rnd.IntN(120), rnd.Uint64())
			checkClaims(t, dir, h, size, fmt.Sprintf("round %d, life %d", round, life))
		}
		here := openTest(t, dir, Options{SyncAfter: -1})
		here.SetSource(&storeSource{from: there})
		expect(t, here, p)
		if err := here.Fetch(context.Background(), h, size, Eager); err != nil {
			t.Fatal(err)
		}
		wantBlob(t, here, p)
		if rep, err := here.GC(context.Background(), GCOptions{Grace: -1, DryRun: true}); err != nil || rep.Partials != 0 || partialsLeft(t, here) != 0 {
			t.Errorf("round %d: %+v, %v, %d files in partial/", round, rep, err, partialsLeft(t, here))
		}
		rep, err := here.Check(context.Background(), CheckOptions{Deep: true})
		if err != nil || len(rep.Damaged)+len(rep.Missing)+len(rep.Rebuilt) != 0 {
			t.Errorf("round %d: check: %+v, %v", round, rep, err)
		}
	}
}

// killBringer starts a process that brings h and kills it after so many slices,
// if it has not ended by then.
func killBringer(t *testing.T, from, to string, h Hash, size int64, slices int, seed uint64) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestBringerProcess$")
	child.Env = append(os.Environ(), "BLOBSTORE_TEST_FROM="+from, "BLOBSTORE_TEST_TO="+to, "BLOBSTORE_TEST_HASH="+h.String(),
		"BLOBSTORE_TEST_SIZE="+strconv.FormatInt(size, 10), "BLOBSTORE_TEST_SEED="+strconv.FormatUint(seed, 10))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; i < slices && lines.Scan(); i++ {
	}
	_ = child.Process.Kill()
	for lines.Scan() {
	}
	_ = child.Wait()
}

// checkClaims hashes all that the bitmap of h says is here.
func checkClaims(t *testing.T, dir string, h Hash, size int64, when string) {
	t.Helper()
	db, err := schema.Open(context.Background(), dir, schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := Open(context.Background(), dir, db, Options{SyncAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if b, err := s.openFile(h, size); err == nil { // it was moved in
		defer b.Close()
		if err := b.Verify(context.Background()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		return
	}
	part := s.partial(h, size)
	defer part.Release()
	all := Range{0, part.Groups()}
	before, err := part.Missing(all)
	if err != nil {
		t.Fatal(err)
	}
	for first := int64(0); first < part.Groups(); first += spanGroups {
		if err := part.verify(Range{first, min(spanGroups, part.Groups()-first)}); err != nil {
			t.Fatal(err)
		}
	}
	after, err := part.Missing(all)
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("%s: groups %v were said to be missing, but %v are (%v)", when, before, after, err)
	}
}

// TestBringerProcess is the process that TestPartialKilled kills.
func TestBringerProcess(t *testing.T) {
	from := os.Getenv("BLOBSTORE_TEST_FROM")
	if from == "" {
		return // it has nothing to say on its own: TestPartialKilled starts it
	}
	h, err := ParseHash(os.Getenv("BLOBSTORE_TEST_HASH"))
	if err != nil {
		t.Fatal(err)
	}
	size, _ := strconv.ParseInt(os.Getenv("BLOBSTORE_TEST_SIZE"), 10, 64)
	seed, _ := strconv.ParseUint(os.Getenv("BLOBSTORE_TEST_SEED"), 10, 64)
	there := openTest(t, from, Options{SyncAfter: -1})
	here := openTest(t, os.Getenv("BLOBSTORE_TEST_TO"), Options{SyncAfter: -1})
	here.SetSource(&storeSource{from: there, before: func(*Partial, Range) error {
		_, err := fmt.Println("slice")
		return err
	}})
	if err := here.db.Write(func(tx *schema.Tx) error { return Expect(tx, h, size) }); err != nil {
		t.Fatal(err)
	}
	b, err := here.Open(h, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	rnd := rand.New(rand.NewPCG(seed, 1))
	q := make([]byte, 100_000)
	for range 60 {
		if _, err := b.ReadAt(q[:1+rnd.IntN(len(q))], rnd.Int64N(size)); err != nil && err.Error() != "EOF" {
			t.Fatal(err)
		}
	}
	if err := here.Fetch(context.Background(), h, size, Eager); err != nil {
		t.Fatal(err)
	}
}
