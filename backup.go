package alkfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv"
)

// A backup is a directory laid out as a store: alkfs.db, blobs/ and the keys,
// and backup.json, which keeps it from being used as one. A new backup into it
// adds the blobs that it lacks, brings everything to the disk, replaces
// alkfs.db by rename, and then drops the blobs that only the old alkfs.db named:
// at any moment the directory holds one backup that is whole.
const (
	backupMarker = "backup.json"
	backupNew    = "new" // directory of an alkfs.db that is not in place yet
	backupTries  = 5     // when a collection takes content away meanwhile
	restoring    = ".alkfs-restoring"
)

// ErrBackup means that a directory is a backup and not a store to be used.
var ErrBackup = errors.New("this is a backup: `alkfs restore-store` makes a store of it")

// storeKeys are the files beside the database and the content that make up a
// store.
var storeKeys = []string{nodeKeyFile, sftpsrv.HostKeyFile}

// BackupOptions configures Backup and RestoreStore; the zero value is useful.
type BackupOptions struct {
	// Link makes hard links of content instead of copies where source and
	// target are on one file system: no time and no room, but a disk that
	// fails, or a program that writes into the files, takes both.
	Link     bool
	Verify   bool                    // hash what an earlier backup brought again, too
	Progress func(done, total int64) // bytes of content; may be nil
}

// BackupReport says what a backup holds and what was new in it.
type BackupReport struct {
	At               time.Time
	Files, Bytes     int64 // content files
	New, NewBytes    int64 // of those, brought this time
	Removed          int   // files that only the backup before needed
	Missing, Damaged []Hash
	Database         int64 // bytes
}

// OK reports whether all content is there and whole.
func (r BackupReport) OK() bool { return len(r.Missing)+len(r.Damaged) == 0 }

// Backup makes dir, which is missing, empty or an earlier backup, a backup of
// the store as it is at one moment, while everything else goes on. Unpublished
// writes are not part of it. All content is hashed before it counts. When
// Backup returns, the disk has it; until then, and after a crash, dir holds the
// backup before. Content that the store itself lacks is reported, and the rest
// is backed up.
func (s *Store) Backup(ctx context.Context, dir string, o BackupOptions) (r BackupReport, err error) {
	defer s.done(opBackup, latency.Now())
	r, err = s.backup(ctx, dir, o)
	if err != nil {
		err = fmt.Errorf("backup to %s: %w", dir, err)
	}
	return r, err
}

