package writesession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// ErrSuperseded says that what a synced session would publish is older than
// what somebody published meanwhile; it stays listed.
var ErrSuperseded = errors.New("the file was changed by somebody else since this session began")

// takeOver looks at the sessions of dead processes and publishes those of
// which an fsync was answered, unless the file has changed since.
func (s *Sessions) takeOver(ctx context.Context) error {
	if err := s.db.Barrier(); err != nil {
		return err
	}
	var infos []Info
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		infos, err = readInfos(tx)
		return err
	})
	if err != nil {
		return err
	}
	owners := make(map[string][]Info)
	for _, in := range infos {
		owners[in.Owner] = append(owners[in.Owner], in)
	}
	for name, infos := range owners {
		lock, dead := claimDead(s.db.Dir(), name)
		if !dead {
			continue
		}
		for _, in := range infos {
			s.takeOverOne(ctx, in)
		}
		os.Remove(lock.Name())
		lock.Close()
	}
	return ctx.Err()
}

func (s *Sessions) takeOverOne(ctx context.Context, in Info) {
	log := s.log.With("session", in.ID, "ino", in.Ino, "branch", in.Branch, "size", in.Size)
	if in.published {
		s.takeOverPublished(ctx, in)
		return
	}
	if !in.Synced {
		log.Warn("a process died before this was published: see `alkfs sessions`")
		if err := s.takeOverMade(in); err != nil {
			log.Warn("the name of a file that was being made was not removed", "name", in.Name, "error", err)
		}
		return
	}
	if err := s.publishUnchanged(ctx, in.ID); err != nil {
		log.Warn("a process died after an fsync; what it wrote could not be published: see `alkfs sessions`", "error", err)
		return
	}
	log.Info("published what a process had synced before it died")
}

// takeOverMade removes the name of a file that a dead process was making.
func (s *Sessions) takeOverMade(in Info) error {
	if in.Name == "" {
		return nil
	}
	var v *pathtree.View
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		v, err = s.tree.View(tx, in.Branch, 0)
		return err
	})
	if err != nil {
		return err
	}
	return s.unmake(v, in.Ino, place{in.Parent, in.Name}, in.ID)
}

// takeOverPublished ends a session that was published, when the file's blob is
// whole; a power cut may have taken the blob, but not the session.
func (s *Sessions) takeOverPublished(ctx context.Context, info Info) {
	log := s.log.With("session", info.ID, "ino", info.Ino, "branch", info.Branch, "size", info.Size)
	var in pathtree.Inode
	err := s.db.Read(func(tx *schema.Tx) error {
		v, err := s.tree.View(tx, info.Branch, 0)
		if err == nil {
			in, err = v.Inode(tx, info.Ino)
		}
		return err
	})
	switch {
	case err == nil && !s.whole(ctx, in):
		err = s.publishAgain(ctx, info.ID)
		if err == nil {
			log.Info("published again what a crash had damaged")
		}
	case err == nil || gone(err):
		err = s.dropRow(info)
	}
	if err != nil {
		log.Warn("a process died before what it had synced and published was on the disk", "error", err)
	}
}

func (s *Sessions) publishAgain(ctx context.Context, id int64) error {
	f, _, err := s.adopt(id, true)
	if err != nil {
		return err
	}
	defer f.leave()
	_, err = f.publishOrphan(ctx)
	return err
}

// whole reports whether the content of in is there and matches its hash.
func (s *Sessions) whole(ctx context.Context, in pathtree.Inode) bool {
	b, err := s.blobs.Open(in.Hash, in.Size)
	if err != nil {
		return false
	}
	defer b.Close()
	_, err = io.Copy(io.Discard, io.NewSectionReader(b, 0, in.Size))
	return err == nil && s.blobs.Sync(ctx, in.Hash) == nil
}

// Recover writes what session id would publish to w. The session stays as it
// is. It fails with EBUSY while the session's process has its file open.
func (s *Sessions) Recover(ctx context.Context, id int64, w io.Writer) error {
	f, _, err := s.adopt(id, false)
	if err != nil {
		return err
	}
	defer f.leave()
	p := make([]byte, 1<<20)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(p, off)
		if _, e := w.Write(p[:n]); e != nil {
			return e
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		off += int64(n)
	}
}

// Publish publishes session id, which a dead process left, whatever was
// published since; the file's history keeps that.
func (s *Sessions) Publish(ctx context.Context, id int64) (pathtree.Inode, error) {
	f, info, err := s.adopt(id, true)
	if err != nil {
		return pathtree.Inode{}, err
	}
	defer f.leave()
	if alive(s.db.Dir(), info.Owner) {
		return pathtree.Inode{}, stillOpen(info)
	}
	made, err := s.makeAgain(f.view, info)
	if err != nil {
		return pathtree.Inode{}, err
	}
	in, err := f.publishOrphan(ctx)
	if err != nil && made {
		err = errors.Join(err, s.unmake(f.view, info.Ino, place{info.Parent, info.Name}, info.ID))
	}
	return in, err
}

// publishUnchanged is Publish for takeOver, which holds the owner's lock. It
// fails with ErrSuperseded when other content was published since.
func (s *Sessions) publishUnchanged(ctx context.Context, id int64) error {
	f, info, err := s.adopt(id, true)
	if err != nil {
		return err
	}
	defer f.leave()
	var changed bool
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		changed, err = contentChanged(tx, info)
		return err
	})
	if err != nil {
		return err
	}
	if changed {
		return ErrSuperseded
	}
	_, err = f.publishOrphan(ctx)
	return err
}

