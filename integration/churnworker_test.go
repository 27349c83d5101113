package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs"
)

// The processes of TestStoreUnderChurn. Each works until SIGTERM, checks what it
// made, and prints a line of counts.
//
// What writers write is garbage soon, and how much of it there is at a time must
// not depend on the speed of the disk. So they take a token from a pipe for each
// MiB, and the process that collects puts some in after each collection.

const tokensPerCollection = 8 // MiB that may be written until the next one ends

func init() {
	workers["churn-files"] = func(args []string) error {
		seed, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return err
		}
		return untilTerminated(func(ctx context.Context) error { return churnIn(ctx, args[0], seed, args[2]) })
	}
	workers["churn-branches"] = func(args []string) error {
		return untilTerminated(func(ctx context.Context) error {
			return onStore(args[0], func(s *alkfs.Store) error { return churnBranches(ctx, s) })
		})
	}
	workers["churn-upkeep"] = func(args []string) error {
		return untilTerminated(func(ctx context.Context) error {
			return onStore(args[0], func(s *alkfs.Store) error { return churnUpkeep(ctx, s, args[1]) })
		})
	}
	workers["churn-backup"] = func(args []string) error {
		return untilTerminated(func(ctx context.Context) error {
			return onStore(args[0], func(s *alkfs.Store) error { return churnBackup(ctx, s, args[1]) })
		})
	}
}

func untilTerminated(f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return f(ctx)
}

func onStore(dir string, f func(*alkfs.Store) error) error {
	s, err := alkfs.Open(context.Background(), dir, alkfs.Options{MustExist: true})
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}

// churner is a kill-loop worker that nobody kills: it knows what its files hold.
type churner struct {
	*killFiles
	tokens   *os.File
	written  int
	ops      int
	nameless struct {
		*os.File
		since time.Time
		state string
		looks int
	}
}

// namelessFor is longer than an inode without a name is kept that nobody has
// open.
const namelessFor = 75 * time.Second

