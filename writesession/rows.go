package writesession

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

// row is what write_session and write_chunk hold of a File.
type row struct {
	id     int64 // 0: no row
	stale  bool  // f changed since it was written
	synced bool  // an fsync was answered with it
	sure   bool  // a power cut cannot take it
	losses int64 // DB.Losses before it was written
	full   bool  // the content moved: all chunks are written anew
	sealed bool  // the base is a new blob file, which may have no row yet

	// What it says.
	saved          spans // runs of the staging file that write_chunk has
	size, baseSize int64
	file, over     kept // staging file, overlay

	spare kept // an overlay that it no longer names, to be the next one
}

// files returns what is kept for r.
func (r *row) files() (files []kept) {
	for _, k := range []kept{r.file, r.over, r.spare} {
		if k.name != "" {
			files = append(files, k)
		}
	}
	return files
}

// leave ends the use of r's files by this process.
func (r *row) leave() {
	r.over.leave()
	if r.spare.of != nil {
		r.spare.of.Discard()
	}
}

// save records the dirty f so that a later process can recover it: bytes in
// memory as one chunk, otherwise the runs that are in the staging file and the
// overlay. What was recorded for an fsync is replaced only by the next fsync, so
// that it never names bytes that a power cut can take. change must be held.
func (f *File) save(synced bool) (err error) {
	r, c := &f.row, &f.mu.content
	switch {
	case !f.mu.dirty, r.synced && !synced:
		return nil
	case r.id != 0 && !r.stale && r.synced == synced:
		return nil
	}
	if err := f.syncBase(); err != nil {
		return err
	}
	next := row{synced: synced, losses: f.s.db.Losses(), sealed: r.sealed, size: c.size, baseSize: c.baseSize}
	if next.file, err = keepStaging(c.staging, r.file); err != nil {
		return err
	}
	defer func() {
		if err != nil && next.file != r.file && next.file.name != "" {
			f.s.remove(next.file)
		}
	}()
	if c.overlay != nil {
		next.over = kept{c.overlay.Name(), c.overlay}
	}
	if synced {
		if err := syncFiles(c.staging, c.overlay); err != nil {
			return err
		}
	}
	err = f.s.db.Write(func(tx *schema.Tx) (err error) {
		found := false
		if next.id, found, err = f.putSession(tx, r.id, &next); err != nil {
			return err
		}
		id := next.id
		if !found {
			if err := putPlace(tx, id, f.made); err != nil {
				return err
			}
		}
		if r.full || !found || r.losses != next.losses {
			return c.putChunks(tx, id)
		}
		return c.updateChunks(tx, id, r.saved)
	})
	if err != nil {
		return err
	}
	if r.file != next.file && r.file.name != "" {
		f.s.unkeep(true, r.file)
	}
	for _, k := range []kept{r.over, r.spare} {
		switch {
		case k.name == "" || k == next.over:
		case next.spare.name == "" && k.of.Allocated() <= spareMax:
			next.spare = k
		default:
			f.s.unkeep(true, k)
		}
	}
	next.saved = append(r.saved[:0], c.own...)
	f.row = next
	f.since.Store(0)
	f.s.stats.saved.Add(1)
	return nil
}

// syncBase brings the base to the disk, before a row depends on it. change must be
// held.
func (f *File) syncBase() error {
	c := &f.mu.content
	if f.row.sealed && !c.base.IsZero() {
		err := f.s.db.Write(func(tx *schema.Tx) error { return f.s.blobs.AddFile(tx, c.base, c.baseSize) })
		if err != nil {
			return err
		}
	}
	return f.s.blobs.Sync(context.Background(), c.base)
}

// spareMax is the disk space in bytes that an overlay may take to be used again.
const spareMax = 4 << 20

// keepStaging returns the link that keeps st, which is k or made now.
func keepStaging(st *blobstore.Staging, k kept) (kept, error) {
	switch st {
	case nil:
		return kept{}, nil
	case k.of:
		return k, nil
	}
	name := st.Name() + keptSuffix
	return kept{name, st}, st.Link(name)
}

// syncFiles brings the two to the disk at once; either may be nil.
func syncFiles(staging, overlay *blobstore.Staging) error {
	var g errgroup.Group
	if overlay != nil {
		g.Go(overlay.Sync)
	}
	var err error
	if staging != nil {
		err = staging.Sync()
	}
	return errors.Join(err, g.Wait())
}

