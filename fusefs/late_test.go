package fusefs

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// slowLookup holds its first answer with an inode.
type slowLookup struct {
	fuse.RawFileSystem
	once     sync.Once
	answered chan struct{} // closed when it is held
	release  chan struct{}
}

func (s *slowLookup) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	st := s.RawFileSystem.Lookup(cancel, h, name, out)
	if out.NodeId != 0 {
		s.once.Do(func() {
			close(s.answered)
			<-s.release
		})
	}
	return st
}

// TestAnswerThatTakesLong: what another surface changes while the first answer
// with an inode is on its way to the kernel is seen nevertheless.
func TestAnswerThatTakesLong(t *testing.T) {
	store := t.TempDir()
	here := testStore(t, store)
	dir, _ := testMount(t, here, mainBranch)
	path := filepath.Join(dir, "f")
	write(t, path, "x")
	if err := here.DB.Sync(); err != nil { // or its events were still to come
		t.Fatal(err)
	}
	slow := &slowLookup{answered: make(chan struct{}), release: make(chan struct{})}
	c := testStore(t, store)
	c.wrap = func(fs fuse.RawFileSystem) fuse.RawFileSystem {
		slow.RawFileSystem = fs
		return slow
	}
	other, server := testMount(t, c, mainBranch)
	release := sync.OnceFunc(func() { close(slow.release) })
	t.Cleanup(release)
	there := filepath.Join(other, "f")
	looked := make(chan error)
	go func() {
		_, err := os.Lstat(there)
		looked <- err
	}()
	<-slow.answered
	n := server.Stats().Invalidations
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is heard of", func() bool { return server.Stats().Invalidations > n })
	release()
	if err := <-looked; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change", func() bool { return mode(t, there) == 0o600 })
}
