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
		attrs []attrs // of opens and mkdirs that pkg/sftp has not handled yet
		fresh []any   // opened, and not yet known to the filter
		files int     // open handles
		// closing are files whose close pkg/sftp has answered but that have
		// not been published yet.
		closing map[*openFile]bool
		views   map[int64]*pathtree.View
	}
}

func newSession(c Config, origin int64, rights func() (*access.Rights, error)) *session {
	s := &session{c: c, rights: rights, origin: origin}
	s.mu.views = make(map[int64]*pathtree.View)
	s.mu.closing = make(map[*openFile]bool)
	return s
}

func (s *session) opening(a attrs) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.attrs = append(s.mu.attrs, a)
}

// nextAttrs returns what opening was told for the request being handled:
// pkg/sftp handles opens and mkdirs one at a time and in order.
func (s *session) nextAttrs() attrs {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.mu.attrs[0]
	s.mu.attrs = s.mu.attrs[1:]
	return a
}

func (s *session) opened() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj := s.mu.fresh[0]
	s.mu.fresh = s.mu.fresh[1:]
	return obj
}

// reserve counts a handle about to be opened.
func (s *session) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.files >= maxHandles {
		return syscall.EMFILE
	}
	s.mu.files++
	return nil
}

func (s *session) unreserve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.files--
}

// handOut makes obj the object of the handle that pkg/sftp gives out next.
func (s *session) handOut(obj any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.fresh = append(s.mu.fresh, obj)
}

// detach leaves the publishing of a file to closed, or to end.
func (s *session) detach(f *openFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.closing[f] = true
}

func (s *session) closed(obj any) func() error {
	f, ok := obj.(*openFile)
	if !ok || !s.isClosing(f) {
		return nil
	}
	return func() error { return s.finish(f) }
}

func (s *session) isClosing(f *openFile) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closing[f]
}

// finish publishes a detached file, once.
func (s *session) finish(f *openFile) error {
	s.mu.Lock()
	mine := s.mu.closing[f]
	delete(s.mu.closing, f)
	s.mu.Unlock()
	if !mine {
		return nil
	}
	return f.publish()
}

// end publishes the files whose close was asked for when the connection ended.
func (s *session) end() {
	s.mu.Lock()
	files := slices.Collect(maps.Keys(s.mu.closing))
	s.mu.Unlock()
	for _, f := range files {
		s.finish(f)
	}
}

// look runs fn with the current rights on the newest state.
func (s *session) look(fn func(tx *schema.Tx, r *access.Rights) error) error {
	r, err := s.rights()
	if err != nil {
		return err
	}
	gen := s.c.DB.Generation()
	return s.c.DB.Read(func(tx *schema.Tx) error {
		s.recall(gen)
		return fn(tx, r)
	})
}

// change is look for changes.
func (s *session) change(fn func(tx *schema.Tx, r *access.Rights) error) error {
	r, err := s.rights()
	if err != nil {
		return err
	}
	gen := s.c.DB.Generation()
	return s.c.DB.Write(func(tx *schema.Tx) error {
		s.recall(gen)
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

func (s *session) read(obj any, p []byte, off int64) (int, error) {
	f, ok := obj.(*openFile)
	if !ok {
		return 0, syscall.EISDIR
	}
	return f.ReadAt(p, off)
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
		d := obj.(*dirLister)
		st, err := s.stat(d.path, true)
		return attrsOf(st.in), err
	}
	in, err := f.inode()
	return attrsOf(in), err
}

func (s *session) fsetstat(obj any, a attrs) error {
	f, ok := obj.(*openFile)
	if !ok {
		return s.setstat(obj.(*dirLister).path, a, true)
	}
	if err := f.allowed(access.Write); err != nil {
		return err
	}
	if a.flags&attrSize != 0 {
		if !f.writable {
			return errDenied
		}
		if err := truncate(f.File, a.size); err != nil {
			return err
		}
	}
	in, err := f.inode()
	if err != nil {
		return err
	}
	return s.setOpen(f.view, in, a)
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

func (s *session) lsetstat(p string, a attrs) error { return s.setstat(p, a, false) }

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
