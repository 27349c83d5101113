package crdtsync

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// simNode is a node of a history.
type simNode struct {
	s      *sim
	name   string
	keys   []ed25519.PrivateKey // that it has had; the last is the one that its key file holds
	next   ed25519.PrivateKey   // with which it is about to replace it; nil: none
	past   [][]byte             // how it came to its key
	place  *simPlace
	rng    *rand.Rand
	skew   atomic.Int64 // of its clock, in nanoseconds
	runs   int
	dir    string // of its store
	there  bool   // its store is open
	up     bool
	backup simBackup

	db   *schema.DB
	tree *pathtree.Tree
	*Replica
	engine   *Engine
	content  *simContent  // with sim.bytes
	surfaces *simSurfaces // with sim.sessions
	halt     func()       // ends the engine

	kept map[string]pathtree.VersionID // own versions it has answered for: the newest of each thing
}

func simKey(name string) ed25519.PrivateKey {
	var seed [ed25519.SeedSize]byte
	copy(seed[:], name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func (s *sim) newNode(name string) *simNode {
	n := &simNode{s: s, name: name, keys: []ed25519.PrivateKey{simKey(name)}, rng: s.net.rand("node " + name)}
	n.dir = filepath.Join(s.root, name+"0")
	copyStore(s.t, filepath.Join(s.root, "..", "fresh", name), n.dir)
	n.open()
	return n
}

func (n *simNode) offset() time.Duration { return time.Duration(n.skew.Load()) }
func (n *simNode) now() time.Time        { return time.Now().Add(n.offset()) }

// must fails when something that cannot fail has.
func (n *simNode) must(err error) {
	if err != nil {
		n.s.t.Helper()
		n.s.fatalf("%s: %v", n.name, err)
	}
}

// open opens the store.
func (n *simNode) open() {
	log := slog.New(slog.DiscardHandler)
	if *simSeed != 0 {
		log = slog.New(slog.NewTextHandler(n.s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.name)
	}
	k := identity.KeyOf(n.keys[0])
	var err error
	n.db, err = schema.Open(context.Background(), n.dir, schema.Options{NodeKey: k[:], Alone: true, Now: n.now, Logger: log})
	n.must(err)
	n.there, n.halt = true, func() {}
	n.tree = pathtree.New(n.db)
	n.replica(log)
	if n.next != nil { // it was killed when it replaced its key
		n.handOver()
		n.replica(log)
	}
	n.runs++
	if n.s.bytes {
		n.openContent(log)
	}
}

// replica begins a replica with the key that there is.
func (n *simNode) replica(log *slog.Logger) {
	n.Replica = NewReplica(Config{
		DB: n.db, Tree: n.tree, Private: n.keys[len(n.keys)-1], Past: n.past, Logger: log, Now: n.now,
	})
	n.pieceVersions = 5
	for i := range n.Replica.stream {
		n.Replica.stream[i] = byte(n.rng.Uint32())
	}
}

// rotate has a node that runs replace its key, and perhaps be killed at it, as
// `alkfs peer rotate-key` does.
func (n *simNode) rotate() {
	n.next = simKey(fmt.Sprint(n.name, len(n.keys)))
	step := n.s.rng.IntN(6) // the one that it is killed after, if there is one
	n.s.logf("%s replaces its key %s by %s, and is killed after step %d of 2", n.name, n.Key().Short(), identity.KeyOf(n.next).Short(), step)
	if step == 1 {
		n.crash()
		return
	}
	n.must(n.HandOver(identity.KeyOf(n.next)))
	if step == 2 {
		n.crash()
		return
	}
	n.rest()
	n.must(n.db.Close())
	n.open()
	n.start()
}

// handOver does the last steps of rotate.
func (n *simNode) handOver() {
	k := identity.KeyOf(n.next)
	n.must(n.HandOver(k))
	proof, err := SealHeir(n.private, k, n.now())
	n.must(err)
	n.past = append(n.past, proof)
	n.keys, n.next = append(n.keys, n.next), nil
}

// keyAt returns n's newest key that another node knows of.
func (n *simNode) keyAt(o *simNode) identity.Key {
	m, err := o.Membership(n.s.bucket)
	n.must(err)
	return m.Heir(identity.KeyOf(n.keys[0]))
}

// start starts the engine.
func (n *simNode) start() {
	o := Options{Addrs: []string{n.name}}
	if n.s.bytes {
		o = n.content.options(o)
	}
	n.place = n.s.net.join(n.name, n.Replica)
	n.engine = NewEngine(n.Replica, n.place, o)
	ctx, cancel := context.WithCancel(context.Background())
	e, done := n.engine, make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	n.halt = func() {
		cancel()
		if err := <-done; !errors.Is(err, ErrReplaced) {
			n.must(err)
		}
		n.place.ends.Wait()
	}
	if n.s.bytes {
		n.content.start()
	}
	n.up = true
}

// crash kills the process: what it had not committed is lost.
func (n *simNode) crash() {
	commit := n.s.rng.IntN(2) == 0
	if commit {
		n.must(n.db.Commit())
		n.remember()
	}
	n.s.logf("%s is killed, committed %v", n.name, commit)
	n.s.net.vanish(n.name)
	synctest.Wait() // the copy is of one moment
	if n.surfaces != nil {
		n.surfaces.died()
	}
	dir := filepath.Join(n.s.root, fmt.Sprint(n.name, n.runs))
	copyStore(n.s.t, n.dir, dir)
	n.close()
	n.dir = dir
	if !commit {
		n.kept = nil // anything since may be lost, or be there
	}
}

// restart starts a node that was killed.
func (n *simNode) restart() {
	n.s.logf("%s starts again", n.name)
	n.open()
	now := n.own()
	for thing, id := range n.kept {
		if now[thing].Compare(id) < 0 {
			n.s.fatalf("%s lost %s %v when it was killed: it has %v", n.name, thing, id, now[thing])
		}
	}
	n.start()
}

func (n *simNode) stop() {
	if n.there {
		if n.surfaces != nil {
			n.surfaces.dead.Store(true)
		}
		n.close()
	}
}

func (n *simNode) close() {
	n.rest()
	n.must(n.db.Close())
	n.must(os.RemoveAll(n.dir))
}

// rest ends everything but the database.
func (n *simNode) rest() {
	if n.surfaces != nil && !n.surfaces.dead.Load() {
		n.surfaces.close()
	}
	if n.s.bytes {
		n.content.stop()
	}
	n.halt()
	if n.surfaces != nil && n.surfaces.dead.Load() {
		n.surfaces.close()
	}
	if n.s.bytes {
		n.must(n.content.blobs.Close())
	}
	n.there, n.up = false, false
}

// remember notes down what the node answers for.
func (n *simNode) remember() { n.must(n.db.Commit()); n.kept = n.own() }

// own returns the newest version of each thing that this node wrote.
func (n *simNode) own() map[string]pathtree.VersionID {
	all := map[string]pathtree.VersionID{}
	n.eachVersion(func(v *pathtree.Version) {
		if v.ID.Node == pathtree.NodeKey(identity.KeyOf(n.keys[0])) {
			if k := thingKey(v); all[k].Compare(v.ID) < 0 {
				all[k] = v.ID
			}
		}
	})
	return all
}

func thingKey(v *pathtree.Version) string {
	of := v.Ino
	if v.Kind == pathtree.DentryVersion {
		of = v.Parent
	}
	return fmt.Sprintf("branch %x kind %d of %d %q", v.Branch[:4], v.Kind, of, v.Name)
}

// eachVersion calls f with every version that n keeps, and returns its records.
func (n *simNode) eachVersion(f func(v *pathtree.Version)) (records []pathtree.BucketRecord) {
	n.read(func(tx *schema.Tx) error {
		sh, err := n.lookup(tx, n.s.bucket)
		if err != nil {
			return err
		}
		records, err = n.tree.ExportAll(tx, sh.bucket.ID, func(v *pathtree.Version) error { f(v); return nil })
		return err
	})
	return records
}

func (n *simNode) read(f func(tx *schema.Tx) error) {
	n.s.t.Helper()
	n.must(n.db.Read(f))
}

// makeBucket makes the bucket and shares it.
func (n *simNode) makeBucket() [16]byte {
	var b pathtree.Bucket
	n.must(n.db.Write(func(tx *schema.Tx) (err error) {
		b, err = n.tree.CreateBucket(tx, "team")
		return err
	}))
	n.must(n.Share(b.ID))
	return b.UUID
}

// role returns what the node, as far as it knows, may do.
func (n *simNode) role() identity.Role {
	m, err := n.Membership(n.s.bucket)
	n.must(err)
	return m.Role(n.Key())
}

// admit has another node let n in, as with a ticket.
func (n *simNode) admit(by *simNode, role identity.Role) {
	b := n.s.bucket
	n.must(by.Grant(b, n.Key(), role, n.name))
	n.must(by.db.Commit()) // as redeem does before it answers
	grants, _, err := by.Grants(b, 0)
	n.must(err)
	_, err = n.Adopt(b, "team", identity.KeyOf(simKey(simNames[:1])), grants)
	n.must(err)
	n.must(by.setPlaces(n.Key(), []string{n.name}))
	n.must(n.setPlaces(by.Key(), []string{by.name}))
	n.must(by.db.Commit())
	n.must(n.db.Commit())
}

// simNames are what nodes are called.
const simNames = "abcdefg"

// simTop makes the directory of all histories, in memory where that is possible,
// with an empty store for each name: to make one takes longer than most of a
// history does.
func simTop(t *testing.T) string {
	top, err := os.MkdirTemp("/dev/shm", "alkfs-sim")
	if err != nil {
		top = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	for _, c := range simNames {
		dir := filepath.Join(top, "fresh", string(c))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		k := identity.KeyOf(simKey(string(c)))
		db, err := schema.Open(t.Context(), dir, schema.Options{NodeKey: k[:]})
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

// copyStore copies a store as it is on the disk now.
func copyStore(t *testing.T, from, to string) {
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blobs", "partial", "staging"} {
		if _, err := os.Stat(filepath.Join(from, name)); err == nil {
			if err := os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"alkfs.db", "alkfs.db-wal"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