func churnIn(ctx context.Context, dir string, seed uint64, tokens string) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	w := &churner{killFiles: newKillFiles(dir, null, seed)}
	if w.tokens, err = os.OpenFile(tokens, os.O_RDWR, 0); err != nil {
		return err
	}
	defer w.tokens.Close()
	defer func() { w.nameless.Close() }()
	steps := []func(string) error{
		w.unsynced, w.unsynced, w.unsynced, w.unsynced, w.unsynced, w.unsynced, w.plainRemove, w.plainRemove,
		w.plainMove, w.plainMove, w.attributes, w.tree, w.unlinked, w.replace, w.overwrite, w.appendTo, w.truncate, w.remove, w.move,
	}
	for ctx.Err() == nil {
		name := fmt.Sprintf("f%d", w.rng.IntN(20))
		if err := steps[w.rng.IntN(len(steps))](name); err != nil {
			return err
		}
		w.ops++
		if err := w.pay(len(w.content[name])); err != nil {
			return err
		}
	}
	for name, want := range w.content {
		got, err := os.ReadFile(w.path(name))
		if err != nil || stateOf(got, true) != stateOf(want, true) {
			return fmt.Errorf("%s: %d bytes, wrote %d: %w", name, len(got), len(want), err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(w.content) {
		return fmt.Errorf("%d entries, made %d: %w", len(entries), len(w.content), err)
	}
	fmt.Printf("%d operations, %d files at the end, %d looks at removed ones\n", w.ops, len(w.content), w.nameless.looks)
	return nil
}

// pay takes a token for each MiB written.
func (w *churner) pay(n int) error {
	for w.written += n; w.written >= 1<<20; w.written -= 1 << 20 {
		if _, err := w.tokens.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
	return nil
}

func (w *churner) plainRemove(name string) error {
	if _, ok := w.content[name]; !ok {
		return nil
	}
	delete(w.content, name)
	return os.Remove(w.path(name))
}

func (w *churner) plainMove(name string) error {
	to := fmt.Sprintf("f%d", w.rng.IntN(20))
	b, ok := w.content[name]
	if !ok || name == to {
		return nil
	}
	delete(w.content, name)
	w.content[to] = b
	return os.Rename(w.path(name), w.path(to))
}

func (w *churner) attributes(name string) error {
	if _, ok := w.content[name]; !ok {
		return nil
	}
	if err := syscall.Setxattr(w.path(name), "user.churn", []byte(strconv.Itoa(w.ops)), 0); err != nil {
		return err
	}
	return os.Chmod(w.path(name), fs.FileMode(0o600|w.rng.IntN(8)))
}

// tree makes a small tree with a symlink and a hard link, renames it and removes it.
func (w *churner) tree(name string) error {
	top, moved := w.path("tree-"+name), w.path("moved-"+name)
	if err := os.MkdirAll(filepath.Join(top, "a", "b"), 0o755); err != nil {
		return err
	}
	for i := range 8 {
		if err := os.WriteFile(filepath.Join(top, "a", strconv.Itoa(i)), []byte(name), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Symlink("a/1", filepath.Join(top, "symlink")),
		os.Link(filepath.Join(top, "a", "2"), filepath.Join(top, "a", "b", "link")),
		os.Rename(top, moved),
		os.RemoveAll(moved),
	)
}

// unlinked keeps a file open that was removed, and looks at it when whatever is
// not open would have been pruned.
func (w *churner) unlinked(string) error {
	n := &w.nameless
	if n.File != nil {
		if time.Since(n.since) < namelessFor {
			return nil
		}
		_ = unix.Fadvise(int(n.Fd()), 0, 0, unix.FADV_DONTNEED) // so that the daemon is asked
		got, err := io.ReadAll(io.NewSectionReader(n, 0, 1<<40))
		if err != nil || stateOf(got, true) != n.state {
			return fmt.Errorf("a file that was removed while open: %d bytes, %w", len(got), err)
		}
		n.looks++
		err = n.Close()
		n.File = nil
		return err
	}
	b := w.bytes()
	if n.looks%2 == 1 {
		b = make([]byte, 1<<20)
	}
	path := w.path("nameless")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return err
	}
	var err error
	if n.File, err = os.Open(path); err != nil {
		return err
	}
	n.since, n.state = time.Now(), stateOf(b, true)
	return os.Remove(path)
}

// churnBranches forks, writes, snapshots, merges and drops, and leaves a few of
// each at a time.
func churnBranches(ctx context.Context, s *alkfs.Store) error {
	rng := rand.New(rand.NewPCG(7, 7))
	var branches, snapshots []string
	forks, merges := 0, 0
	for ; ctx.Err() == nil; forks++ {
		name, from := fmt.Sprint("b", forks), "main"
		if len(branches) > 0 && rng.IntN(3) == 0 {
			from = branches[rng.IntN(len(branches))]
		}
		if _, err := s.CreateBranch("", name, alkfs.BranchOptions{From: from}); err != nil {
			return err
		}
		branches = append(branches, name)
		v, err := s.View(alkfs.Spec{Branch: name})
		if err != nil {
			return err
		}
		for i := range 12 {
			if err := v.WriteFile(fmt.Sprintf("branches/f%d", rng.IntN(40)), fmt.Appendf(nil, "%s %d %d", name, i, rng.Uint64()), 0o644); err != nil {
				return err
			}
		}
		snap := fmt.Sprint("s", forks)
		if _, err := s.CreateSnapshot(alkfs.Spec{Branch: name}, snap, ""); err != nil {
			return err
		}
		snapshots = append(snapshots, snap)
		if rng.IntN(2) == 0 {
			if _, err := s.Merge(alkfs.Spec{Branch: name}, alkfs.Spec{}, alkfs.MergeOptions{Strategy: alkfs.Theirs}); err != nil {
				return fmt.Errorf("merge %s: %w", name, err)
			}
			merges++
		}
		if len(snapshots) > 4 {
			if err := s.RemoveSnapshot("", snapshots[0]); err != nil {
				return err
			}
			snapshots = snapshots[1:]
		}
		if len(branches) > 6 {
			k := rng.IntN(len(branches))
			if err := s.RemoveBranch("", branches[k]); err != nil {
				return err
			}
			branches = append(branches[:k], branches[k+1:]...)
		}
	}
	for _, snap := range snapshots {
		if err := s.RemoveSnapshot("", snap); err != nil {
			return err
		}
	}
	for _, b := range branches {
		if err := s.RemoveBranch("", b); err != nil {
			return err
		}
	}
	fmt.Printf("%d forks, %d merges\n", forks, merges)
	return nil
}

// churnUpkeep runs all background jobs one after the other, and a collection
// that spares nothing.
func churnUpkeep(ctx context.Context, s *alkfs.Store, tokens string) error {
	pipe, err := os.OpenFile(tokens, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer pipe.Close()
	jobs, err := s.Jobs()
	if err != nil {
		return err
	}
	rounds := 0
	var removed alkfs.GCReport
	for ; ctx.Err() == nil; rounds++ {
		for _, j := range jobs {
			if _, err := s.RunJob(ctx, j.Name); err != nil && ctx.Err() == nil {
				return err
			}
		}
		r, err := s.GC(ctx, alkfs.GCOptions{Retention: time.Nanosecond, Grace: -1})
		if err != nil && ctx.Err() == nil {
			return err
		}
		removed.Versions += r.Versions
		removed.Blobs += r.Blobs
		removed.Bytes += r.Bytes
		if _, err := pipe.Write(make([]byte, tokensPerCollection)); err != nil {
			return err
		}
	}
	fmt.Printf("%d rounds: removed %d versions, %d blobs, %d MiB\n", rounds, removed.Versions, removed.Blobs, removed.Bytes>>20)
	return nil
}

// churnBackup backs up again and again. A collection that spares nothing may take
// content away faster than it is copied; the backup before stands then.
func churnBackup(ctx context.Context, s *alkfs.Store, dir string) error {
	made, late := 0, 0
	for ctx.Err() == nil {
		r, err := s.Backup(ctx, dir, alkfs.BackupOptions{Verify: made%8 == 7})
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, syscall.EAGAIN):
			late++
		case err != nil:
			return err
		case !r.OK():
			return fmt.Errorf("missing %v, damaged %v", r.Missing, r.Damaged)
		default:
			made++
		}
	}
	fmt.Printf("%d backups, %d that collection was too fast for\n", made, late)
	return nil
}