func (s *Store) backup(ctx context.Context, dir string, o BackupOptions) (r BackupReport, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return r, err
	}
	lock, err := s.openBackup(dir)
	if err != nil {
		return r, err
	}
	defer lock.Close()
	fresh := filepath.Join(dir, backupNew)
	for try := 1; ; try++ {
		r = BackupReport{At: time.Now()}
		if err := s.copyDatabase(ctx, fresh); err != nil {
			return r, err
		}
		if err := fillBackup(ctx, fresh, dir, s.dir, o, &r); err != nil {
			return r, err
		}
		collected, err := s.collected(r.Missing)
		if err != nil {
			return r, err
		}
		if !collected {
			break
		}
		if try == backupTries {
			return r, fmt.Errorf("content is being collected faster than it can be copied: %w", syscall.EAGAIN)
		}
	}
	for _, name := range storeKeys {
		if err := copyFile(filepath.Join(fresh, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	if err := blobstore.SyncTree(dir); err != nil {
		return r, err
	}
	if err := os.Rename(filepath.Join(fresh, databaseFile), filepath.Join(dir, databaseFile)); err != nil {
		return r, err
	}
	if err := syncDir(dir); err != nil {
		return r, err
	}
	if err := os.RemoveAll(fresh); err != nil {
		return r, err
	}
	err = withCopy(ctx, dir, dir, func(_ *schema.DB, blobs *blobstore.Store) error {
		r.Removed, err = blobs.DropStrays(ctx)
		return err
	})
	return r, err
}

// openBackup makes dir ready for a backup and keeps others off it until the
// file it returns is closed.
func (s *Store) openBackup(dir string) (lock *os.File, err error) {
	if rel, err := filepath.Rel(s.dir, dir); err == nil && filepath.IsLocal(rel) {
		return nil, fmt.Errorf("it is inside the store: %w", syscall.EINVAL)
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	marker := filepath.Join(dir, backupMarker)
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		if list, err := os.ReadDir(dir); err != nil {
			return nil, err
		} else if len(list) > 0 {
			return nil, fmt.Errorf("it holds something that is not a backup: %w", syscall.ENOTEMPTY)
		}
		text, err := json.Marshal(map[string]any{"alkfs_backup": 1, "of": s.dir})
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(marker, append(text, '\n'), 0o600); err != nil {
			return nil, err
		}
	}
	lock, err = os.OpenFile(marker, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another backup into it is running: %w", syscall.EBUSY)
	}
	return lock, nil
}

// copyDatabase makes the directory fresh anew, with a copy of the database and
// the keys that go with it.
func (s *Store) copyDatabase(ctx context.Context, fresh string) error {
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	unlock, err := lockKeys(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if !s.readOnly {
		if err := s.db.Barrier(); err != nil {
			return err
		}
	}
	for _, name := range storeKeys {
		if err := copyFile(filepath.Join(s.dir, name), filepath.Join(fresh, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.db.CopyTo(ctx, filepath.Join(fresh, databaseFile))
}

// fillBackup brings the content that the database in dbDir names from the store
// directory from to dir.
func fillBackup(ctx context.Context, dbDir, dir, from string, o BackupOptions, r *BackupReport) error {
	if st, err := os.Stat(filepath.Join(dbDir, databaseFile)); err == nil {
		r.Database = st.Size()
	}
	return withCopy(ctx, dbDir, dir, func(_ *schema.DB, blobs *blobstore.Store) error {
		f, err := blobs.FillFrom(ctx, from, blobstore.FillOptions{Link: o.Link, Verify: o.Verify, Progress: o.Progress})
		r.Files, r.Bytes, r.New, r.NewBytes = f.Files, f.Bytes, f.New, f.NewBytes
		r.Missing, r.Damaged = f.Missing, f.Damaged
		return err
	})
}

// withCopy opens the database in dbDir, and the content in dir, for reading.
func withCopy(ctx context.Context, dbDir, dir string, f func(*schema.DB, *blobstore.Store) error) error {
	db, err := schema.Open(ctx, dbDir, schema.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	blobs, err := blobstore.Open(ctx, dir, db, blobstore.Options{})
	if err == nil {
		err = errors.Join(f(db, blobs), blobs.Close())
	}
	return errors.Join(err, db.Close())
}

// collected reports whether one of the hashes is gone because nothing refers to
// it any more.
func (s *Store) collected(missing []Hash) (gone bool, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		for _, h := range missing {
			has, err := s.blobs.Has(tx, h)
			if err != nil {
				return err
			}
			gone = gone || !has
		}
		return nil
	})
	return gone, err
}

// RestoreStore makes the directory dir, which is missing or empty, a store with
// what the backup, a directory or a file, holds. All content is hashed. dir appears at once and whole,
// or not at all. The store has the identity of the one that was backed up: do
// not let both synchronise.
func RestoreStore(ctx context.Context, backup, dir string, o BackupOptions) (r BackupReport, err error) {
	r, err = restoreStore(ctx, backup, dir, o)
	if err != nil {
		err = fmt.Errorf("restore %s: %w", backup, err)
	}
	return r, err
}

// restoreFile is restoreStore of a backup file: it is unpacked beside dir, and dir
// gets links.
func restoreFile(ctx context.Context, file, dir string, o BackupOptions) (r BackupReport, err error) {
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return r, err
	}
	unpacked, err := os.MkdirTemp(parent, ".alkfs-unpacked-*")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(unpacked)
	if err := unpackBackup(ctx, file, unpacked); err != nil {
		return r, err
	}
	o.Link = true
	return restoreStore(ctx, unpacked, dir, o)
}

func restoreStore(ctx context.Context, backup, dir string, o BackupOptions) (r BackupReport, err error) {
	if st, err := os.Stat(backup); err == nil && st.Mode().IsRegular() {
		return restoreFile(ctx, backup, dir, o)
	}
	lock, err := os.Open(filepath.Join(backup, backupMarker))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("it is no backup (no %s): %w", backupMarker, err)
	}
	if err != nil {
		return r, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return r, fmt.Errorf("a backup into it is running: %w", syscall.EBUSY)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return r, err
	}
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return r, fmt.Errorf("%s is not empty: %w", dir, syscall.ENOTEMPTY)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	temp := dir + restoring
	if err := os.RemoveAll(temp); err != nil {
		return r, err
	}
	if err := makeDir(temp); err != nil {
		return r, err
	}
	defer os.RemoveAll(temp)
	for _, name := range append([]string{databaseFile}, storeKeys...) {
		err := copyFile(filepath.Join(backup, name), filepath.Join(temp, name))
		if err != nil && (name == databaseFile || !errors.Is(err, fs.ErrNotExist)) {
			return r, err
		}
	}
	if err := openRestored(ctx, temp); err != nil {
		return r, err
	}
	o.Verify = true
	if err := fillBackup(ctx, temp, temp, backup, o, &r); err != nil {
		return r, err
	}
	if err := blobstore.SyncTree(temp); err != nil {
		return r, err
	}
	if err := os.Rename(temp, dir); err != nil {
		return r, err
	}
	return r, syncDir(filepath.Dir(dir))
}

// openRestored brings the database in dir to the present format, checks it, and has files
// be numbered from the present millisecond on: what was made after the backup, or after it
// was restored before, other nodes may know.
func openRestored(ctx context.Context, dir string) error {
	db, err := schema.Open(ctx, dir, schema.Options{})
	if err != nil {
		return err
	}
	if err = db.QuickCheck(); err == nil {
		err = db.Write(func(tx *schema.Tx) error { tx.ObserveIno(time.Now().UnixMilli()); return nil })
	}
	return errors.Join(err, db.Close())
}

// copyFile makes to a copy of from, unless it is one. At any moment to is what
// it was, or all of the copy, which is on the disk.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if same, err := sameContent(src, to); err != nil || same {
		return err
	}
	dst, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, src); err == nil {
		err = dst.Sync()
	}
	if e := dst.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		_ = os.Remove(to + ".new")
	}
	return err
}

// sameContent reports whether the file at path, if there is one, is as long as
// src and no longer than a key, and equal.
func sameContent(src *os.File, path string) (bool, error) {
	const most = 64 << 10
	st, err := src.Stat()
	if err != nil || st.Size() > most {
		return false, err
	}
	have, err := os.ReadFile(path)
	if err != nil || int64(len(have)) != st.Size() {
		return false, nil
	}
	want := make([]byte, st.Size())
	if _, err := src.ReadAt(want, 0); err != nil {
		return false, err
	}
	return bytes.Equal(have, want), nil
}
