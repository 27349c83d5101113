package blobstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// sealLease is how long a sealed content waits for its row, at most.
const sealLease = time.Hour

// Seal ends the writing: it hashes [0, size), makes the outboard and moves the
// file into blobs/, unless the content is there. The caller then calls AddFile
// in its transaction. Nothing is on the disk for sure until Sync. On an error
// st is still there, to be sealed again, left or discarded.
func (st *Staging) Seal(ctx context.Context, size int64) (Hash, error) {
	h, err := st.seal(ctx, size)
	if err != nil {
		st.mu.Lock()
		st.mu.ended = false
		st.mu.Unlock()
		return Hash{}, fmt.Errorf("seal staging file %s: %w", st.name, err)
	}
	return h, nil
}

func (st *Staging) seal(ctx context.Context, size int64) (Hash, error) {
	if size == 0 {
		return Hash{}, st.Discard()
	}
	st.end()
	if have, err := st.size(); err != nil {
		return Hash{}, err
	} else if have != size {
		if err := st.Truncate(size); err != nil {
			return Hash{}, err
		}
	}
	b := build{src: st.f, size: size, known: st.known}
	s, temp := st.s, ""
	var out *os.File
	if size > spanSize {
		temp = s.stagingPath(st.name + outboardExt)
		_ = s.fs.remove(temp) // of a Seal that failed
		var err error
		if out, err = s.fs.create(temp); err != nil {
			return Hash{}, err
		}
		b.out = out
	}
	h, err := b.run(ctx)
	s.counts.hashed.Add(b.hashed.Load())
	if out != nil {
		if e := out.Truncate((b.groups - 1) * parentSize); err == nil { // it may end in a hole
			err = e
		}
		if e := out.Close(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = st.adopt(ctx, h, size, temp)
	}
	if err != nil {
		if temp != "" {
			_ = s.fs.remove(temp)
		}
		return Hash{}, err
	}
	if st.mu.failed != nil {
		s.newFiles.fail(h, st.mu.failed)
	}
	st.f.Close()
	return h, nil
}

// adopt moves the file and its outboard, if temp is not "", into blobs/, and
// leaves a lease on h.
//
// A file that is there already stays only when a good row vouches for it:
// without a row it may be what a crash left. Then ours replaces it, on the disk
// before it does so, since another Seal's row may already call it synced.
func (st *Staging) adopt(ctx context.Context, h Hash, size int64, temp string) error {
	s := st.s
	s.sealing(h) // before the lease, which an AddFile of the same content would drop
	there, err := s.leaseSeal(h, size)
	if err == nil && !there {
		there, err = s.moveIn(st.f, s.stagingPath(st.name), temp, h, size)
	}
	if err != nil {
		s.unseal(h)
		return err
	}
	if there {
		_ = s.fs.remove(s.stagingPath(st.name))
		if temp != "" {
			_ = s.fs.remove(temp)
		}
	} else if !st.mu.taken && size >= seenSize {
		s.seen(h, size)
	}
	return nil
}

// seenSize is the size from which opening a file that may never be read is
// cheaper than hashing it again when it is.
const seenSize = 256 << 10

// seen caches the file of h, all of which was just hashed, as verified.
func (s *Store) seen(h Hash, size int64) {
	if bf, err := s.openSeen(h, size); err == nil {
		s.release(bf)
	}
}

// openSeen opens the file of h as verified.
func (s *Store) openSeen(h Hash, size int64) (*blobFile, error) {
	f, err := os.Open(s.blobPath(h))
	if err != nil {
		return nil, err
	}
	bf := newBlobFile(s, h, size, f)
	for i := range bf.spans {
		bf.spans[i].Store(done)
	}
	s.mu.Lock()
	if s.mu.files[h] == nil {
		s.mu.files[h] = bf
	}
	bf.refs = 1
	s.mu.Unlock()
	return bf, nil
}

// sealing notes that a row of h is to come.
func (s *Store) sealing(h Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.mu.sealed[h]; p != nil {
		p.n++
	} else {
		s.mu.sealed[h] = &sealed{n: 1}
	}
}

// leaseSeal takes the lease and reports whether a good row and its bytes are
// there.
func (s *Store) leaseSeal(h Hash, size int64) (there bool, err error) {
	err = s.db.Write(func(tx *schema.Tx) error {
		var err error
		if there, err = s.vouched(tx, h); err != nil {
			return err
		}
		return s.Lease(tx, h, s.owner, time.Now().Add(sealLease))
	})
	if err != nil || !there {
		return false, err
	}
	return s.hasBytes(h, size)
}

// vouched reports whether h has a good row.
func (s *Store) vouched(tx *schema.Tx, h Hash) (bool, error) {
	r, found, err := lookup(tx, h)
	s.mu.Lock()
	suspect := s.mu.suspects[h]
	s.mu.Unlock()
	return found && r.state == stateGood && !suspect, err
}

// hasBytes reports whether the content of a good row is inline or a file of the
// right size.
func (s *Store) hasBytes(h Hash, size int64) (bool, error) {
	fi, err := os.Stat(s.blobPath(h))
	if err == nil {
		return fi.Size() == size, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	inline := false
	if size <= InlineMax {
		err := s.db.Read(func(tx *schema.Tx) error {
			r, found, err := lookup(tx, h)
			inline = found && r.inline
			return err
		})
		return inline, err
	}
	return false, nil
}

// moveIn makes the file f, whose path is from, the blob h, and what is at temp,
// unless that is "", its outboard; or it reports that a good one is there after
// all.
func (s *Store) moveIn(f *os.File, from, temp string, h Hash, size int64) (there bool, err error) {
	s.mu.Lock()
	s.mu.sealed[h].fresh = true // said too early rather than too late
	s.mu.Unlock()
	if temp != "" {
		if err := s.intoBlobs(s.fs.rename, temp, s.outboardPath(h)); err != nil {
			return false, err
		}
	}
	to := s.blobPath(h)
	err = s.intoBlobs(s.fs.adopt, from, to)
	if err == nil || !errors.Is(err, os.ErrExist) {
		return false, err
	}
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		there, err = s.vouched(tx, h)
		return err
	})
	if err == nil && there {
		there, err = s.hasBytes(h, size)
	}
	if err != nil || there {
		return there, err
	}
	if err := s.fs.sync(f); err != nil {
		return false, err
	}
	if err := s.fs.rename(from, to); err != nil {
		return false, err
	}
	s.forget(h) // what was there is not what is verified of it
	s.mu.Lock()
	delete(s.mu.suspects, h)
	s.mu.Unlock()
	return false, nil
}