// contentChanged reports whether content of the session's inode was published, or came
// from another node, after the session was recorded.
func contentChanged(tx *schema.Tx, in Info) (bool, error) {
	s := tx.Stmt("SELECT EXISTS (SELECT 1 FROM event WHERE seq > ? AND branch = ? AND ino = ? AND op = ?)")
	s.BindInt64(1, in.began)
	s.BindInt64(2, in.Branch)
	s.BindInt64(3, int64(in.Ino))
	s.BindInt64(4, int64(notify.OpContent))
	_, err := s.Step()
	return s.ColumnInt64(0) != 0, err
}

// publishOrphan publishes f, which adopt has made. change must be held.
func (f *File) publishOrphan(ctx context.Context) (pathtree.Inode, error) {
	in, err := f.publish(ctx)
	if err == nil && f.mu.dirty {
		f.drop()
		err = fmt.Errorf("the file was removed: %w", syscall.ENOENT)
	}
	return in, f.fail("publish", err)
}

func stillOpen(in Info) error {
	return fmt.Errorf("session %d is being written by process %s: %w", in.ID, in.PID, syscall.EBUSY)
}

// leave ends the use of f, which shows what is published from now on, and
// keeps its session as recorded. change must be held.
func (f *File) leave() {
	f.mu.Lock()
	old := f.setContent(clean(f.mu.inode.Hash, f.mu.inode.Size))
	f.mu.dirty = false
	f.mu.Unlock()
	f.discard(old)
	f.row.leave()
	f.row = row{}
	f.closeBlobs()
}

// Abort drops session id, which a dead process left.
func (s *Sessions) Abort(ctx context.Context, id int64) error {
	var info Info
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		info, err = readInfo(tx, id)
		return err
	})
	if err != nil {
		return err
	}
	if alive(s.db.Dir(), info.Owner) {
		return stillOpen(info)
	}
	return s.dropRow(info)
}

// dropRow deletes a session of a dead process and what it kept.
func (s *Sessions) dropRow(info Info) error {
	err := s.db.Write(func(tx *schema.Tx) error { return deleteRow(tx, info.ID) })
	if err != nil {
		return err
	}
	r := row{file: kept{name: info.staging}, over: kept{name: info.overlay}}
	if r.file.name != "" {
		os.Remove(s.stagingPath(strings.TrimSuffix(r.file.name, keptSuffix)))
	}
	s.unkeep(info.Synced, r.files()...)
	return nil
}

// adopt makes a File of a recorded session, known to nobody else, with change
// held. It is for reading only, unless write is set.
func (s *Sessions) adopt(id int64, write bool) (*File, Info, error) {
	var f *File
	var info Info
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		if info, err = readInfo(tx, id); err != nil {
			return err
		}
		v, err := s.tree.View(tx, info.Branch, 0)
		if err != nil {
			return err
		}
		in, err := v.Inode(tx, info.Ino)
		if err != nil {
			return err
		}
		f = newFile(s, v, in)
		f.change.Lock()
		f.mu.content, err = readContent(tx, info)
		return err
	})
	if err != nil {
		return nil, info, err
	}
	f.mu.dirty, f.mu.mtime, f.mu.changed = true, info.Mtime, info.Mtime
	f.row = row{id: id, synced: info.Synced, full: true, losses: f.losses}
	if err := f.adoptFiles(info, write); err != nil {
		f.discard(f.mu.content)
		f.row.leave()
		return nil, info, err
	}
	return f, info, nil
}

// adoptFiles opens the files of a recorded session.
func (f *File) adoptFiles(info Info, write bool) (err error) {
	c := &f.mu.content
	if info.staging != "" {
		if c.staging, err = f.s.openKept(info.staging, write); err != nil {
			return err
		}
		f.row.file = kept{info.staging, c.staging}
	}
	if info.overlay != "" {
		if c.overlay, err = f.s.blobs.OpenStaging(info.overlay); err != nil {
			return err
		}
		f.row.over = kept{info.overlay, c.overlay}
	}
	return nil
}

// readContent reads where the bytes of a session are.
func readContent(tx *schema.Tx, in Info) (content, error) {
	c := content{size: in.Size, base: in.base, over: in.over}
	if !c.base.IsZero() {
		s := tx.Stmt("SELECT size FROM blob WHERE hash = ?")
		s.BindBytes(1, c.base[:])
		if ok, err := s.Step(); err != nil || !ok {
			return c, fmt.Errorf("content %s, which session %d began on: %w", c.base, in.ID, errors.Join(blobstore.ErrMissing, err))
		}
		c.baseSize = s.ColumnInt64(0)
	}
	s := tx.Stmt("SELECT off, len, data FROM write_chunk WHERE session = ? ORDER BY off")
	s.BindInt64(1, in.ID)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return c, err
		}
		off, n := s.ColumnInt64(0), s.ColumnInt64(1)
		if s.ColumnType(2) == sqlite.TypeNull {
			c.own.add(off, min(off+n, c.baseSize))
			continue
		}
		if off != 0 || n != c.size || int64(s.ColumnLen(2)) != n {
			return c, fmt.Errorf("session %d: chunk at %d of %d bytes in a file of %d: %w", in.ID, off, n, c.size, schema.ErrDamaged)
		}
		c.inMem, c.buf = true, make([]byte, n)
		s.ColumnBytes(2, c.buf)
	}
}
