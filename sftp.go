package alkfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/alkdev/alkfs/sftpsrv"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// Serving a store over SSH; see sftpsrv for the fields.
type (
	SSHOptions = sftpsrv.Options
	SSHServer  = sftpsrv.Server
	SSHCommand = sftpsrv.Command
)

// NewSSHServer returns a server of the store for SFTP clients and, with
// SSHOptions.Exec, for commands. Its first use makes the host key.
func (s *Store) NewSSHServer(o SSHOptions) (*SSHServer, error) {
	c := sftpsrv.Config{DB: s.db, Tree: s.tree, Blobs: s.blobs, Sessions: s.sessions, Logger: s.logger("sftpsrv"), Slow: s.obs.slow}
	server, err := sftpsrv.New(c, o)
	if err == nil {
		s.obs.addServer(server)
	}
	return server, err
}

// ServedBefore reports whether the store has a host key.
func (s *Store) ServedBefore() bool {
	_, err := os.Stat(filepath.Join(s.dir, sftpsrv.HostKeyFile))
	return err == nil
}

// Rights is what an SSH user may do.
type Rights = access.Rights

// As returns s as a user with rights sees it: for one command of that user.
// Branches, snapshots, views, diff, merge, log and usage obey them, and what may
// not be seen is not there. Whatever else a Store does must not be offered to
// such a user. Closing it does nothing.
func (s *Store) As(rights *Rights) *Store {
	limited := *s
	limited.rights = rights
	return &limited
}

// may returns an error unless the branch of that name, there or not, may be
// used at level want.
func (s *Store) may(b Bucket, branch string, want access.Level) error {
	if s.rights == nil {
		return nil
	}
	switch has := s.rights.Branch(b.ID, branch); {
	case has >= want:
		return nil
	case has == access.None:
		return named("branch", b.Name+"/"+branch, fs.ErrNotExist)
	}
	return fmt.Errorf("branch %q may be read and not changed: %w", b.Name+"/"+branch, syscall.EACCES)
}

// sees reports whether anything in the bucket may be used.
func (s *Store) sees(b Bucket) bool { return s.rights == nil || s.rights.Bucket(b.ID) }

// everything returns an error unless s may be used without limits.
func (s *Store) everything() error {
	if s.rights != nil {
		return fmt.Errorf("not for users of a server: %w", syscall.EACCES)
	}
	return nil
}

// seen takes out of list the branches that may not be read.
func (s *Store) seen(b Bucket, list []Branch) []Branch {
	return slices.DeleteFunc(list, func(br Branch) bool { return s.may(b, br.Name, access.Read) != nil })
}
