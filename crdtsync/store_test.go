package crdtsync

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// store is a node of a test: a store without bytes.
type store struct {
	t    testing.TB
	name string
	dir  string
	db   *schema.DB
	tree *pathtree.Tree
	*Replica
}

func newStore(t testing.TB, name string) *store {
	t.Helper()
	return openStore(t, name, t.TempDir())
}

// openStore opens the store of a node in dir.
func openStore(t testing.TB, name, dir string) *store {
	t.Helper()
	s := &store{t: t, name: name, dir: dir}
	s.open()
	t.Cleanup(func() {
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *store) open() {
	s.t.Helper()
	var seed [ed25519.SeedSize]byte
	copy(seed[:], s.name)
	private := ed25519.NewKeyFromSeed(seed[:])
	k := identity.KeyOf(private)
	var err error
	if s.db, err = schema.Open(s.t.Context(), s.dir, schema.Options{NodeKey: k[:]}); err != nil {
		s.t.Fatal(err)
	}
	s.tree = pathtree.New(s.db)
	s.Replica = NewReplica(Config{DB: s.db, Tree: s.tree, Private: private,
		Logger: slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", s.name)})
}

// again has the store begin anew with what is in the database.
func (s *store) again() {
	s.t.Helper()
	if err := s.db.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.open()
}

// makeBucket makes a bucket and shares it.
func (s *store) makeBucket(name string) [16]byte {
	s.t.Helper()
	var b pathtree.Bucket
	err := s.db.Write(func(tx *schema.Tx) (err error) {
		b, err = s.tree.CreateBucket(tx, name)
		return err
	})
	if err == nil {
		err = s.Share(b.ID)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return b.UUID
}

// admit has owner let s into a bucket.
func (s *store) admit(owner *store, b [16]byte, role identity.Role) {
	s.t.Helper()
	err := owner.Grant(b, s.Key(), role, s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	grants, _, err := owner.Grants(b, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Adopt(b, fmt.Sprintf("shared-%x", b[:4]), owner.Key(), grants); err != nil {
		s.t.Fatal(err)
	}
}

// on runs f on the head of branch main of the shared bucket.
func (s *store) on(b [16]byte, f func(tx *schema.Tx, v *pathtree.View) error) {
	s.t.Helper()
	err := s.db.Write(func(tx *schema.Tx) error {
		sh, err := s.lookup(tx, b)
		if err != nil {
			return err
		}
		br, err := s.tree.Branch(tx, sh.bucket.ID, pathtree.MainBranch)
		if err != nil {
			return err
		}
		v, err := s.tree.View(tx, br.ID, 0)
		if err != nil {
			return err
		}
		return f(tx, v)
	})
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
}

// write makes path a file whose content is text, with the directories above.
func (s *store) write(b [16]byte, path, text string) {
	s.t.Helper()
	s.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		dir := v.Root()
		parts := strings.Split(path, "/")
		for _, p := range parts[:len(parts)-1] {
			e, err := v.Lookup(tx, dir, p)
			if err != nil {
				in, err := v.Create(tx, dir, p, pathtree.NewInode{Mode: unix.S_IFDIR | 0o755})
				if err != nil {
					return err
				}
				e.Ino = in.Ino
			}
			dir = e.Ino
		}
		name := parts[len(parts)-1]
		e, err := v.Lookup(tx, dir, name)
		if err != nil {
			in, err := v.Create(tx, dir, name, pathtree.NewInode{Mode: 0o644})
			if err != nil {
				return err
			}
			e.Ino = in.Ino
		}
		_, err = v.SetContent(tx, e.Ino, pathtree.Content{Hash: blobstore.Sum([]byte(text)), Size: int64(len(text))})
		return err
	})
}

// listing returns what the head of main shows, a line for each name.
func (s *store) listing(b [16]byte) string {
	s.t.Helper()
	var lines []string
	s.on(b, func(tx *schema.Tx, v *pathtree.View) error {
		var walk func(dir pathtree.Ino, at string) error
		walk = func(dir pathtree.Ino, at string) error {
			es, ins, err := v.ReadDirPlus(tx, dir, "", 0)
			if err != nil {
				return err
			}
			for i, e := range es {
				lines = append(lines, fmt.Sprintf("%s/%s %o %d %s", at, e.Name, ins[i].Mode, ins[i].Nlink, ins[i].Hash))
				if e.IsDir() {
					if err := walk(e.Ino, at+"/"+e.Name); err != nil {
						return err
					}
				}
			}
			return nil
		}
		return walk(v.Root(), "")
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// send brings what from has and to lacks, as to wants it.
func send(t testing.TB, from, to *store, b [16]byte) Received {
	t.Helper()
	if _, err := from.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	marks, err := to.Marks(b)
	if err != nil {
		t.Fatal(err)
	}
	arrived, _, err := from.Missing(b, marks)
	if err != nil {
		t.Fatal(err)
	}
	f, err := to.filter(b)
	if err != nil {
		t.Fatal(err)
	}
	envelopes, err := from.Envelopes(arrived, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{e: &Engine{Replica: from.Replica}}
	if envelopes, err = s.outgoing(b, &feed{filter: f}, envelopes); err != nil {
		t.Fatal(err)
	}
	res, err := to.Receive(b, from.Key(), envelopes)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestReplicasByHand(t *testing.T) {
	a, c := newStore(t, "a"), newStore(t, "c")
	b := a.makeBucket("team")
	c.admit(a, b, identity.ReadWrite)
	a.write(b, "x/y/one", "1")
	a.write(b, "two", "2")
	if res := send(t, a, c, b); res.New == 0 || res.Later != 0 {
		t.Errorf("received %+v", res)
	}
	if got, want := c.listing(b), a.listing(b); got != want || !strings.Contains(got, "x/y/one") {
		t.Fatalf("c has\n%s\na has\n%s", got, want)
	}
	c.write(b, "x/y/one", "1, changed by c")
	c.write(b, "x/three", "3")
	send(t, c, a, b)
	if got, want := a.listing(b), c.listing(b); got != want {
		t.Fatalf("a has\n%s\nc has\n%s", got, want)
	}
	if res := send(t, c, a, b); res.New != 0 {
		t.Errorf("sent again: %+v", res)
	}
	if res := send(t, a, c, b); res.New != 0 {
		t.Errorf("came back: %+v", res)
	}
}

// running is a store whose engine runs.
type running struct {
	*store
	*Engine
	stop func()
}

func start(t *testing.T, n *memNet, s *store, o Options) *running {
	t.Helper()
	if o.Addrs == nil {
		o.Addrs = []string{s.name}
	}
	if o.MarksEvery == 0 {
		o.MarksEvery = 200 * time.Millisecond
	}
	if o.MinBackoff == 0 {
		o.MinBackoff, o.MaxBackoff = 5*time.Millisecond, 50*time.Millisecond
	}
	e := NewEngine(s.Replica, n.node(s.name, s.Key()), o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	r := &running{store: s, Engine: e}
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// settle waits until all stores have the same changes of b.
func settle(t *testing.T, b [16]byte, all ...*store) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for _, s := range all {
		if _, err := s.Drain(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for {
		first, same := "", true
		for i, s := range all {
			marks, err := s.Marks(b)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, m := range marks {
				lines = append(lines, fmt.Sprint(m))
			}
			slices.Sort(lines)
			if text := strings.Join(lines, "\n"); i == 0 {
				first = text
			} else if text != first {
				same = false
			}
		}
		if same {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the nodes did not come to have the same")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
