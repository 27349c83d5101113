package sftpsrv

import (
	"context"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// maxHandles is how many files and directories a session may hold open.
const maxHandles = 1024

// session is one SFTP subsystem of a connection. It answers the filter
// (answerer) and pkg/sftp (the handlers in handlers.go).
type session struct {
	c      Config
	rights func() (*access.Rights, error) // current; an error ends what is asked
	origin int64                          // of the events of its changes

	found found // guarded by the database's connection: used in transactions only

	mu struct {
		sync.Mutex
		fresh []*dirLister // opened, and not yet known to the filter
		open  int          // handles
		files map[*openFile]bool
		views map[int64]*pathtree.View
		named branchNames
	}
}

func newSession(c Config, origin int64, rights func() (*access.Rights, error)) *session {
	s := &session{c: c, rights: rights, origin: origin}
	s.mu.views = make(map[int64]*pathtree.View)
	s.mu.files = make(map[*openFile]bool)
	return s
}

func (s *session) opened() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.mu.fresh[0]
	s.mu.fresh = s.mu.fresh[1:]
	return d
}

// reserve counts a handle about to be opened.
func (s *session) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.open >= maxHandles {
		return syscall.EMFILE
	}
	s.mu.open++
	return nil
}

func (s *session) unreserve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.open--
}

// keep notes an open file, for which a handle was reserved.
func (s *session) keep(f *openFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.files[f] = true
}

// forget is keep and reserve undone.
func (s *session) forget(f *openFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.files, f)
	s.mu.open--
}

// fileAt returns a file of the session that is open, or whose close is not done
// yet, by its inode; nil when there is none.
func (s *session) fileAt(v *pathtree.View, ino pathtree.Ino) *openFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.mu.files {
		if f.view == v && f.File.Ino() == ino {
			return f
		}
	}
	return nil
}

// end lets go of the files that were not closed when the connection ended. What
// was written to them is no whole file: it is not published, and kept as
// orphaned sessions.
func (s *session) end() {
	s.mu.Lock()
	files := slices.Collect(maps.Keys(s.mu.files))
	s.mu.Unlock()
	for _, f := range files {
		f.preserve()
	}
}

func (s *session) ahead() { s.c.DB.Ahead() }

func (s *session) key(obj any) any {
	if f, ok := obj.(*openFile); ok {
		return f.File // shared by the session's handles of one file
	}
	return obj
}

func (s *session) changed(obj any) bool { return obj.(*openFile).File.Dirty() }
func (s *session) close(obj any) error  { return obj.(*openFile).close() }

// look runs fn with the current rights on the newest state.
func (s *session) look(fn func(tx *schema.Tx, r *access.Rights) error) error {
	r, err := s.rights()
	if err != nil {
		return err
	}
	others := s.c.DB.Others()
	return s.c.DB.Read(func(tx *schema.Tx) error {
		s.recall(others)
		return fn(tx, r)
	})
}

// change is look for changes.
func (s *session) change(fn func(tx *schema.Tx, r *access.Rights) error) error {
	r, err := s.rights()
	if err != nil {
		return err
	}
	others := s.c.DB.Others()
	return s.c.DB.Write(func(tx *schema.Tx) error {
		s.recall(others)
		return fn(tx, r)
	})
}

// view returns the view of a branch, the same for as long as the session lives.
func (s *session) view(tx *schema.Tx, branch int64) (*pathtree.View, error) {
	s.mu.Lock()
	v := s.mu.views[branch]
	s.mu.Unlock()
	if v != nil {
		return v, nil
	}
	v, err := s.c.Tree.View(tx, branch, 0)
	if err != nil {
		return nil, err
	}
	v = v.WithOrigin(s.origin)
	s.mu.Lock()
	s.mu.views[branch] = v
	s.mu.Unlock()
	return v, nil
}

func (s *session) write(obj any, p []byte, off uint64) error {
	f, ok := obj.(*openFile)
	if !ok {
		return syscall.EISDIR
	}
	return f.write(p, off)
}

func (s *session) writeNow(obj any, p []byte, off uint64) (done bool, err error) {
	f, ok := obj.(*openFile)
	if !ok {
		return true, syscall.EISDIR
	}
	return f.writeNow(p, off)
}

