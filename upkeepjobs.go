package alkfs

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

const (
	gentleBatch = 200 // rows in one transaction of a gentle job
	scrubDays   = 7   // nights in which all content is hashed once
	diskWarning = 90  // percent
	scrubCursor = "upkeep/scrub"
)

// Variables for tests.
var (
	scrubLeast   int64 = 1 << 30             // bytes a night at least
	scrubStep    int64 = 256 << 20           // bytes after which the place is kept
	orphanExpiry       = 30 * 24 * time.Hour // age of a session left by a dead process
	statfs             = unix.Statfs
)

// job is a kind of background work.
type job struct {
	name, spec, about string
	run               func(s *Store, w *work) (result string, err error)
}

// upkeepJobs are the jobs by the hour they run at. Nights, because they read
// much; who was asleep then catches up once.
var upkeepJobs = []job{
	{"disk", "@every 15m", "warn when the disk is 90 % full", (*Store).watchDisk},
	{"sync", "@every 15m", "bring content to the disk that a process left when it died", (*Store).syncLeft},
	{"prune", "10 3 * * *", "remove history past its time", (*Store).pruneOld},
	{"collect", "30 3 * * *", "remove content that nothing refers to", (*Store).collect},
	{"sessions", "50 3 * * *", "drop unpublished writes of processes that died 30 days ago", (*Store).expireSessions},
	{"scrub", "10 4 * * *", "hash a seventh of all content again", (*Store).scrub},
}

func jobNamed(name string) (job, bool) {
	for _, j := range upkeepJobs {
		if j.name == name {
			return j, true
		}
	}
	return job{}, false
}

// work is a run of a job.
type work struct {
	ctx    context.Context
	gently bool
	rested time.Time // when the last rest ended
}

// rest is called after each step of a gentle job, and sleeps three times as
// long as the step took, so that the job has at most a quarter of a core.
func (w *work) rest() {
	if !w.gently {
		return
	}
	busy := time.Since(w.rested)
	if busy < time.Millisecond {
		return
	}
	select {
	case <-w.ctx.Done():
	case <-time.After(min(3*busy, time.Second)):
	}
	w.rested = time.Now()
}

// watchDisk warns when the disk is nearly full: who asks by hand each time, the log
// once an hour, whichever process finds it.
func (s *Store) watchDisk(w *work) (string, error) {
	var st unix.Statfs_t
	if err := statfs(s.dir, &st); err != nil {
		return "", pathError("statfs", s.dir, err)
	}
	percent := fullness(st.Blocks, st.Bfree, st.Bavail)
	text := fmt.Sprintf("%d %% full", percent)
	if percent < diskWarning {
		return text, nil
	}
	may := 1
	if w.gently {
		err := s.db.Write(func(tx *schema.Tx) (err error) {
			may, _, err = limits.Take(tx, "warning/disk", notify.Rate{N: 1, Per: time.Hour}, 1)
			return err
		})
		if err != nil {
			return text, err
		}
	}
	if may > 0 {
		s.log.Warn("the disk under the store is nearly full: `alkfs gc --keep` and `alkfs snapshot rm` make room",
			"store", s.dir, "percent", percent, "free_bytes", int64(st.Bavail)*st.Bsize)
	}
	return text, nil
}

// fullness is the percentage that df prints: of what is not reserved.
func fullness(blocks, free, avail uint64) int {
	used := blocks - free
	if used+avail == 0 {
		return 0
	}
	return int((used*100 + used + avail - 1) / (used + avail))
}

func (s *Store) syncLeft(w *work) (string, error) {
	n, err := s.blobs.SyncAll(w.ctx)
	return fmt.Sprintf("%d blobs", n), err
}

// pruneOld removes versions and events older than the retention.
func (s *Store) pruneOld(w *work) (string, error) {
	versions, err := s.prune(w, 0)
	if err != nil {
		return "", err
	}
	keep, err := s.eventRetention()
	if err != nil {
		return "", err
	}
	events, err := s.pruneEvents(w, keep)
	return fmt.Sprintf("%d versions, %d events", versions, events), err
}

func (s *Store) pruneEvents(w *work, keep time.Duration) (removed int, err error) {
	before := schema.StampAt(time.Now().Add(-keep))
	for {
		if err := w.ctx.Err(); err != nil {
			return removed, err
		}
		n := 0
		err := s.db.Write(func(tx *schema.Tx) (err error) {
			n, err = notify.Prune(tx, before, gentleBatch)
			return err
		})
		if err != nil || n == 0 {
			return removed, err
		}
		removed += n
		w.rest()
	}
}

func (s *Store) collect(w *work) (string, error) {
	r, held, err := s.collectContent(w.ctx, blobstore.GCOptions{Progress: func(int64, int64) { w.rest() }})
	text := fmt.Sprintf("%d blobs, %d stray files, %d bytes", r.Blobs, r.Strays+r.Staging, r.Bytes+r.StrayBytes+r.StagingBytes)
	if held.HeldBlobs > 0 {
		text += fmt.Sprintf(", %d blobs of %d bytes held back for other members", held.HeldBlobs, held.HeldBytes)
	}
	return text, err
}

// expireSessions drops what processes left that died long ago.
func (s *Store) expireSessions(w *work) (string, error) {
	list, err := s.OpenSessions()
	dropped := 0
	for _, i := range list {
		if err != nil || w.ctx.Err() != nil {
			break
		}
		if i.Alive || time.Since(i.Updated) < orphanExpiry {
			continue
		}
		s.log.Warn("dropping what a process that died wrote and did not publish", "session", i.ID,
			"bucket", i.Bucket, "branch", i.BranchName, "path", i.Path, "bytes", i.Size, "updated", i.Updated)
		if err = s.sessions.Abort(w.ctx, i.ID); err == nil {
			dropped++
		}
	}
	return fmt.Sprintf("%d sessions", dropped), err
}

// scrub hashes the next share of the content and goes on there the next time. It
// keeps its place as it goes, so that a machine that is never on for long gets
// around, too.
func (s *Store) scrub(w *work) (string, error) {
	var next int64
	err := s.db.Read(func(tx *schema.Tx) (err error) {
		next, err = notify.Cursor(tx, scrubCursor)
		return err
	})
	if err != nil {
		return "", err
	}
	_, total, err := s.blobs.Contents()
	if err != nil {
		return "", err
	}
	share := max(total/scrubDays, scrubLeast)
	var r blobstore.CheckReport
	for again := true; again; again = err == nil && next != 0 && r.Bytes < share {
		var step blobstore.CheckReport
		next, step, err = s.blobs.Scrub(w.ctx, blobstore.ScrubOptions{
			After: next, Bytes: min(scrubStep, share-r.Bytes), Pause: func(int64) { w.rest() },
		})
		r.Blobs, r.Bytes = r.Blobs+step.Blobs, r.Bytes+step.Bytes
		r.Missing, r.Damaged = append(r.Missing, step.Missing...), append(r.Damaged, step.Damaged...)
		if e := s.db.Write(func(tx *schema.Tx) error { return notify.SetCursor(tx, scrubCursor, next) }); err == nil {
			err = e
		}
	}
	if n := len(r.Missing) + len(r.Damaged); n > 0 {
		s.log.Error("content is damaged or missing: see `alkfs fsck`", "damaged", r.Damaged, "missing", r.Missing)
	}
	return fmt.Sprintf("%d blobs, %d bytes, %d damaged, %d missing", r.Blobs, r.Bytes, len(r.Damaged), len(r.Missing)), err
}
