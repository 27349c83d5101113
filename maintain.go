package alkfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/writesession"
)

// defaultRetention is how long superseded versions are kept where a bucket's
// policy does not say.
const defaultRetention = 7 * 24 * time.Hour

// pruneBatch is how many rows one transaction of GC looks at.
const pruneBatch = 2000

// GCOptions configures GC.
type GCOptions struct {
	DryRun    bool                    // count content only, remove nothing, leave history alone
	Retention time.Duration           // keep history this long; 0: what the buckets' policies say (7 days)
	Grace     time.Duration           // spare content that nobody has referred to for less; 0: 10 minutes, negative: none
	Progress  func(done, total int64) // blobs; may be nil
}

// GCReport says what GC removed or, in a dry run, would remove.
type GCReport struct {
	Versions int64 // superseded versions
	blobstore.GCReport
	HeldBack
}

// GC removes history older than its retention that no branch, fork or snapshot
// shows, and then content that nothing refers to. Members of shared buckets are asked
// first. It is safe while everything else runs.
func (s *Store) GC(ctx context.Context, o GCOptions) (r GCReport, err error) {
	defer s.done(opGC, latency.Now())
	if !o.DryRun {
		if r.Versions, err = s.prune(&work{ctx: ctx}, o.Retention); err != nil {
			return r, err
		}
	}
	bo := blobstore.GCOptions{DryRun: o.DryRun, Grace: o.Grace, Progress: o.Progress}
	r.GCReport, r.HeldBack, err = s.collectContent(ctx, bo)
	return r, err
}

// prune removes versions superseded longer ago than keep, or where that is 0, than
// what the policy of their bucket says.
func (s *Store) prune(w *work, keep time.Duration) (removed int64, err error) {
	cut := pathtree.Cut{Before: schema.StampAt(time.Now().Add(-keep))}
	if keep == 0 {
		if cut, err = s.historyCut(); err != nil {
			return 0, err
		}
	}
	// What superseded them must be on the disk, or a power cut takes both.
	if _, err := s.blobs.SyncAll(w.ctx); err != nil {
		return 0, err
	}
	if err := s.db.Sync(); err != nil {
		return 0, err
	}
	batch := pruneBatch
	if w.gently {
		batch = gentleBatch
	}
	for more := true; more; w.rest() {
		if err := w.ctx.Err(); err != nil {
			return removed, err
		}
		err := s.db.Write(func(tx *schema.Tx) error {
			n, m, err := s.tree.Prune(tx, cut, batch)
			removed, more = removed+int64(n), m
			return err
		})
		if err != nil {
			return removed, err
		}
	}
	return removed, s.db.Commit()
}

// historyCut returns before when the history of each bucket may go.
func (s *Store) historyCut() (pathtree.Cut, error) {
	now := time.Now()
	cut := pathtree.Cut{Before: schema.StampAt(now.Add(-defaultRetention)), Of: map[int64]schema.Stamp{}}
	buckets, err := s.Buckets()
	for _, b := range buckets {
		switch r := b.Policy.Retention; {
		case r < 0:
			cut.Of[b.ID] = 0 // kept for ever
		case r > 0:
			cut.Of[b.ID] = schema.StampAt(now.Add(-r))
		}
	}
	return cut, err
}

// eventRetention returns how long events are kept: as long as the history of the
// bucket that keeps it longest, though not for ever.
func (s *Store) eventRetention() (keep time.Duration, err error) {
	buckets, err := s.Buckets()
	for _, b := range buckets {
		r := b.Policy.Retention
		if r <= 0 {
			r = defaultRetention
		}
		keep = max(keep, r)
	}
	if keep == 0 {
		keep = defaultRetention
	}
	return keep, err
}

// Hash names content: BLAKE3-256.
type Hash = blobstore.Hash

// CheckOptions configures Check.
type CheckOptions = blobstore.CheckOptions

// CheckReport says what Check found.
type CheckReport struct {
	Problems []string // of the structure, a line each
	blobstore.CheckReport
}

// OK reports whether nothing is wrong.
func (r CheckReport) OK() bool {
	return len(r.Problems)+len(r.Missing)+len(r.Damaged)+len(r.Quarantined) == 0
}

