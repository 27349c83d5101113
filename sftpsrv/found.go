package sftpsrv

import (
	"syscall"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// found remembers where branches and directories are, for as long as nothing
// was moved. It is used with the database's connection held, and nowhere else.
type found struct {
	others   uint32
	moved    uint64
	branches map[string]branchAt       // by BUCKET/BRANCH
	dirs     map[dirKey]pathtree.Inode // directories, of which only Ino is still true
}

type branchAt struct {
	bucket pathtree.Bucket
	view   *pathtree.View
}

type dirKey struct {
	view *pathtree.View
	path string
}

// maxFound is how many directories are remembered.
const maxFound = 1000

// recall forgets what may not be true any more. others is the store's from
// before the transaction began.
func (s *session) recall(others uint32) {
	f := &s.found
	moved := s.c.Tree.Moved()
	if f.branches == nil || f.others != others || f.moved != moved || len(f.dirs) > maxFound {
		*f = found{others, moved, make(map[string]branchAt), make(map[dirKey]pathtree.Inode)}
	}
}

// branchNames remembers what branches are called, for as long as nothing changed.
type branchNames struct {
	others uint32
	moved  uint64
	of     map[int64]string
}

// level returns what the user may do with the branch of v, whose name may not be
// what it was when v was made: grants are about names. A branch that was removed
// is an error.
func (s *session) level(v *pathtree.View) (access.Level, error) {
	r, err := s.rights()
	if err != nil {
		return access.None, err
	}
	others, moved, id := s.c.DB.Others(), s.c.Tree.Moved(), v.Branch().ID
	s.mu.Lock()
	n := &s.mu.named
	if n.of == nil || n.others != others || n.moved != moved {
		*n = branchNames{others, moved, make(map[int64]string)}
	}
	name, known := n.of[id]
	s.mu.Unlock()
	if known {
		return r.Branch(v.Bucket().ID, name), nil
	}
	err = s.c.DB.Read(func(tx *schema.Tx) (err error) {
		name, err = s.branchName(tx, v)
		return err
	})
	if err != nil {
		return access.None, err
	}
	s.mu.Lock()
	if n.others == others && n.moved == moved {
		n.of[id] = name
	}
	s.mu.Unlock()
	return r.Branch(v.Bucket().ID, name), nil
}

// levelIn is level inside a transaction.
func (s *session) levelIn(tx *schema.Tx, r *access.Rights, v *pathtree.View) (access.Level, error) {
	name, err := s.branchName(tx, v)
	if err != nil {
		return access.None, err
	}
	return r.Branch(v.Bucket().ID, name), nil
}

func (s *session) branchName(tx *schema.Tx, v *pathtree.View) (string, error) {
	b, err := s.c.Tree.BranchByID(tx, v.Branch().ID)
	if err == nil && b.Deleted != 0 {
		err = syscall.ESTALE
	}
	return b.Name, err
}
