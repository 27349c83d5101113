package alkfs

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// What the process that synchronises says comes through, errors too.
func TestAnswersOfTheSyncer(t *testing.T) {
	s := openStore(t, t.TempDir())
	if _, err := askSyncer[Reached](t.Context(), s, time.Second, askReach, "soon"); !errors.Is(err, ErrNotSyncing) {
		t.Errorf("with nobody to ask: %v", err)
	}
	stop, err := s.Answer()
	mustDo(t, err)
	defer stop()
	y := startSync(t, s, "127.0.0.1:0")
	defer y.Close()
	_, bad := time.ParseDuration("soon")
	for _, question := range []string{askReach, askCollect} {
		if _, err := askSyncer[any](t.Context(), s, time.Second, question, "soon"); err == nil || err.Error() != bad.Error() {
			t.Errorf("%s soon: %v, not %v", question, err, bad)
		}
	}
	if all, err := askSyncer[Reached](t.Context(), s, time.Second, askReach, time.Second); err != nil || len(all) != 0 {
		t.Errorf("of nobody: %v, %v", all, err)
	}
}

// Who looks whether a process synchronises is not taken for one: by others who look,
// or by one that is about to.
func TestLookingForTheSyncer(t *testing.T) {
	s := openStore(t, t.TempDir())
	looking, err := lockFile(filepath.Join(s.dir, syncLockFile), syscall.LOCK_SH)
	mustDo(t, err)
	if _, running, err := s.readSyncState(); running || err != nil {
		t.Errorf("somebody synchronises: %v, %v", running, err)
	}
	time.AfterFunc(50*time.Millisecond, func() { looking.Close() })
	y := startSync(t, s, "127.0.0.1:0")
	defer y.Close()
	if _, err := s.StartSync(SyncOptions{Addr: "127.0.0.1:0"}); !errors.Is(err, ErrSyncing) {
		t.Errorf("a second one: %v", err)
	}
}

// An interrupt ends the wait for an answer, as an interrupt.
func TestQuestionToTheSyncerIsInterrupted(t *testing.T) {
	s := openStore(t, t.TempDir())
	lock, err := s.lockSync()
	mustDo(t, err)
	defer lock.Close()
	mustDo(t, os.WriteFile(filepath.Join(s.dir, syncStatusFile), []byte(`{"PID": 1}`), 0o600))
	mustDo(t, os.MkdirAll(filepath.Join(s.dir, runDir), 0o700))
	l, err := net.Listen("unix", filepath.Join(s.dir, runDir, "1-mute.sock"))
	mustDo(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = bufio.NewReader(c).ReadString('\n')
		cancel()
		_, _ = c.Read(make([]byte, 1)) // until the other side hangs up
	}()
	if _, err := s.SyncNow(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, not %v", err, context.Canceled)
	}
}

// What the process that synchronises has left is up to a second old.
func TestSyncStatusOfABucketSharedJustNow(t *testing.T) {
	s := openStore(t, t.TempDir())
	y := startSync(t, s, "127.0.0.1:0")
	defer y.Close()
	shareTeam(t, s, ReadOnly)
	all, pid, err := s.SyncStatus()
	mustDo(t, err)
	if len(all) != 1 || all[0].Name != "team" || pid != os.Getpid() {
		t.Fatalf("%+v, synchronised by %d", all, pid)
	}
}
