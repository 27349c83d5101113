package writesession

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

const (
	// A flush may leave the publish for later when the last one took longer
	// than costly, until it has been patience times as long ago: so a file
	// that is flushed all the time costs at most a twentieth of it.
	costly   = 5 * time.Millisecond
	patience = 20
)

// cost is what the last publish of an open File took.
type cost struct {
	took time.Duration
	end  time.Time
}

// errUnlinked undoes the publish of a file without links.
var errUnlinked = errors.New("no links left")

// gone reports whether err says that the inode or its branch is no more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE)
}

// Publish makes what was written the content for everybody, in one
// transaction, and returns the inode as published. It does nothing on a clean
// File and on one that has no links; call it again when such a one is linked.
// After an error nothing is lost: the old version stands, f stays dirty, and
// Publish or Close may be tried again.
func (f *File) Publish(ctx context.Context) (pathtree.Inode, error) {
	f.change.Lock()
	defer f.release()
	in, err := f.publish(ctx)
	return in, f.fail("publish", err)
}

// Flush is Publish for the close of one of several descriptors. A descriptor
// that a process inherits to many children is flushed by each of them; so when
// the last publish of this open File was expensive and recent, the next is
// left to a timer or to Close, whichever is first.
func (f *File) Flush(ctx context.Context) error {
	f.change.Lock()
	defer f.release()
	if err := f.recall(); err != nil {
		return f.fail("flush", err)
	}
	if !f.mu.dirty {
		return nil
	}
	if wait := f.cost.took*patience - time.Since(f.cost.end); f.cost.took > costly && wait > 0 {
		f.due.Store(now() + int64(wait))
		f.s.stats.deferred.Add(1)
		return nil
	}
	_, err := f.publish(ctx)
	return f.fail("flush", err)
}

// publish is Publish with change held.
func (f *File) publish(ctx context.Context) (pathtree.Inode, error) {
	if err := f.recall(); err != nil {
		return pathtree.Inode{}, err
	}
	if !f.mu.dirty {
		return f.mu.inode, nil
	}
	if f.refused != nil {
		return pathtree.Inode{}, f.refused
	}
	begun := time.Now()
	stored, err := f.store(ctx)
	if err != nil {
		return f.notPublished(err)
	}
	in, err := f.record(stored)
	if err != nil {
		return f.notPublished(err)
	}
	f.published(in)
	f.cost.end = time.Now()
	f.cost.took = f.cost.end.Sub(begun)
	return in, nil
}

// notPublished tells a file without links, and one that was lost, from an error.
func (f *File) notPublished(err error) (pathtree.Inode, error) {
	if errors.Is(err, errUnlinked) {
		in := f.overlay(f.mu.inode)
		in.Nlink = 0
		return in, nil
	}
	if gone(err) {
		if e := f.recall(); e != nil {
			err = e
		}
	}
	return pathtree.Inode{}, err
}

// stored is content ready to be recorded.
type stored struct {
	inline []byte         // the bytes, when they go in with the transaction
	hash   blobstore.Hash // else the blob; zero: empty
	sealed bool           // it is a new file that has no row yet
	size   int64
}

// store brings the content into the blob store, except for what is inlined.
// When it succeeds the content no longer has a staging file, so that a failing
// transaction can be tried again. change must be held.
func (f *File) store(ctx context.Context) (stored, error) {
	c := &f.mu.content
	switch {
	case c.size == 0:
		return stored{}, nil
	case c.inMem && c.size <= blobstore.InlineMax:
		return stored{inline: c.buf, size: c.size}, nil
	case c.whole():
		return stored{hash: c.base, size: c.size, sealed: f.row.sealed}, nil
	case c.size <= blobstore.InlineMax:
		p := make([]byte, c.size)
		err := f.fill(p)
		return stored{inline: p, size: c.size}, err
	}
	if err := f.linked(); err != nil {
		return stored{}, err
	}
	return f.seal(ctx)
}

// linked looks up whether the file has links, before work is done that would
// be in vain. It fails with errUnlinked when there are none.
func (f *File) linked() error {
	return f.s.db.Read(func(tx *schema.Tx) error {
		in, err := f.view.Inode(tx, f.ino)
		if err == nil && in.Nlink == 0 {
			err = errUnlinked
		}
		return err
	})
}

// seal makes a blob file of the content and the content's base of that.
func (f *File) seal(ctx context.Context) (stored, error) {
	c := &f.mu.content
	switch {
	case c.inMem:
		if err := f.spill(); err != nil {
			return stored{}, err
		}
	case c.staging == nil:
		if err := f.stage(); err != nil {
			return stored{}, err
		}
	}
	if err := f.flatten(); err != nil {
		return stored{}, err
	}
	if err := f.openBase(); err != nil {
		return stored{}, err
	}
	for gap := range c.own.gaps(0, min(c.baseSize, c.size)) {
		if err := c.blob.Fetch(ctx, gap.off, gap.len()); err != nil {
			return stored{}, err
		}
		if err := c.staging.CopyFrom(c.blob, gap.off, gap.len()); err != nil {
			return stored{}, err
		}
	}
	h, err := c.staging.Seal(ctx, c.size)
	if err != nil {
		return stored{}, err
	}
	f.mu.Lock()
	f.setContent(clean(h, c.size))
	f.mu.Unlock()
	f.row.full, f.row.sealed = true, true
	return stored{hash: h, size: c.size, sealed: true}, nil
}

