package alkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func content64K(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "content %06d ", i), 4096) }

func openView(t *testing.T, s *Store, spec Spec) *View {
	t.Helper()
	v, err := s.View(spec)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func writeFile(t *testing.T, v *View, name string, p []byte) {
	t.Helper()
	if err := v.WriteFile(name, p, 0o644); err != nil {
		t.Fatal(err)
	}
}

func backUp(t *testing.T, s *Store, dir string, o BackupOptions) BackupReport {
	t.Helper()
	r, err := s.Backup(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// restored restores a backup and returns the store, checked.
func restored(t *testing.T, backup string) *Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	if _, err := RestoreStore(t.Context(), backup, dir, BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	c, err := s.Check(t.Context(), CheckOptions{Deep: true})
	if err != nil || !c.OK() || c.Strays != 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	return s
}

func wantFile(t *testing.T, s *Store, spec Spec, want []byte) {
	t.Helper()
	got, err := openView(t, s, Spec{Bucket: spec.Bucket, Branch: spec.Branch, At: spec.At}).ReadFile(spec.Path)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v: %d bytes, %v; want %d", spec, len(got), err, len(want))
	}
}

func TestBackupIsIncrementalAndRestores(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	writeFile(t, v, "small", []byte("small"))
	writeFile(t, v, "large", content64K(1))
	if err := v.SetXattr("small", "user.x", []byte("y")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateSnapshot(Spec{}, "snap", ""); err != nil {
		t.Fatal(err)
	}
	writeFile(t, v, "large", content64K(2))
	if _, err := s.CreateBranch("", "b", BranchOptions{}); err != nil {
		t.Fatal(err)
	}
	open, err := v.Create("open") // its writes are not published
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := open.Write(content64K(9)); err != nil {
		t.Fatal(err)
	}
	for round, link := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "backup")
		if r := backUp(t, s, dir, BackupOptions{Link: link}); r.Files != int64(2+round) || r.New != r.Files || !r.OK() {
			t.Fatalf("%+v", r)
		}
		writeFile(t, v, fmt.Sprint("later", link), content64K(3))
		if r := backUp(t, s, dir, BackupOptions{Link: link, Verify: true}); r.Files != int64(3+round) || r.New != 1 || r.Removed != 0 || !r.OK() {
			t.Fatalf("%+v", r)
		}
		got := restored(t, dir)
		wantFile(t, got, Spec{Path: "small"}, []byte("small"))
		wantFile(t, got, Spec{Path: "large", At: "snap"}, content64K(1))
		wantFile(t, got, Spec{Path: "large", Branch: "b"}, content64K(2))
		wantFile(t, got, Spec{Path: fmt.Sprint("later", link)}, content64K(3))
		if list, err := got.OpenSessions(); err != nil || len(list) != 0 {
			t.Errorf("sessions came along: %+v, %v", list, err)
		}
		if x, err := openView(t, got, Spec{}).Xattrs("small"); err != nil || len(x) != 1 {
			t.Errorf("xattrs: %v, %v", x, err)
		}
		// It is a store of its own.
		writeFile(t, openView(t, got, Spec{}), "new", content64K(4))
		writeFile(t, v, fmt.Sprint("later", link), content64K(5+round))
		if _, err := s.GC(t.Context(), GCOptions{Retention: time.Nanosecond, Grace: -1}); err != nil {
			t.Fatal(err)
		}
		if r := backUp(t, s, dir, BackupOptions{Link: link}); r.New != 1 || r.Removed != 1 {
			t.Fatalf("%+v", r)
		}
		restored(t, dir)
	}
}

// TestBackupWhileEverythingRuns backs up again and again beside writers, a
// pruner and a collector that spares nothing, and restores what it got.
func TestBackupWhileEverythingRuns(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := v.WriteFile(fmt.Sprint("f", i%7), content64K(i), 0o644); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	go func() {
		for ctx.Err() == nil {
			if _, err := s.GC(ctx, GCOptions{Retention: time.Nanosecond, Grace: -1}); err != nil && ctx.Err() == nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	dir := filepath.Join(t.TempDir(), "backup")
	for range 2 {
		r, err := s.Backup(t.Context(), dir, BackupOptions{})
		if errors.Is(err, syscall.EAGAIN) {
			continue // the collector was faster, and the backup before stands
		}
		if err != nil || !r.OK() {
			t.Fatalf("%+v, %v", r, err)
		}
		restored(t, dir)
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if r := backUp(t, s, dir, BackupOptions{Verify: true}); !r.OK() {
		t.Fatalf("%+v", r)
	}
	restored(t, dir)
}

// TestInterruptedBackupKeepsTheOneBefore stops a backup at each of its steps.
func TestInterruptedBackupKeepsTheOneBefore(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	writeFile(t, v, "f", content64K(1))
	dir := filepath.Join(t.TempDir(), "backup")
	backUp(t, s, dir, BackupOptions{})
	for i := range 5 {
		writeFile(t, v, fmt.Sprint("more", i), content64K(10+i))
	}
	for _, stop := range []int{0, 3} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := s.Backup(ctx, dir, BackupOptions{Progress: func(int64, int64) {
			if n++; n > stop {
				cancel()
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("step %d: %v", stop, err)
		}
		got := restored(t, dir)
		wantFile(t, got, Spec{Path: "f"}, content64K(1))
		if _, err := openView(t, got, Spec{}).Stat("more0"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("step %d: %v", stop, err)
		}
	}
	backUp(t, s, dir, BackupOptions{})
	wantFile(t, restored(t, dir), Spec{Path: "more4"}, content64K(14))
}

func TestBackupFindsAndHealsDamage(t *testing.T) {
	store := t.TempDir()
	s := openStore(t, store)
	writeFile(t, openView(t, s, Spec{}), "f", content64K(1))
	dir := filepath.Join(t.TempDir(), "backup")
	backUp(t, s, dir, BackupOptions{})
	scribble := func(dir string) {
		files, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("XX"), 20000)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	scribble(dir)
	if r := backUp(t, s, dir, BackupOptions{Verify: true}); r.New != 1 || !r.OK() {
		t.Fatalf("%+v", r)
	}
	restored(t, dir)
	scribble(store)
	other := filepath.Join(t.TempDir(), "other")
	if r := backUp(t, s, other, BackupOptions{}); len(r.Damaged) != 1 {
		t.Fatalf("%+v", r)
	}
	if r := backUp(t, s, dir, BackupOptions{}); !r.OK() {
		t.Fatalf("what was backed up before is good: %+v", r)
	}
}

func TestBackupRefusals(t *testing.T) {
	s := openStore(t, t.TempDir())
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context(), full, BackupOptions{}); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Error(err)
	}
	if _, err := s.Backup(t.Context(), filepath.Join(s.Dir(), "b"), BackupOptions{}); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	dir := filepath.Join(t.TempDir(), "b")
	backUp(t, s, dir, BackupOptions{})
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrBackup) {
		t.Error(err)
	}
	if _, err := RestoreStore(t.Context(), dir, full, BackupOptions{}); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Error(err)
	}
	if _, err := RestoreStore(t.Context(), full, filepath.Join(t.TempDir(), "x"), BackupOptions{}); err == nil || !strings.Contains(err.Error(), "no backup") {
		t.Error(err)
	}
}

// What was made after a backup, or after it was restored before, may be known to other
// machines.
func TestRestoredStoreGivesNoNumberTwice(t *testing.T) {
	s := openStore(t, t.TempDir())
	writeFile(t, openView(t, s, Spec{}), "before", nil)
	dir := filepath.Join(t.TempDir(), "backup")
	backUp(t, s, dir, BackupOptions{})
	number := func(s *Store, name string) uint64 {
		v := openView(t, s, Spec{})
		writeFile(t, v, name, nil)
		in, err := v.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(in.Sys().(Inode).Ino)
	}
	after, again, later := number(s, "after"), number(restored(t, dir), "again"), number(restored(t, dir), "later")
	if after >= again || again >= later {
		t.Errorf("the numbers are %d, %d, and %d", after, again, later)
	}
}