// putSession updates the session row id to next, or adds one when there is none:
// with id 0, or when its commit was lost.
func (f *File) putSession(tx *schema.Tx, id int64, next *row) (newID int64, found bool, err error) {
	bind := func(s *sqlite.Stmt) *sqlite.Stmt {
		c := &f.mu.content
		s.BindText(1, f.s.owner.name)
		s.BindInt64(2, f.view.Branch().ID)
		s.BindInt64(3, int64(f.ino))
		s.BindNull(4)
		if !c.inMem && !c.base.IsZero() {
			s.BindBytes(4, c.base[:])
		}
		s.BindInt64(5, c.size)
		s.BindInt64(6, f.mu.mtime)
		s.BindText(7, next.file.name)
		s.BindBool(8, next.synced)
		s.BindInt64(9, now())
		s.BindText(10, next.over.name)
		s.BindBytes(11, c.over.encode())
		return s
	}
	if id != 0 {
		s := bind(tx.Stmt(`UPDATE write_session SET owner = ?, branch = ?, ino = ?, base = ?, size = ?, mtime = ?,
			staging = ?, synced = ?, updated = ?, overlay = ?, over = ? WHERE id = ?`))
		s.BindInt64(12, id)
		if _, err := s.Step(); err != nil {
			return 0, false, err
		}
		if tx.Conn().Changes() > 0 {
			return id, true, nil
		}
	}
	began, err := lastEvent(tx)
	if err != nil {
		return 0, false, err
	}
	s := bind(tx.Stmt(`INSERT INTO write_session (id, owner, branch, ino, base, size, mtime, staging, synced, updated, overlay, over, created, began)
		VALUES ((SELECT coalesce(max(id), 1) + 1 FROM write_session), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?9, ?12)`))
	s.BindInt64(12, began)
	if _, err := s.Step(); err != nil {
		return 0, false, err
	}
	return tx.Conn().LastInsertRowID(), false, nil
}

// putChunks replaces all chunks of a session.
func (c *content) putChunks(tx *schema.Tx, id int64) error {
	s := tx.Stmt("DELETE FROM write_chunk WHERE session = ?")
	s.BindInt64(1, id)
	if _, err := s.Step(); err != nil {
		return err
	}
	if c.inMem && c.size > 0 {
		return putChunk(tx, id, span{0, c.size}, c.buf)
	}
	for _, r := range c.own {
		if err := putChunk(tx, id, r, nil); err != nil {
			return err
		}
	}
	return nil
}

// updateChunks turns the chunks of the runs saved into those of now.
func (c *content) updateChunks(tx *schema.Tx, id int64, saved spans) error {
	if c.inMem {
		return c.putChunks(tx, id)
	}
	i := 0
	for _, r := range c.own {
		for ; i < len(saved) && saved[i].off < r.off; i++ {
			if err := deleteChunk(tx, id, saved[i].off); err != nil {
				return err
			}
		}
		if i < len(saved) && saved[i].off == r.off {
			if i++; saved[i-1] == r {
				continue
			}
		}
		if err := putChunk(tx, id, r, nil); err != nil {
			return err
		}
	}
	for ; i < len(saved); i++ {
		if err := deleteChunk(tx, id, saved[i].off); err != nil {
			return err
		}
	}
	return nil
}

func putChunk(tx *schema.Tx, id int64, r span, data []byte) error {
	s := tx.Stmt("INSERT OR REPLACE INTO write_chunk (session, off, len, data) VALUES (?, ?, ?, ?)")
	s.BindInt64(1, id)
	s.BindInt64(2, r.off)
	s.BindInt64(3, r.len())
	s.BindNull(4)
	if data != nil {
		s.BindBytes(4, data)
	}
	_, err := s.Step()
	return err
}

func deleteChunk(tx *schema.Tx, id, off int64) error {
	s := tx.Stmt("DELETE FROM write_chunk WHERE session = ? AND off = ?")
	s.BindInt64(1, id)
	s.BindInt64(2, off)
	_, err := s.Step()
	return err
}

// deleteRow deletes a session and its chunks; id 0 is none.
func deleteRow(tx *schema.Tx, id int64) error {
	if id == 0 {
		return nil
	}
	s := tx.Stmt("DELETE FROM write_session WHERE id = ?")
	s.BindInt64(1, id)
	_, err := s.Step()
	return err
}

// endRow ends the row of a session that is being published: it is deleted or,
// when an fsync was answered with it, stays until the blob is on the disk.
func endRow(tx *schema.Tx, r row) error {
	if !r.synced {
		return deleteRow(tx, r.id)
	}
	s := tx.Stmt("UPDATE write_session SET synced = 2 WHERE id = ?")
	s.BindInt64(1, r.id)
	_, err := s.Step()
	return err
}

// lastEvent returns the number of the last event. What was published later has a greater
// one, whereas its stamp, when it came from another node, may be an earlier one.
func lastEvent(tx *schema.Tx) (int64, error) {
	s := tx.Stmt("SELECT coalesce(max(seq), 0) FROM event")
	_, err := s.Step()
	return s.ColumnInt64(0), err
}