func (s *session) read(obj any, p []byte, off int64) (int, error) {
	f, ok := obj.(*openFile)
	if !ok {
		return 0, syscall.EISDIR
	}
	return f.readAt(p, off)
}

func (s *session) left(obj any, off uint64) (int64, error) {
	f, ok := obj.(*openFile)
	if !ok {
		return 0, syscall.EISDIR
	}
	if err := f.allowed(access.Read); err != nil {
		return 0, err
	}
	size := f.File.Inode().Size
	if off >= uint64(size) {
		return 0, nil
	}
	return size - int64(off), nil
}

func (s *session) fstat(obj any) (attrs, error) {
	f, ok := obj.(*openFile)
	if !ok {
		return s.stat(obj.(*dirLister).path, true)
	}
	in, err := f.inode()
	return attrsOf(in), err
}

func (s *session) fsetstat(obj any, a attrs) error {
	f, ok := obj.(*openFile)
	if !ok {
		r, err := s.setstat(obj.(*dirLister).path, a, true)
		if err == nil && r.do != nil {
			err = r.do()
		}
		return err
	}
	if err := f.allowed(access.Write); err != nil {
		return err
	}
	if a.flags&attrSize != 0 && !f.writable {
		return errDenied
	}
	return s.setOpen(f.File, f.view, a)
}

func (s *session) fsync(ctx context.Context, obj any) error {
	f, ok := obj.(*openFile)
	if !ok {
		return s.c.DB.Sync()
	}
	if err := f.allowed(access.Read); err != nil {
		return err
	}
	return f.File.Sync(ctx)
}

// statvfs is about the disk of the store or, where that is less, about the
// quota of the bucket.
func (s *session) statvfs(p string, obj any) (st unix.Statfs_t, err error) {
	if d, ok := obj.(*dirLister); ok {
		p, obj = d.path, nil
	}
	if err := unix.Statfs(s.c.DB.Dir(), &st); err != nil {
		return st, err
	}
	err = s.look(func(tx *schema.Tx, r *access.Rights) error {
		var bucket int64
		if f, ok := obj.(*openFile); ok {
			bucket = f.view.Bucket().ID
		} else if w, err := s.find(tx, r, p, true); err != nil {
			return err
		} else if !w.exists {
			return errNoFile
		} else {
			bucket = w.bucket.ID
		}
		q, ok, err := s.c.Tree.Quota(tx, bucket)
		if ok {
			q.Disk(int64(st.Bsize), &st.Blocks, &st.Bfree, &st.Bavail, &st.Files, &st.Ffree)
		}
		return err
	})
	return st, err
}

// expand knows one home directory, the user's root.
func (s *session) expand(p string) (string, error) {
	r, err := s.rights()
	if err != nil {
		return "", err
	}
	if rest, ok := strings.CutPrefix(p, "~"); ok {
		name, rest, _ := strings.Cut(rest, "/")
		if name != "" && name != r.Name {
			return "", errNoFile
		}
		p = rest
	}
	return clean(p)
}

// names knows the store's own user and group; those of the host are nobody's
// business.
func (s *session) names(uids, gids []uint32) (users, groups []string) {
	for _, id := range uids {
		users = append(users, userName(id))
	}
	for _, id := range gids {
		groups = append(groups, groupName(id))
	}
	return users, groups
}

var ownNames = sync.OnceValues(func() (u, g string) {
	if me, err := user.Current(); err == nil {
		u = me.Username
		if mine, err := user.LookupGroupId(me.Gid); err == nil {
			g = mine.Name
		}
	}
	return u, g
})

func userName(id uint32) string {
	if id != uint32(os.Getuid()) {
		return ""
	}
	u, _ := ownNames()
	return u
}

func groupName(id uint32) string {
	if id != uint32(os.Getgid()) {
		return ""
	}
	_, g := ownNames()
	return g
}

func (s *session) hash(p string) (h blobstore.Hash, size int64, err error) {
	err = s.look(func(tx *schema.Tx, r *access.Rights) error {
		w, err := s.find(tx, r, p, true)
		if err != nil {
			return err
		}
		if !w.exists {
			return errNoFile
		}
		if !w.in.IsRegular() {
			return syscall.EISDIR
		}
		h, size = w.in.Hash, w.in.Size
		return nil
	})
	return h, size, err
}
