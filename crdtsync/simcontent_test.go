package crdtsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// simTexts is every content that was ever written in a history.
type simTexts struct {
	mu  sync.Mutex // guards all
	all map[blobstore.Hash][]byte
}

func (x *simTexts) add(p []byte) blobstore.Hash {
	x.mu.Lock()
	defer x.mu.Unlock()
	h := blobstore.Sum(p)
	x.all[h] = p
	return h
}

func (x *simTexts) get(h blobstore.Hash) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all[h]
}

// simContent is what one run of a node has for the bytes of files.
type simContent struct {
	n       *simNode
	run     int
	blobs   *blobstore.Store
	fetcher *blobs.Fetcher
	server  *blobs.Server
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // of all that works with it
}

func (n *simNode) openContent(log *slog.Logger) {
	c := &simContent{n: n, run: n.runs}
	var err error
	c.blobs, err = blobstore.Open(context.Background(), n.dir, n.db, blobstore.Options{SyncAfter: -1, Logger: log})
	n.must(err)
	c.fetcher = blobs.New(blobs.Options{
		Buckets: n.BucketsOf, Logger: log, Streams: 2,
		Bad: func(k identity.Key, err error) { n.s.errorf("%s: %s sent wrong bytes: %v", n.name, k.Short(), err) },
	})
	c.server = blobs.NewServer(c.blobs, n.db, blobs.ServerOptions{Allowed: n.MayRead, Named: n.Named, Key: n.Key, Logger: log})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	n.content = c
	if n.s.sessions.on {
		c.openSessions(log)
	}
	c.blobs.SetSource(c.fetcher)
}

// start begins to fetch what is wanted, and by policy.
func (c *simContent) start() {
	worker := blobs.NewWorker(c.fetcher, c.blobs, c.n.db)
	keeper := blobs.NewKeeper(c.n.db, c.n.tree, 1, slog.New(slog.DiscardHandler))
	c.wg.Go(func() { c.must(worker.Run(c.ctx)) })
	c.wg.Go(func() { c.must(keeper.Run(c.ctx)) })
}

func (c *simContent) options(o Options) Options {
	o.BulkLinks = 1
	o.Held = c.n.held
	o.Joined = func(p *Node) { c.fetcher.AddPeer(p) }
	o.Left = c.fetcher.RemovePeer
	o.Blobs = func(ctx context.Context, k identity.Key, s io.ReadWriteCloser) { _ = c.server.Serve(ctx, k, s) }
	return o
}

// must fails when something that cannot fail has, unless the process is gone.
func (c *simContent) must(err error) {
	if err != nil && c.ctx.Err() == nil {
		c.n.s.errorf("%s: %v", c.n.name, err)
	}
}

// stop ends everything but the store.
func (c *simContent) stop() {
	c.cancel()
	c.fetcher.Close()
	c.wg.Wait()
}

// file is a file that a head shows.
type simFile struct {
	branch int64
	ino    pathtree.Ino
	at     string
	hash   blobstore.Hash
	size   int64
}

