package alkfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A backup file is a tar archive of a backup directory without its hash trees,
// which the first read of a content makes again. The database comes first.

// backupEntry matches the names in a backup file; nothing else is unpacked.
var backupEntry = regexp.MustCompile(`^(backup\.json|alkfs\.db|node\.key|ssh_host_ed25519_key|blobs/[0-9a-f]{2}/[0-9a-f]{62})$`)

// WriteBackup writes a backup of the store as it is at one moment to w, as a tar
// archive that RestoreStore takes once it is a file. It first gathers the backup
// in a directory beside the store, of hard links, so that nothing can be collected
// while w takes its time; where that cannot be it uses the directory for temporary
// files, with room for a copy of all content. o.Link and o.Verify mean nothing here.
func (s *Store) WriteBackup(ctx context.Context, w io.Writer, o BackupOptions) (r BackupReport, err error) {
	dir, done, err := s.gatherIn()
	if err != nil {
		return r, err
	}
	defer done()
	gathered := filepath.Join(dir, "backup")
	if r, err = s.backup(ctx, gathered, BackupOptions{Link: true, Progress: o.Progress}); err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	if err := writeBackup(ctx, gathered, w); err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	return r, nil
}

// gatherIn makes a directory to gather a backup in, and removes those that
// processes left behind when they were killed.
func (s *Store) gatherIn() (dir string, done func(), err error) {
	pattern := "." + filepath.Base(s.dir) + "-backup-*"
	left, err := filepath.Glob(filepath.Join(filepath.Dir(s.dir), pattern))
	if err != nil {
		return "", nil, err
	}
	for _, d := range left {
		st, err := os.Stat(d)
		if err != nil || time.Since(st.ModTime()) < time.Hour { // it may not be locked yet
			continue
		}
		if lock, err := lockDir(d); err == nil {
			_ = os.RemoveAll(d)
			lock.Close()
		}
	}
	if dir, err = os.MkdirTemp(filepath.Dir(s.dir), pattern); err != nil {
		if dir, err = os.MkdirTemp("", "alkfs-backup-*"); err != nil {
			return "", nil, err
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		lock.Close()
	}, nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}

// BackupFile is WriteBackup to a file, which is replaced at once, when all of it
// is on the disk, or not at all.
func (s *Store) BackupFile(ctx context.Context, name string, o BackupOptions) (r BackupReport, err error) {
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		return r, fmt.Errorf("backup to %s: it is not a regular file: %w", name, syscall.EINVAL)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".alkfs-backup-*")
	if err != nil {
		return r, err
	}
	r, err = s.WriteBackup(ctx, f, o)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return r, err
	}
	return r, syncDir(filepath.Dir(name))
}

// writeBackup writes the backup directory dir as an archive.
func writeBackup(ctx context.Context, dir string, w io.Writer) error {
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	if err != nil {
		return err
	}
	names := append([]string{backupMarker, databaseFile}, storeKeys...)
	for _, b := range blobs {
		names = append(names, path.Join("blobs", filepath.Base(filepath.Dir(b)), filepath.Base(b)))
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !backupEntry.MatchString(n) })
	t := tar.NewWriter(w)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := archiveFile(ctx, t, filepath.Join(dir, name), name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return t.Close()
}

func archiveFile(ctx context.Context, t *tar.Writer, from, name string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: fi.Size(), Mode: 0o600, ModTime: fi.ModTime(), Format: tar.FormatPAX})
	if err == nil {
		_, err = io.Copy(t, readerContext{ctx, f})
	}
	return err
}

// unpackBackup makes the backup directory dir of a backup file.
func unpackBackup(ctx context.Context, file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	t := tar.NewReader(readerContext{ctx, f})
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF && n > 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is no whole backup file: %w", err)
		}
		if h.Typeflag != tar.TypeReg || !backupEntry.MatchString(h.Name) {
			return fmt.Errorf("it is no backup file: it has an entry %q: %w", h.Name, syscall.EINVAL)
		}
		if err := unpackFile(t, filepath.Join(dir, h.Name)); errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("it is no whole backup file: %w", err)
		} else if err != nil {
			return err
		}
	}
}

func unpackFile(r io.Reader, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// readerContext is a reader that ends when its context does.
type readerContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