// Check looks at the structure of the store, at the changes of its shared buckets and
// at its content: that it is there, and with Deep that it is what its hash says, and
// each change what its author signed. Damaged content is moved to quarantine/, never
// deleted.
func (s *Store) Check(ctx context.Context, o CheckOptions) (r CheckReport, err error) {
	defer s.done(opCheck, latency.Now())
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		report := func(problem string) { r.Problems = append(r.Problems, problem) }
		return errors.Join(s.tree.Check(tx, report), crdtsync.Check(tx, o.Deep, report))
	})
	if err != nil {
		return r, err
	}
	r.CheckReport, err = s.blobs.Check(ctx, o)
	return r, err
}

// RecountQuotas counts anew what the buckets with a quota hold.
func (s *Store) RecountQuotas() error {
	if err := s.everything(); err != nil {
		return err
	}
	return s.write(s.tree.RecountQuotas)
}

// Places returns the files whose present content has the hash h, as specs; none
// when only history shows it.
func (s *Store) Places(h Hash) (specs []string, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) (err error) {
		specs, err = s.tree.Places(tx, h)
		return err
	})
	return specs, err
}

// Usage counts what the store holds and what the disk under it has left.
type Usage struct {
	Tree  pathtree.Stats
	Blobs blobstore.Stats
	// Bytes of the file system that holds the store.
	DiskSize, DiskFree int64
}

// Usage returns counts and sizes.
func (s *Store) Usage() (u Usage, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) (err error) {
		u.Tree, err = s.tree.Stats(tx)
		return err
	})
	if err != nil {
		return u, err
	}
	u.Blobs = s.blobs.Stats()
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return u, pathError("statfs", s.dir, err)
	}
	u.DiskSize, u.DiskFree = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	return u, nil
}

// SessionInfo is a file that some process has changed and not published.
type SessionInfo struct {
	writesession.Info
	Bucket, BranchName string
	Path               string // that publishing gives it, if it has none; "" when it was removed
	Excludes           bool   // nobody else may write the file meanwhile, by the policy of its bucket
}

func (i SessionInfo) spec() Spec { return Spec{Bucket: i.Bucket, Branch: i.BranchName, Path: i.Path} }

// OpenSessions returns what is being written by any process, and what processes
// that died left behind.
func (s *Store) OpenSessions() (list []SessionInfo, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		infos, err := s.sessions.List(tx)
		if err != nil {
			return err
		}
		for _, i := range infos {
			info := SessionInfo{Info: i}
			if v, err := s.tree.View(tx, i.Branch, 0); err == nil {
				info.Bucket, info.BranchName = v.Bucket().Name, v.Branch().Name
				info.Excludes = i.Alive && v.Bucket().Policy.ExclusiveWrites
				if info.Path, err = v.Path(tx, i.Ino); err != nil && i.Name != "" {
					dir, _ := v.Path(tx, i.Parent)
					info.Path = path.Join(dir, i.Name)
				}
			}
			list = append(list, info)
		}
		return nil
	})
	return list, err
}

// Writers returns the sessions that lock a file, as its bucket allows one writer
// of it at a time. They are not among Locks: such a lock need not be renewed, or
// it would be lost while the machine sleeps, and ends with its process.
func (s *Store) Writers() ([]SessionInfo, error) {
	list, err := s.OpenSessions()
	return slices.DeleteFunc(list, func(i SessionInfo) bool { return !i.Excludes || i.Path == "" }), err
}

// Session returns one of OpenSessions.
func (s *Store) Session(id int64) (SessionInfo, error) {
	list, err := s.OpenSessions()
	if err != nil {
		return SessionInfo{}, err
	}
	for _, i := range list {
		if i.ID == id {
			return i, nil
		}
	}
	return SessionInfo{}, &nameError{"there is no session of that number", fs.ErrNotExist}
}

// RecoverSession writes what a session holds to w and leaves the session.
func (s *Store) RecoverSession(ctx context.Context, id int64, w io.Writer) error {
	if _, err := s.Session(id); err != nil {
		return err
	}
	return s.sessions.Recover(ctx, id, w)
}

// PublishSession publishes what a dead process left behind.
func (s *Store) PublishSession(ctx context.Context, id int64) (Inode, error) {
	if err := s.orphan(id); err != nil {
		return Inode{}, err
	}
	return s.sessions.Publish(ctx, id)
}

// AbortSession drops what a dead process left behind.
func (s *Store) AbortSession(ctx context.Context, id int64) error {
	if err := s.orphan(id); err != nil {
		return err
	}
	return s.sessions.Abort(ctx, id)
}

func (s *Store) orphan(id int64) error {
	i, err := s.Session(id)
	if err == nil && i.Alive {
		err = &nameError{"the process that writes it still runs (" + i.Owner + ")", syscall.EBUSY}
	}
	return err
}