// files returns the files that the heads of n show, in order.
func (n *simNode) files() (all []simFile) {
	n.read(func(tx *schema.Tx) error {
		all = nil
		sh, err := n.lookup(tx, n.s.bucket)
		if err != nil {
			return err
		}
		branches, err := n.tree.Shown(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		for _, b := range branches {
			v, err := n.tree.View(tx, b.ID, 0)
			if errors.Is(err, pathtree.ErrNotKept) {
				continue // what it descends from is still coming
			}
			if err != nil {
				return err
			}
			if err := n.filesBelow(tx, v, v.Root(), b.Name+":", &all); err != nil {
				return err
			}
		}
		return nil
	})
	return all
}

func (n *simNode) filesBelow(tx *schema.Tx, v *pathtree.View, dir pathtree.Ino, at string, all *[]simFile) error {
	es, ins, err := v.ReadDirPlus(tx, dir, "", 0)
	if err != nil {
		return err
	}
	for i, e := range es {
		in := &ins[i]
		switch {
		case e.IsDir():
			if err := n.filesBelow(tx, v, e.Ino, at+"/"+e.Name, all); err != nil {
				return err
			}
		case in.IsRegular():
			*all = append(*all, simFile{v.Branch().ID, e.Ino, at + "/" + e.Name, in.Hash, in.Size})
		}
	}
	return nil
}

// read returns n bytes of a content from off on.
func (c *simContent) read(h blobstore.Hash, size, off, n int64) ([]byte, error) {
	b, err := c.blobs.Open(h, size)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	p, err := io.ReadAll(io.NewSectionReader(b, off, n))
	if want := c.n.s.texts.get(h); err == nil && !bytes.Equal(p, want[off:off+n]) {
		c.n.s.errorf("%s read wrong bytes of %s", c.n.name, h)
	}
	return p, err
}

// byteOperation has a node read, change or collect content. It takes its time, in
// which other things happen.
func (s *sim) byteOperation() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if !n.up {
		return
	}
	c, rng := n.content, rand.New(rand.NewPCG(s.seed, s.rng.Uint64()))
	all := n.files()
	switch k := s.rng.IntN(10); {
	case k == 0:
		s.pin(n)
	case k == 1 && s.prunes:
		keep := time.Duration(s.rng.Int64N(60e9))
		s.logf("%s collects, and keeps %v", n.name, keep)
		s.meanwhile(c, func() { c.collect(keep) })
	case len(all) == 0:
	case k < 5:
		f := all[s.rng.IntN(len(all))]
		off := s.rng.Int64N(f.size + 1)
		size := s.rng.Int64N(f.size - off + 1)
		s.logf("%s reads %s, %d bytes at %d of %d", n.name, f.at, size, off, f.size)
		s.meanwhile(c, func() { _, _ = c.read(f.hash, f.size, off, size) })
	default:
		f := all[s.rng.IntN(len(all))]
		s.logf("%s changes bytes of %s", n.name, f.at)
		s.meanwhile(c, func() { c.change(f, rng) })
	}
}

// meanwhile runs f, which works with content of a node.
func (s *sim) meanwhile(c *simContent, f func()) {
	s.busy.Add(1)
	c.wg.Go(func() { defer s.busy.Done(); f() })
}

// change appends to a file, cuts it off, or writes over a part of it.
func (c *simContent) change(f simFile, rng *rand.Rand) {
	p, err := c.read(f.hash, f.size, 0, f.size)
	if err != nil {
		return // nobody who has it is there
	}
	part := make([]byte, 1+rng.IntN([]int{100, 5000, 100_000}[rng.IntN(3)]))
	for i := range part {
		part[i] = byte(rng.Uint32())
	}
	p = bytes.Clone(p)
	switch rng.IntN(3) {
	case 0:
		p = append(p, part...)
	case 1:
		p = p[:rng.IntN(len(p)+1)]
	case 2:
		off := rng.IntN(len(p) + 1)
		p = append(p[:off:off], append(part, p[min(len(p), off+len(part)):]...)...)
	}
	c.must(c.write(f, p))
}

// write gives a file new content, unless it is gone.
func (c *simContent) write(f simFile, p []byte) error {
	n, h := c.n, c.n.s.texts.add(p)
	add := func(tx *schema.Tx) (err error) {
		h, err = c.blobs.PutInline(tx, p)
		return err
	}
	if len(p) > blobstore.InlineMax {
		st, err := c.blobs.NewStaging()
		if err != nil {
			return err
		}
		if _, err := st.WriteAt(p, 0); err != nil {
			return errors.Join(err, st.Discard())
		}
		if h, err = st.Seal(c.ctx, int64(len(p))); err != nil {
			return err
		}
		add = func(tx *schema.Tx) error { return c.blobs.AddFile(tx, h, int64(len(p))) }
	}
	err := n.db.Write(func(tx *schema.Tx) error {
		v, err := n.tree.View(tx, f.branch, 0)
		if err != nil {
			return err
		}
		if err := add(tx); err != nil {
			return err
		}
		_, err = v.SetContent(tx, f.ino, pathtree.Content{Hash: h, Size: int64(len(p))})
		return err
	})
	if pathtree.Errno(err) == 0 || errors.Is(err, blobstore.ErrMissing) {
		return err
	}
	return nil // the file or branch is gone
}

