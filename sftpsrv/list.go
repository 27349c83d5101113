package sftpsrv

import (
	"io"
	"io/fs"
	"math"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// entry is a name and what it names; it is pkg/sftp's os.FileInfo.
type entry struct {
	name string
	in   pathtree.Inode
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return e.in.Size }
func (e entry) Mode() fs.FileMode  { return e.in.FileMode() }
func (e entry) ModTime() time.Time { return time.Unix(int64(seconds(e.in.Mtime)), 0) }
func (e entry) IsDir() bool        { return e.in.IsDir() }
func (e entry) Sys() any {
	return &syscall.Stat_t{Uid: e.in.UID, Gid: e.in.GID, Nlink: uint64(e.in.Nlink)}
}

// seconds is a time as version 3 has it: unsigned 32 bits.
func seconds(ns int64) uint32 {
	return uint32(min(max(ns/int64(time.Second), 0), math.MaxUint32))
}

func attrsOf(in pathtree.Inode) attrs {
	return attrs{
		flags: attrSize | attrOwner | attrMode | attrTimes,
		size:  uint64(in.Size), uid: in.UID, gid: in.GID, mode: in.Mode,
		atime: seconds(in.Atime), mtime: seconds(in.Mtime),
	}
}

func (s *session) stat(p string, follow bool) (attrs, error) {
	in, err := s.inode(p, follow)
	return attrsOf(in), err
}

// inode returns what p names, as this session sees it.
func (s *session) inode(p string, follow bool) (in pathtree.Inode, err error) {
	var w place
	err = s.look(func(tx *schema.Tx, r *access.Rights) error {
		if w, err = s.find(tx, r, p, follow); err == nil && !w.exists {
			err = errNoFile
		}
		return err
	})
	if err == nil && w.view != nil && w.in.IsRegular() {
		w.in = s.c.Sessions.Overlay(w.view, w.in)
	}
	return w.in, err
}

// dirLister is an open directory. It lists the directory at path in pages, by
// name; what is made or removed meanwhile may or may not be seen.
type dirLister struct {
	s     *session
	path  string
	after string // the last name listed
	done  bool
}

func (s *session) openDir(p string) (*dirLister, error) {
	in, err := s.inode(p, true)
	if err != nil {
		return nil, err
	}
	if !in.IsDir() {
		return nil, syscall.ENOTDIR
	}
	if err := s.reserve(); err != nil {
		return nil, err
	}
	d := &dirLister{s: s, path: p}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.fresh = append(s.mu.fresh, d)
	return d, nil
}

func (d *dirLister) Close() error {
	d.s.unreserve()
	return nil
}

// ListAt returns the next page; pkg/sftp asks for them in order.
func (d *dirLister) ListAt(to []fs.FileInfo, _ int64) (int, error) {
	if d.done {
		return 0, io.EOF
	}
	page, err := d.page(len(to))
	if err != nil {
		return 0, reply(err)
	}
	for i, e := range page {
		to[i] = e
	}
	if len(page) > 0 {
		d.after = page[len(page)-1].name
	}
	if len(page) < len(to) {
		d.done = true
		return len(page), io.EOF
	}
	return len(page), nil
}

// page returns at most n entries with names after d.after.
func (d *dirLister) page(n int) (page []entry, err error) {
	var view *pathtree.View
	err = d.s.look(func(tx *schema.Tx, r *access.Rights) error {
		w, err := d.s.find(tx, r, d.path, true)
		switch {
		case err != nil:
			return err
		case !w.exists:
			return errNoFile
		case w.bucket.ID == 0:
			page, err = d.buckets(tx, r, n)
			return err
		case w.view == nil:
			page, err = d.branches(tx, r, w.bucket, n)
			return err
		}
		view = w.view
		entries, inodes, err := w.view.ReadDirPlus(tx, w.in.Ino, d.after, n)
		for i, e := range entries {
			page = append(page, entry{e.Name, inodes[i]})
		}
		return err
	})
	if view != nil {
		for i := range page {
			if page[i].in.IsRegular() {
				page[i].in = d.s.c.Sessions.Overlay(view, page[i].in)
			}
		}
	}
	return page, err
}

func (d *dirLister) buckets(tx *schema.Tx, r *access.Rights, n int) (page []entry, err error) {
	all, err := d.s.c.Tree.Buckets(tx)
	for _, b := range all {
		if b.Name > d.after && len(page) < n && r.Bucket(b.ID) {
			page = append(page, entry{b.Name, d.s.virtualDir(b, mayFork(r, b.ID))})
		}
	}
	return page, err
}

func (d *dirLister) branches(tx *schema.Tx, r *access.Rights, b pathtree.Bucket, n int) (page []entry, err error) {
	all, err := d.s.c.Tree.Shown(tx, b.ID)
	if err != nil {
		return nil, err
	}
	for _, br := range all {
		if br.Name <= d.after || len(page) == n || r.Branch(b.ID, br.Name) == access.None {
			continue
		}
		v, err := d.s.view(tx, br.ID)
		if err != nil {
			return nil, err
		}
		in, err := v.Inode(tx, v.Root())
		if err != nil {
			return nil, err
		}
		page = append(page, entry{br.Name, in})
	}
	return page, nil
}
