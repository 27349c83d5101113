package crdtsync

import (
	"fmt"
	"path/filepath"
	"testing/synctest"

	"github.com/alkdev/alkfs/schema"
)

// simBackup is a copy of a node's store.
type simBackup struct {
	dir string // "": none
	n   int    // how many were made
}

// backUp has some node be backed up, or be lost and restored from its backup, now and
// then. What is nowhere else is lost, so it is in histories in which nobody relies on others
// to keep content or branches, and no backup holds a key that was replaced.
func (s *sim) backUp() {
	p := s.backups
	if !p.on || s.bytes || s.keys || s.filters.on || p.rng.IntN(4) != 0 {
		return
	}
	n, lost := s.nodes[p.rng.IntN(len(s.nodes))], p.rng.IntN(2) == 0
	switch b := &n.backup; {
	case !n.up:
	case !lost:
		n.must(n.db.Commit())
		synctest.Wait() // the copy is of one moment
		b.n++
		b.dir = filepath.Join(s.root, fmt.Sprint(n.name, " backup ", b.n))
		copyStore(s.t, n.dir, b.dir)
		s.logf("%s is backed up", n.name)
	case b.dir != "":
		s.logf("%s is lost, and restored from its backup", n.name)
		s.net.vanish(n.name)
		n.close()
		n.dir, n.kept = filepath.Join(s.root, fmt.Sprint(n.name, n.runs)), nil
		copyStore(s.t, b.dir, n.dir)
		n.open()
		n.must(n.db.Write(func(tx *schema.Tx) error { tx.ObserveIno(int64(n.runs) << 32); return nil })) // like RestoreStore
		n.start()
	}
}