// collect prunes history and collects content, after asking the others.
func (c *simContent) collect(keep time.Duration) {
	n := c.n
	cut := pathtree.Cut{Before: schema.StampAt(n.now().Add(-keep))}
	for more := true; more; {
		err := n.db.Write(func(tx *schema.Tx) (err error) {
			_, more, err = n.tree.Prune(tx, cut, 0)
			return err
		})
		if err != nil {
			c.must(err)
			return
		}
	}
	_, err := c.blobs.GC(c.ctx, blobstore.GCOptions{Grace: -1})
	c.must(err)
	d := blobs.Dropping{
		Fetcher: c.fetcher, Members: n.Others, Current: n.engine.HasAll,
		Patience: func([16]byte) (time.Duration, error) { return -1, nil },
		Wanted:   map[identity.Key]int{}, Silent: map[identity.Key]int{},
	}
	_, _, err = c.blobs.CollectGuarded(c.ctx, -1, d.May)
	c.must(err)
}

// pin has a node fetch all of a branch without being read.
func (s *sim) pin(n *simNode) {
	n.must(n.db.Write(func(tx *schema.Tx) error {
		sh, err := n.lookup(tx, s.bucket)
		if err != nil {
			return err
		}
		k := blobs.Keep{Bucket: sh.bucket.ID, Pinned: true}
		s.logf("%s pins everything", n.name)
		return blobs.AddKeep(tx, k)
	}))
}

// checkContent holds every node to read what its heads show, and the content of
// each version that any has to be on some node.
func (s *sim) checkContent() {
	if s.prunes {
		s.collectAtOnce()
	}
	for _, n := range s.nodes {
		for _, f := range n.files() {
			if f.size == 0 {
				continue
			}
			_, err := n.content.read(f.hash, f.size, 0, f.size)
			for wait := time.Second; err != nil && wait < 10*time.Minute; wait *= 2 { // until it is connected to who has it
				time.Sleep(wait)
				_, err = n.content.read(f.hash, f.size, 0, f.size)
			}
			if err != nil {
				s.fatalf("%s cannot read %s: %v", n.name, f.at, err)
			}
		}
	}
	for _, n := range s.nodes {
		named := map[blobstore.Hash]string{}
		n.eachVersion(func(v *pathtree.Version) {
			if v.Inode != nil && !v.Inode.Hash.IsZero() {
				named[v.Inode.Hash] = fmt.Sprint(thingKey(v), " ", v.ID)
			}
		})
		for h, version := range named {
			if !s.anyHas(h) {
				s.fatalf("no node has content %s (%.20q) of %s, which %s has", h, s.texts.get(h), version, n.name)
			}
		}
	}
}

// collectAtOnce replaces what some nodes have read of files, and has them collect at
// the same time. One, which may not have read it, keeps all history.
func (s *sim) collectAtOnce() {
	s.replace("for a while")
	keeper := s.nodes[s.rng.IntN(len(s.nodes))]
	for _, n := range s.nodes {
		for _, f := range n.files() {
			if n != keeper && s.rng.IntN(4) > 0 {
				_, _ = n.content.read(f.hash, f.size, 0, f.size)
			}
		}
	}
	s.replace("in the end")
	var all sync.WaitGroup
	s.logf("all but %s collect", keeper.name)
	for _, n := range s.nodes {
		if n != keeper {
			all.Go(func() { n.content.collect(0) })
		}
	}
	all.Wait()
}

// replace has a node write all files anew, and all hear of it.
func (s *sim) replace(text string) {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	for i, f := range n.files() {
		n.must(n.content.write(f, fmt.Append(nil, text, i)))
	}
	s.settle()
}

func (s *sim) anyHas(h blobstore.Hash) (has bool) {
	for _, n := range s.nodes {
		n.read(func(tx *schema.Tx) error {
			here, err := n.content.blobs.Here(tx, h)
			has = has || here
			return err
		})
	}
	return has
}
