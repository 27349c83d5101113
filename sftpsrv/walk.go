package sftpsrv

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// A path of a user is /BUCKET/BRANCH/REST. What no grant covers is not there:
// it gets the same answer as a name that does not exist.

// place is where a path leads.
type place struct {
	bucket pathtree.Bucket // ID 0: the root
	branch string          // "" : the root or a bucket
	level  access.Level    // of the branch
	view   *pathtree.View  // nil: no such branch
	// In a branch: the directory and the name in it; both are empty for the
	// branch's root directory.
	parent pathtree.Inode
	base   string
	exists bool
	in     pathtree.Inode
}

// maxLinks is how many symbolic links one path may go through, as on Linux.
const maxLinks = 40

// clean makes p absolute and takes out "." and ".." by their text, which keeps
// it below the root.
func clean(p string) (string, error) {
	if strings.IndexByte(p, 0) >= 0 {
		return "", errNoFile
	}
	return path.Clean("/" + p), nil
}

// find resolves a path. Symbolic links are followed within their branch and
// nowhere else, the last element only when follow is set. What does not exist
// is not an error as long as the directory it would be in does.
func (s *session) find(tx *schema.Tx, r *access.Rights, p string, follow bool) (w place, err error) {
	if p, err = clean(p); err != nil {
		return w, err
	}
	bucket, rest, _ := strings.Cut(p[1:], "/")
	if bucket == "" {
		w.exists, w.in = true, s.virtualDir(pathtree.Bucket{}, false)
		return w, nil
	}
	name, rel, _ := strings.Cut(rest, "/")
	key := bucket + "/" + name
	at, known := s.found.branches[key]
	if !known {
		if at.bucket, err = s.c.Tree.Bucket(tx, bucket); err != nil {
			return w, hidden(err)
		}
	}
	if !r.Bucket(at.bucket.ID) {
		return w, errNoFile
	}
	w.bucket, w.branch = at.bucket, name
	if name == "" {
		w.exists, w.in = true, s.virtualDir(w.bucket, mayFork(r, w.bucket.ID))
		return w, nil
	}
	if w.level = r.Branch(w.bucket.ID, name); w.level == access.None {
		return w, errNoFile
	}
	if !known {
		br, err := s.c.Tree.Branch(tx, at.bucket.ID, name)
		if err != nil {
			if errors.Is(err, syscall.ENOENT) && rel == "" {
				return w, nil
			}
			return w, hidden(err)
		}
		if at.view, err = s.view(tx, br.ID); err != nil {
			return w, err
		}
		s.found.branches[key] = at
	}
	w.view = at.view
	if done, err := s.direct(tx, &w, rel, follow); done || err != nil {
		return w, err
	}
	return w, w.walk(tx, rel, follow)
}

// direct resolves rel when no link has to be followed for it.
func (s *session) direct(tx *schema.Tx, w *place, rel string, follow bool) (done bool, err error) {
	if rel == "" {
		w.in, err = w.view.Inode(tx, w.view.Root())
		w.exists = err == nil
		return true, err
	}
	key := dirKey{w.view, path.Dir(rel)}
	parent, known := s.found.dirs[key]
	if !known {
		if parent, _, err = w.view.ResolveParent(tx, rel); err == nil {
			s.found.dirs[key] = parent
		}
	}
	w.parent, w.base = parent, path.Base(rel)
	if err == nil {
		w.in, err = w.view.LookupInode(tx, w.parent.Ino, w.base)
		if errors.Is(err, syscall.ENOENT) {
			return true, nil
		}
	}
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return false, nil // perhaps a link to a directory
	case err != nil:
		return true, err
	case w.in.IsSymlink() && follow:
		return false, nil
	}
	w.exists = true
	return true, nil
}

// hidden is the error for what is not there or not granted.
func hidden(err error) error {
	if err == nil || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENAMETOOLONG) {
		return errNoFile
	}
	return err
}

// walk resolves rel from the root of w's branch.
func (w *place) walk(tx *schema.Tx, rel string, follow bool) error {
	v := w.view
	w.parent, w.base, w.in = pathtree.Inode{}, "", pathtree.Inode{}
	dirs := make([]pathtree.Inode, 1, 16) // from the root to where we are
	var err error
	if dirs[0], err = v.Inode(tx, v.Root()); err != nil {
		return err
	}
	todo := elements(rel)
	for links := 0; len(todo) > 0; {
		name, last := todo[0], len(todo) == 1
		todo = todo[1:]
		dir := dirs[len(dirs)-1]
		if name == ".." {
			if len(dirs) == 1 {
				return errNoFile // out of the branch
			}
			dirs = dirs[:len(dirs)-1]
			continue
		}
		in, err := v.LookupInode(tx, dir.Ino, name)
		if last && errors.Is(err, syscall.ENOENT) {
			w.parent, w.base = dir, name
			return nil
		}
		switch {
		case err != nil:
			return err
		case in.IsSymlink() && (!last || follow):
			if links++; links > maxLinks {
				return syscall.ELOOP
			}
			target := in.Target
			if path.IsAbs(target) {
				if target, err = w.within(target); err != nil {
					return err
				}
				dirs = dirs[:1]
			}
			todo = append(elements(target), todo...)
		case last:
			w.parent, w.base, w.in, w.exists = dir, name, in, true
			return nil
		case !in.IsDir():
			return syscall.ENOTDIR
		default:
			dirs = append(dirs, in)
		}
	}
	// The root, or a link that ended in "..": a directory without a name here.
	w.in, w.exists = dirs[len(dirs)-1], true
	return nil
}

// within turns an absolute link target into a path in w's branch. It is taken
// as the user sees paths, from the user's root, and may not leave the branch.
func (w *place) within(target string) (string, error) {
	root := "/" + w.bucket.Name + "/" + w.branch
	rest, ok := strings.CutPrefix(path.Clean(target), root)
	if !ok || (rest != "" && rest[0] != '/') {
		return "", errNoFile
	}
	return rest, nil
}

// elements splits a path, without what stands for nothing.
func elements(p string) []string {
	var out []string
	for e := range strings.SplitSeq(p, "/") {
		if e != "" && e != "." {
			out = append(out, e)
		}
	}
	return out
}

// virtualDir is the inode shown for the root and for a bucket.
func (s *session) virtualDir(b pathtree.Bucket, writable bool) pathtree.Inode {
	in := pathtree.Inode{Mode: unix.S_IFDIR | 0o555, UID: s.uid(), GID: s.gid(), Nlink: 2}
	if writable {
		in.Mode |= 0o200
	}
	if b.ID != 0 {
		in.Mtime = b.Created.UnixNano()
		in.Atime, in.Ctime, in.Btime = in.Mtime, in.Mtime, in.Mtime
	}
	return in
}

// mayFork reports whether some branch of the bucket could be made by the user.
func mayFork(r *access.Rights, bucket int64) bool {
	for _, g := range r.Grants {
		if g.Level == access.Write && (g.Bucket == 0 || g.Bucket == bucket) {
			return true
		}
	}
	return false
}

// changeable returns an error unless the contents of w's branch may be changed
// and w has a name in it.
func (w *place) changeable() error {
	if w.level != access.Write || w.view == nil || w.base == "" {
		return errDenied
	}
	return nil
}
