package fusefs

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// heldUp holds lookups of names that begin with "slow", and all reads.
type heldUp struct {
	fuse.RawFileSystem
	looking, reading atomic.Int64
	release          chan struct{}
}

func (s *heldUp) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if strings.HasPrefix(name, "slow") {
		s.looking.Add(1)
		<-s.release
	}
	return s.RawFileSystem.Lookup(cancel, h, name, out)
}

func (s *heldUp) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.reading.Add(1)
	<-cancel
	return nil, fuse.EINTR
}

func testHeldUp(t *testing.T) (string, *Server, *heldUp) {
	slow := &heldUp{release: make(chan struct{})}
	c := testStore(t, t.TempDir())
	c.wrap = func(fs fuse.RawFileSystem) fuse.RawFileSystem {
		slow.RawFileSystem = fs
		return slow
	}
	dir, s := testMount(t, c, mainBranch)
	if s.loop == nil {
		t.Fatal("the descriptor of /dev/fuse was not found")
	}
	return dir, s, slow
}

// TestSlowRequestsHoldUpNobody: others are answered while any number of
// requests take their time, also when nothing was asked for a while.
func TestSlowRequestsHoldUpNobody(t *testing.T) {
	dir, s, slow := testHeldUp(t)
	release := sync.OnceFunc(func() { close(slow.release) })
	t.Cleanup(release)
	const n = 5
	done := make(chan error, n)
	for i := range n {
		if i == 2 {
			eventually(t, "the loop rests", func() bool { return !s.loop.watching.Load() })
		}
		go func() {
			_, err := os.Lstat(filepath.Join(dir, "slow"+string(rune('0'+i))))
			done <- err
		}()
		eventually(t, "another slow request", func() bool { return slow.looking.Load() == int64(i+1) })
		if _, err := os.Lstat(filepath.Join(dir, "quick"+string(rune('0'+i)))); !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	release()
	for range n {
		if err := <-done; !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "after"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestReadsEndWithTheMount: a read that waits does not outlive its mount.
func TestReadsEndWithTheMount(t *testing.T) {
	dir, s, slow := testHeldUp(t)
	close(slow.release)
	path := filepath.Join(dir, "f")
	write(t, path, "content")
	read := make(chan error)
	go func() {
		_, err := os.ReadFile(path)
		read <- err
	}()
	eventually(t, "a read", func() bool { return slow.reading.Load() > 0 })
	if err := unmountDir(dir, true); err != nil {
		t.Fatal(err)
	}
	s.abort()
	if err := <-read; err == nil {
		t.Error("read something from a mount that is gone")
	}
	s.Wait()
}
