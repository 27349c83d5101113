package blobstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

// The file boot_id names the run of the machine for which VerifyUnsynced is
// done.
func (s *Store) bootPath() string { return filepath.Join(s.dir, "boot_id") }

// bootID returns the name of this run of the machine; empty when there is none
// to be had.
func bootID() []byte {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return bytes.TrimSpace(id)
}

// VerifyUnsynced does nothing when the machine has not been started anew since
// it last came to its end. Otherwise it hashes every blob that was not known to
// be on the disk, marks the good ones synced, and moves the others to
// quarantine/. For each of these it calls withdraw, which takes back the versions
// that name it, in the transaction that forgets it; it returns them. Of several
// processes that open the store one does it while the others wait.
func (s *Store) VerifyUnsynced(ctx context.Context, withdraw func(*schema.Tx, Hash) error) (bad []Hash, err error) {
	if s.db.ReadOnly() {
		return nil, nil
	}
	f, err := os.OpenFile(s.bootPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("verify blobs: %w", err)
	}
	defer f.Close()
	if err := ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }); err != nil {
		return nil, fmt.Errorf("verify blobs: %w", err)
	}
	boot := bootID()
	buf := make([]byte, 64)
	n, _ := f.ReadAt(buf, 0)
	if len(boot) > 0 && bytes.Equal(buf[:n], boot) {
		return nil, nil
	}
	if bad, err = s.verifyAll(ctx, withdraw); err != nil {
		return bad, err
	}
	if err := f.Truncate(0); err != nil {
		return bad, err
	}
	_, err = f.WriteAt(boot, 0)
	return bad, err
}

func (s *Store) verifyAll(ctx context.Context, withdraw func(*schema.Tx, Hash) error) (bad []Hash, err error) {
	rows, err := s.unsyncedRows("")
	if err != nil {
		return nil, err
	}
	var good []unsynced
	for _, u := range rows {
		ok, err := s.verifyUnsynced(ctx, u)
		if err != nil {
			return bad, err
		}
		if ok {
			good = append(good, u)
			continue
		}
		if err := s.giveUp(u.hash, withdraw); err != nil {
			return bad, fmt.Errorf("withdraw %s: %w", u.hash, err)
		}
		bad = append(bad, u.hash)
	}
	if err := s.markSynced(good); err != nil {
		return bad, err
	}
	return bad, s.db.Sync()
}

// giveUp withdraws content that is in quarantine, and drops its row unless
// something else refers to it.
func (s *Store) giveUp(h Hash, withdraw func(*schema.Tx, Hash) error) error {
	return s.db.Write(func(tx *schema.Tx) error {
		if err := withdraw(tx, h); err != nil {
			return err
		}
		q := tx.Stmt("DELETE FROM blob WHERE hash = ? AND state = 1 AND " + unreferenced)
		q.BindBytes(1, h[:])
		q.BindInt64(2, now())
		_, err := q.Step()
		return err
	})
}

// verifyUnsynced reports whether the file of a row is right and puts it on the
// disk if so; otherwise it goes to quarantine, if it is not there already
// because the one who verified before did not come to the end.
func (s *Store) verifyUnsynced(ctx context.Context, u unsynced) (bool, error) {
	if u.quarantined {
		return false, nil
	}
	f, err := os.Open(s.blobPath(u.hash))
	if errors.Is(err, fs.ErrNotExist) {
		s.log.Error("blob lost in the crash", "hash", u.hash.String())
		return false, s.quarantine(u.hash, u.created)
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	ok, err := s.verifyFile(ctx, f, u.hash, u.size, nil)
	if err != nil {
		return false, err
	}
	if !ok {
		s.log.Error("blob damaged in the crash", "hash", u.hash.String())
		return false, s.quarantine(u.hash, u.created)
	}
	if err := s.syncContent(u); err != nil {
		return false, err
	}
	return true, s.syncBlobDir(filepath.Dir(s.blobPath(u.hash)))
}

// verifyFile hashes a blob's file again.
func (s *Store) verifyFile(ctx context.Context, f *os.File, h Hash, size int64, progress func(int64)) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if fi.Size() != size {
		return false, nil
	}
	b := build{src: f, size: size, progress: progress}
	got, err := b.run(ctx)
	if errors.Is(err, unix.EIO) { // the disk cannot read it
		return false, nil
	}
	return got == h, err
}

// quarantine moves what is stored for h, whose row was made at created, to
// quarantine/ and says so in the row.
func (s *Store) quarantine(h Hash, created int64) error {
	var data []byte
	err := s.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("UPDATE blob SET state = 1 WHERE hash = ? AND created = ? RETURNING data")
		q.BindBytes(1, h[:])
		q.BindInt64(2, created)
		found, err := q.Step()
		if err != nil || !found {
			return err
		}
		data = schema.Bytes(q, 0)
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.db.Sync(); err != nil {
		return err
	}
	s.forget(h)
	if len(data) > 0 {
		return os.WriteFile(s.quarantinePath(h), data, 0o600)
	}
	// A Seal that makes it good meanwhile ends in a row that is good again.
	return s.db.Write(func(tx *schema.Tx) error {
		r, found, err := lookup(tx, h)
		if err != nil || found && r.state == stateGood {
			return err
		}
		_ = s.fs.remove(s.outboardPath(h))
		if err := s.fs.rename(s.blobPath(h), s.quarantinePath(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// suspectLoop marks what reads found damaged, outside of their locks.
func (s *Store) suspectLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-s.suspect:
			err := s.db.Write(func(tx *schema.Tx) error {
				q := tx.Stmt("UPDATE blob SET state = 2 WHERE hash = ? AND state = 0")
				q.BindBytes(1, h[:])
				_, err := q.Step()
				return err
			})
			if err != nil {
				s.log.Error("mark damaged blob", "hash", h.String(), "error", err)
			}
		}
	}
}
