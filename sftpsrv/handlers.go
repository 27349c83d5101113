package sftpsrv

import (
	"strings"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// handlers are the session as pkg/sftp calls it, one request after the other.
// Every error goes through reply: pkg/sftp would send the text of an error as it
// is.
type handlers struct{ s *session }

var (
	_ sftp.ReadlinkFileLister   = handlers{}
	_ sftp.RealPathFileLister   = handlers{}
	_ sftp.NameLookupFileLister = handlers{}
)

func (h handlers) Filecmd(r *sftp.Request) error {
	s := h.s
	switch r.Method {
	case "Rmdir":
		return reply(s.remove(r.Filepath, (*pathtree.View).Rmdir))
	case "Remove":
		return reply(s.remove(r.Filepath, (*pathtree.View).Unlink))
	case "Link":
		return reply(s.link(r.Filepath, r.Target))
	case "Symlink":
		return reply(s.symlink(r.Filepath, r.Target))
	}
	return errUnsupported
}

func (h handlers) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method != "List" {
		return nil, errUnsupported
	}
	d, err := h.s.openDir(r.Filepath)
	if err != nil {
		return nil, reply(err)
	}
	return d, nil
}

func (h handlers) Readlink(p string) (string, error) {
	in, err := h.s.inode(p, false)
	if err == nil && !in.IsSymlink() {
		err = syscall.EINVAL
	}
	return in.Target, reply(err)
}

func (h handlers) RealPath(p string) (string, error) {
	p, err := clean(p)
	return p, reply(err)
}

func (h handlers) LookupUserName(uid string) string  { return uid }
func (h handlers) LookupGroupName(gid string) string { return gid }

// mkdir makes a directory; as /BUCKET/NAME it makes a branch from main.
func (s *session) mkdir(p string, a attrs) error {
	return s.change(func(tx *schema.Tx, r *access.Rights) error {
		w, err := s.find(tx, r, p, false)
		switch {
		case err != nil:
			return err
		case w.exists:
			return syscall.EEXIST
		case w.view == nil:
			return s.fork(tx, r, w)
		}
		if err := w.changeable(); err != nil {
			return err
		}
		mode := uint32(0o755)
		if a.flags&attrMode != 0 {
			mode = a.mode & 0o3777
		}
		_, err = w.view.Create(tx, w.parent.Ino, w.base, pathtree.NewInode{
			Mode: unix.S_IFDIR | mode, UID: s.uid(), GID: s.gid(),
		})
		return err
	})
}

// fork makes the branch w names from main, which the user must be allowed to
// read: the new branch shows what is in it.
func (s *session) fork(tx *schema.Tx, r *access.Rights, w place) error {
	if w.level != access.Write || r.Branch(w.bucket.ID, "main") == access.None {
		return errDenied
	}
	from, err := s.c.Tree.Branch(tx, w.bucket.ID, "main")
	if err != nil {
		return err
	}
	_, err = s.c.Tree.CreateBranch(tx, w.bucket.ID, w.branch, pathtree.Origin{Branch: from.ID})
	return err
}

func (s *session) remove(p string, how func(*pathtree.View, *schema.Tx, pathtree.Ino, string) (pathtree.Inode, error)) error {
	err := s.change(func(tx *schema.Tx, r *access.Rights) error {
		w, err := s.find(tx, r, p, false)
		if err != nil {
			return err
		}
		if !w.exists {
			return errNoFile
		}
		if err := w.changeable(); err != nil {
			return err // also for branches and buckets, which have no name here
		}
		_, err = how(w.view, tx, w.parent.Ino, w.base)
		return err
	})
	return err
}

// rename moves a file that is not open at once, another one in its turn: who
// closes a file and gives it the name of an old one means to replace that by
// what was written.
func (s *session) rename(from, to string, flags uint32) (rest, error) {
	var src, dst place
	var open *openFile
	move := func(tx *schema.Tx) error {
		_, err := src.view.Rename(tx, src.parent.Ino, src.base, dst.parent.Ino, dst.base, flags)
		return err
	}
	err := s.change(func(tx *schema.Tx, r *access.Rights) (err error) {
		if src, dst, err = s.pair(tx, r, from, to); err != nil {
			return err
		}
		if open = s.fileAt(src.view, src.in.Ino); open != nil {
			return nil
		}
		return move(tx)
	})
	if err != nil {
		return rest{}, err
	}
	if open == nil {
		return rest{}, s.c.DB.Commit() // the last step of replacing a file safely
	}
	return rest{open.File, func() error {
		if err := open.allowed(access.Write); err != nil {
			return err
		}
		if err := s.c.DB.Write(move); err != nil {
			return err
		}
		return s.c.DB.Commit()
	}}, nil
}

func (s *session) link(from, to string) error {
	return s.change(func(tx *schema.Tx, r *access.Rights) error {
		src, dst, err := s.pair(tx, r, from, to)
		if err != nil {
			return err
		}
		if dst.exists {
			return syscall.EEXIST
		}
		_, err = dst.view.Link(tx, src.in.Ino, dst.parent.Ino, dst.base)
		return err
	})
}

// pair finds the two names of a rename or link: both in one branch.
func (s *session) pair(tx *schema.Tx, r *access.Rights, from, to string) (src, dst place, err error) {
	if src, err = s.find(tx, r, from, false); err != nil {
		return src, dst, err
	}
	if !src.exists {
		return src, dst, errNoFile
	}
	if err := src.changeable(); err != nil {
		return src, dst, err
	}
	if dst, err = s.find(tx, r, to, false); err != nil {
		return src, dst, err
	}
	if err := dst.changeable(); err != nil {
		return src, dst, err
	}
	if src.view != dst.view {
		return src, dst, syscall.EXDEV
	}
	return src, dst, nil
}

func (s *session) symlink(target, p string) error {
	switch {
	case target == "" || strings.IndexByte(target, 0) >= 0:
		return syscall.EINVAL
	case len(target) > unix.PathMax:
		return syscall.ENAMETOOLONG
	}
	return s.change(func(tx *schema.Tx, r *access.Rights) error {
		w, err := s.find(tx, r, p, false)
		if err != nil {
			return err
		}
		if err := w.changeable(); err != nil {
			return err
		}
		if w.exists {
			return syscall.EEXIST
		}
		_, err = w.view.Create(tx, w.parent.Ino, w.base, pathtree.NewInode{
			Mode: unix.S_IFLNK | 0o777, UID: s.uid(), GID: s.gid(), Target: target,
		})
		return err
	})
}
