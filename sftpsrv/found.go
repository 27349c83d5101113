package sftpsrv

import "github.com/alkdev/alkfs/pathtree"

// found remembers where branches and directories are, for as long as nothing
// was moved. It is used with the database's connection held, and nowhere else.
type found struct {
	gen      uint32
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

// recall forgets what may not be true any more. gen is the store's generation
// from before the transaction began.
func (s *session) recall(gen uint32) {
	f := &s.found
	moved := s.c.Tree.Moved()
	if f.branches == nil || f.gen != gen || f.moved != moved || len(f.dirs) > maxFound {
		*f = found{gen, moved, make(map[string]branchAt), make(map[dirKey]pathtree.Inode)}
	}
}