// record publishes stored content in one transaction. change must be held.
func (f *File) record(st stored) (in pathtree.Inode, err error) {
	var attr *pathtree.SetAttr
	err = f.s.db.Write(func(tx *schema.Tx) error {
		h, err := f.s.putBlob(tx, st)
		if err != nil {
			return err
		}
		if f.attrs != nil {
			attr = f.attrs.Take()
		}
		in, err = f.view.SetContent(tx, f.ino, pathtree.Content{
			Hash: h, Size: st.size, Mtime: f.mu.mtime, Ctime: f.mu.changed, Attr: attr, ClearSetID: f.mu.clearSetID, Session: f.row.id,
		})
		if err != nil {
			return err
		}
		if in.Nlink == 0 {
			return errUnlinked
		}
		return endRow(tx, f.row)
	})
	if err != nil && attr != nil {
		f.attrs.Restore(attr)
	}
	return in, err
}

// putBlob adds the blob row of stored content.
func (s *Sessions) putBlob(tx *schema.Tx, st stored) (blobstore.Hash, error) {
	switch {
	case st.size == 0:
		return blobstore.Hash{}, nil
	case st.inline != nil:
		return s.blobs.PutInline(tx, st.inline)
	case st.sealed:
		return st.hash, s.blobs.AddFile(tx, st.hash, st.size)
	}
	ok, err := s.blobs.Has(tx, st.hash)
	if err == nil && !ok {
		err = fmt.Errorf("content %s to share was collected: %w", st.hash, syscall.EIO)
	}
	return st.hash, err
}

// published makes f clean with in as its base. Content that fits a row stays
// in memory for reading. change must be held.
func (f *File) published(in pathtree.Inode) {
	f.mu.Lock()
	c := clean(in.Hash, in.Size)
	if now := &f.mu.content; now.inMem && in.Size <= blobstore.InlineMax {
		c.inMem, c.buf = true, now.buf
	}
	old := f.setContent(c)
	f.mu.inode = in
	f.mu.dirty, f.mu.clearSetID = false, false
	f.mu.Unlock()
	f.discard(old)
	ended := f.row
	f.row, f.made = row{}, place{}
	f.s.settled(ended, in.Hash)
	f.roomy = 0
	f.since.Store(0)
	f.due.Store(0)
	f.s.stats.publishes.Add(1)
	f.s.stats.bytes.Add(in.Size)
}

// Sync is fsync(2): what f holds survives a power cut when it returns. Small
// content is published. For longer content the session is made durable, which
// costs what was written and not the size of the file; should this process
// die, the next one publishes it.
func (f *File) Sync(ctx context.Context) error {
	h, err := f.settle(ctx)
	if err == nil && !h.IsZero() {
		err = f.s.blobs.Sync(ctx, h)
	}
	if err == nil {
		err = f.s.db.Sync()
	}
	return f.fail("fsync", err)
}

// settle leaves nothing of f in memory alone, and returns the blob that still has
// to get to the disk.
func (f *File) settle(ctx context.Context) (blobstore.Hash, error) {
	f.change.Lock()
	defer f.release()
	if err := f.recall(); err != nil {
		return blobstore.Hash{}, err
	}
	c := &f.mu.content
	switch {
	case !f.mu.dirty:
		return f.mu.inode.Hash, nil
	case c.size <= blobstore.InlineMax, c.whole():
		in, err := f.publish(ctx)
		if f.mu.dirty { // it has no links: what it was may be gone
			return blobstore.Hash{}, err
		}
		return in.Hash, err
	case f.row.synced && !f.row.stale:
		return blobstore.Hash{}, f.confirm()
	}
	if err := f.linked(); err != nil {
		_, err = f.notPublished(err) // without links it ends with this process in any case
		return blobstore.Hash{}, err
	}
	if c.inMem {
		if err := f.spill(); err != nil {
			return blobstore.Hash{}, err
		}
	}
	if err := f.save(true); err != nil {
		return blobstore.Hash{}, err
	}
	return blobstore.Hash{}, f.confirm()
}

// Abort drops what is not published.
func (f *File) Abort() {
	f.change.Lock()
	defer f.release()
	f.drop()
}

// drop is Abort with change held.
func (f *File) drop() {
	if !f.mu.dirty {
		return
	}
	f.mu.Lock()
	old := f.setContent(clean(f.mu.inode.Hash, f.mu.inode.Size))
	f.mu.dirty, f.mu.clearSetID = false, false
	f.mu.Unlock()
	f.refused = nil
	f.since.Store(0)
	f.due.Store(0)
	f.discard(old)
	f.unclaim()
}

// unclaim deletes the row of f, which holds nothing that is needed.
func (f *File) unclaim() {
	r := f.row
	f.row = row{}
	if r.id == 0 {
		return
	}
	del := func(tx *schema.Tx) error { return deleteRow(tx, r.id) }
	err := f.s.db.Write(del)
	if err != nil && r.file.name != "" { // perhaps it is this very file that fills the disk
		for _, k := range r.files() {
			os.Remove(f.s.stagingPath(k.name))
		}
		err = f.s.db.Write(del)
	}
	if err != nil {
		f.s.log.Warn("ended session not deleted", "session", r.id, "error", err)
		return
	}
	f.s.unkeep(r.synced, r.files()...)
}
